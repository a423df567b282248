"""Which outer learning rate each cell of the study should have: searched on validation, the test set unseen.

Question: is a cell of the study behind because of its gradient, or because of the step size it was given?

    python -m experiments.study_search                                     digits, every cell
    python -m experiments.study_search --gradients=implicit_cg --factors=0.1,1,10

Every cell of `experiments.study` is distilled for its preset's outer steps with the preset's outer learning
rate times every one of `--factors`, and on beyond the largest or the smallest where that is the best. Fresh
networks of the training architecture are trained on the images by the `dc` protocol, at the best of its step
sizes, and tested on validation images: accuracies to choose by, not to report. The same command goes on with
what was stopped, tries again what failed, and keeps the candidates that other factors have left. Writes
study_search.json, study_search.csv and study_search.md.
"""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from experiments import cli, distill, study
from experiments.options import Groups, Option, complete
from experiments.report_data import SAVED, Row, read_json, read_rows
from experiments.study_cells import Cell, cells
from experiments.study_scores import Setting, trained
from experiments.tables import Table, write_tables
from jaxdistill.core.checks import above, fail
from jaxdistill.core.types import Batch
from jaxdistill.evaluation import everything, search
from jaxdistill.runtime import mesh, profile, progress
from jaxdistill.runtime.rundir import open_run

LEFT_OUT = {
    "study": ("ablations", "equal_time", "time_limit", "tries"),
    "evaluation": ("architectures", "num_augmented_epochs", "full_data_epochs"),
}
GROUPS: Groups = {
    name: {n: option for n, option in group.items() if n not in LEFT_OUT.get(name, ())}
    for name, group in study.GROUPS.items()
}
GROUPS["study"] |= {
    "factors": Option(
        [0.3, 1.0, 3.0],
        float,
        "candidates, relative to the preset's outer learning rate, and on beyond the best of several",
    )
}
GROUPS["run"] |= {
    "run_dir": Option(
        None, str, "where everything is written; what is there goes on (runs/study_search_PRESET)"
    )
}
SMOKE = {name: value for name, value in study.SMOKE.items() if any(name in g for g in GROUPS.values())}
MORE_OR_LESS = ("teachers", "gradients", "factors", "checkpoint_every")
"""May differ when a search goes on: rows are added."""


def run(**chosen: Any) -> dict[str, Any]:
    """Distills and scores every candidate that is missing, prints and writes the table of all there are.

    Args:
      **chosen: any option of `GROUPS`.

    Returns:
      {"rows": one per cell and factor, "best": cell to factor, "config", "environment"}.

    Raises:
      UserError: bad input, before anything is distilled; a cell none of whose candidates finished.
    """
    config = complete(GROUPS, (SMOKE if chosen.get("smoke") else {}) | chosen)
    if not config["factors"]:
        raise fail("study_search", "at least one of factors", "none")
    for factor in config["factors"]:
        above("study_search", "every one of factors", factor, 0.0)
    config, preset, data, learners = study.prepared(config, "study_search")
    pinned = {n: v for n, v in config.items() if n not in ("run_dir", *distill.PLACES)}
    asked = cells(preset, config["teachers"], config["gradients"])
    unseen = data._replace(test=data.validation)  # what is tested on
    with open_run(config["run_dir"], pinned, free_fields=MORE_OR_LESS) as directory:
        for note in directory.notes:
            progress.say(f"note: {note}")
        for file in sorted((directory.path / "rows").glob("*.json")):  # told before hours of others
            _check(file, config, asked)
        setting = Setting(config, preset, unseen, learners, directory, programs="")
        progress.say(
            f"search for study {config['preset']}: {len(asked)} cells, {setting.own} on {data.info.name}, "
            f"{profile.device_description()}; everything goes to {config['run_dir']}"
        )
        for number, cell in enumerate(asked, start=1):
            progress.say(f"\n[{number}/{len(asked)}] {cell.teacher}, {cell.gradient}")
            search(
                [*dict.fromkeys(map(_rounded, config["factors"]))],
                lambda factor, cell=cell: _row(setting, cell, _rounded(factor)).get("mean", 0.0),
            )
        rows = read_rows(directory.path)
        result = {"rows": rows, "best": best(rows), "config": pinned, "environment": profile.environment()}
        write_tables(directory.path, "study_search", result, table(rows), leave_out=("every", "identity"))
    progress.say(f"written to {config['run_dir']}")
    title = f"\nValidation accuracy (%) by outer learning rate: {setting.own} on {data.info.name}"
    progress.table(title, *table(rows, short=True))
    nothing = [cell.name for cell in asked if cell.name not in result["best"]]
    if nothing:
        raise fail("study_search", "a candidate of every cell that finishes", f"none of {', '.join(nothing)}")
    return result


