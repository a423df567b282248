"""Distill a data set into a few images that train fresh networks.

Question: how well do networks do that were trained on the distilled images alone, against the same number
of random real images, and against the full training set?

    python -m experiments.distill                                   digits, 10 images, 2 minutes on 2 cores
    python -m experiments.distill --flagfile=experiments/presets/mnist_fixed.cfg --manual_dir=FOLDER

Expected, digits: about 92% on the distilled images, 66% on random real ones, 97% on the full set. The run
directory holds everything; the same command goes on with a run that was stopped.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import build, cli, gradients
from experiments.banks import KINDS, Bank, bank_digest, load_bank
from experiments.comparison import Synthetic, compare, protocol_of, show, training_data
from experiments.devices import DEVICES, HOSTS, devices_of, say_devices
from experiments.networks import only_network
from experiments.options import (
    DATA,
    EVALUATION,
    IMPLICIT,
    INNER,
    LEARNER,
    OUTER,
    POOL,
    RUN,
    TEACHER,
    TRAJECTORIES,
    Groups,
    complete,
)
from jaxdistill.core.keys import stream
from jaxdistill.core.types import Data, DistillState, Learner, Method
from jaxdistill.data import Splits, to_pixels
from jaxdistill.runtime import figures, mesh, profile, progress
from jaxdistill.runtime.export import write_synthetic
from jaxdistill.runtime.loop import Finished, compiled_chunk, default_chunk_length, distill
from jaxdistill.runtime.memory import total_bytes
from jaxdistill.runtime.metrics import read_metrics, require_tensorboard
from jaxdistill.runtime.rundir import RunDir, open_run
from jaxdistill.teachers import CURRICULA

GROUPS: Groups = {
    "data": DATA,
    "teacher": TEACHER,
    "learner": LEARNER,
    "inner loop": INNER,
    "implicit gradients": IMPLICIT,
    "outer loop": OUTER,
    "trajectory matching": TRAJECTORIES,
    "pre-trained networks": POOL,
    "evaluation": EVALUATION,
    "run": RUN,
    "devices": DEVICES,
    "hosts": HOSTS,
}
OPTIONS = {name: option for group in GROUPS.values() for name, option in group.items()}
PLACES = ("run_dir", "data_dir", "manual_dir", "experts", "pool", *DEVICES, *HOSTS)
"""Where things are and are computed: no part of what a run is."""
CADENCE = ("checkpoint_every", "tensorboard")
"""Changes no number."""
FREE = (*EVALUATION, *CADENCE)
"""May differ when a run goes on: it stays the same run."""


def remedy(config: Mapping[str, Any]) -> str:
    """What helps against numbers that are not finite."""
    if build.trains(config):
        return "Lower outer_learning_rate or clip, or bound the step sizes with max_inner_learning_rate."
    rates = "outer_learning_rate" + " or match_learning_rate" * (config["population"] == "persistent")
    return f"Lower {rates}, or bound the outer gradient with clip."


def run(**chosen: Any) -> dict[str, Any]:
    """Distills, evaluates, writes the run directory, prints the table.

    Args:
      **chosen: any option of `GROUPS`.

    Returns:
      What `result.json` holds.

    Raises:
      UserError: bad input, before anything is written; a NaN on the way.
      Interrupted: SIGINT or SIGTERM; the state is saved.
    """
    plan = planned(chosen)
    config, data, learner = plan.config, plan.data, plan.learner
    path = config["run_dir"] or default_run_dir(plan.choices)
    with open_run(path, plan.choices, free_fields=FREE) as directory:
        for note in directory.notes:
            progress.say(f"note: {note}")
        progress.say(
            f"{config['method']} on {data.info.name}: {described(config, data)}, "
            f"{config['learner']}, {profile.device_description()}; everything goes to {path}"
        )
        result = directory.read_result()
        if result is None or _numbers(result.get("config", {})) != _numbers(plan.choices):
            finished, synthetic = distilled(plan, directory)
            if result is not None and not finished.compile_seconds:  # other networks, the same distillation
                kept = ("compile_seconds", "program_bytes", "all_bytes")
                finished = finished._replace(**{name: result.get(name, 0) for name in kept})
            state, bank = finished.state, plan.bank
            with mesh.spread(plan.where):
                scores = compare(plan.choices, data, learner, plan.method, state, synthetic, plan.key, bank)
            result = {**scores, **facts(plan, finished, directory)}
            directory.write_json("result.json", result)
        show(result)
    return result


class Plan(NamedTuple):
    """A distillation, everything checked, nothing written yet."""

    config: dict[str, Any]
    choices: dict[str, Any]
    """What the run is."""
    data: Splits
    learner: Learner
    bank: Bank | None
    methods: list[Method]
    """For the networks of every shape; one, mostly."""
    key: jax.Array
    """Root key of the run."""
    where: mesh.Layout | None
    """The devices that it is for; None for one."""

    @property
    def method(self) -> Method:
        return self.methods[0]

    @property
    def arguments(self) -> Data:
        """Of the compiled outer step."""
        return Data(self.data.train, None if self.bank is None else self.bank.given)


def planned(
    chosen: Mapping[str, Any],
    change: Callable[[Splits], Splits] = lambda data: data,
    more: Mapping[str, Any] | None = None,
) -> Plan:
    """From options to a distillation.

    Args:
      chosen: any options of `GROUPS`.
      change: what is distilled in the place of the data set.
      more: what else the run is: how it was changed.

    Raises:
      UserError: bad input.
    """
    config = complete(GROUPS, chosen)
    build.check_step_sizes(config)
    config = build.with_inner_loop(config)
    protocol_of(config)
    unresolved, config = config, gradients.resolve(config)
    if config["tensorboard"]:
        require_tensorboard()
    key = jax.random.key(config["seed"])
    where = devices_of(config, config["num_learners"], real_batch_of(config))
    given = build.splits(config)
    learner = build.learner(config, given.info)
    bank = load_bank(config, identity_of(config, given), learner, given.info)
    data = change(given)
    arguments = Data(data.train, None if bank is None else bank.given)
    if config["gradient"] == "auto":
        needs = partial(bytes_of, splits=data, data=arguments, key=key, where=where)
        config = gradients.within_budget(unresolved, needs, progress.say)
    choices = identity_of(config, given) | dict(more or {})
    if bank is not None:
        choices |= {f"{KINDS[config['population']].option}_sha256": bank_digest(bank)}
    methods = [
        build.method(config, data, each, stream(key, "teacher start"))
        for each in build.shapes(config, data.info)
    ]
    start = jax.eval_shape(methods[0].init, key)
    jax.eval_shape(methods[0].update, start, arguments, key)  # what does not trace starts no run
    return Plan(config, choices, data, learner, bank, methods, key, where)


def real_batch_of(config: Mapping[str, Any]) -> int | None:
    """Images of a real batch that a mesh may split; None of a method that draws none."""
    return None if config["method"] == "mtt" else config["real_batch_size"]


def distilled(plan: Plan, directory: RunDir) -> tuple[Finished, Synthetic]:
    """Distills, or goes on with what is in the directory, and exports the images."""
    config = plan.config
    say_devices(plan.where)
    finished = distill(
        plan.methods,
        plan.arguments,
        plan.key,
        directory,
        num_steps=config["num_outer_steps"],
        chunk_length=config["chunk_length"],
        checkpoint_every=config["checkpoint_every"],
        label=config["method"],
        tensorboard=config["tensorboard"],
        remedy=remedy(config),
        faults=gradients.FAULTS if config["on_failed_solve"] == "stop" else None,
        where=plan.where,
    )
    synthetic = training_data(plan.choices, plan.learner, plan.method, finished.state, plan.key, plan.bank)
    export(directory, plan, finished.state, synthetic)
    return finished, synthetic


def facts(plan: Plan, finished: Finished, directory: RunDir) -> dict[str, Any]:
    """What every result says of its run."""
    return {
        "seconds": round(finished.seconds, 2),
        "compile_seconds": round(finished.compile_seconds, 2),
        "program_bytes": finished.program_bytes,
        "all_bytes": finished.all_bytes,
        "outer_steps": int(finished.state.step),
        "config": json.loads(json.dumps(plan.choices)),
        "environment": json.loads(directory.config.read_text())["environment"],
    }


def bytes_of(
    config: dict[str, Any], *, splits: Splits, data: Data, key: jax.Array, where: mesh.Layout | None = None
) -> int:
    """Bytes of a device that the chunk of outer steps of a config needs, as far as the compiler knows."""
    learner = build.learner(config, splits.info)
    method = build.method(config, splits, learner, stream(key, "teacher start"))
    length = min(config["chunk_length"] or default_chunk_length(), config["num_outer_steps"])
    arguments = (jax.eval_shape(method.init, key), data, key, length)
    with mesh.spread(where):
        return total_bytes(compiled_chunk(method, where).lower(*arguments).compile())


def described(config: dict[str, Any], data: Splits) -> str:
    """How many images there are: `1 per class`, or `32 batches of 128` of a generator."""
    if config["teacher"] == "images":
        return f"{config['images_per_class']} per class"
    return f"{config['distill_steps']} batches of {build.batch_size(config, data.info)}"


def _numbers(choices: dict[str, Any]) -> dict[str, Any]:
    """The choices that a result's numbers depend on, as JSON has them."""
    kept = {name: value for name, value in choices.items() if name not in CADENCE}
    return json.loads(json.dumps(kept))


