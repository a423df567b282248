"""What `python -m experiments.study` does: every cell distilled and scored, and a report of all."""

import shlex
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from experiments.cli import as_flags
from experiments.measure import compile_cache_in
from experiments.records import read_json, read_row, recorded, row_there
from experiments.report.data import check_finished, checked_rows, read_rows
from experiments.report.fields import CellRow
from experiments.report.pictures import encoded
from experiments.report.write import show, write
from experiments.study.cells import PRESETS, Cell
from experiments.study.scores import baselines, scores
from experiments.study.setting import (
    SMOKE,
    Options,
    Study,
    cell_options,
    in_chunks,
    pinned,
    places,
    prepared,
)
from jaxdistill.config.resolve import resolve
from jaxdistill.config.saved import chosen_of
from jaxdistill.config.table import Config
from jaxdistill.core.checks import fail
from jaxdistill.data import to_pixels
from jaxdistill.runs.distill import distilled, opened
from jaxdistill.runs.plan import planned
from jaxdistill.runs.result import storage
from jaxdistill.runtime import mesh, profile, progress
from jaxdistill.runtime.rundir import RunDir, open_run

MORE_OR_LESS = ("teachers", "gradients", "ablations", "equal_time", "tries", "checkpoint_every")
"""May differ when a study is resumed: rows are added."""
REPORTED = ("inner_gradient", "residual", "cosine", "curvature_v", "curvature_g", "solver_steps", "skipped")
"""The metrics of the last outer steps that a row keeps."""
SHORTER = "a smaller steps_scale or time_limit, or fewer teachers or gradients, take less"


class Folder(NamedTuple):
    """Where a study is written."""

    directory: RunDir
    programs: str
    """A folder for compiled outer steps, empty at the start: their first compilation tells its time."""


def run(options: Options) -> dict[str, Any]:
    """Runs the cells that are missing, writes rows and report, prints the table.

    Args:
      options: of the study.

    Returns:
      {"rows", "baselines", "cautions", "config"}; with `list` {"cells"}: name to options.

    Raises:
      UserError: bad input, before anything is distilled; a study without a finished cell.
    """
    chosen, options = chosen_of(options), resolve(options.with_smoke(SMOKE))
    if options.list:
        return {"cells": _listed(options)}
    study = prepared(options, "study")
    config, path = pinned(options), options.run_dir or f"runs/study_{options.preset}"
    run_dir = open_run(path, config, experiment="study", chosen=chosen, free_fields=MORE_OR_LESS)
    with run_dir as directory, tempfile.TemporaryDirectory() as programs:
        folder = Folder(directory, programs)
        for note in directory.notes:
            progress.say(f"note: {note}")
        checked_rows(directory.path)  # a damaged row is found before hours of others
        tasks = list(_tasks(study))
        for task in tasks:  # a preset that has changed is found before hours of others
            row_there(_file(directory, task), _identity(study, task))
        progress.say(
            f"study {options.preset}: {len(tasks)} rows, {study.own} on {study.data.info.name}, "
            f"{profile.device_description()}; everything goes to {path}"
        )
        times = progress.Rows(len(tasks), SHORTER)
        for number, task in enumerate(tasks, start=1):
            cell = task.cell
            title = f"{cell.teacher}, {cell.gradient}" + (f", {cell.change}" if cell.change else "")
            progress.say(f"\n[{number}/{len(tasks)}] {title}, equal {task.reading}, try {task.attempt + 1}")
            times.done(made=_make(study, folder, task))
        check_finished(read_rows(directory.path), Path(path).name)
        directory.write_json("baselines.json", baselines(study, directory, read_rows(directory.path)))
        found = write(directory.path, [directory.path])
    show(found)
    return found | {"config": config}


def run_to_end(options: Options) -> dict[str, Any]:
    """As `run`, for a command line: what failed is an error after everything else is written and shown.

    Raises:
      UserError: as `run`; a cell that failed, and why.
    """
    found = run(options)
    failed = [row for row in found.get("rows", ()) if row["status"] != "done"]
    if failed:
        why = "; ".join(dict.fromkeys(f"{row['name']}: {row['note']}" for row in failed))
        remedy = "The report has the others; run the same command again to try these again."
        raise fail("study", "every cell to finish", f"{len(failed)} that failed ({why})", remedy)
    return found


class Task(NamedTuple):
    """A row that a study is made of."""

    cell: Cell
    reading: str
    """What is equal: `images`, or `time`."""
    attempt: int
    """Number of the try, from 0."""


def _tasks(study: Study) -> Iterator[Task]:
    """Every row, in the order in which they are made."""
    options = study.options
    changed = study.preset.ablations if options.ablations else ()
    for attempt in range(options.tries):
        for cell in study.cells:
            yield Task(cell, "images", attempt)
            if options.equal_time:  # right after its steps were timed: the load is as it was
                yield Task(cell, "time", attempt)
        yield from (Task(cell, "images", attempt) for cell in changed)


