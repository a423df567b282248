"""Which outer learning rate each cell of the study should have: searched on validation, the test set unseen.

Question: is a cell of the study behind because of its gradient, or because of the step size it was given?

    python -m experiments.study_search                                     digits, every cell
    python -m experiments.study_search --gradients=implicit_cg --factors=0.1,1,10

Every cell of `experiments.study` is distilled for its preset's outer steps with the preset's outer learning
rate times every one of `--factors`, and on beyond the largest or the smallest where that is the best. Fresh
networks of the training architecture are trained on the images by the `dc` protocol, at the best of its step
sizes, and tested on validation images: accuracies to choose by, not to report. The same command goes on with
what was stopped, tries again what failed, and keeps the candidates that others have left. Writes
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
      {"rows": one per cell and candidate, "best": cell to outer learning rate, "config", "environment"}.

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
            own = cell.options["outer_learning_rate"]
            search(
                [*dict.fromkeys(_rounded(factor * own) for factor in config["factors"])],
                lambda rate, cell=cell: _row(setting, cell, _rounded(rate)).get("mean", 0.0),
            )
        rows = read_rows(directory.path)
        result = {"rows": rows, "best": best(rows), "config": pinned, "environment": profile.environment()}
        write_tables(
            directory.path,
            "study_search",
            result,
            table(rows),
            leave_out=("every", "identity", "environment"),
        )
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
    names = ("name", "teacher", "gradient", "outer_learning_rate", "identity", "environment", "status")
    names += ("mean", "std", "num_diverged") * (isinstance(row, dict) and row.get("status") == "done")
    missing = names if not isinstance(row, dict) else [name for name in names if name not in row]
    numbers = [name for name in ("outer_learning_rate", "mean") if name in names]
    wrong = missing or [name for name in numbers if not isinstance(row[name], int | float)]
    if wrong:
        raise fail(SAVED, f"a row in {file}", f"one without {wrong[0]}", "Delete it.")
    for cell in asked:
        if cell.name == row["name"]:
            study.row_there(file, _candidate(config, cell, row["outer_learning_rate"])[1])


def _rounded(rate: float) -> float:
    """To four digits: a third of 0.3 is 0.1, whoever asks for it."""
    return float(f"{rate:.4g}")


def _row(setting: Setting, cell: Cell, rate: float) -> Row:
    """One candidate, distilled and scored unless its row is there; a failure is a row that says why."""
    directory, stem = setting.directory, f"{cell.name}-{rate:g}"
    file, folder = directory.path / "rows" / f"{stem}.json", directory.path / "cells" / stem
    options, identity = _candidate(setting.config, cell, rate)
    progress.say(f"outer learning rate {rate:g} ...")
    there = study.row_there(file, identity)
    if there:
        progress.say("done before")
        return there
    row: Row = {"name": cell.name, "teacher": cell.teacher, "gradient": cell.gradient}
    row |= {"outer_learning_rate": rate, "identity": identity, "environment": profile.environment()}
    settled = options | study.places(setting.config)
    return study.recorded(directory, file, row, lambda: _scored(setting, settled, folder))


def _candidate(config: Mapping[str, Any], cell: Cell, rate: float) -> tuple[dict[str, Any], str]:
    """(options of a candidate, the command that distills it)."""
    options = study.cell_options(config, cell) | {"outer_learning_rate": rate}
    return options, shlex.join(["python", "-m", "experiments.distill", *cli.as_flags(options)])


def _scored(setting: Setting, options: dict[str, Any], folder: Path) -> Row:
    plan = distill.planned(options | {"checkpoint_every": setting.config["checkpoint_every"]})
    with open_run(folder, plan.choices, free_fields=distill.FREE) as own:
        _, (images, labels, _) = distill.distilled(plan, own)
    batch = Batch(jnp.asarray(images), jnp.asarray(labels))
    with mesh.spread(plan.where):
        return trained(setting, setting.own, "dc", batch, everything(len(images)))


def best(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The outer learning rate with the highest accuracy, of every cell that has one."""
    found: dict[str, Mapping[str, Any]] = {}
    for row in rows:
        if row["status"] == "done" and row["mean"] > found.get(row["name"], {"mean": -1.0})["mean"]:
            found[row["name"]] = row
    return {name: row["outer_learning_rate"] for name, row in found.items()}


def table(rows: Sequence[Mapping[str, Any]], *, short: bool = False) -> Table:
    """(columns, cells): a line per cell, its candidates in order; short ones in whole percent."""
    chosen = best(rows)
    by_cell: dict[str, list[Mapping[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: (row["name"], row["outer_learning_rate"])):
        by_cell.setdefault(row["name"], []).append(row)
    lines = []
    for name, own in by_cell.items():
        rate = f"{chosen[name]:g}" if name in chosen else "-"
        shown = ", ".join(_short(row) if short else _shown(row) for row in own)
        lines.append([own[0]["teacher"], own[0]["gradient"], rate, shown])
    return ["teacher", "gradient", "best", "accuracy at each"], lines


def _shown(row: Mapping[str, Any]) -> str:
    rate = f"{row['outer_learning_rate']:g}: "
    if row["status"] != "done":
        return rate + "failed"
    lost = f" ({row['num_diverged']} diverged)" if row["num_diverged"] else ""
    return f"{rate}{100 * row['mean']:.1f} ± {100 * row['std']:.1f}{lost}"


def _short(row: Mapping[str, Any]) -> str:
    found = f"{100 * row['mean']:.0f}" if row["status"] == "done" else "failed"
    return f"{row['outer_learning_rate']:g} {found}"


if __name__ == "__main__":
    cli.main(run, GROUPS, __doc__)
