"""What stands between one process of several and its standard error, and speaks where the process cannot.

When another process dies, the runtime below JAX aborts this one from a thread of its own, with a page of C++
on standard error and no Python to say a word; a process whose coordinator does not answer dies likewise. This
script forwards standard error and puts one line in the place of that page. It also tells of a process that
ended without a word (`kill -9`, out of memory). `jaxdistill.runtime.hosts` runs it by its path: it imports
nothing of the library, and ends with the process before it.
"""

import sys
from collections.abc import Callable, Iterable

CONTROL = b"\0"
"""Begins what is not forwarded: the lines to say at an abort and at an abrupt end, each after a `CONTROL`."""
ABORT = b"Terminating process because the JAX distributed service detected fatal errors"
BEFORE = b"coordination_service"
"""In the lines that JAX prints before `ABORT`; after them the process cannot continue."""


def control(at_abort: str = "", at_end: str = "") -> bytes:
    """What a process writes to its standard error to change its last words; none without arguments."""
    return b"".join((CONTROL, at_abort.encode(), CONTROL, at_end.encode(), b"\n"))


def forward(lines: Iterable[bytes], write: Callable[[bytes], object]) -> None:
    """Forwards lines, each with its newline, until they end, and speaks for their writer.

    Example:
      >>> forward([control("another process ended"), b"F1126 " + ABORT], print)
      b'another process ended\\n'
    """
    at_abort = at_end = b""
    muted = aborted = False
    for line in lines:
        before, mark, rest = line.partition(CONTROL)
        if ABORT in line and not aborted:
            if at_abort:
                write(at_abort + b"\n")
            aborted, at_end = True, b""
        muted = muted or BEFORE in line
        if before and not muted and not aborted:
            write(before)
        if mark and not aborted:  # the process has seen it too, and speaks for itself
            muted = False
            at_abort, _, at_end = rest.rstrip(b"\n").partition(CONTROL)
    if at_end:
        write(at_end + b"\n")


def _show(text: bytes) -> None:
    sys.stderr.buffer.write(text)
    sys.stderr.buffer.flush()


if __name__ == "__main__":
    forward(sys.stdin.buffer, _show)