def _listed(options: Options) -> dict[str, dict[str, Any]]:
    """Prints every cell with its options; name to options."""
    preset = PRESETS[options.preset]
    cells = (*preset.cells(options.teachers, options.gradients), *preset.ablations)
    made = {cell.name: cell_options(options, cell) for cell in cells}
    for name, chosen in made.items():
        flags = textwrap.wrap(" ".join(as_flags(chosen)), 96, break_long_words=False, break_on_hyphens=False)
        progress.say("\n".join([name, *(f"  {line}" for line in flags)]))
    return made


def _make(study: Study, folder: Folder, task: Task) -> bool:
    """Distills and scores one cell, unless its row is there; a failure is a row that says why.

    Returns:
      Whether a row was made.
    """
    cell, directory, time_limit = task.cell, folder.directory, study.options.time_limit
    file, identity = _file(directory, task), _identity(study, task)
    chosen = cell_options(study.options, cell, task.attempt)
    if row_there(file, identity):
        progress.say("done before")
        return False
    if task.reading == "time":
        before = read_row(_file(directory, task._replace(reading="images")))
        if before["status"] != "done":
            progress.say("left out: it failed at equal images")
            return False
        chosen["num_outer_steps"] = in_chunks(time_limit / before["seconds_per_step"])
    row: CellRow = {
        "name": cell.name,
        "teacher": cell.teacher,
        "gradient": cell.gradient,
        "change": cell.change,
        "reading": task.reading,
        "time_limit": time_limit if task.reading == "time" else None,
        "try": task.attempt,
        "seed": chosen["seed"],
        "learner": study.own,
        "dataset": study.data.info.name,
        "preset": study.options.preset,
        "full_size": full_size(study, task.reading),
        "command": shlex.join(["python", "-m", "experiments.distill", *as_flags(chosen)]),
        "identity": identity,
        "environment": profile.environment(),
    }

    def measured() -> dict[str, Any]:
        found = _distilled(study, folder, cell, chosen | places(study.options), file.stem)
        first = _file(directory, Task(cell, "images", 0))  # it compiled the program that all others run
        if first == file or not first.exists():
            return found
        return found | {"compile_seconds": read_json(first).get("compile_seconds")}

    recorded(directory, file, row, measured)
    return True


def _file(directory: RunDir, task: Task) -> Path:
    """The file of a row."""
    return directory.path / "rows" / f"{task.reading}-{task.cell.name}-{task.attempt}.json"


def _identity(study: Study, task: Task) -> str:
    """The options of a row at equal images but for the seed, as text: rows that share it are tries."""
    chosen = cell_options(study.options, task.cell)
    return shlex.join(as_flags({n: v for n, v in chosen.items() if n != "seed"}))


def full_size(study: Study, reading: str) -> bool:
    """Whether a row is as large as the preset says."""
    options, preset = study.options, study.preset.sizes
    counts = ("num_eval_learners", "num_search_learners", "num_augmented_epochs", "full_data_epochs")
    whole = (
        study.own == study.preset.learner
        and options.num_epochs is None
        and options.images_per_class == preset.images_per_class
        and {*preset.architectures} <= {*options.architectures, study.own}
        and {*preset.step_sizes} <= {*options.step_sizes}
        and all(getattr(options, name) >= getattr(preset, name) for name in counts)
    )
    if reading == "time":
        return whole and options.time_limit >= preset.time_limit
    return whole and options.steps_scale >= 1


def _distilled(study: Study, folder: Folder, cell: Cell, chosen: dict[str, Any], stem: str) -> dict[str, Any]:
    """The measured fields of a row."""
    config = Config(**chosen, checkpoint_every=study.options.checkpoint_every)
    plan = planned(config)
    with opened(plan, folder.directory.path / "cells" / stem) as directory:
        with compile_cache_in(folder.programs):
            run = distilled(plan, directory)
        costs = directory.path / "costs.json"
        resumed = not run.finished.compile_seconds  # after a stop while scoring there is nothing to compile
        if not (resumed and costs.exists()):
            names = ("compile_seconds", "program_bytes", "all_bytes")
            directory.write_json(costs, {name: getattr(run.finished, name) or None for name in names})
    labels, scale = run.synthetic.labels, study.data.info.scale
    pixels = np.asarray(to_pixels(jnp.asarray(run.synthetic.images), study.data.info))
    last = run.metrics[-1]
    row = {
        "images": len(labels),
        **{name: value for name, value in storage(run).items() if name != "images_trained_on"},
        **read_json(costs),
        "outer_steps": run.step,
        "seconds": run.finished.seconds,
        "seconds_per_step": run.finished.seconds / run.step,
        "diagnostics": {name: last[name] for name in REPORTED if name in last},
        "picture": encoded(pixels, labels, scale),
    }
    progress.say("scoring ...")
    names = [study.own] if cell.change else list(study.learners)
    with mesh.spread(plan.devices):
        return row | scores(study, run, names)
