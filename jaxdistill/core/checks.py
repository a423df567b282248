"""Errors a user can act on: `where: expected WHAT, got VALUE.` and then how to mend it.

Python values and shapes are checked when a thing is made; traced values never are.
"""

import importlib
import numbers
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

T = TypeVar("T")
IN_WORDS: dict[type, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
"""By type of an option: what the user calls a value."""
LARGEST_SEED = 2**32 - 1


class UserError(ValueError):
    """Bad input, said in one line. Scripts print the line alone and exit non-zero."""


class Caution(UserWarning):
    """A choice that works and is likely not what was meant, said in one line. Scripts print the line."""


def fail(where: str, expected: str, got: Any, remedy: str = "") -> UserError:
    """The error to raise: `raise fail("images", "images_per_class >= 1", 0)`; line breaks become spaces."""
    text = f"{where}: expected {expected}, got {got}." + (f" {remedy}" if remedy else "")
    return UserError(" ".join(text.splitlines()))


def needs(where: str, module: str, extra: str, what: str) -> Any:
    """The module of that dotted name, which an extra of this package installs.

    Args:
      where: for errors.
      module: `pyarrow.parquet`.
      extra: its name in `pip install "jaxdistill[EXTRA]"`.
      what: what is expected, in words: `pyarrow, for Parquet files`.

    Raises:
      UserError: it cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        remedy = f'pip install "jaxdistill[{extra}]" installs it.'
        raise fail(where, what, f"an import error ({error})", remedy) from None


def one_of(where: str, name: str, known: Collection[str]) -> str:
    """`name` itself where it is known; otherwise an error that lists the known names."""
    if name not in known:
        raise fail(where, f"one of {', '.join(sorted(known))}", repr(name))
    return name


def lookup(where: str, name: str, table: Mapping[str, T]) -> T:
    """The member of a registry; an unknown name lists the known ones."""
    return table[one_of(where, name, table)]


def at_least(where: str, name: str, value: float, low: float) -> None:
    """Raises unless `value >= low` (a NaN and a text are not)."""
    if isinstance(value, str) or not value >= low:
        raise fail(where, f"{name} >= {low}", value)


def above(where: str, name: str, value: float, low: float) -> None:
    """Raises unless `value > low` (a NaN and a text are not)."""
    if isinstance(value, str) or not value > low:
        raise fail(where, f"{name} > {low}", value)


def check_seed(where: str, seed: object) -> None:
    """Raises unless it is a whole number from 0 to `LARGEST_SEED`."""
    if isinstance(seed, bool) or not isinstance(seed, numbers.Integral) or not 0 <= int(seed) <= LARGEST_SEED:
        raise fail(where, f"seed as a whole number in 0 ... {LARGEST_SEED}", repr(seed))


def check_whole(where: str, **values: object) -> None:
    """Raises unless every value is a whole number >= 1."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, numbers.Integral) or int(value) < 1:
            raise fail(where, f"a whole number {name} >= 1", repr(value))
