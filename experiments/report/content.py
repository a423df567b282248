"""What the page and the Markdown of a report both show."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from experiments.report.cautions import short_commit
from experiments.report.fields import CellRow
from experiments.report.tables import ARCHITECTURES, Line, Table
from experiments.report.values import COLUMNS, Column, Value, shown
from jaxdistill.runtime.expected_time import duration


class Content(NamedTuple):
    """A report before it is written."""

    title: str
    tables: list[Table]
    rows: list[CellRow]
    cautions: list[str]
    """Sentences that a reader has to know."""


class Heat(NamedTuple):
    """Accuracies by architecture: a table whose cells have a colour each."""

    title: str
    names: list[str]
    """Of the columns: architectures."""
    lines: list[tuple[str, list[tuple[str, float | None]]]]
    """(label, a text and a share of the range per column); no share where nothing was measured."""


def name_of(line: Line) -> str:
    """What a line is called in a table; an ablation says how many images it has."""
    return f"{line.teacher}, {line.gradient.replace('_', ' ')}, {line.change}" if line.change else line.label


def used_columns(table: Table) -> list[Column]:
    """The columns that any line has a value in."""
    return [column for column in COLUMNS if any(column.name in line.values for line in table.lines)]


def marked(table: Table, line: Line, column: Column, marks: Mapping[str, str]) -> str:
    """The text of a line's value, with what `marks` adds to the best and to ties."""
    if not line.rows:
        return "failed" if column.name == "own" else "-"
    mark = table.marks.get((line.label, column.name))
    return shown(column, line.values.get(column.name)) + (marks[mark] if mark else "")


def heats(table: Table) -> list[Heat]:
    """Accuracy by architecture, for each kind of training."""
    return [made for kind in ARCHITECTURES if (made := _heat(table, kind)) is not None]


def _heat(table: Table, kind: str) -> Heat | None:
    """None where there is only one architecture, and for ablations."""
    lines = [(line.label, line.architectures[kind]) for line in table.lines if line.rows]
    names = list(dict.fromkeys(name for _, values in lines for name in values))
    if len(names) < 2 or table.changed:
        return None
    real = [(line.label, line.architectures[kind]) for line in table.baselines]
    lines += [(label, values) for label, values in real if len(values) > 1]
    every = [value.mean for _, values in lines for value in values.values()]
    low, high = min(every), max(every)

    def cell(value: Value | None) -> tuple[str, float | None]:
        if value is None:
            return "-", None
        return f"{100 * value.mean:.1f}", (value.mean - low) / max(high - low, 1e-9)

    made = [(label, [cell(values.get(name)) for name in names]) for label, values in lines if values]
    return Heat(ARCHITECTURES[kind], names, made)


def what_was_run(rows: Sequence[CellRow]) -> list[dict[str, Any]]:
    """Seed, device, versions and command of each row."""
    return [
        {
            "cell": ", ".join(
                p for p in (row["teacher"], row["gradient"].replace("_", " "), row["change"]) if p
            ),
            "reading": row["reading"],
            "seed": row["seed"],
            "outer_steps": row.get("outer_steps", "-"),
            "device": row["environment"].get("device"),
            "jax": row["environment"].get("jax"),
            "commit": short_commit(row["environment"].get("commit")),
            "command": row["command"],
        }
        for row in rows
    ]


def time_taken(rows: Sequence[CellRow]) -> str | None:
    """A sentence about the time of all finished rows; None where none says its time."""
    known = [row["wall_seconds"] for row in rows if row["status"] == "done" and row.get("wall_seconds")]
    if not known:
        return None
    whole = duration(sum(known))
    return f"Making {len(known)} of {len(rows)} rows, scored, took {whole}, what was stopped left out."
