"""Paths as people give them: text or `pathlib.Path`, with `~` for the home folder."""

import os
from pathlib import Path
from typing import Any

from jaxdistill.core.checks import fail


def as_path(where: str, value: Any) -> Path:
    """The path, `~` and `~name` expanded.

    Args:
      where: who takes it, for errors.
      value: text, or any `os.PathLike` of text.

    Raises:
      UserError: something else, or an empty text; bytes that are no UTF-8, which neither JSON nor a
        checkpoint can hold; the home folder of an unknown user.

    Example:
      >>> as_path("load_run", "runs/dd").name
      'dd'
    """
    if isinstance(value, str | os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str) or not value:
        raise fail(where, "a path as text or pathlib.Path", repr(value))
    check_text(where, "a path", value)
    try:
        return Path(value).expanduser()
    except RuntimeError as error:
        raise fail(where, "the home folder of a user", f"none of {value.partition('/')[0]}") from error


def check_text(where: str, what: str, value: str) -> None:
    """Raises unless a text can be written as UTF-8 and is no end of a text in C."""
    try:
        value.encode()
    except UnicodeEncodeError as error:  # Python keeps bytes of the system that are no UTF-8 as surrogates
        raise fail(where, f"{what} in UTF-8", ascii(value), "Rename it.") from error
    if "\0" in value:
        raise fail(where, f"{what} without a zero byte", ascii(value))
