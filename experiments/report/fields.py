"""The rows of a report: their fields, and what each has to be."""

import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from experiments.records import REMEDY, SAVED
from experiments.report.pictures import decoded
from jaxdistill.core.checks import fail

CellRow = dict[str, Any]
"""A cell of a study that was distilled and scored once; or a run of `experiments.distill`."""
BaselineRow = dict[str, Any]
"""Networks of one architecture, trained on real images."""
ABOUT = ("name", "teacher", "gradient", "change", "reading", "try", "seed", "learner", "dataset", "full_size")
ABOUT += ("command", "identity", "environment", "status", "note")
"""The fields of every cell row."""
MEASURED = ("images", "outer_steps", "seconds", "seconds_per_step", "as_distilled", "accuracies")
MEASURED += ("diagnostics", "hard_labels", "compile_seconds", "program_bytes")
"""The fields that a finished cell row has besides."""
OF_BASELINES = ("what", "images", "architecture", "protocol", "dataset", "learner", "every")
"""The fields of every baseline row."""


def check_rows(rows: Any, path: str | Path, needed: Sequence[str] = ABOUT) -> None:
    """Raises unless these rows have the fields that a report reads, each of its kind.

    Args:
      rows: what was read.
      path: where it was read, for errors.
      needed: the fields that every row has.

    Raises:
      UserError: names the file, or the folder, and the field.
    """
    expected = f"rows of experiments.study in {path}"
    if not isinstance(rows, list):
        raise fail(SAVED, expected, type(rows).__name__)
    for row in rows:
        if isinstance(row, dict) and "outer_learning_rate" in row:
            raise fail(SAVED, expected, "those of experiments.study.search")
        wanted = (*needed, *MEASURED) if isinstance(row, dict) and row.get("status") == "done" else needed
        missing = [name for name in wanted if not isinstance(row, dict) or name not in row]
        if missing:
            raise fail(SAVED, expected, f"one without the field {missing[0]!r}", REMEDY)
        wrong = [name for name in IS_VALID if name in row and not IS_VALID[name](row[name])]
        if wrong:
            got = f"{row[wrong[0]]!r}"
            raise fail(SAVED, expected, f"{wrong[0]} = {got if len(got) < 60 else got[:60] + '...'}", REMEDY)


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _numbers(value: Any) -> bool:
    return isinstance(value, list) and all(one is None or _number(one) for one in value)


def _score(value: Any) -> bool:
    return isinstance(value, dict) and _numbers(value.get("every"))


def _scores(value: Any) -> bool:
    texts = ("architecture", "protocol")
    return isinstance(value, list) and all(
        _score(one) and all(_text(one.get(name)) for name in texts) for one in value
    )


def _picture(value: Any) -> bool:
    from matplotlib import image

    try:
        image.imread(io.BytesIO(decoded(value)))
    except Exception:  # readers of images raise anything
        return False
    return True


def _or_none(kind: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or kind(value)


def _by_name(value: Any) -> bool:
    return isinstance(value, dict)


TEXTS = ("name", "teacher", "gradient", "change", "reading", "learner", "dataset", "command", "identity")
TEXTS += ("status", "note", "what", "architecture", "protocol")
STORED = ("scalars_stored", "bits_per_class")
NUMBERS = ("images", "outer_steps", "seconds", "seconds_per_step", "seed", "try")
IS_VALID: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(TEXTS, _text),
    **dict.fromkeys(NUMBERS, _number),
    **dict.fromkeys(
        ("compile_seconds", "program_bytes", "all_bytes", "wall_seconds", *STORED), _or_none(_number)
    ),
    **dict.fromkeys(("as_distilled", "hard_labels"), _or_none(_score)),
    **dict.fromkeys(("environment", "diagnostics"), _by_name),
    "accuracies": _scores,
    "every": _numbers,
    "picture": _or_none(_picture),
}
"""By field: whether a value is of the right kind."""