def _check(file: Path, config: Mapping[str, Any], asked: Sequence[Cell]) -> None:
    """Reads a row that is there.

    Raises:
      UserError: it is none, or was made with other options than now.
    """
    row = read_json(file)
    names = ("name", "teacher", "gradient", "factor", "outer_learning_rate", "identity", "status")
    names += ("mean", "std", "num_diverged") * (isinstance(row, dict) and row.get("status") == "done")
    missing = names if not isinstance(row, dict) else [name for name in names if name not in row]
    wrong = missing or [n for n in ("factor", "mean") if n in names and not isinstance(row[n], int | float)]
    if wrong:
        raise fail(SAVED, f"a row in {file}", f"one without {wrong[0]}", "Delete it.")
    for cell in asked:
        if cell.name == row["name"]:
            study.row_there(file, _candidate(config, cell, row["factor"])[1])


def _rounded(factor: float) -> float:
    """To four digits: a third of 0.3 is 0.1, whoever asks for it."""
    return float(f"{factor:.4g}")


def _row(setting: Setting, cell: Cell, factor: float) -> Row:
    """One candidate, distilled and scored unless its row is there; a failure is a row that says why."""
    directory, stem = setting.directory, f"{cell.name}-{factor:g}"
    file, folder = directory.path / "rows" / f"{stem}.json", directory.path / "cells" / stem
    options, identity = _candidate(setting.config, cell, factor)
    progress.say(f"outer learning rate {options['outer_learning_rate']:g}, {factor:g} of the preset's ...")
    there = study.row_there(file, identity)
    if there:
        progress.say("done before")
        return there
    row: Row = {"name": cell.name, "teacher": cell.teacher, "gradient": cell.gradient, "factor": factor}
    row |= {"outer_learning_rate": options["outer_learning_rate"], "identity": identity}
    settled = options | study.places(setting.config)
    return study.recorded(directory, file, row, lambda: _scored(setting, settled, folder))


def _candidate(config: Mapping[str, Any], cell: Cell, factor: float) -> tuple[dict[str, Any], str]:
    """(options of a candidate, the command that distills it)."""
    options = study.cell_options(config, cell)
    options["outer_learning_rate"] = _rounded(factor * options["outer_learning_rate"])
    return options, shlex.join(["python", "-m", "experiments.distill", *cli.as_flags(options)])


def _scored(setting: Setting, options: dict[str, Any], folder: Path) -> Row:
    plan = distill.planned(options | {"checkpoint_every": setting.config["checkpoint_every"]})
    with open_run(folder, plan.choices, free_fields=distill.FREE) as own:
        _, (images, labels, _) = distill.distilled(plan, own)
    batch = Batch(jnp.asarray(images), jnp.asarray(labels))
    with mesh.spread(plan.where):
        return trained(setting, setting.own, "dc", batch, everything(len(images)))


def best(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The factor with the highest accuracy, of every cell that has one."""
    found: dict[str, Mapping[str, Any]] = {}
    for row in rows:
        if row["status"] == "done" and row["mean"] > found.get(row["name"], {"mean": -1.0})["mean"]:
            found[row["name"]] = row
    return {name: row["factor"] for name, row in found.items()}


def table(rows: Sequence[Mapping[str, Any]], *, short: bool = False) -> Table:
    """(columns, cells): a line per cell, a column per factor, the best marked; short ones are means alone."""
    chosen, factors = best(rows), sorted({row["factor"] for row in rows})
    by_cell: dict[str, dict[float, Mapping[str, Any]]] = {}
    for row in rows:
        by_cell.setdefault(row["name"], {})[row["factor"]] = row
    lines = []
    for name, own in by_cell.items():
        one, factor = next(iter(own.values())), chosen.get(name)
        rate = "-" if factor is None else f"{own[factor]['outer_learning_rate']:g}"
        shown = [_shown(own[f], f == factor, short) if f in own else "-" for f in factors]
        lines.append([one["teacher"], one["gradient"], rate, *shown])
    return ["teacher", "gradient", "best", *(f"x {factor:g}" for factor in factors)], lines


def _shown(row: Mapping[str, Any], marked: bool, short: bool) -> str:
    at = "" if short else f" at {row['outer_learning_rate']:g}"
    if row["status"] != "done":
        return f"failed{at}"
    deviation = "" if short else f" ± {100 * row['std']:.1f}"
    lost = f" ({row['num_diverged']} diverged)" if row["num_diverged"] else ""
    return f"{100 * row['mean']:.1f}{deviation}{at}{' *' * marked}{lost}"


if __name__ == "__main__":
    cli.main(run, GROUPS, __doc__)
