"""Search the outer learning rate of each cell of the study on validation, without the test set.

Question: is a cell of the study behind because of its gradient, or because of its outer learning rate?

    python -m experiments.study.search                                     digits, every cell
    python -m experiments.study.search --gradients=implicit_cg --factors=0.1,1,10

Every cell of `experiments.study` is distilled with the preset's outer learning rate times each of
`--factors`. If the smallest or largest factor is best, the search tries factors beyond it. Fresh networks of
the training architecture are trained on the images by the `dc` protocol, at the best of its step sizes, and
tested on validation images: use these accuracies to choose, not to report. Run the same command again to
resume a search that was stopped and to try failed candidates again; candidates of other factors stay. Writes
study_search.json, study_search.csv and study_search.md.
"""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from experiments import cli
from experiments.records import SAVED, read_json, recorded, row_there
from experiments.report.data import read_rows
from experiments.study import setting
from experiments.study.cells import Cell
from experiments.study.scores import trained
from experiments.study.setting import Study, cell_options, pinned, places, prepared
from experiments.tables import Table, write_tables
from jaxdistill.config.option import option, options
from jaxdistill.config.resolve import resolve
from jaxdistill.config.saved import chosen_of
from jaxdistill.config.table import Config
from jaxdistill.core.checks import fail
from jaxdistill.evaluation import everything, search
from jaxdistill.runs.distill import distilled, opened
from jaxdistill.runs.plan import planned
from jaxdistill.runtime import mesh, profile, progress
from jaxdistill.runtime.rundir import RunDir, open_run


@options
class Options(setting.Options):
    title: ClassVar[str] = "search"
    left_out: ClassVar[tuple[str, ...]] = (
        *("ablations", "equal_time", "time_limit", "tries", "list"),
        *("architectures", "num_augmented_epochs", "full_data_epochs"),
    )
    factors: tuple[float, ...] = option(
        (0.3, 1.0, 3.0),
        "factors of the preset's outer learning rate to try, and more if the smallest or largest is best",
        above=0,
        high=1e4,
        some=True,
    )
    run_dir: str | None = option(
        None,
        "folder to write the search into; a search that is already there is resumed (default: "
        "runs/study_search_PRESET)",
    )


SMOKE = {name: value for name, value in setting.SMOKE.items() if name in Options.options()}
MORE_OR_LESS = ("teachers", "gradients", "factors", "checkpoint_every")
"""Options that may change when a search is resumed: rows are added."""
Candidate = dict[str, Any]
"""A row: a cell at one outer learning rate."""


def run(options: Options) -> dict[str, Any]:
    """Distills and scores every missing candidate, prints and writes the table of all candidates.

    Args:
      options: of the search.

    Returns:
      {"rows": one per cell and candidate, "best": cell to outer learning rate, "config", "environment"}.

    Raises:
      UserError: bad input, before anything is distilled; a cell none of whose candidates finished.
    """
    chosen, options = chosen_of(options), resolve(options.with_smoke(SMOKE))
    study = _without_test(prepared(options, "study.search"))
    config, path = pinned(options), options.run_dir or f"runs/study_search_{options.preset}"
    with open_run(
        path, config, experiment="study.search", chosen=chosen, free_fields=MORE_OR_LESS
    ) as directory:
        for note in directory.notes:
            progress.say(f"note: {note}")
        for file in sorted((directory.path / "rows").glob("*.json")):  # before hours of others
            _check(file, study)
        progress.say(
            f"search for study {options.preset}: {len(study.cells)} cells, {study.own} on "
            f"{study.data.info.name}, {profile.device_description()}; everything goes to {path}"
        )
        shorter = "a smaller steps_scale, or fewer gradients or factors, take less"
        times = progress.Rows(len(study.cells), shorter, noun="cell")
        for number, cell in enumerate(study.cells, start=1):
            progress.say(f"\n[{number}/{len(study.cells)}] {cell.teacher}, {cell.gradient}")
            own = cell.options["outer_learning_rate"]
            search(
                [*dict.fromkeys(_rounded(factor * own) for factor in options.factors)],
                lambda rate, cell=cell: _made(study, directory, cell, _rounded(rate)).get("mean", 0.0),
            )
            times.done()
        rows = read_rows(directory.path)
        result = {"rows": rows, "best": best(rows), "config": config, "environment": profile.environment()}
        hidden = ("every", "identity", "environment")
        write_tables(directory.path, "study_search", result, table(rows), leave_out=hidden)
    progress.say(f"written to {path}")
    title = f"\nValidation accuracy (%) by outer learning rate: {study.own} on {study.data.info.name}"
    progress.table(title, *table(rows, short=True))
    nothing = [cell.name for cell in study.cells if cell.name not in result["best"]]
    if nothing:
        raise fail(
            "study.search",
            "at least one candidate of every cell that finishes",
            f"none of {', '.join(nothing)}",
        )
    return result


