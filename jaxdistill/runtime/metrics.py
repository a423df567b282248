"""The log of a run: one JSON object per line, and optionally TensorBoard.

Lines are strict JSON: a NaN or an infinity is written as null, and `read_metrics` gives NaN for it.
"""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxdistill.core.checks import fail, needs
from jaxdistill.runtime.atomic import atomic_write, jsonable
from jaxdistill.runtime.machine import writing


class MetricsLog:
    """Appends rows to a metrics file; a killed process leaves at most one incomplete last row.

    Args:
      path: the file, made where it is missing.
      resume_step: the step of the restored checkpoint; rows of later steps are dropped (they will be written
        again), and so is a torn last line. -1 drops every row: a run that starts from nothing.
      tensorboard_dir: also writes event files there; needs `pip install "jaxdistill[tensorboard]"`.

    Raises:
      UserError: the file is not one of metrics, or TensorBoard's writer is not installed.

    Example:
      >>> with MetricsLog("runs/dd/metrics.jsonl", resume_step=-1) as log:
      ...     log.write(10, {"loss": 1.2})
    """

    def __init__(
        self,
        path: str | os.PathLike,
        resume_step: int = -1,
        *,
        tensorboard_dir: str | os.PathLike | None = None,
    ):
        self.path = Path(path)
        self._board = _board(tensorboard_dir, resume_step) if tensorboard_dir is not None else None
        self._keep(resume_step)
        with writing("metrics", self.path):
            self._file = self.path.open("a", encoding="utf-8")

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Adds a row `{"step": step, **metrics}`; scalars go to TensorBoard too.

        Args:
          step: outer steps done.
          metrics: scalars and small arrays by name, of JAX, numpy or Python.
        """
        row = jsonable({"step": int(step), **metrics})
        with writing("metrics", self.path):
            self._file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
            self._file.flush()
        if self._board is not None:
            for name, value in row.items():
                if name != "step" and isinstance(value, int | float):
                    self._board.add_scalar(name, value, int(step))

    def close(self) -> None:
        """Closes the files; harmless when called twice."""
        with writing("metrics", self.path):
            self._file.close()
        if self._board is not None:
            self._board.close()

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _keep(self, resume_step: int) -> None:
        if resume_step < 0 or not self.path.exists():
            atomic_write(self.path, lambda file: None)
            return
        rows = [row for row in _rows(self.path) if row["step"] <= resume_step]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
        if text != self.path.read_bytes():
            atomic_write(self.path, lambda file: file.write(text))


def read_metrics(path: str | os.PathLike) -> list[dict[str, Any]]:
    """The rows of a metrics file in their order; a torn last line is left out, null becomes NaN.

    Raises:
      UserError: there is no such file, or a line of it (the last one aside) is not a row.
    """
    path = Path(path)
    if not path.is_file():
        raise fail("read_metrics", "a file of metrics", f"no file at {path}")
    return [{name: _nan(value) for name, value in row.items()} for row in _rows(path)]


def _rows(path: Path) -> list[dict[str, Any]]:
    lines = path.read_bytes().split(b"\n")
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode())
            if not isinstance(row, dict) or not isinstance(row.get("step"), int):
                raise ValueError('no "step" in it')
        except ValueError as error:
            if number == len(lines):
                continue  # no newline after it: the writer was killed in the middle of this line
            raise fail(
                "metrics",
                f"a JSON object per line in {path}",
                f"line {number}: {error}",
                "Move the file away.",
            ) from error
        rows.append(row)
    return rows


def _nan(value: Any) -> Any:
    if isinstance(value, list):
        return [_nan(part) for part in value]
    return math.nan if value is None else value


def require_tensorboard() -> Any:
    """The class that writes event files.

    Raises:
      UserError: it is not installed.
    """
    return needs(
        "MetricsLog", "tensorboardX", "tensorboard", "tensorboardX for tensorboard_dir"
    ).SummaryWriter


def _board(directory: str | os.PathLike, resume_step: int) -> Any:
    return require_tensorboard()(str(directory), purge_step=resume_step + 1 if resume_step >= 0 else None)
