"""Errors of the machine, such as a full disk, as one line instead of a traceback."""

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
"""The remedy, by the number of the error."""


@contextlib.contextmanager
def writing(where: str, path: str | os.PathLike, kept: str = "") -> Iterator[None]:
    """A context manager that turns errors of the machine while a file is written into one line.

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
