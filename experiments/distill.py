"""Distill a data set into a few images that train fresh networks.

Question: how well do networks do that were trained on the distilled images alone, against the same number
of random real images, and against the full training set?

    python -m experiments.distill                                   digits, 10 images, 2 minutes on 2 cores
    python -m experiments.distill --flagfile=experiments/presets/mnist_fixed.cfg --manual_dir=FOLDER

Expected, digits: about 92% on the distilled images, 61% on random real ones, 97% on the full set. The run
directory holds everything; the same command goes on with a run that was stopped.
"""

import hashlib
import json
from typing import Any

import jax
import jax.numpy as jnp

from experiments import build, cli
from experiments.options import DATA, EVALUATION, INNER, LEARNER, OUTER, RUN, TEACHER, Groups, complete
from jaxdistill.core.checks import one_of
from jaxdistill.core.keys import stream
from jaxdistill.core.types import Batch, Data, DistillState, Learner, Method
from jaxdistill.data import Splits, to_pixels
from jaxdistill.evaluation import (
    Evaluation,
    Tuned,
    as_distilled,
    dc,
    epochs,
    everything,
    random_of_each_class,
    score,
    tuned,
)
from jaxdistill.runtime import figures, profile, progress
from jaxdistill.runtime.export import dedupe, write_synthetic
from jaxdistill.runtime.loop import Finished, distill
from jaxdistill.runtime.metrics import read_metrics
from jaxdistill.runtime.rundir import RunDir, open_run

GROUPS: Groups = {
    "data": DATA,
    "teacher": TEACHER,
    "learner": LEARNER,
    "inner loop": INNER,
    "outer loop": OUTER,
    "evaluation": EVALUATION,
    "run": RUN,
}
PLACES = ("run_dir", "data_dir", "manual_dir")
"""Where things are: no part of what a run is."""
FREE = (*EVALUATION, "checkpoint_every", "tensorboard")
"""May differ when a run goes on: it stays the same run."""
REMEDY = "Lower outer_learning_rate or clip, or bound the step sizes with max_inner_learning_rate."


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
    config = complete(GROUPS, chosen)
    choices = {name: value for name, value in config.items() if name not in PLACES}
    one_of("method", config["method"], build.METHODS)
    key = jax.random.key(config["seed"])
    data = build.splits(config)
    learner = build.learner(config, data.info)
    method = build.method(config, data, learner, stream(key, "teacher start"))
    jax.eval_shape(method.init, key)
    with open_run(config["run_dir"] or default_run_dir(choices), choices, free_fields=FREE) as directory:
        for note in directory.notes:
            progress.say(f"note: {note}")
        progress.say(
            f"{config['method']} on {data.info.name}: {config['images_per_class']} per class, "
            f"{config['learner']}, {profile.device_description()}; everything goes to {directory.path.name}/"
        )
        result = directory.read_result()
        if result is None or result["config"] != json.loads(json.dumps(choices)):
            finished = distill(
                method,
                Data(data.train, None),
                key,
                directory,
                num_steps=config["num_outer_steps"],
                chunk_length=config["chunk_length"],
                checkpoint_every=config["checkpoint_every"],
                label=config["method"],
                tensorboard=config["tensorboard"],
                remedy=REMEDY,
            )
            export(directory, config, data, method, finished.state, key)
            result = evaluate(directory, choices, data, learner, method, finished, key)
            directory.write_json("result.json", result)
        show(result)
    return result


def default_run_dir(choices: dict[str, Any]) -> str:
    """A directory of its own for every set of choices, so that the same command finds its run again."""
    pinned = {name: value for name, value in choices.items() if name not in FREE}
    digest = hashlib.sha256(json.dumps(pinned, sort_keys=True).encode()).hexdigest()[:8]
    stem = choices["dataset"].removesuffix(".npz").replace("\\", "/").rsplit("/", 1)[-1]
    return f"runs/{choices['method']}-{stem}-{digest}"


def export(
    directory: RunDir,
    config: dict[str, Any],
    data: Splits,
    method: Method,
    state: DistillState,
    key: jax.Array,
) -> None:
    """Writes `synthetic.npz`, `images.png` and `curves.png`."""
    info = data.info
    images, labels, order = dedupe(method.synthesize(state, stream(key, "export")))
    inner = {name: config[name] for name in ("inner_optimizer", "weight_decay")}
    write_synthetic(
        directory.synthetic,
        images=images,
        labels=labels,
        order=order,
        hyperparameters=jax.device_get(method.hyperparameters(state)),
        info=info,
        method=config["method"],
        learner={name: config[name] for name in ("learner", *build.LEARNER_OPTIONS)},
        inner=inner,
    )
    title = f"{info.name}, {config['images_per_class']} per class, {config['method']}"
    pixels = to_pixels(jnp.asarray(images), info)
    figures.image_grid(
        directory.images, pixels, labels.argmax(-1), info.class_names, title=title, scale=info.scale
    )
    figures.curves(directory.curves, read_metrics(directory.metrics), title=title)


