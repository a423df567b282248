"""The study: {images, generator} x {unrolled, matching, implicit}, one evaluator, one report.

Question: do gradient matching and implicit gradients reach the accuracy of backpropagation through training
at a fraction of its memory, and do generators' images train other architectures better?

    python -m experiments.study                                     digits, under 15 minutes on 2 cores
    python -m experiments.study --preset=mnist --manual_dir=FOLDER  hours on 2 cores, minutes on a GPU

Every cell is a run of `experiments.distill` under RUN_DIR/cells, first for the preset's outer steps, then
(`--equal_time`) for as many as take `--time_limit` seconds. All images are scored alike: fresh networks of
the training architecture and of others, by the `dc` protocol and by `dc_augmented` (crop, scale, rotate),
the step size searched on validation, beside random real images and the full training set. A cell that fails
is a row that says why, and is tried again by the same command, which goes on with what was stopped. Writes
rows.json, report.html and report.md (see experiments.report). Expected, digits: unrolled, matching and
implicit cells far above random real images, implicit at a fraction of unrolled memory.
"""

import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import build, cli, distill, report, report_rows
from experiments.comparison import Synthetic, plan_of, protocol_of, seen
from experiments.devices import DEVICES
from experiments.evaluate import name_and_options, parse_learner
from experiments.measure import OUT_OF_MEMORY, compile_cache_in
from experiments.networks import new_networks
from experiments.options import DATA, OUTER, RUN, Groups, Option, complete
from experiments.study_cells import GRADIENTS, PRESETS, TEACHERS, Cell, Preset, ablations, cells
from jaxdistill.core.checks import UserError, above, fail, lookup
from jaxdistill.core.keys import stream
from jaxdistill.core.types import Batch, Learner
from jaxdistill.data import Splits, to_pixels
from jaxdistill.evaluation import (
    Evaluation,
    Score,
    epochs,
    everything,
    published,
    random_of_each_class,
    score,
    tuned,
)
from jaxdistill.runtime import mesh, profile, progress
from jaxdistill.runtime.loop import Finished, default_chunk_length
from jaxdistill.runtime.metrics import read_metrics
from jaxdistill.runtime.rundir import Held, RunDir, open_run

PROTOCOLS = ("dc", "dc_augmented")
BY_PRESET = "(default: the preset's)"
GROUPS: Groups = {
    "study": {
        "preset": Option("digits", str, "data, network, settings of every cell", PRESETS),
        "teachers": Option(list(TEACHERS), str, "rows of the grid", TEACHERS),
        "gradients": Option(list(GRADIENTS), str, "columns of the grid", GRADIENTS),
        "ablations": Option(False, bool, "also the preset's cells with one choice changed"),
        "equal_time": Option(True, bool, "also every cell for the same wall time"),
        "time_limit": Option(None, float, f"seconds of it, compilation apart {BY_PRESET}"),
        "tries": Option(
            None, int, f"distillations of every cell, with seeds of their own {BY_PRESET}", low=1
        ),
        "learner": Option(None, str, f"the network that is distilled for: convnet:width=32 {BY_PRESET}"),
        "steps_scale": Option(1.0, float, "outer steps of every cell, relative to the preset's"),
        "smoke": Option(False, bool, "two cells, few steps and networks: does it run?"),
    },
    "data": {name: DATA[name] for name in ("data_dir", "manual_dir")},
    "evaluation": {
        "architectures": Option(
            None,
            str,
            f"others that the images are tested on, options with colons: mlp,lenet {BY_PRESET}",
            list_of=True,
        ),
        "num_eval_learners": Option(None, int, f"networks of each {BY_PRESET}", low=1),
        "num_search_learners": Option(None, int, f"networks per candidate of a search {BY_PRESET}", low=1),
        "step_sizes": Option(None, float, f"step sizes that are searched over {BY_PRESET}", list_of=True),
        "num_epochs": Option(None, int, "of training by dc (default: 300)", low=1),
        "num_augmented_epochs": Option(None, int, f"of training by dc_augmented {BY_PRESET}", low=1),
        "full_data_epochs": Option(None, int, f"of training on the full set {BY_PRESET}", low=1),
        "strategy": OUTER["strategy"],
        "learner_chunk": OUTER["learner_chunk"],
    },
    "run": {
        "run_dir": Option(
            None, str, "where everything is written; what is there goes on (runs/study_PRESET)"
        ),
        "seed": RUN["seed"],
        "checkpoint_every": RUN["checkpoint_every"],
    },
    "devices": DEVICES,
}
SMOKE = {
    "gradients": ["unrolled", "matching_all"],
    "teachers": ["images"],
    "learner": "mlp:width=16:depth=1",
    "architectures": ["linear"],
    "steps_scale": 0.07,
    "time_limit": 0.5,
    "num_eval_learners": 2,
    "step_sizes": [0.03],
    "num_epochs": 10,
    "num_augmented_epochs": 10,
    "full_data_epochs": 1,
}
MORE_OR_LESS = ("teachers", "gradients", "ablations", "equal_time", "tries", "checkpoint_every")
"""May differ when a study goes on: rows are added."""
TOLD = ("inner_gradient", "residual", "cosine", "curvature_v", "curvature_g", "solver_steps", "skipped")
Row = dict[str, Any]


