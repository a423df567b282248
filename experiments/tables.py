"""Rows as the files that a paper or a spreadsheet takes."""

import csv
import io
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxdistill.core.checks import fail
from jaxdistill.runtime.atomic import atomic_write, write_json

Table = tuple[Sequence[str], Sequence[Sequence[Any]]]
"""(columns, cells)."""


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


def write_tables(
    folder: str | Path, stem: str, result: Mapping[str, Any], table: Table, leave_out: Collection[str] = ()
) -> Path:
    """Writes `stem`.json, `stem`.csv of its rows and `stem`.md, and returns the folder, made if need be.

    Raises:
      UserError: a folder that cannot be made.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise fail(stem, "a run_dir to write to", f"{folder} ({error.strerror})") from error
    write_json(folder / f"{stem}.json", result)
    texts = {"csv": as_csv(result["rows"], leave_out), "md": as_markdown(*table)}
    for kind, text in texts.items():
        atomic_write(folder / f"{stem}.{kind}", lambda file, text=text: file.write(text.encode()))
    return folder
