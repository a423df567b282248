"""Networks trained on real data: trajectories of experts and pools of networks.

`jaxdistill.runs.bank_training` trains them in groups and saves the groups through Orbax.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill.config import build
from jaxdistill.config.owners import OWN_NETWORK
from jaxdistill.config.table import LEARNER_OPTIONS, Config, ReadingOptions
from jaxdistill.core.checks import fail
from jaxdistill.core.types import Learner, Params
from jaxdistill.data import DatasetInfo
from jaxdistill.learners import options_of
from jaxdistill.runtime.checkpoint import Checkpoints

GROUPS_FOLDER = "groups"
PARTS_BY = ("validation_fraction", "test_fraction", "scale", "skip_broken")
"""The options of reading that choose the images of the training part, or change their values."""
SCORES = ("validation_accuracies", "test_accuracies")
NetworkOptions = dict[str, Any]


class Bank(NamedTuple):
    """Trained networks that learners come from."""

    given: Params
    """For the outer loop: trajectories [experts, epochs + 1, ...] or networks [networks, ...]."""
    held_out: Params
    """Networks of a pool that only the evaluation uses, [networks, ...]; None for trajectories."""


class Group(NamedTuple):
    """Networks that are trained at once and saved in one file."""

    first: int
    """Number of the first of them."""
    count: int


def groups_of(total: int, size: int) -> list[Group]:
    """Groups of `size` networks; the last one may be smaller."""
    return [Group(first, min(size, total - first)) for first in range(0, total, size)]


def of_images(info: DatasetInfo) -> NetworkOptions:
    """The data that a network must be trained on to read other images of the same kind."""
    return {
        "image_shape": list(info.image_shape),
        "class_names": list(info.class_names),
        "preprocess": info.preprocess,
    }


class Kind(NamedTuple):
    """A kind of bank."""

    script: str
    """The script in `experiments` that makes it."""
    option: str
    """The option of a distillation that names its folder."""
    noun: str
    """Its members; `num_` before it is an option of the script."""


BANKS = {
    "trajectories": Kind("experts", "experts", "experts"),
    "pool": Kind("pretrain", "pool", "networks"),
}
"""By the `bank` of a population, see `jaxdistill.populations.source`."""


def bank_option(config: Config) -> str | None:
    """The option that names the folder of networks which a run draws from; None if there is none."""
    bank = build.source(config).bank
    return None if bank is None else BANKS[bank].option


def network_of_bank(config: Config) -> NetworkOptions:
    """The network that the folder of networks of a run was made with; nothing without a readable folder."""
    option = bank_option(config)
    place = None if option is None else getattr(config, option)
    if place is None:
        return {}
    try:
        saved = json.loads((Path(place) / "config.json").read_text(encoding="utf-8"))["config"]
        return {n: saved[n] for n in ("learner", *LEARNER_OPTIONS) if saved.get(n) is not None}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}  # `load_bank` says what is wrong


def load_bank(
    config: Config, learner: Learner, info: DatasetInfo, dataset_sha256: str | None = None
) -> Bank | None:
    """The bank that the population of a distillation draws from; None if it draws from none.

    Args:
      config: of a distillation.
      learner: its network; the bank must be of the same network.
      info: of its data, which are the bank's data or have the image shape of `pool_dataset`.
      dataset_sha256: of the user's own arrays.

    Raises:
      UserError: no folder, one that the script did not write or finish, networks of another data set or
        architecture: every difference is named.
    """
    bank = build.source(config).bank
    if bank is None:
        return None
    kind = BANKS[bank]
    own = {"preprocess": "standardise"}  # older versions had nothing else, and do not say so
    own |= {} if config.learner == OWN_NETWORK else options_of(config.learner)
    wanted = of_images(info) | {"dataset": config.dataset, "dataset_sha256": dataset_sha256}
    wanted |= {"learner": config.learner}
    wanted |= {name: _or_default(config.values(), own, name) for name in LEARNER_OPTIONS}
    source = config.pool_dataset if kind.option == "pool" else None
    if source not in (None, config.dataset):
        wanted["dataset"] = Path(source).name if source.endswith(".npz") else source
        del wanted["dataset_sha256"]  # of the target
    else:
        parts = {name: ReadingOptions.options()[name].default for name in PARTS_BY}
        own |= parts
        wanted |= {name: _or_default(config.values(), parts, name) for name in PARTS_BY}
    places = ("dataset", "image_size", "learner", *LEARNER_OPTIONS)
    chosen = {name: getattr(config, name) for name in places if getattr(config, name) is not None}
    chosen["dataset"] = source or config.dataset
    chosen |= {} if info.whitening is None else {"preprocess": info.preprocess}
    chosen |= {name: wanted[name] for name in PARTS_BY if name in wanted and wanted[name] != own[name]}
    flags = " ".join(f"--{name}={value}" for name, value in chosen.items())
    made = f"python -m experiments.{kind.script} {flags} --run_dir=FOLDER"
    remedy = f"{made} makes them, --{kind.option}=FOLDER reads them."
    place = getattr(config, kind.option)
    if place is None:
        raise fail(config.population, f"--{kind.option}=FOLDER", "none", remedy)
    folder = Path(place)
    try:
        saved = json.loads((folder / "config.json").read_text(encoding="utf-8"))["config"]
        total, size = saved[f"num_{kind.noun}"], saved["group_size"]
        snapshots = saved["num_epochs"] + 1 if kind.noun == "experts" else None
        kept = total - saved.get("num_test_networks", 0)
    except (OSError, ValueError, KeyError, TypeError):
        raise fail(config.population, f"a folder of experiments.{kind.script}", folder, remedy) from None
    there = {name: _or_default(saved, own, name) for name in wanted}
    other = [f"{n}: {there[n]} there, {value} here" for n, value in wanted.items() if there[n] != value]
    if other:
        if source and wanted["class_names"] != there["class_names"]:
            remedy = "The set of the networks and the set to distill need the same classes."
        expected = f"{kind.noun} of this data set and network in {folder}"
        raise fail(config.population, expected, "; ".join(other), remedy)
    if not (folder / "result.json").is_file():
        expected = f"all {total} {kind.noun} in {folder}"
        remedy = f"Run the same command of experiments.{kind.script} again: it resumes."
        raise fail(config.population, expected, "an unfinished folder", remedy)
    groups = groups_of(total, size)
    with Checkpoints(folder / GROUPS_FOLDER, keep=len(groups)) as files:
        command = f"the command of experiments.{kind.script} that made them"
        every = [group["weights"] for group in read_groups(files, groups, learner, snapshots, command)]
    weights = jax.tree.map(lambda *leaves: np.concatenate(leaves), *every)
    if kind.noun == "experts":
        return Bank(jax.device_put(weights), None)
    parts = (jax.tree.map(lambda a, part=part: a[part], weights) for part in (slice(kept), slice(kept, None)))
    return Bank(*map(jax.device_put, parts))


def read_groups(
    files: Checkpoints, groups: Sequence[Group], learner: Learner, num_snapshots: int | None, command: str
) -> list[dict[str, Any]]:
    """All groups, as `_template` says. A damaged group must be trained again with all groups after it."""

    def remedy(number: int) -> str:
        which = f"{number} ... {len(groups)}" if number < len(groups) else f"{number}"
        return f"Delete {which} there, then run {command} again: it resumes."

    numbered = enumerate(groups, start=1)
    return [files.read(n, _template(learner, g, num_snapshots), remedy=remedy(n)) for n, g in numbered]


def _or_default(choices: NetworkOptions, defaults: NetworkOptions, name: str) -> Any:
    """A choice, or the network's default: spelling a default out changes nothing."""
    return defaults.get(name) if choices.get(name) is None else choices[name]


def bank_digest(bank: Params) -> str:
    """SHA-256 of every number of a bank."""
    found = hashlib.sha256()
    for leaf in jax.tree.leaves(bank):
        found.update(np.asarray(leaf).tobytes())
    return found.hexdigest()


def _template(learner: Learner, group: Group, num_snapshots: int | None) -> dict[str, Any]:
    """Shapes of a group: weights [count, ...] or [count, num_snapshots, ...], accuracies [count]."""
    one = jax.eval_shape(learner.init, jax.random.key(0))
    axes = (group.count,) if num_snapshots is None else (group.count, num_snapshots)
    weights = jax.tree.map(lambda s: jax.ShapeDtypeStruct((*axes, *s.shape), s.dtype), one)
    return {"weights": weights} | dict.fromkeys(SCORES, jax.ShapeDtypeStruct((group.count,), jnp.float32))