class Setting(NamedTuple):
    """What all rows of a study share."""

    config: dict[str, Any]
    preset: Preset
    data: Splits
    learners: dict[str, Learner]
    """That images are tested on; the first is the one that they are distilled for."""
    directory: RunDir
    programs: str
    """A folder for compiled outer steps, empty at the start: what is compiled there tells its time."""

    @property
    def own(self) -> str:
        return next(iter(self.learners))


def run(**chosen: Any) -> dict[str, Any]:
    """Runs the cells that are missing, writes rows and report, prints the table.

    Args:
      **chosen: any option of `GROUPS`.

    Returns:
      {"rows", "baselines", "config"}.

    Raises:
      UserError: bad input, before anything is distilled; a study without a finished cell.
    """
    config = complete(GROUPS, chosen)
    preset = lookup("study preset", config["preset"], PRESETS)
    config |= SMOKE if config["smoke"] else {}
    config |= {name: value for name, value in preset.study.items() if config[name] is None}
    config["run_dir"] = config["run_dir"] or f"runs/study_{config['preset']}"
    _check(config)
    build.check_step_sizes(config)
    data = build.splits(complete(distill.GROUPS, preset.shared | _places(config)))
    learners = {text: parse_learner(text, data) for text in [_own(preset, config), *config["architectures"]]}
    pinned = {n: v for n, v in config.items() if n not in ("run_dir", *distill.PLACES)}
    pinned["cells_sha256"] = hashlib.sha256(
        repr(preset).encode()
    ).hexdigest()  # rows are of one version of them
    run_dir = open_run(config["run_dir"], pinned, free_fields=MORE_OR_LESS)
    with run_dir as directory, tempfile.TemporaryDirectory() as programs:
        for note in directory.notes:
            progress.say(f"note: {note}")
        setting = Setting(config, preset, data, learners, directory, programs)
        planned = list(_planned(setting))
        progress.say(
            f"study {config['preset']}: {len(planned)} rows, {setting.own} on {data.info.name}, "
            f"{profile.device_description()}; everything goes to {config['run_dir']}"
        )
        for number, (cell, reading, attempt) in enumerate(planned, start=1):
            title = f"{cell.teacher}, {cell.gradient}" + (f", {cell.change}" if cell.change else "")
            progress.say(f"\n[{number}/{len(planned)}] {title}, equal {reading}, try {attempt + 1}")
            _row(setting, cell, reading, attempt)
        sizes = {row["images"] for row in report_rows.read_rows(directory.path) if row["status"] == "done"}
        baselines = [made for size in sorted(sizes) for made in _baselines(setting, size)]
        directory.write_json("baselines.json", baselines)
        found = report.write(directory.path, [directory.path])
    report.show(found)
    return found | {"config": pinned}


def _check(config: Mapping[str, Any]) -> None:
    for name in ("teachers", "gradients"):
        if not config[name]:
            raise fail("study", f"at least one of {name}", "none")
    for name in ("time_limit", "steps_scale"):
        above("study", name, config[name], 0.0)


def _places(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: config[name] for name in ("data_dir", "manual_dir", *DEVICES)}


def _own(preset: Preset, config: Mapping[str, Any]) -> str:
    """The network that is distilled for, as `experiments.evaluate` writes it."""
    parts = [f"{name}={preset.shared[name]}" for name in ("width", "depth") if name in preset.shared]
    return config["learner"] or ":".join([preset.shared["learner"], *parts])


