"""The options of a league, and everything that is known before anything is distilled."""

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

from jaxdistill.config.option import option, options
from jaxdistill.config.resolve import defaults, facts_before_loading, filled
from jaxdistill.config.table import (
    Config,
    DataOptions,
    DeviceOptions,
    MapOptions,
    SearchOptions,
    SeedOptions,
)
from jaxdistill.core.types import Learner
from jaxdistill.data import Splits
from jaxdistill.evaluation.protocols import REGRESSION
from jaxdistill.learners import options_of
from jaxdistill.learners.spec import parse_learner
from jaxdistill.methods import METHODS
from jaxdistill.methods.recipe import Facts
from jaxdistill.runs.plan import script_identity, splits
from jaxdistill.runtime import mesh
from jaxdistill.teachers.storage import Budget, parse_budget

PUBLISHED = "jaxdistill.evaluation.protocols:PUBLISHED"


@options
class Options(DataOptions, SearchOptions, MapOptions, SeedOptions, DeviceOptions):
    title: ClassVar[str] = "league"
    methods: tuple[str, ...] = option(tuple(METHODS), "methods to compare", known=METHODS, some=True)
    budget: str = option(
        "ipc:1", "storage of every set: ipc:N (the bits of N float32 images per class), scalars:N or bits:N"
    )
    learner: str | None = option(
        None,
        "the network that all methods distill for and all sets are tested on, such as convnet:width=32 "
        "(default: that of dm)",
    )
    architectures: tuple[str, ...] = option(
        ("mlp", "linear"), "other networks that test the sets, with options after a colon"
    )
    seconds_per_method: float = option(
        20.0, "seconds of outer steps of each method, all its candidates together", above=0
    )
    factors: tuple[float, ...] = option(
        (0.3, 1.0, 3.0),
        "factors of a method's outer learning rate; validation chooses one",
        above=0,
        high=1e4,
        some=True,
    )
    protocol: str = option("dc", "how test networks are trained on every set", known=PUBLISHED)
    augmented_protocol: str = option(
        "dsa", "how they are trained under augmentation, for the augmentation-robust score", known=PUBLISHED
    )
    num_epochs: int | None = option(None, "epochs of `protocol` (default: the paper's)", low=1)
    num_augmented_epochs: int | None = option(
        300, "epochs of `augmented_protocol`; 1000 in the papers of dsa and idc", low=1
    )
    num_eval_learners: int = option(10, "networks of each architecture that test a set", low=1)
    full_data_epochs: int = option(20, "epochs of training on the full training set", low=1)
    num_experts: int = option(10, "networks whose training mtt follows; 100 in the paper", low=1)
    num_expert_epochs: int = option(50, "epochs of each of them", low=1)
    chunk_length: int | None = option(
        None,
        "outer steps per compiled program, the fewest of a candidate (default: depends on the platform)",
        low=1,
    )
    checkpoint_every: int = option(500, "outer steps between checkpoints", low=1)
    sets: str | None = option(None, "folder to copy the tested sets into, each with flags and SHA-256")
    run_dir: str = option("runs/league", "folder to write the league into; rows that are there are kept")
    smoke: bool = option(False, "a short trial: two methods, few steps and networks")

    @classmethod
    def settings(cls, chosen: Mapping[str, Any], facts: Any) -> dict[str, Any]:
        """Fewer networks and step sizes than for a single run; protocols with Adam have their own sizes."""
        by_adam = chosen.get("protocol", "dc") in REGRESSION
        return {"num_search_learners": 3} | ({} if by_adam else {"step_sizes": (0.01, 0.03, 0.1)})


SMOKE: dict[str, Any] = {
    "methods": ("dm", "gtn"),
    "learner": "linear",
    "architectures": ("mlp:width=8:depth=1",),
    "seconds_per_method": 0.3,
    "factors": (1.0,),
    "num_epochs": 20,
    "num_augmented_epochs": 20,
    "num_eval_learners": 2,
    "num_search_learners": 2,
    "step_sizes": (0.1,),
    "full_data_epochs": 1,
}
MORE_OR_LESS = ("methods", "checkpoint_every")
"""May differ when a league is resumed: rows are added."""
NO_NUMBERS = ("sets",)
"""Options that are no part of what a league is."""


class League(NamedTuple):
    """What all rows share."""

    options: Options
    """Every option has a value."""
    data: Splits
    facts: Facts
    learners: dict[str, Learner]
    """The networks that sets are tested on, by their text; sets are distilled for the first."""
    budget: Budget
    """Of a set whose labels are not learned."""
    devices: mesh.Layout | None
    pinned: dict[str, Any]
    """The options that the numbers depend on."""

    @property
    def own(self) -> str:
        """The network that images are distilled for, as text."""
        return next(iter(self.learners))

    @property
    def title(self) -> str:
        return f"{self.data.info.name}, {self.options.budget}, {self.own}"


def prepared(chosen: Options) -> League:
    """What is known before anything is distilled, all of it checked.

    Raises:
      UserError: whatever is wrong with the choices.
    """
    filled(chosen, facts_before_loading(chosen))  # wrong options raise before data are loaded
    data = splits(chosen)
    facts = Facts.of(data.info)
    given = filled(chosen, facts)
    budget = parse_budget(given.budget, facts.image_shape, facts.num_classes, labels=False)
    texts = dict.fromkeys([given.learner or network_of("dm", facts), *given.architectures])
    learners = {text: parse_learner(text, data.info) for text in texts}
    devices = mesh.layout(given.mesh, given.num_eval_learners)
    pinned = {n: v for n, v in script_identity(given, data).items() if n not in NO_NUMBERS}
    pinned |= {"learner": next(iter(learners))}
    return League(given, data, facts, learners, budget, devices, pinned)


def network_of(method: str, facts: Facts) -> str:
    """The network of a method for such images, as one text with its width and depth."""
    values = defaults(Config(method=method), facts)
    own = options_of(values["learner"])
    sizes = {name: values[name] or own[name] for name in ("width", "depth") if own.get(name) is not None}
    return ":".join([values["learner"], *(f"{name}={value}" for name, value in sizes.items())])
