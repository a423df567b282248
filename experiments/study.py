"""The study: {images, generator} x {unrolled, matching, implicit}, one evaluator, one report.

Question: do gradient matching and implicit gradients reach the accuracy of backpropagation through training
at a fraction of its memory, and do generators' images train other architectures better?

    python -m experiments.study                                     digits, ten minutes on 2 cores
    python -m experiments.study --preset=mnist --manual_dir=FOLDER  for a GPU

Every cell is a run of `experiments.distill` under RUN_DIR/cells, first for the preset's outer steps, then
(`--equal_time`) for as many as take `--time_limit` seconds by the time that those took. All images are scored
alike: fresh networks of the training architecture and of others, by the `dc` protocol and by `dc_augmented`
(crop, scale, rotate), the step size searched on validation, beside random real images and the full training
set. A cell that fails is a row that says why, and is tried again by the same command, which goes on with what
was stopped. Writes rows.json, report.html and report.md (see experiments.report). Expected, digits: matching
of images and Neumann cells level with unrolled ones at a quarter to half of the memory, all but a generator's
conjugate gradients well above random real images.
"""

import shlex
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments import build, cli, distill, report
from experiments.devices import DEVICES, devices_of
from experiments.evaluate import name_and_options, parse_learner
from experiments.measure import OUT_OF_MEMORY, compile_cache_in
from experiments.options import DATA, OUTER, RUN, Groups, Option, complete
from experiments.report_data import (
    SAVED,
    Row,
    check_finished,
    checked_rows,
    encoded,
    read_json,
    read_row,
    read_rows,
)
from experiments.study_cells import GRADIENTS, PRESETS, TEACHERS, Cell, Preset, ablations, cells
from experiments.study_scores import Setting, baselines, scores
from jaxdistill.core.checks import UserError, above, fail
from jaxdistill.core.types import Learner
from jaxdistill.data import Splits, check_per_class, to_pixels
from jaxdistill.runtime import mesh, profile, progress
from jaxdistill.runtime.loop import default_chunk_length
from jaxdistill.runtime.metrics import read_metrics
from jaxdistill.runtime.rundir import Held, RunDir, open_run

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
        "images_per_class": Option(None, int, f"of every cell of the grid {BY_PRESET}", low=1),
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


def run(**chosen: Any) -> dict[str, Any]:
    """Runs the cells that are missing, writes rows and report, prints the table.

    Args:
      **chosen: any option of `GROUPS`.

    Returns:
      {"rows", "baselines", "config"}.

    Raises:
      UserError: bad input, before anything is distilled; a study without a finished cell.
    """
    config = complete(GROUPS, (SMOKE if chosen.get("smoke") else {}) | chosen)
    config, preset, data, learners = prepared(config, "study")
    above("study", "time_limit", config["time_limit"], 0.0)
    pinned = {n: v for n, v in config.items() if n not in ("run_dir", *distill.PLACES)}
    run_dir = open_run(config["run_dir"], pinned, free_fields=MORE_OR_LESS)
    with run_dir as directory, tempfile.TemporaryDirectory() as programs:
        for note in directory.notes:
            progress.say(f"note: {note}")
        checked_rows(directory.path)  # a damaged one is told before hours of others
        setting = Setting(config, preset, data, learners, directory, programs)
        planned = list(_planned(setting))
        for cell, reading, attempt in planned:  # a preset that has changed is told before hours of others
            row_there(*_place(setting, cell, reading, attempt)[:2])
        progress.say(
            f"study {config['preset']}: {len(planned)} rows, {setting.own} on {data.info.name}, "
            f"{profile.device_description()}; everything goes to {config['run_dir']}"
        )
        for number, (cell, reading, attempt) in enumerate(planned, start=1):
            title = f"{cell.teacher}, {cell.gradient}" + (f", {cell.change}" if cell.change else "")
            progress.say(f"\n[{number}/{len(planned)}] {title}, equal {reading}, try {attempt + 1}")
            _row(setting, cell, reading, attempt)
        check_finished(read_rows(directory.path), Path(config["run_dir"]).name)
        directory.write_json("baselines.json", baselines(setting, read_rows(directory.path)))
        found = report.write(directory.path, [directory.path])
    report.show(found)
    return found | {"config": pinned}


