"""Trains networks on real data and saves them: pools of networks, and trajectories of experts.

Networks are trained and saved in groups; a run that was stopped continues with the next group.
`jaxdistill.runs.banks` reads them.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill.config import build
from jaxdistill.config.option import option, options
from jaxdistill.config.resolve import defaults, facts_before_loading, resolve
from jaxdistill.config.saved import chosen_of
from jaxdistill.config.table import (
    AugmentOptions,
    Config,
    DataOptions,
    DeviceOptions,
    MapOptions,
    NetworkOptions,
    SeedOptions,
    TrajectoryOptions,
)
from jaxdistill.core.checks import fail
from jaxdistill.core.keys import at_step, stream
from jaxdistill.core.platform import choices
from jaxdistill.core.sizes import format_bytes
from jaxdistill.core.types import Array, Batch, Dataset, Learner, Params
from jaxdistill.data import Splits
from jaxdistill.evaluation import Protocol, as_they_are, epochs, pretraining, training
from jaxdistill.inner.over_learners import over_learners
from jaxdistill.inner.train import train
from jaxdistill.learners import num_params
from jaxdistill.methods.recipe import Facts
from jaxdistill.runs.banks import (
    BANKS,
    GROUPS_FOLDER,
    SCORES,
    Group,
    Kind,
    groups_of,
    of_images,
    read_groups,
)
from jaxdistill.runs.plan import identity_from, script_identity, splits
from jaxdistill.runtime import mesh, profile, progress
from jaxdistill.runtime.checkpoint import Checkpoints
from jaxdistill.runtime.rundir import open_run

Make = Callable[[Group, Callable[[int], None]], dict[str, Any]]
"""(group, callback that takes the units of progress done) -> its weights, and its accuracies by `SCORES`."""


@options
class BankOptions(DataOptions, NetworkOptions, MapOptions, SeedOptions, DeviceOptions):
    """The options that pools and experts share."""

    title: ClassVar[str] = "training"
    at_once: ClassVar[int | None] = None
    """Default of `group_size`; None takes what suits the platform."""
    group_size: int | None = option(
        None,
        "networks trained at once and saved in one file (default: experts 5; pools 1 on the CPU, else 10; "
        "with a mesh the next multiple of its learner axis)",
        low=1,
    )
    num_epochs: int = option(40, "passes over the training set", low=1)
    learning_rate: float = option(1e-3, "step size of Adam; 0.0002 in the paper")
    batch_size: int = option(128, "images per step", low=1)
    run_dir: str = option(
        "runs/pretrain", "folder to write the networks into; a run that is already there is resumed"
    )


@options
class PretrainOptions(BankOptions):
    """A pool, for `population=pretrained` and `fixed_pretrained`; with the network of `method=dd`.

    Example:
      >>> PretrainOptions(dataset="mnist", learner="lenet", num_networks=220)
      PretrainOptions(dataset='mnist', learner='lenet', num_networks=220)
    """

    title: ClassVar[str] = "pool"
    num_networks: int = option(70, "networks; 2,200 in the paper", low=2)
    num_test_networks: int = option(20, "networks held out for evaluation; 200 in the paper", low=1)

    @classmethod
    def settings(cls, chosen: Mapping[str, Any], facts: Any) -> dict[str, Any]:
        """The network of `method=dd` for such images."""
        values = _followed_by("dd", chosen, facts)
        return {name: values[name] for name in NetworkOptions.options()}


@options
class ExpertOptions(BankOptions, AugmentOptions):
    """Experts, for `method=mtt`; with the network and step size of its students.

    Example:
      >>> resolve(ExpertOptions(), Facts((8, 8, 1), 10)).learner
      'convnet'
    """

    title: ClassVar[str] = "experts"
    at_once: ClassVar[int | None] = 5
    num_experts: int = option(10, "networks; 100 in the paper", low=1)
    num_epochs: int = option(50, "passes over the training set, a snapshot after each", low=1)
    learning_rate: float = option(0.01, "step size of plain SGD, and first step size of a student")
    run_dir: str = option(
        TrajectoryOptions.options()["experts"].default,
        "folder to write the experts into; a run that is already there is resumed",
    )

    @classmethod
    def settings(cls, chosen: Mapping[str, Any], facts: Any) -> dict[str, Any]:
        """The network and the step size of `method=mtt` for such images."""
        student = _followed_by("mtt", chosen, facts)
        network = {name: student[name] for name in NetworkOptions.options()}
        return network | {"learning_rate": student["inner_learning_rate"], "batch_size": 256}


def _followed_by(method: str, chosen: Mapping[str, Any], facts: Any) -> dict[str, Any]:
    """Every option of a method that draws from a bank, for the network that was chosen."""
    network = {name: value for name, value in chosen.items() if name in NetworkOptions.options()}
    return defaults(Config(method=method, **network), facts)


B = TypeVar("B", bound=BankOptions)


class Setting(NamedTuple):
    """The data, network and options of a bank."""

    chosen: BankOptions
    """The options that the user chose."""
    options: BankOptions
    """Every option."""
    data: Splits
    learner: Learner
    devices: mesh.Layout | None
    """The devices that a group is split over; None for one."""

    @property
    def key(self) -> Array:
        """Root key of the bank."""
        return jax.random.key(self.options.seed)


def pretrain(chosen: PretrainOptions) -> dict[str, Any]:
    """Trains a pool with Adam, the step size x 0.1 after half of the epochs; the last networks are held out.

    Args:
      chosen: the options; networks that are in `run_dir` already are not trained again.

    Returns:
      What `result.json` holds: {"validation_accuracies", "test_accuracies", "bytes", "config",
      "environment"}.

    Raises:
      UserError: bad input, before anything is written; a network that diverged.

    References: Wang et al. 2018, section 4.1.
    """
    options, setting = _prepared(chosen)
    if options.num_test_networks >= options.num_networks:
        expected = f"num_test_networks < num_networks = {options.num_networks}"
        raise fail("pretrain", expected, options.num_test_networks)
    real, learner = setting.data.train, setting.learner
    protocol = pretraining(
        len(real.y),
        num_epochs=options.num_epochs,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
    )
    start, trained = starts(learner), trained_by(options, learner, protocol)

    def make(group: Group, done: Callable[[int], None]) -> dict[str, Any]:
        keys = network_keys(setting.key, group)
        params = trained(start(keys), keys, real)
        found = {"weights": jax.tree.map(mesh.to_host, params), **_tested(setting, params)}
        done(1)
        return found

    return _saved(setting, BANKS["pool"], options.num_networks, make, shorter="num_networks")


def train_experts(chosen: ExpertOptions) -> dict[str, Any]:
    """Trains experts by plain SGD on augmented images; saves a snapshot of the initial weights and per epoch.

    Args:
      chosen: the options; experts that are in `run_dir` already are not trained again.

    Returns:
      What `result.json` holds: {"validation_accuracies", "test_accuracies", "bytes", "config",
      "environment"}.

    Raises:
      UserError: bad input, before anything is written; an expert that diverged.

    References: Cazenavette et al. 2022, section 3.1.
    """
    options, setting = _prepared(chosen)
    real, learner = setting.data.train, setting.learner
    augmentation = build.augmentation(options, setting.data.info)
    protocol = epochs(  # plain SGD has no state that would go over to the next epoch
        len(real.y),
        num_epochs=1,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        momentum=0.0,
        weight_decay=0.0,
        augment=None if augmentation is None else augmentation.per_image,
    )
    start, epoch = starts(learner), trained_by(options, learner, protocol)

    def make(group: Group, done: Callable[[int], None]) -> dict[str, Any]:
        keys = network_keys(setting.key, group)
        params = start(keys)
        snapshots = [jax.tree.map(mesh.to_host, params)]
        for number in range(options.num_epochs):
            params = epoch(params, jax.vmap(lambda k, n=number: at_step(k, n))(keys), real)
            snapshots.append(jax.tree.map(mesh.to_host, params))
            done(number + 1)
        weights = jax.tree.map(lambda *leaves: np.stack(leaves, axis=1), *snapshots)
        return {"weights": weights, **_tested(setting, params)}

    count = options.num_epochs
    return _saved(
        setting,
        BANKS["trajectories"],
        options.num_experts,
        make,
        shorter="num_experts",
        units=count,
        num_snapshots=count + 1,
    )


def network_keys(key: Array, group: Group) -> Array:
    """A key for each network of a group; it does not depend on the group size."""
    return jax.vmap(partial(at_step, stream(key, "networks")))(group.first + jnp.arange(group.count))


def starts(learner: Learner) -> Callable[[Array], Params]:
    """Compiled: keys -> new networks, one after another."""
    return jax.jit(over_learners(lambda key: learner.init(stream(key, "init")), strategy="map"))


def trained_by(options: MapOptions, learner: Learner, protocol: Protocol) -> Callable[..., Params]:
    """Compiled: (params, keys, training set) -> the networks after a protocol on all of it."""

    @jax.jit
    def trained(params: Params, keys: Array, real: Dataset) -> Params:
        def of_one(params: Params, key: Array, real: Dataset) -> Params:
            rows = jnp.arange(real.y.shape[0], dtype=jnp.int32)
            steps, _, loss = training(learner, protocol, Batch(real.x, real.y), rows, key)
            return train(loss, params, steps, protocol.optimizer, protocol.values)[0]

        mapped = over_learners(of_one, strategy=options.strategy, chunk=options.learner_chunk)
        return mapped(params, keys, shared=(real,))

    return trained


def _prepared(chosen: B) -> tuple[B, Setting]:
    """(every option, what is trained); options are checked before data are loaded."""
    known = resolve(chosen, facts_before_loading(chosen))
    size = known.group_size or _group_size(known)
    devices = mesh.layout(known.mesh, size, known.batch_size, learners="group_size", batch="batch_size")
    data = splits(chosen)
    options = resolve(chosen.replace(group_size=size), Facts.of(data.info))
    return options, Setting(chosen, options, data, build.learner(options, data.info), devices)


def _group_size(options: BankOptions) -> int:
    """The number of networks at once that suits the platform and a mesh."""
    least, shares = options.at_once or choices().networks_at_once, mesh.learner_shares(options.mesh)
    return -(-least // shares) * shares


def _tested(setting: Setting, params: Params) -> dict[str, Array]:
    """Accuracies of trained networks.

    Raises:
      UserError: one that diverged.
    """
    options, data = setting.options, setting.data
    tested = partial(
        as_they_are,
        setting.learner,
        params,
        real=data.train,
        key=stream(setting.key, "calibrate"),
        batch_size=options.batch_size,
        strategy=options.strategy,
        learner_chunk=options.learner_chunk,
    )
    parts = zip(SCORES, (data.validation, data.test), strict=True)
    found = {name: tested(test=part) for name, part in parts}
    if not all(np.isfinite(each).all() for each in found.values()):
        raise fail("training", "networks with finite weights", "NaN", "Lower learning_rate.")
    return found


def _saved(
    setting: Setting,
    kind: Kind,
    total: int,
    make: Make,
    *,
    shorter: str,
    units: int = 1,
    num_snapshots: int | None = None,
) -> dict[str, Any]:
    """Trains the groups that are not in the folder yet, and writes `result.json`.

    Args:
      setting: what is trained.
      kind: of the bank.
      total: how many networks there are.
      make: trains a group.
      shorter: the option that says how many networks there are.
      units: of progress in a group.
      num_snapshots: of the training of each network; None where only its end is saved.
    """
    options, learner, info = setting.options, setting.learner, setting.data.info
    identity = script_identity(options, setting.data) | of_images(info)
    groups = groups_of(total, identity["group_size"])
    size = 4 * num_params(jax.eval_shape(learner.init, setting.key)) * (num_snapshots or 1) * total
    directory = open_run(
        options.run_dir,
        identity,
        experiment=kind.script,
        chosen=chosen_of(setting.chosen),
        upgrade=lambda saved, file: identity_from(saved, file, type(options), setting.data, identity),
    )
    what = f"{total} {kind.noun} on {info.name}: {options.learner}, {options.num_epochs} epochs"
    with directory:
        progress.say(
            f"{what}, {profile.device_description()}; {format_bytes(size)} of weights go to {options.run_dir}"
        )
        mesh.say_devices(setting.devices)
        read = partial(read_groups, learner=learner, num_snapshots=num_snapshots, command="this command")
        folder = directory.path / GROUPS_FOLDER
        with Checkpoints(folder, keep=len(groups)) as files, mesh.spread(setting.devices):
            done = files.latest_step() or 0
            if done < len(groups):  # report a damaged group before training more
                read(files, groups[:done])
            fewer = f"a smaller {shorter} or num_epochs takes less"
            with progress.Progress(units * len(groups), units * done, kind.noun, shorter=fewer) as bar:
                for i, group in list(enumerate(groups))[done:]:
                    files.save(i + 1, make(group, lambda n, i=i: bar.update(units * i + n)))
            every = read(files, groups)
        result = {
            **{name: [float(a) for group in every for a in group[name]] for name in SCORES},
            "bytes": size,
            "config": identity,
            "environment": directory.environment,
        }
        directory.write_json("result.json", result)
    return result
