"""Writes rows as JSON, CSV and Markdown."""

import csv
import io
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxdistill.core.checks import fail
from jaxdistill.runtime.atomic import atomic_write, write_json
from jaxdistill.runtime.rundir import others_in, problem_of

OWN = {
    "adapt": ("adapt.json", "distilled/lock"),
    "analyses": ("analyses.json", "points/*/lock"),
    "baselines": ("baselines.json", "distilled/lock"),
    "benchmark": ("rows.json",),
    "evaluate": ("evaluation.json",),
    "few_step": ("few_step.json", "gtn/lock", "images/lock"),
    "nas": ("search/lock", "distilled/lock"),
    "report": ("report.html",),
    "scaling": ("scaling.json",),
}
"""The files by which a script knows its own folder, for scripts without a config.json: results, then runs."""
RESULTS = ("adapt", "analyses", "baselines", "few_step", "scaling")
"""Scripts whose results nothing else is written beside."""
Table = tuple[Sequence[str], Sequence[Sequence[Any]]]
"""(columns, cells)."""


def as_csv(rows: Sequence[Mapping[str, Any]], leave_out: Collection[str] = ()) -> str:
    """A line per row, a column for every field of any row."""
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


def writable(where: str, run_dir: str | Path, *, own: bool = True) -> Path:
    """The folder; raises before hours of training if it cannot be made or written to. Makes nothing.

    Args:
      where: the script, for errors.
      run_dir: the folder.
      own: whether it may not be a run of another experiment, nor hold anything else.

    Raises:
      UserError: it cannot be made or written to, or it has results of another script, or things of no script.
    """
    folder = Path(run_dir)
    error = problem_of(folder)
    if error is not None:
        raise fail(where, "a run_dir to write to", f"{folder} ({error.strerror})") from error
    others = others_in(folder)
    results = [name for name in RESULTS if name != where and (folder / f"{name}.json").exists()]
    if own and (results or (folder / "config.json").exists()):
        what = f"results of experiments.{results[0]}" if results else "a run of another experiment"
        raise fail(where, "a run_dir of its own", f"{folder}, {what}", "Choose another.")
    if own and others and not any(any(folder.glob(pattern)) for pattern in OWN[where]):
        got = f"{folder} with {', '.join(others[:3])} in it"
        raise fail(where, "a run_dir that is new, empty or its own", got, "Choose another.")
    return folder


def write_tables(
    folder: Path, stem: str, result: Mapping[str, Any], table: Table, leave_out: Collection[str] = ()
) -> None:
    """Writes `stem`.json, `stem`.csv of its rows and `stem`.md."""
    write_json(folder / f"{stem}.json", result)
    texts = {"csv": as_csv(result["rows"], leave_out), "md": as_markdown(*table)}
    for kind, text in texts.items():
        atomic_write(folder / f"{stem}.{kind}", lambda file, text=text: file.write(text.encode()))
