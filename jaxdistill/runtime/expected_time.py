"""Durations in words, and the sentence that says how long work will take."""

from typing import NamedTuple

LONG = 600.0
"""Seconds above which the option that shortens the work is named."""


def duration(seconds: float) -> str:
    """Seconds in words: `"4.2 s"`, `"3 min 05 s"`, `"2 h 07 min"`."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


class Shorter(NamedTuple):
    """An option that shortens long work in proportion to its value."""

    option: str
    now: int
    """Its value."""
    done: int = 0
    """How much of it is done before the work that is left."""

    def told(self, seconds: float) -> str:
        """The value at which work of `seconds` takes at most `LONG`."""
        left = self.now - self.done
        value = max(1, int(left * LONG / seconds))
        return f"{self.option}={self.done + value} takes about {duration(seconds * value / left)}"


def expected(what: str, seconds: float, shorter: Shorter | str) -> str:
    """The expected time of some work in words; above ten minutes with the option that shortens it.

    Args:
      what: the work.
      seconds: as measured on a part of it.
      shorter: the option, or what to do.

    Example:
      >>> expected("all", 1500.0, Shorter("num_outer_steps", 3000))
      'expected: about 25 min 00 s for all; num_outer_steps=1200 takes about 10 min 00 s'
    """
    line = f"expected: about {duration(seconds)} for {what}"
    if seconds <= LONG:
        return line
    return f"{line}; {shorter if isinstance(shorter, str) else shorter.told(seconds)}"
