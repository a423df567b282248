"""Reads the rows of a report: from studies and from runs of `experiments.distill`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.records import read_json, read_row
from experiments.report.distilled import rows_of_run
from experiments.report.fields import OF_BASELINES, BaselineRow, CellRow, check_rows
from jaxdistill.core.checks import UserError, fail


def read_rows(path: Path) -> list[CellRow]:
    """Every row in the folder of a study, in the order of their names."""
    return [read_row(file) for file in sorted((path / "rows").glob("*.json"))]


def checked_rows(path: Path) -> list[CellRow]:
    """Every row in the folder of a study, each with the fields that a report reads.

    Raises:
      UserError: a row is damaged; names its file.
    """
    rows = []
    for file in sorted((path / "rows").glob("*.json")):
        rows.append(read_row(file))
        check_rows(rows[-1:], file)
    return rows


def load(path: str | Path) -> tuple[list[CellRow], list[BaselineRow]]:
    """The rows and baselines of a study, or of a run of `experiments.distill`.

    Args:
      path: a study's folder, its rows.json, or a run directory.

    Raises:
      UserError: it is none of these, or cannot be read.
    """
    place = Path(path)
    if place.is_dir() and (place / "rows").is_dir():
        baselines = place / "baselines.json"
        found = checked_rows(place), read_json(baselines) if baselines.exists() else []
    elif place.is_dir() and (place / "result.json").exists():
        return rows_of_run(place, read_json(place / "result.json"), _chosen(place / "config.json"))
    elif place.is_file() or (place / "rows.json").exists():
        place = place if place.is_file() else place / "rows.json"
        content = read_json(place)
        if not isinstance(content, dict) or {"rows", "baselines"} - content.keys():
            raise fail("report", "rows.json of a study, or a run directory", str(path))
        found = content["rows"], content["baselines"]
    else:
        expected = "a folder of experiments.study, or a finished run of experiments.distill"
        raise fail("report", expected, f"{path} with neither rows nor result.json")
    check_rows(found[0], path)
    check_rows(found[1], path, OF_BASELINES)
    return found


def _chosen(config: Path) -> dict[str, Any] | None:
    """The options that were chosen for a run; None where an older version wrote its config."""
    return read_json(config).get("chosen") if config.exists() else None


def without_repeats(rows: Sequence[CellRow]) -> tuple[list[CellRow], list[str]]:
    """Each row once, and sentences about the repeated rows that were left out.

    The same run may be in a folder and in the rows.json of another report. A cell that was made again with
    the same options and seed is no second try: the first finished row is taken, of full size if there is one.
    """
    different = {json.dumps(row, sort_keys=True): row for row in rows}.values()
    kept: dict[tuple, CellRow] = {}
    for row in sorted(different, key=lambda row: (row["status"] != "done", not row["full_size"])):
        names = ("identity", "reading", "dataset", "learner", "seed", "change")
        kept.setdefault((*(row[name] for name in names), row.get("time_limit")), row)
    again = len(different) - len(kept)
    said = f"{again} rows of the same options and seed as others are left out: the first of each is shown."
    shown = set(map(id, kept.values()))
    return [row for row in different if id(row) in shown], [said] if again else []


def check_finished(rows: Sequence[CellRow], where: str) -> None:
    """Raises where no row is finished.

    Raises:
      UserError: says why each failed.
    """
    if any(row["status"] == "done" for row in rows):
        return
    why = "; ".join(dict.fromkeys(row["note"] for row in rows))
    got = f"none of {len(rows)}" + (f" ({why})" if why else "")
    raise UserError(f"report: expected at least one finished cell in {where}, got {got}.")
