"""The progress of a run: a bar on a terminal, a few lines in a log; plain lines alone without `rich`."""

import codecs
import contextlib
import contextvars
import importlib.util
import math
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TextIO

from jaxdistill.core.reporting import listening
from jaxdistill.runtime.expected_time import Shorter, duration, expected

WIDTH = 80
"""Columns of a log."""
ENOUGH = 2.0
"""Seconds of work from which the time of all work is estimated."""
MINUTE = 60.0
"""Seconds between two lines about the rows that are missing."""
SMALLEST_WIDTH = 20
"""Columns that a terminal has at least; some say 0."""
PLAIN = {"±": "+/-", "…": "~"}
"""What stands for a character that the encoding of an output lacks; `?` for all others."""
_silent: contextvars.ContextVar[bool] = contextvars.ContextVar("silent", default=False)


@contextlib.contextmanager
def silent(wanted: bool = True) -> Iterator[None]:
    """A context manager that silences output; it does nothing with `wanted` False."""
    token = _silent.set(wanted or _silent.get())
    try:
        yield
    finally:
        _silent.reset(token)


def say(text: str, file: TextIO | None = None) -> None:
    """Prints one line, flushed, to standard output or `file`; nothing if there is no standard output."""
    out = file or sys.stdout
    if out is not None and not _silent.get():
        print(plain(text, out), file=out, flush=True)


def plain(text: str, file: TextIO | None) -> str:
    """The text with only the characters that the encoding of a file has.

    Example:
      >>> plain("98.1 ± 0.2", None)
      '98.1 ± 0.2'
    """
    encoding = getattr(file, "encoding", None) or "utf-8"
    return text.encode(encoding, "jaxdistill.plain").decode(encoding)


