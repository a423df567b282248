"""The rows of an experiment, as files: what is there is not made again."""

import json
import shlex
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jaxdistill.core.checks import UserError, fail
from jaxdistill.runs.budget import OUT_OF_MEMORY
from jaxdistill.runtime import progress
from jaxdistill.runtime.rundir import Held, RunDir

Record = dict[str, Any]
"""A row that is made once and kept in a file: of a study, of its search, of a league."""
SAVED = "saved results"
REMEDY = "Delete it: the command that wrote it makes it again."


class Damaged(UserError):
    """A file of saved results that cannot be read."""


def read_json(file: Path) -> Any:
    """The content of a JSON file.

    Raises:
      Damaged: it cannot be read.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Damaged(str(fail(SAVED, f"a readable {file}", error, REMEDY))) from error


def kept(directory: RunDir, file: Path, make: Callable[[], Any]) -> Any:
    """The content of a JSON file of an experiment; made and written where there is none.

    Raises:
      Damaged: it is there and cannot be read.
    """
    if not file.exists():
        directory.write_json(file, make())
    return read_json(file)


def note_of(error: BaseException) -> str:
    """An error in one line, for a row."""
    return " ".join(str(error).split()) or type(error).__name__


def read_row(file: Path) -> dict[str, Any]:
    """A row that is kept in a file.

    Raises:
      UserError: it cannot be read, or is no row.
    """
    row = read_json(file)
    if not isinstance(row, dict):
        raise fail(SAVED, f"a row in {file}", "something else", REMEDY)
    return row


def row_there(file: Path, identity: str, remedy: str = "") -> Record | None:
    """The row in a file, where it is finished and its options are the same; None where it is to be made.

    Args:
      file: of the row.
      identity: its options, as text.
      remedy: of the error about a row of other options; when empty, to make the study's row again.

    Raises:
      UserError: it was made with other options; names them.
    """
    if not file.exists() or (row := read_row(file)).get("status") != "done":
        return None
    there, now = (dict.fromkeys(shlex.split(str(text))) for text in (row.get("identity"), identity))
    if there.keys() != now.keys():
        here, other = (
            " ".join(f for f in a if f not in b) or "none" for a, b in ((now, there), (there, now))
        )
        cell = file.parent.parent / "cells" / file.stem
        remedy = remedy or f"Choose another run_dir, or delete that file and {cell} to have it made again."
        raise fail(SAVED, f"options {here} in {file}", other, remedy)
    return row


def recorded(directory: RunDir, file: Path, row: Record, measured: Callable[[], Mapping[str, Any]]) -> Record:
    """Measures a row and writes it; a failure becomes a row that says why.

    Args:
      directory: of the experiment.
      file: of the row.
      row: what is known of it before.
      measured: distills and scores.

    Returns:
      The row as it was written. Its `wall_seconds` are those of this process, with compilation and scoring.
    """
    start = time.perf_counter()
    try:
        row = {**row, **measured(), "status": "done", "note": ""}
    except (Held, Damaged):
        raise
    except (UserError, *OUT_OF_MEMORY) as error:
        text = note_of(error)
        progress.say(f"failed: {text}")
        row = {**row, "status": "failed", "note": text[:300]}
    row |= {"wall_seconds": time.perf_counter() - start}
    directory.write_json(file, row)
    return row