def evaluate(
    directory: RunDir,
    choices: dict[str, Any],
    data: Splits,
    learner: Learner,
    method: Method,
    finished: Finished,
    key: jax.Array,
) -> dict[str, Any]:
    """The table's numbers: distilled images, random real ones, the full training set."""
    state = finished.state
    population = build.population(choices, learner)
    evaluation = Evaluation(
        learner=learner,
        contexts=lambda key, count: population.context(state.population, None, key, count),
        validation=data.validation,
        test=data.test,
        key=stream(key, "evaluation"),
        num_learners=choices["num_eval_learners"],
        search_learners=choices["num_search_learners"],
        strategy=choices["strategy"],
        learner_chunk=choices["learner_chunk"],
    )
    images, labels, order = dedupe(method.synthesize(state, stream(key, "export")))
    count, per_class = len(images), choices["images_per_class"]
    progress.say("evaluating: distilled images ...")
    optimizer = build.inner_optimizer(choices)
    plan = as_distilled(
        jnp.asarray(order), optimizer, method.hyperparameters(state), weight_decay=choices["weight_decay"]
    )
    batch = Batch(jnp.asarray(images), jnp.asarray(labels))
    fixed = choices["population"] == "fixed"
    alone = evaluation._replace(num_learners=1) if fixed else evaluation  # all networks would be the same one
    distilled = score(alone, plan, batch, everything(count))

    progress.say("evaluating: random real images, step size searched on validation ...")
    real = Batch(data.train.x, data.train.y)
    equal_steps = epochs(
        count,
        num_epochs=choices["distill_epochs"],
        batch_size=count // choices["distill_steps"],
        momentum=0.0,
        weight_decay=choices["weight_decay"],
        name="equal steps",
    )
    rates = choices["step_sizes"]
    random = tuned(
        evaluation,
        [equal_steps, dc(count)],
        real,
        random_of_each_class(data.train, per_class),
        step_sizes=rates,
    )
    full = None
    if choices["full_data_epochs"]:
        progress.say("evaluating: full training set, step size searched on validation ...")
        size = data.train.y.shape[0]
        plan = epochs(size, num_epochs=choices["full_data_epochs"], decay_at_half=True, name="full")
        full = tuned(evaluation, [plan], real, everything(size), step_sizes=rates)
    recorded = json.loads(directory.config.read_text())
    return {
        "test_accuracy_mean": distilled.mean,
        "test_accuracy_std": distilled.std,
        "num_learners": len(distilled.every),
        "test_accuracies": distilled.every,
        **_row("random_real", random),
        **(_row("full_data", full) if full else {"full_data_mean": None}),
        "seconds": round(finished.seconds, 2),
        "compile_seconds": round(finished.compile_seconds, 2),
        "outer_steps": int(state.step),
        "config": json.loads(json.dumps(choices)),
        "environment": recorded["environment"],
    }


def _row(name: str, row: Tuned) -> dict[str, Any]:
    return {
        f"{name}_mean": row.score.mean,
        f"{name}_std": row.score.std,
        f"{name}_num_learners": len(row.score.every),
        f"{name}_protocol": row.protocol,
        f"{name}_step_size": row.step_size,
        f"{name}_validation": {p: {str(k): v for k, v in s.items()} for p, s in row.searched.items()},
    }


def show(result: dict[str, Any]) -> None:
    """Prints the table of a result."""
    config = result["config"]
    kind = "learned schedule" if config["learned"] else "its own schedule"

    def cells(title: str, how: str, prefix: str) -> list[str]:
        mean, std = (result[f"{prefix}_{part}"] for part in ("mean", "std"))
        count = result["num_learners" if prefix == "test_accuracy" else f"{prefix}_num_learners"]
        return [title, f"{100 * mean:.1f}", f"{100 * std:.1f}", str(count), how]

    def searched(prefix: str) -> str:
        return f"{result[f'{prefix}_protocol']}, step size {result[f'{prefix}_step_size']:g}"

    rows = [cells("distilled images", kind, "test_accuracy")]
    rows.append(cells("random real images", searched("random_real"), "random_real"))
    if result["full_data_mean"] is not None:
        rows.append(cells("full training set", searched("full_data"), "full_data"))
    where = "the fixed initialisation" if config["population"] == "fixed" else "fresh networks"
    progress.table(
        f"\nTest accuracy (%) of {where}: {config['learner']} on {config['dataset']}",
        ["trained on", "mean", "std", "K", "trained by"],
        rows,
    )
    speed = result["outer_steps"] / max(result["seconds"], 1e-9)
    progress.say(
        f"{result['outer_steps']} outer steps in {progress.duration(result['seconds'])} ({speed:.3g}/s), "
        f"compiled in {progress.duration(result['compile_seconds'])}"
    )


if __name__ == "__main__":
    cli.main(run, GROUPS, __doc__)