def identity_of(config: dict[str, Any], data: Splits) -> dict[str, Any]:
    """What a run is, wherever its files lie: its choices, and of a user's arrays their content."""
    choices = {name: value for name, value in config.items() if name not in PLACES}
    if config["dataset"].endswith(".npz"):
        choices |= {"dataset": data.info.name, "dataset_sha256": digest(data)}
    return choices


def digest(data: Splits) -> str:
    """SHA-256 of every image and label of a set."""
    leaves = jax.tree.leaves((data.train, data.validation, data.test))
    return hashlib.sha256(b"".join(np.asarray(leaf).tobytes() for leaf in leaves)).hexdigest()


def default_run_dir(choices: dict[str, Any]) -> str:
    """A directory of its own for every set of choices, so that the same command finds its run again."""
    pinned = {name: value for name, value in choices.items() if name not in FREE}
    digest = hashlib.sha256(json.dumps(pinned, sort_keys=True).encode()).hexdigest()[:8]
    stem = choices["dataset"].removesuffix(".npz").replace("\\", "/").rsplit("/", 1)[-1]
    return f"runs/{choices['method']}-{stem}-{digest}"


def export(directory: RunDir, plan: Plan, state: DistillState, synthetic: Synthetic) -> None:
    """Writes `synthetic.npz`, `images.png` and `curves.png`."""
    config, data, method = plan.config, plan.data, plan.method
    info = data.info
    images, labels, order = synthetic
    if not directory.primary:
        return
    inner = {name: config[name] for name in ("inner_optimizer", "weight_decay")}
    inner |= {"shuffle": CURRICULA[config["curriculum"]].shuffle, "population": config["population"]}
    write_synthetic(
        directory.synthetic,
        images=images,
        labels=labels,
        order=order,
        hyperparameters=jax.device_get(method.hyperparameters(state)) if build.trains(config) else {},
        info=info,
        method=config["method"],
        learner={name: config[name] for name in ("learner", *build.LEARNER_OPTIONS)},
        inner=inner,
        start=only_network(config, state, plan.bank),
    )
    title = f"{info.name}, {described(config, data)}, {config['method']}"
    pixels = to_pixels(jnp.asarray(images), info)
    channels = info.image_shape[-1]
    if channels in (1, 3):
        figures.image_grid(
            directory.images, pixels, labels.argmax(-1), info.class_names, title=title, scale=info.scale
        )
    else:
        progress.say(f"note: no {directory.images.name}, since images have {channels} channels, not 1 or 3")
    figures.curves(directory.curves, read_metrics(directory.metrics), title=title)


if __name__ == "__main__":
    cli.main(run, GROUPS, __doc__)