def prepared(
    config: Mapping[str, Any], stem: str
) -> tuple[dict[str, Any], Preset, Splits, dict[str, Learner]]:
    """What is known before anything is distilled, all of it checked.

    Args:
      config: a study's, or with some of its options only.
      stem: what run directories start with.

    Returns:
      (config with what the preset says, the preset, the data, networks by name: the one that images are
      distilled for, then the `architectures`).

    Raises:
      UserError: whatever is wrong with the choices.
    """
    preset = PRESETS[config["preset"]]
    own = preset.study | {"images_per_class": preset.shared["images_per_class"]}
    config = {n: own.get(n) if v is None else v for n, v in config.items()}
    preset = preset._replace(shared=preset.shared | {"images_per_class": config["images_per_class"]})
    config["run_dir"] = config["run_dir"] or f"runs/{stem}_{config['preset']}"
    for name in ("teachers", "gradients"):
        if not config[name]:
            raise fail(stem, f"at least one of {name}", "none")
    above(stem, "steps_scale", config["steps_scale"], 0.0)
    build.check_step_sizes(config)
    for cell in cells(preset, config["teachers"], config["gradients"]):
        devices_of(config, cell.options["num_learners"], cell.options["real_batch_size"])
    data = build.splits(complete(distill.GROUPS, preset.shared | places(config)))
    if "images" in config["teachers"]:
        check_per_class(data.train, stem, config["images_per_class"])
    names = [own_learner(preset, config), *config.get("architectures", ())]
    return config, preset, data, {text: parse_learner(text, data) for text in names}


def row_there(file: Path, identity: str) -> Row | None:
    """The row in a file, where it is finished and its options are the same; None where it is to be made.

    Raises:
      UserError: it was made with other options; names them.
    """
    if not file.exists() or (row := read_row(file)).get("status") != "done":
        return None
    there, now = (dict.fromkeys(shlex.split(str(text))) for text in (row.get("identity"), identity))
    if there.keys() != now.keys():
        lines = [
            " ".join(f for f in one if f not in other) or "none"
            for one, other in ((now, there), (there, now))
        ]
        cell = file.parent.parent / "cells" / file.stem
        remedy = f"Choose another run_dir, or delete that file and {cell} to have it made again."
        raise fail(SAVED, f"options {lines[0]} in {file}", lines[1], remedy)
    return row


def recorded(directory: RunDir, file: Path, row: Row, measured: Callable[[], Row]) -> Row:
    """Writes a row and what was measured for it, or why that failed: the row as it was written.

    Its `wall_seconds` are those of the process that wrote it, compilation and scoring included.
    """
    start = time.perf_counter()
    try:
        row = row | measured() | {"status": "done", "note": ""}
    except Held:
        raise
    except (UserError, *OUT_OF_MEMORY) as error:
        text = " ".join(str(error).split())
        progress.say(f"failed: {text}")
        row = row | {"status": "failed", "note": text[:300]}
    row |= {"wall_seconds": time.perf_counter() - start}
    directory.write_json(file, row)
    return row


def places(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: config[name] for name in ("data_dir", "manual_dir", *DEVICES)}


def own_learner(preset: Preset, config: Mapping[str, Any]) -> str:
    """The network that is distilled for, as `experiments.evaluate` writes it."""
    parts = [f"{name}={preset.shared[name]}" for name in ("width", "depth") if name in preset.shared]
    return config["learner"] or ":".join([preset.shared["learner"], *parts])


def _planned(setting: Setting) -> Iterator[tuple[Cell, str, int]]:
    """(cell, reading, try) of every row."""
    config = setting.config
    grid = cells(setting.preset, config["teachers"], config["gradients"])
    changed = ablations(setting.preset) if config["ablations"] else []
    for attempt in range(config["tries"]):
        for cell in grid:
            yield cell, "images", attempt
            if config["equal_time"]:  # right after its steps were timed: the load is as it was
                yield cell, "time", attempt
        yield from ((cell, "images", attempt) for cell in changed)


