"""Errors of the machine, such as a full disk: one line instead of what Python, Orbax or Matplotlib raise."""

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

from jaxdistill.core.checks import UserError, fail

REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "Make room, and run the same command again."),
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.EROFS), "Check its permissions or choose another place."
    ),
}
"""What to do, by number of the error."""


@contextlib.contextmanager
def writing(where: str, path: str | os.PathLike, kept: str = "") -> Iterator[None]:
    """Inside, an error of the machine that keeps a file from being written becomes one line.

    Args:
      where: who writes, for the error.
      path: the file or folder.
      kept: what is safe, for the error.

    Raises:
      UserError: names the file and what the machine says.
    """
    try:
        yield
    except (UserError, BrokenPipeError):
        raise
    except Exception as error:
        number = _number(error)
        if number is None:
            raise
        remedy = " ".join(part for part in (kept, REMEDIES.get(number, "")) if part)
        raise fail(where, f"to write {Path(path)}", os.strerror(number), remedy) from error


def _number(error: Exception) -> int | None:
    """The system's number of an error; None if the machine is not to blame."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"os_error_code='(\d+)'", str(error))  # of TensorStore, which Orbax writes with
    return int(found[1]) if found else None
