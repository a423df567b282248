"""What `python -m experiments.league` does: the rows that are missing, then the table of all."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from experiments.league.entries import entry
from experiments.league.page import show, write
from experiments.league.rows import BASELINES, FULL, checked_part, of_baseline, of_full_set, of_method
from experiments.league.sets import check_folder, release
from experiments.league.setting import MORE_OR_LESS, SMOKE, League, Options, prepared
from experiments.league.table import checked, table
from experiments.records import Record, read_row, recorded, row_there
from jaxdistill.config.saved import chosen_of
from jaxdistill.core.checks import UserError, fail
from jaxdistill.methods import METHODS
from jaxdistill.methods.recipe import recipe_of
from jaxdistill.runtime import profile, progress
from jaxdistill.runtime.expected_time import expected
from jaxdistill.runtime.rundir import RunDir, open_run

SHORTER = "a smaller seconds_per_method takes less"


class Task(NamedTuple):
    """A row that a league is made of."""

    name: str
    kind: str
    """`method`, `baseline` or `full set`."""
    title: str
    identity: str
    """What it depends on besides the league's options."""
    make: Callable[[RunDir], Mapping[str, Any]]

    @property
    def file(self) -> str:
        return f"{self.name.replace(' ', '_')}.json"


def run(chosen: Options) -> dict[str, Any]:
    """Makes the rows that are missing, prints and writes the table.

    Returns:
      {"rows": one per method and baseline, "lines": one per row and kind of labels, "cautions", "config",
      "environment"}.

    Raises:
      UserError: bad input, before anything is distilled; a league without a finished method.
    """
    chosen = chosen.with_smoke(SMOKE)
    league = prepared(chosen)
    options = league.options
    if options.sets is not None:
        check_folder(Path(options.sets))
    run_dir = open_run(
        options.run_dir,
        league.pinned,
        experiment="league",
        chosen=chosen_of(chosen),
        free_fields=MORE_OR_LESS,
    )
    with run_dir as directory:
        for note in directory.notes:
            progress.say(f"note: {note}")
        tasks = [*_baselines(league), *(_method(league, name) for name in options.methods)]
        for file in sorted((directory.path / "rows").glob("*.json")):  # before hours of others
            checked(read_row(file), file)
        for file in sorted((directory.path / "parts").glob("*.json")):
            checked_part(read_row(file), file)
        for task in tasks:
            row_there(directory.path / "rows" / task.file, task.identity, "Choose another run_dir.")
        progress.say(
            f"league of {len(options.methods)} methods: {league.title}, {profile.device_description()}; "
            f"everything goes to {options.run_dir}"
        )
        least = options.seconds_per_method * len(options.methods)
        progress.say(expected("all outer steps; compilation and tests come on top", least, SHORTER))
        rows = _rows(league, directory, tasks)
        made = {task.file for task in tasks}
        others = sorted((directory.path / "rows").glob("*.json"))
        rows += [read_row(file) for file in others if file.name not in made]
        result = {
            "rows": rows,
            **table(rows, league),
            "config": league.pinned,
            "environment": profile.environment(),
        }
        write(directory.path, result, league)
        if options.sets is not None:
            release(Path(options.sets), directory.path, result, league)
    show(result, league)
    progress.say(f"written to {options.run_dir}")
    methods = [row for row in rows if row["kind"] == "method"]
    failed = [row for row in methods if row["status"] != "done"]
    if len(failed) == len(methods):
        why = "; ".join(dict.fromkeys(f"{row['entry']}: {row['note']}" for row in failed))
        raise fail("league", "at least one method that finishes", f"none ({why})")
    return result


def _baselines(league: League) -> list[Task]:
    """The rows that are not learned; the scores of all others refer to them."""
    made = [
        Task(name, "baseline", title, "", lambda folder, name=name: of_baseline(league, folder, name))
        for name, title in BASELINES.items()
    ]
    title = "the training set without its validation part"
    return [*made, Task(FULL, FULL, title, "", lambda folder: of_full_set(league, folder))]


def _method(league: League, name: str) -> Task:
    """The row of a method; of one whose options do not go together, a row that says why."""
    title = recipe_of(METHODS[name]).title
    try:
        found = entry(league, name)
    except UserError as error:
        return Task(name, "method", title, "", lambda folder, error=error: _raise(error))
    return Task(name, "method", title, found.identity, lambda folder: of_method(league, folder, found))


def _raise(error: UserError) -> Mapping[str, Any]:
    raise error


def _rows(league: League, directory: RunDir, tasks: list[Task]) -> list[Record]:
    """All rows; those whose files are there are not made again."""
    rows, times = [], progress.Rows(len(tasks), SHORTER)
    for number, task in enumerate(tasks, start=1):
        progress.say(f"\n[{number}/{len(tasks)}] {task.name}: {task.title}")
        file = directory.path / "rows" / task.file
        there = row_there(file, task.identity)
        if there:
            progress.say("done before")
            rows.append(there)
            times.done(made=False)
            continue
        row: Record = {
            "entry": task.name,
            "kind": task.kind,
            "title": task.title,
            "dataset": league.data.info.name,
            "learner": league.own,
            "budget": league.options.budget,
            "identity": task.identity,
            "environment": profile.environment(),
        }
        rows.append(recorded(directory, file, row, lambda task=task: task.make(directory)))
        times.done()
    return rows