def _planned(setting: Setting) -> Iterator[tuple[Cell, str, int]]:
    """(cell, reading, try) of every row."""
    config, grid = (
        setting.config,
        cells(setting.preset, setting.config["teachers"], setting.config["gradients"]),
    )
    changed = ablations(setting.preset) if config["ablations"] else []
    for attempt in range(config["tries"]):
        yield from ((cell, "images", attempt) for cell in grid)
        yield from ((cell, "time", attempt) for cell in grid if config["equal_time"])
        yield from ((cell, "images", attempt) for cell in changed)


def _row(setting: Setting, cell: Cell, reading: str, attempt: int) -> None:
    """Distills and scores one cell, unless its row is there; a failure is a row that says why."""
    directory, config = setting.directory, setting.config
    file = directory.path / "rows" / f"{reading}-{cell.name}-{attempt}.json"
    if file.exists() and json.loads(file.read_text())["status"] == "done":
        progress.say("done before")
        return
    options, compiled = _options(setting, cell, attempt), {}
    if reading == "time":
        other = directory.path / "rows" / f"images-{cell.name}-{attempt}.json"
        before = json.loads(other.read_text())
        if before["status"] != "done":
            progress.say("left out: it failed at equal images")
            return
        options["num_outer_steps"] = _in_chunks(config["time_limit"] / before["seconds_per_step"])
        compiled = {"compile_seconds": before["compile_seconds"]}  # it is the same program
    row = {
        "name": cell.name,
        "teacher": cell.teacher,
        "gradient": cell.gradient,
        "change": cell.change,
        "reading": reading,
        "try": attempt,
        "seed": options["seed"],
        "learner": setting.own,
        "dataset": setting.data.info.name,
        "preset": config["preset"],
        "full_size": config["steps_scale"] >= 1 and config["learner"] is None,
        "command": " ".join(["python -m experiments.distill", *cli.as_flags(options)]),
        "environment": profile.environment(),
    }
    try:
        row |= _distilled(setting, cell, reading, options | _places(config), file.stem)
        row |= {**compiled, "status": "done", "note": ""}
    except Held:
        raise
    except (UserError, *OUT_OF_MEMORY) as error:
        text = " ".join(str(error).split())
        progress.say(f"failed: {text}")
        row |= {"status": "failed", "note": text[:300]}
    directory.write_json(file, row)


def _options(setting: Setting, cell: Cell, attempt: int) -> dict[str, Any]:
    """Of `experiments.distill`, at equal images."""
    config = setting.config
    options = cell.options | {"seed": config["seed"] + attempt}
    options["num_outer_steps"] = _in_chunks(config["steps_scale"] * cell.options["num_outer_steps"])
    if config["learner"] is None:
        return options
    name, own = name_and_options(config["learner"])
    return {n: v for n, v in options.items() if n not in build.LEARNER_OPTIONS} | {"learner": name} | own


def _in_chunks(steps: float) -> int:
    """Whole compiled chunks, at least one."""
    length = default_chunk_length()
    return max(1, round(steps / length)) * length


def _distilled(setting: Setting, cell: Cell, reading: str, options: dict[str, Any], stem: str) -> Row:
    """What a row says that was measured."""
    config, data = setting.config, setting.data
    plan = distill.planned(options | {"checkpoint_every": config["checkpoint_every"]})
    place = setting.directory.path / "cells" / stem
    with open_run(place, plan.choices, free_fields=distill.FREE) as directory:
        with compile_cache_in(setting.programs):
            finished, synthetic = distill.distilled(plan, directory)
        facts = distill.facts(plan, finished, directory)
        last = read_metrics(directory.metrics)[-1]
    images, labels, _ = synthetic
    row: Row = {
        "images": len(images),
        **{name: facts[name] or None for name in ("compile_seconds", "program_bytes", "all_bytes")},
        **{name: facts[name] for name in ("outer_steps", "seconds")},
        "seconds_per_step": facts["seconds"] / facts["outer_steps"],
        "diagnostics": {name: last[name] for name in TOLD if name in last},
        "picture": report_rows.encoded(
            np.asarray(to_pixels(jnp.asarray(images), data.info)), labels, data.info.scale
        ),
    }
    progress.say("scoring ...")
    with mesh.spread(plan.where):
        return row | _scores(setting, plan, finished, synthetic, reading == "time" or bool(cell.change))


