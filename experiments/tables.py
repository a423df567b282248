"""Rows as the files that a paper or a spreadsheet takes."""

import csv
import io
from collections.abc import Collection, Mapping, Sequence
from typing import Any


def as_csv(rows: Sequence[Mapping[str, Any]], leave_out: Collection[str] = ()) -> str:
    """A line per row, a column for everything that any of them has."""
    columns = [name for name in dict.fromkeys(n for row in rows for n in row) if name not in leave_out]
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def as_markdown(columns: Sequence[str], lines: Sequence[Sequence[Any]]) -> str:
    """A table."""
    every = [columns, ["---"] * len(columns), *lines]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in every)