def _without_test(study: Study) -> Study:
    """The same with validation images in the place of the test images, which stay unseen."""
    return study._replace(data=study.data._replace(test=study.data.validation))


def _check(file: Path, study: Study) -> None:
    """Reads a row that is there.

    Raises:
      UserError: it is no row, or was made with other options than now.
    """
    row = read_json(file)
    names = ("name", "teacher", "gradient", "outer_learning_rate", "identity", "environment", "status")
    if isinstance(row, dict) and row.get("status") == "done":
        names += ("mean", "std", "num_diverged")
    missing = names if not isinstance(row, dict) else [name for name in names if name not in row]
    numbers = [name for name in ("outer_learning_rate", "mean") if name in names]
    wrong = missing or [name for name in numbers if not isinstance(row[name], int | float)]
    if wrong:
        raise fail(SAVED, f"a row in {file}", f"one without {wrong[0]}", "Delete it.")
    for cell in study.cells:
        if cell.name == row["name"]:
            row_there(file, _options(study, cell, row["outer_learning_rate"])[1])


def _rounded(rate: float) -> float:
    """To four digits: a third of 0.3 is 0.1, whoever asks for it."""
    return float(f"{rate:.4g}")


def _made(study: Study, directory: RunDir, cell: Cell, rate: float) -> Candidate:
    """One candidate, distilled and scored unless its row is there; a failure is a row that says why."""
    stem = f"{cell.name}-{rate:g}"
    file, folder = directory.path / "rows" / f"{stem}.json", directory.path / "cells" / stem
    chosen, identity = _options(study, cell, rate)
    progress.say(f"outer learning rate {rate:g} ...")
    there = row_there(file, identity)
    if there:
        progress.say("done before")
        return there
    row: Candidate = {"name": cell.name, "teacher": cell.teacher, "gradient": cell.gradient}
    row |= {"outer_learning_rate": rate, "identity": identity, "environment": profile.environment()}
    return recorded(directory, file, row, lambda: _scored(study, chosen | places(study.options), folder))


def _options(study: Study, cell: Cell, rate: float) -> tuple[dict[str, Any], str]:
    """The options of a candidate, and the command that distills it."""
    chosen = cell_options(study.options, cell) | {"outer_learning_rate": rate}
    return chosen, shlex.join(["python", "-m", "experiments.distill", *cli.as_flags(chosen)])


def _scored(study: Study, chosen: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The accuracy of a candidate, on validation images."""
    plan = planned(Config(**chosen, checkpoint_every=study.options.checkpoint_every))
    with opened(plan, folder) as directory:
        run = distilled(plan, directory)
    batch = run.batch
    with mesh.spread(plan.devices):
        return trained(study, study.own, "dc", batch, everything(len(batch.y)))


def best(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The outer learning rate with the highest accuracy, of every cell that has a finished candidate."""
    found: dict[str, Mapping[str, Any]] = {}
    for row in rows:
        if row["status"] == "done" and row["mean"] > found.get(row["name"], {"mean": -1.0})["mean"]:
            found[row["name"]] = row
    return {name: row["outer_learning_rate"] for name, row in found.items()}


def table(rows: Sequence[Mapping[str, Any]], *, short: bool = False) -> Table:
    """A line per cell with its candidates in order; short ones in whole percent.

    Returns:
      (columns, cells).
    """
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
    cli.main(run, Options, __doc__)