def _scores(
    setting: Setting, plan: distill.Plan, finished: Finished, synthetic: Synthetic, brief: bool
) -> Row:
    """Accuracies of the images; in brief, of the training network by one protocol."""
    images, labels, order = synthetic
    batch, count = Batch(jnp.asarray(images), jnp.asarray(labels)), len(images)
    row: Row = {"as_distilled": None}
    if protocol_of(plan.choices) == "as_distilled":
        own = _evaluation(setting, plan.learner)
        protocol = plan_of(plan.choices, setting.data, plan.method, finished.state, order, count)
        key = stream(plan.key, "export")
        shown = seen(plan.choices, plan.method, finished.state, synthetic, key, own.num_learners)
        row["as_distilled"] = _scored(score(own, protocol, *shown))
    names = [setting.own] if brief else list(setting.learners)
    row["accuracies"] = [
        {
            "architecture": name,
            "protocol": protocol,
            **_trained(setting, name, protocol, batch, everything(count), count),
        }
        for name in names
        for protocol in (PROTOCOLS[:1] if brief else PROTOCOLS)
    ]
    hard = np.eye(labels.shape[1], dtype=np.float32)[labels.argmax(axis=1)]
    row["hard_labels"] = None  # the same images, where their labels are no hard ones
    if not np.allclose(hard, labels):
        harder = batch._replace(y=jnp.asarray(hard))
        row["hard_labels"] = _trained(setting, setting.own, "dc", harder, everything(count), count)
    return row


def _evaluation(setting: Setting, learner: Learner) -> Evaluation:
    config, data = setting.config, setting.data
    return Evaluation(
        learner=learner,
        contexts=new_networks(learner),
        validation=data.validation,
        test=data.test,
        key=stream(jax.random.key(config["seed"]), "evaluation"),
        num_learners=config["num_eval_learners"],
        search_learners=config["num_search_learners"],
        strategy=config["strategy"],
        learner_chunk=config["learner_chunk"],
    )


def _trained(
    setting: Setting, architecture: str, protocol: str, images: Batch, subsets: Any, count: int
) -> Row:
    """Accuracy of fresh networks trained on so many images, the step size searched on validation."""
    config = setting.config
    epochs_of = {"dc": config["num_epochs"], "dc_augmented": config["num_augmented_epochs"]}
    plan = published(protocol, count, num_epochs=epochs_of[protocol])
    evaluation = _evaluation(setting, setting.learners[architecture])
    found = tuned(evaluation, [plan], images, subsets, step_sizes=config["step_sizes"])
    return _scored(found.score) | {"step_size": found.step_size}


def _scored(found: Score) -> Row:
    return {"mean": found.mean, "std": found.std, "every": found.every, "num_diverged": found.num_diverged}


def _baselines(setting: Setting, count: int) -> list[Row]:
    """Random real images, as many, under every training; with the full set under that of its own."""
    directory, data = setting.directory, setting.data
    file = directory.path / "baselines" / f"{count}.json"
    if not file.exists():
        progress.say(f"\nbaselines: {count} random real images, the full training set ...")
        per_class = count // data.info.num_classes
        rows = []
        if per_class and per_class <= int(data.train.counts.min()):
            real, subsets = Batch(data.train.x, data.train.y), random_of_each_class(data.train, per_class)
            rows = [
                {
                    "what": "random real",
                    "images": count,
                    "architecture": name,
                    "protocol": protocol,
                    **_trained(setting, name, protocol, real, subsets, count),
                }
                for name in setting.learners
                for protocol in PROTOCOLS
            ]
        directory.write_json(file, [*rows, _full(setting)])
    return json.loads(file.read_text())


def _full(setting: Setting) -> Row:
    """Networks of the training architecture on the whole training set but its validation split."""
    config, data = setting.config, setting.data
    size, passes = data.train.y.shape[0], config["full_data_epochs"]
    plan = epochs(size, num_epochs=passes, decay_at_half=True, name=f"{passes} epochs")
    evaluation = _evaluation(setting, setting.learners[setting.own])
    real = Batch(data.train.x, data.train.y)
    found = tuned(evaluation, [plan], real, everything(size), step_sizes=config["step_sizes"])
    own = {"architecture": setting.own, "protocol": plan.name, "step_size": found.step_size}
    return {"what": "full set", "images": size, **own, **_scored(found.score)}


if __name__ == "__main__":
    cli.main(run, GROUPS, __doc__)
