"""Networks trained on real data, as `experiments.experts` and `experiments.pretrain` make and keep them.

They are trained and kept in groups through Orbax; a run that was stopped goes on with the next group.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import build
from experiments.devices import say_devices
from jaxdistill.core.checks import fail
from jaxdistill.core.keys import at_step, stream
from jaxdistill.core.types import Array, Batch, Dataset, Learner, Params
from jaxdistill.data import DatasetInfo, Splits
from jaxdistill.evaluation import Protocol, as_they_are, training
from jaxdistill.inner.over_learners import over_learners
from jaxdistill.inner.train import train
from jaxdistill.learners import num_params, options_of
from jaxdistill.runtime import mesh, profile, progress
from jaxdistill.runtime.checkpoint import Checkpoints
from jaxdistill.runtime.memory import format_bytes
from jaxdistill.runtime.rundir import open_run

GROUPS_FOLDER = "groups"
SCORES = ("validation_accuracies", "test_accuracies")
Choices = dict[str, Any]


class Bank(NamedTuple):
    """What learners come from."""

    given: Params
    """What the outer loop draws from: trajectories [experts, epochs + 1, ...] or networks [networks, ...]."""
    held_out: Params
    """Networks of a pool for the evaluation alone, [networks, ...]; None of trajectories."""


class Group(NamedTuple):
    """Networks that are trained at once and kept in one file."""

    first: int
    """Number of the first of them."""
    count: int


def groups_of(total: int, size: int) -> list[Group]:
    """As many networks in each, but in the last."""
    return [Group(first, min(size, total - first)) for first in range(0, total, size)]


def network_keys(key: Array, group: Group) -> Array:
    """A key for each network of a group, whatever the groups."""
    return jax.vmap(partial(at_step, stream(key, "networks")))(group.first + jnp.arange(group.count))


def starts(learner: Learner) -> Callable[[Array], Params]:
    """Compiled: keys -> new networks, one after another."""
    return jax.jit(over_learners(lambda key: learner.init(stream(key, "init")), strategy="map"))


def trained_by(config: Choices, learner: Learner, protocol: Protocol) -> Callable[..., Params]:
    """Compiled: (params, keys, training set) -> the networks after a protocol on all of it."""

    @jax.jit
    def trained(params: Params, keys: Array, real: Dataset) -> Params:
        def of_one(params: Params, key: Array, real: Dataset) -> Params:
            rows = jnp.arange(real.y.shape[0], dtype=jnp.int32)
            steps, _, loss = training(learner, protocol, Batch(real.x, real.y), rows, key)
            return train(loss, params, steps, protocol.optimizer, protocol.values)[0]

        mapped = over_learners(of_one, strategy=config["strategy"], chunk=config["learner_chunk"])
        return mapped(params, keys, shared=(real,))

    return trained


def tested(config: Choices, learner: Learner, data: Splits, params: Params) -> dict[str, Array]:
    """Accuracies of trained networks.

    Raises:
      UserError: one that diverged.
    """
    key = stream(jax.random.key(config["seed"]), "calibrate")
    options = {name: config[name] for name in ("batch_size", "strategy", "learner_chunk")}
    found = {
        name: as_they_are(learner, params, split, data.train, key, **options)
        for name, split in zip(SCORES, (data.validation, data.test), strict=True)
    }
    if not all(np.isfinite(each).all() for each in found.values()):
        raise fail("training", "networks with finite weights", "NaN", "Lower learning_rate.")
    return found


def of_images(info: DatasetInfo) -> Choices:
    """What a network has to have been trained on to read other images of the same kind."""
    return {"image_shape": list(info.image_shape), "class_names": list(info.class_names)}


def train_bank(
    config: Choices,
    choices: Choices,
    learner: Learner,
    groups: Sequence[Group],
    *,
    what: str,
    num_snapshots: int | None = None,
    units: int,
    make: Callable[[Group, Callable[[int], None]], dict[str, Any]],
    where: mesh.Layout | None = None,
) -> Choices:
    """Makes the groups that are not there yet, and writes `result.json`.

    Args:
      config: of the experiment.
      choices: what the run is.
      learner: its network.
      groups: of all networks.
      what: what they are, for the first line.
      num_snapshots: of the training of each network; None where only its end is kept.
      units: of progress in a group.
      make: (group, callback of the units done) -> what `_template` says.
      where: the devices that a group is split over; one when None.

    Raises:
      UserError: what `make` raises, and a folder of another run; the groups before are kept.

    Returns:
      {"validation_accuracies", "test_accuracies", "bytes", "config", "environment"}.
    """
    total = sum(group.count for group in groups)
    size = 4 * num_params(jax.eval_shape(learner.init, jax.random.key(0))) * (num_snapshots or 1) * total
    with open_run(config["run_dir"], choices) as directory:
        progress.say(
            f"{total} {what}, {profile.device_description()}; {format_bytes(size)} of weights go to "
            f"{config['run_dir']}"
        )
        say_devices(where)
        with Checkpoints(directory.path / GROUPS_FOLDER, keep=len(groups)) as kept, mesh.spread(where):
            done = kept.latest_step() or 0
            if done < len(groups):  # a damaged one is told before others are made
                _read(kept, groups[:done], learner, num_snapshots, "this command")
            with progress.Progress(units * len(groups), units * done, what.split()[0]) as bar:
                for i, group in list(enumerate(groups))[done:]:
                    kept.save(i + 1, make(group, lambda n, i=i: bar.update(units * i + n)))
            every = _read(kept, groups, learner, num_snapshots, "this command")
        result = {
            **{name: [float(a) for group in every for a in group[name]] for name in SCORES},
            "bytes": size,
            "config": json.loads(json.dumps(choices)),
            "environment": json.loads(directory.config.read_text())["environment"],
        }
        directory.write_json("result.json", result)
    return result


class Kind(NamedTuple):
    """A kind of bank."""

    script: str
    """What makes it, in `experiments`."""
    option: str
    """Of a distillation: its folder."""
    noun: str
    """What is in it; `num_` before it is an option of the script."""


KINDS = {
    "experts": Kind("experts", "experts", "experts"),
    "pretrained": Kind("pretrain", "pool", "networks"),
    "fixed_pretrained": Kind("pretrain", "pool", "networks"),
}
"""By the population that draws from it."""


def load_bank(config: Choices, choices: Choices, learner: Learner, info: DatasetInfo) -> Bank | None:
    """What the population of a distillation draws from; None where that is nothing.

    Args:
      config: of a distillation.
      choices: its identity.
      learner: its network, which has to be that of the bank.
      info: of its data: those of the bank, or with the image shape of those that `pool_dataset` names.

    Raises:
      UserError: no folder, one that the script did not write or finish, networks of another data set or
        architecture: every difference is named.
    """
    if config["population"] not in KINDS:
        return None
    kind = KINDS[config["population"]]
    own = options_of(config["learner"])
    wanted = of_images(info) | {name: choices.get(name) for name in ("dataset", "dataset_sha256", "learner")}
    wanted |= {name: _or_default(choices, own, name) for name in build.LEARNER_OPTIONS}
    source = config["pool_dataset"] if kind.option == "pool" else None
    if source not in (None, config["dataset"]):
        wanted["dataset"] = Path(source).name if source.endswith(".npz") else source
        del wanted["dataset_sha256"]  # of the target
    places = ("dataset", "image_size", "learner", *build.LEARNER_OPTIONS)
    chosen = {name: config[name] for name in places if config[name] is not None}
    chosen["dataset"] = source or config["dataset"]
    flags = " ".join(f"--{name}={value}" for name, value in chosen.items())
    remedy = f"python -m experiments.{kind.script} {flags} --run_dir=FOLDER makes them."
    if config[kind.option] is None:
        raise fail(config["population"], f"--{kind.option}=FOLDER", "none", remedy)
    folder = Path(config[kind.option])
    try:
        saved = json.loads((folder / "config.json").read_text(encoding="utf-8"))["config"]
        total, size = saved[f"num_{kind.noun}"], saved["group_size"]
        snapshots = saved["num_epochs"] + 1 if kind.noun == "experts" else None
        kept = total - saved.get("num_test_networks", 0)
    except (OSError, ValueError, KeyError, TypeError):
        raise fail(config["population"], f"a folder of experiments.{kind.script}", folder, remedy) from None
    there = {name: _or_default(saved, own, name) for name in wanted}
    other = [f"{n}: {there[n]} there, {value} here" for n, value in wanted.items() if there[n] != value]
    if other:
        if source and wanted["class_names"] != there["class_names"]:
            remedy = "The set that they were trained on and the one to distill need the same classes."
        expected = f"{kind.noun} of this data set and network in {folder}"
        raise fail(config["population"], expected, "; ".join(other), remedy)
    if not (folder / "result.json").is_file():
        expected = f"all {total} {kind.noun} in {folder}"
        remedy = f"Let experiments.{kind.script} end: the same command goes on."
        raise fail(config["population"], expected, "some", remedy)
    groups = groups_of(total, size)
    with Checkpoints(folder / GROUPS_FOLDER, keep=len(groups)) as files:
        command = f"the command of experiments.{kind.script} that made them"
        every = [group["weights"] for group in _read(files, groups, learner, snapshots, command)]
    weights = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *every)
    if kind.noun == "experts":
        return Bank(weights, None)
    return Bank(jax.tree.map(lambda a: a[:kept], weights), jax.tree.map(lambda a: a[kept:], weights))


def _read(
    files: Checkpoints, groups: Sequence[Group], learner: Learner, num_snapshots: int | None, command: str
) -> list[dict[str, Any]]:
    """All groups, as `_template` says. A damaged one has to be made again with all after it."""

    def remedy(number: int) -> str:
        which = f"{number} ... {len(groups)}" if number < len(groups) else f"{number}"
        return f"Delete {which} there, then run {command} again: it goes on."

    numbered = enumerate(groups, start=1)
    return [files.read(n, _template(learner, g, num_snapshots), remedy=remedy(n)) for n, g in numbered]


def _or_default(choices: Choices, defaults: Choices, name: str) -> Any:
    """A choice, or what the network has where nobody chose: spelling a default out changes nothing."""
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