def _row(setting: Setting, cell: Cell, reading: str, attempt: int) -> None:
    """Distills and scores one cell, unless its row is there; a failure is a row that says why."""
    directory, config = setting.directory, setting.config
    file, identity, options = _place(setting, cell, reading, attempt)
    first = None
    if row_there(file, identity):
        progress.say("done before")
        return
    if reading == "time":
        before = read_row(directory.path / "rows" / f"images-{cell.name}-{attempt}.json")
        if before["status"] != "done":
            progress.say("left out: it failed at equal images")
            return
        options["num_outer_steps"] = _in_chunks(config["time_limit"] / before["seconds_per_step"])
    if reading == "time" or attempt:  # it is the program that the first try at equal images compiled
        first = directory.path / "rows" / f"images-{cell.name}-0.json"
    row = {
        "name": cell.name,
        "teacher": cell.teacher,
        "gradient": cell.gradient,
        "change": cell.change,
        "reading": reading,
        "time_limit": config["time_limit"] if reading == "time" else None,
        "try": attempt,
        "seed": options["seed"],
        "learner": setting.own,
        "dataset": setting.data.info.name,
        "preset": config["preset"],
        "full_size": _full_size(setting, reading),
        "command": shlex.join(["python", "-m", "experiments.distill", *cli.as_flags(options)]),
        "identity": identity,
        "environment": profile.environment(),
    }

    def measured() -> Row:
        found = _distilled(setting, cell, options | places(config), file.stem)
        compiled = (
            {"compile_seconds": read_json(first).get("compile_seconds")} if first and first.exists() else {}
        )
        return found | compiled

    recorded(directory, file, row, measured)


def _place(setting: Setting, cell: Cell, reading: str, attempt: int) -> tuple[Path, str, dict[str, Any]]:
    """(file of a row, its options at equal images but for the seed, as text, and all of them)."""
    file = setting.directory.path / "rows" / f"{reading}-{cell.name}-{attempt}.json"
    options = cell_options(setting.config, cell, attempt)
    return file, shlex.join(cli.as_flags({n: v for n, v in options.items() if n != "seed"})), options


def _full_size(setting: Setting, reading: str) -> bool:
    """Whether a row is as large as the preset says."""
    config, preset = setting.config, PRESETS[setting.config["preset"]]
    counts = ("num_eval_learners", "num_search_learners", "num_augmented_epochs", "full_data_epochs")
    whole = setting.own == own_learner(preset, config | {"learner": None}) and config["num_epochs"] is None
    whole = whole and config["images_per_class"] == preset.shared["images_per_class"]
    for name in ("architectures", "step_sizes"):
        whole = whole and set(preset.study[name]) <= {*config[name], setting.own}
    whole = whole and all(config[name] >= preset.study[name] for name in counts)
    if reading == "time":
        return whole and config["time_limit"] >= preset.study["time_limit"]
    return whole and config["steps_scale"] >= 1


def cell_options(config: Mapping[str, Any], cell: Cell, attempt: int = 0) -> dict[str, Any]:
    """What `experiments.distill` is told for a cell at equal images: a study's seed, scale and learner."""
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


def _distilled(setting: Setting, cell: Cell, options: dict[str, Any], stem: str) -> Row:
    """What a row says that was measured."""
    config, data = setting.config, setting.data
    plan = distill.planned(options | {"checkpoint_every": config["checkpoint_every"]})
    with open_run(
        setting.directory.path / "cells" / stem, plan.choices, free_fields=distill.FREE
    ) as directory:
        with compile_cache_in(setting.programs):
            finished, synthetic = distill.distilled(plan, directory)
        costs = directory.path / "costs.json"
        if finished.compile_seconds or not costs.exists():  # a stop while scoring leaves nothing to compile
            names = ("compile_seconds", "program_bytes", "all_bytes")
            directory.write_json(costs, {name: getattr(finished, name) or None for name in names})
        last = read_metrics(directory.metrics)[-1]
    images, labels, _ = synthetic
    steps = int(finished.state.step)
    row: Row = {
        "images": len(images),
        **read_json(costs),
        "outer_steps": steps,
        "seconds": finished.seconds,
        "seconds_per_step": finished.seconds / steps,
        "diagnostics": {name: last[name] for name in TOLD if name in last},
        "picture": encoded(np.asarray(to_pixels(jnp.asarray(images), data.info)), labels, data.info.scale),
    }
    progress.say("scoring ...")
    names = [setting.own] if cell.change else list(setting.learners)
    with mesh.spread(plan.where):
        return row | scores(setting, plan, finished, synthetic, names)


if __name__ == "__main__":
    cli.main(run, GROUPS, __doc__)