def _replaced(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(PLAIN.get(character, "?") for character in lacking), error.end


codecs.register_error("jaxdistill.plain", _replaced)


@contextlib.contextmanager
def counting(seconds: float = 2.0) -> Iterator[None]:
    """A context manager that prints the library's reports of long work, at most one line every `seconds`."""
    last, out = time.monotonic(), sys.stdout  # TFDS prepares a set with its own output put aside

    def show(what: str, done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= seconds:
            last = time.monotonic()
            say(f"{what}: {done:,} of {total:,}", out)

    with listening(show):
        yield


@contextlib.contextmanager
def expecting(
    what: str, total: int, shorter: Shorter | str, *, clock: Callable[[], float] = time.monotonic
) -> Iterator[None]:
    """A context manager that prints the expected time of training once, if it is a second or more.

    It comes from the first steps, compilation left out.

    Args:
      what: is trained.
      total: training steps of all networks, as `jaxdistill.evaluation` reports them; the same number again
        says that the time since then was no training.
      shorter: see `expected`.
      clock: seconds, monotonic.
    """
    before, first, last, said = 0, None, (0.0, 0), False

    def listen(_: str, done: int, of: int) -> None:
        nonlocal before, first, last, said
        step, now = before + done, clock()
        if first is None:
            first = now, step
        elif step == last[1]:  # something was compiled
            first = first[0] + now - last[0], first[1]
        last = now, step
        measured = now - first[0]
        if not said and step > first[1] and (measured >= ENOUGH or done == of):
            said, seconds = True, measured / (step - first[1]) * max(total, step)
            if seconds >= 1:
                say(expected(what, seconds, shorter))
        if done == of:
            before += of

    with listening(listen):
        yield


class Rows:
    """Prints the expected time of the missing rows, from the mean time of the finished rows.

    The first line follows the first row, others at most once a minute.

    Args:
      total: the number of all rows, finished rows included.
      shorter: see `expected`; the number of rows that are done is filled in.
      noun: what a row is.
      clock: seconds, monotonic.

    Example:
      >>> now = iter([0.0, 400.0])
      >>> rows = Rows(24, Shorter("num_candidates", 24), clock=lambda: next(now))
      >>> rows.done()
      expected: about 2 h 33 min for at most 23 more rows; num_candidates=2 takes about 6 min 40 s
    """

    def __init__(
        self,
        total: int,
        shorter: Shorter | str,
        *,
        noun: str = "row",
        clock: Callable[[], float] = time.monotonic,
    ):
        self._total, self._shorter, self._noun, self._clock = total, shorter, noun, clock
        self._done, self._made, self._seconds = 0, 0, 0.0
        self._last, self._said = clock(), -math.inf

    def done(self, *, made: bool = True) -> None:
        """Counts a row; one that was there before (`made` False) says nothing about time."""
        now, self._done = self._clock(), self._done + 1
        if made:
            self._made, self._seconds = self._made + 1, self._seconds + now - self._last
        self._last, left = now, self._total - self._done
        seconds = self._seconds / max(1, self._made) * left
        if not made or seconds < 1 or now - self._said < MINUTE:
            return
        self._said, shorter = now, self._shorter
        if isinstance(shorter, Shorter):
            shorter = shorter._replace(done=self._done)
        say(expected(f"at most {left} more {self._noun}{'s' if left > 1 else ''}", seconds, shorter))


class Progress:
    """Progress of the outer loop, a context manager.

    On a terminal a bar with step, rate, remaining time and metrics; elsewhere plain lines, at most one per
    5 seconds and fewer as the run gets longer. The rate leaves out what happens before the first update,
    which is compilation. At the end there is the time of the whole in the place of both.

    Args:
      total: the last step.
      start: the step that the run resumes from.
      label: the run in a word or two.
      shorter: how to wait less; then the expected time of all work is printed once, as `expected` says it.
      file: where to write, standard output by default.
      clock: seconds, monotonic.

    Example:
      >>> with Progress(1000, label="dd") as progress:
      ...     progress.update(10, loss=1.2, accuracy=0.31)
      dd: compiling ...
      dd: 10/1000 ... loss 1.2  accuracy 31.0%
    """

    def __init__(
        self,
        total: int,
        start: int = 0,
        label: str = "distill",
        *,
        shorter: Shorter | str | None = None,
        file: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.total, self.start, self.label = total, start, label
        self._shorter = shorter
        self._file: TextIO | None = file or sys.stdout
        self._clock = clock
        self._began = clock()
        self._first: tuple[float, int] | None = None
        self._spoke = -float("inf")
        self._bar: Any = None

    def __enter__(self) -> "Progress":
        self._began = self._clock()
        if self.start >= self.total or _silent.get():
            return self
        if _is_terminal(self._file) and _has_rich():
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as Bar

            columns = (
                TextColumn("[bold]{task.description}"),
                BarColumn(None),
                TextColumn("{task.fields[text]}"),
            )
            self._bar = Bar(*columns, console=_console(self._file), expand=True, refresh_per_second=8)
            self._task = self._bar.add_task(
                self.label, total=self.total, completed=self.start, text="compiling ..."
            )
            self._bar.start()
        else:
            self._line(f"{self.label}: compiling ...")
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, step: int, **metrics: Any) -> None:
        """Shows that `step` outer steps are done; `metrics` are scalars, accuracies in [0, 1]."""
        now = self._clock()
        if self._first is None:
            self._first = now, step
        text = "  ".join([f"{step}/{self.total}", *self._pace(step, now), *map(_metric, metrics.items())])
        if self._bar is not None:
            self._bar.update(self._task, completed=step, text=plain(text, self._file))
        elif step >= self.total or now - self._spoke >= min(max(5.0, (now - self._began) / 20), 300.0):
            self._spoke = now
            self._line(f"{self.label}: {text}")
        self._expect(step, now)

    def _expect(self, step: int, now: float) -> None:
        """Prints the expected remaining time once, if it was asked for."""
        since, first = self._first or (now, step)
        left = self.total - step
        if self._shorter is None or step <= first or not left or now - since < ENOUGH:
            return
        seconds = (now - since) / (step - first) * left
        self.say(expected(f"the {self.label} that are left", seconds, self._shorter))
        self._shorter = None

    def say(self, text: str) -> None:
        """Prints a line, above the bar if there is one."""
        if self._bar is not None:
            self._bar.console.print(plain(text, self._file), markup=False, emoji=False, highlight=False)
        else:
            self._line(text)

    def _line(self, text: str) -> None:
        say(text, self._file)

    def _pace(self, step: int, now: float) -> list[str]:
        left = self.total - step
        if left <= 0:
            return [f"took {duration(now - self._began)}"]
        since, first = self._first or (now, step)
        if step <= first or now <= since:
            return [f"{duration(now - self._began)} with compilation"]
        rate = (step - first) / (now - since)
        speed = f"{rate:.3g}/s" if rate >= 1 else f"{1 / rate:.3g} s/step"
        return [speed, f"{duration(left / rate)} left"]


def table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, file: TextIO | None = None
) -> None:
    """Prints a table that keeps to one line per row: at most 80 columns in a log.

    Numbers stand to the right. Where it is too wide, the longest texts are cut in the middle.

    Args:
      title: stands above; empty for none.
      columns: their names.
      rows: cells per row, as many as there are columns; floats are shown with 4 digits.
      file: where to write, standard output by default.
    """
    out = file or sys.stdout
    if out is None or _silent.get():
        return
    room = _columns() if _is_terminal(out) else WIDTH
    put = _printer(out)
    cells = [list(map(str, columns)), *([_cell(value) for value in row] for row in rows)]
    cells = [[plain(cell, out) for cell in row] for row in cells]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    while sum(widths) + 2 * (len(widths) - 1) > room and max(widths) > 4:
        widths[widths.index(max(widths))] -= 1
    right = [bool(rows) and all(_is_number(row[i]) for row in rows) for i in range(len(columns))]

    def line(row: list[str]) -> str:
        cut = [
            cell
            if len(cell) <= width
            else cell[: width - 1 - width // 2] + "…" + cell[len(cell) - width // 2 :]
            for cell, width in zip(row, widths, strict=True)
        ]
        return "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(cut, widths, right, strict=True)
        ).rstrip()

    if title:
        put(title, "bold")
    put(line(cells[0]), "bold cyan")
    put("-" * (sum(widths) + 2 * (len(widths) - 1)), "dim")
    for row in cells[1:]:
        put(line(row))


def _is_terminal(file: TextIO | None) -> bool:
    return file is not None and not file.closed and file.isatty()


def _columns() -> int:
    return max(SMALLEST_WIDTH, shutil.get_terminal_size().columns)


def _console(file: TextIO | None) -> Any:
    """A console of `rich` as wide as the terminal says, if that is a width."""
    from rich.console import Console

    console = Console(file=file)
    return Console(file=file, width=_columns()) if console.width < SMALLEST_WIDTH else console


def _has_rich() -> bool:
    return importlib.util.find_spec("rich") is not None


def _printer(out: TextIO) -> Callable[..., None]:
    """(line, style) -> None: prints one line, in colours on a terminal if `rich` is there."""
    if not _is_terminal(out) or not _has_rich():
        return lambda text, style="": print(plain(text, out), file=out)
    from rich.text import Text

    console = _console(out)

    def put(text: str, style: str = "") -> None:
        console.print(Text(plain(text, out), style=style), no_wrap=True, overflow="ignore", crop=False)

    return put


def _metric(item: tuple[str, Any]) -> str:
    name, value = item
    return f"{name} {100 * float(value):.1f}%" if "accuracy" in name else f"{name} {_cell(value)}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) or value is None or getattr(value, "shape", None) == ()


def _cell(value: Any) -> str:
    if isinstance(value, float) or getattr(getattr(value, "dtype", None), "kind", "") == "f":
        return f"{float(value):.4g}"
    return "-" if value is None else str(value)
