"""What each method may try: its candidates, and the distillation of each."""

import shlex
from collections.abc import Mapping
from typing import Any, NamedTuple

from experiments.cli import as_flags
from experiments.league.setting import League
from jaxdistill.config.resolve import defaults, resolve
from jaxdistill.config.table import (
    PLACES,
    Config,
    DataOptions,
    DeviceOptions,
    MapOptions,
    SeedOptions,
)
from jaxdistill.core.checks import UserError
from jaxdistill.core.registry import find
from jaxdistill.learners.spec import name_and_options
from jaxdistill.methods import METHODS
from jaxdistill.methods.recipe import recipe_of
from jaxdistill.populations import POPULATIONS
from jaxdistill.populations.source import source_of

CHANGES: dict[str, tuple[dict[str, Any], ...]] = {
    "dd": ({"num_learners": 1}, {"num_learners": 1, "soft_labels": True}),
    "idc": ({"decoder": "multiformation"},),
    "kip": ({"labels": "free"},),
}
"""What a method tries besides other outer learning rates: DD more outer steps of one network each, also with
learned labels; IDC its decoder, which is off for small images; KIP learned labels."""
RATE = "outer_learning_rate"


class Candidate(NamedTuple):
    """One distillation of a method."""

    name: str
    """As a file can have it."""
    change: dict[str, Any]
    """The options that differ from the method's own."""

    @property
    def program(self) -> str:
        """A name that candidates share whose outer steps take the same time."""
        changed = [f"-{name}-{value}" for name, value in self.change.items() if name != RATE]
        return self.name.partition("-")[0] + "".join(changed)


class Entry(NamedTuple):
    """A method in the league."""

    method: str
    options: dict[str, Any]
    """Those of every candidate."""
    candidates: list[Candidate]
    follows_experts: bool
    """Whether it needs networks that are trained on real data first."""
    left_out: list[tuple[Candidate, str]]
    """Candidates that the budget or the network has no room for, and why."""

    @property
    def title(self) -> str:
        return recipe_of(METHODS[self.method]).title

    @property
    def identity(self) -> str:
        """What is distilled, as text: a row with another one is another row."""
        changes = (f"{each.name}:{shlex.join(as_flags(each.change))}" for each in self.candidates)
        return shlex.join([*as_flags(self.options), *changes])


def entry(league: League, method: str) -> Entry:
    """A method's candidates: its outer learning rate times each factor, and its declared changes.

    Raises:
      UserError: the method, without changes, cannot meet the budget or does not go with the network.
    """
    options = common(league, method)
    rate = resolve(Config(**options), league.facts).outer_learning_rate
    changes: list[tuple[str, dict[str, Any]]] = [
        (f"{factor:g}", {} if factor == 1 else {RATE: float(f"{factor * rate:.4g}")})
        for factor in dict.fromkeys(league.options.factors)
    ]
    for each in CHANGES.get(method, ()):
        changes.append(("-".join(f"{name}-{value}" for name, value in each.items()), each))
    candidates, left_out = [], []
    for candidate in (Candidate(f"{method}-{name}", change) for name, change in changes):
        try:
            resolve(Config(**options, **candidate.change), league.facts)
            candidates.append(candidate)
        except UserError as error:
            left_out.append((candidate, str(error)))
    return Entry(method, options, candidates, "start_epochs" in options, left_out)


def common(league: League, method: str) -> dict[str, Any]:
    """The options of every candidate of a method: network, storage, seed, and how it is computed."""
    name, own = name_and_options(league.own)
    groups = (*MapOptions.options().values(), *SeedOptions.options().values())
    chosen = {o.name: getattr(league.options, o.name) for o in groups}
    chosen = {o.name: chosen[o.name] for o in groups if chosen[o.name] != o.default}
    found = {"method": method, "learner": name, **own, **chosen}
    values = defaults(Config(**found), league.facts)
    if values["teacher"] == "images":  # what another teacher stores is known when it is made
        found["budget"] = league.options.budget
    if league.options.chunk_length is not None:
        found["chunk_length"] = league.options.chunk_length
    if source_of(find(POPULATIONS, values["population"])).bank == "trajectories":
        most = league.options.num_expert_epochs + 1 - values["expert_epochs"]
        found["start_epochs"] = max(1, min(values["start_epochs"], most))
    return found


def config_of(league: League, entry: Entry, candidate: Candidate, **more: Any) -> Config:
    """The distillation of a candidate, beside the league's data."""
    places = {name: getattr(league.options, name) for name in DeviceOptions.options()}
    cadence = {"checkpoint_every": league.options.checkpoint_every}
    return Config(**entry.options, **candidate.change, **places, **cadence, **more)


def command(league: League, options: Mapping[str, Any]) -> list[str]:
    """The flags of a distillation, its data among them, that `experiments.distill` takes."""
    table = {name: each for name, each in DataOptions.options().items() if name not in PLACES}
    reading = {name: getattr(league.options, name) for name in table}
    chosen = {n: v for n, v in reading.items() if n == "dataset" or v != table[n].default}
    return as_flags({**chosen, **options})
