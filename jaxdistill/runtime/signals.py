"""SIGINT and SIGTERM while a loop runs: they are recorded, so that the loop saves before it ends."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

_listening: list[list[int]] = []


def listening() -> bool:
    """Whether a loop runs in the main thread, which saves before a signal ends it."""
    return bool(_listening)


@contextlib.contextmanager
def caught_signals() -> Iterator[list[int]]:
    """A list that receives the number of a SIGINT or SIGTERM; a second signal has its usual effect.

    Python hands signals to the main thread alone: the list stays empty in any other.
    """
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    previous = {}

    def note(number: int, frame: Any) -> None:
        caught.append(number)
        for other, handler in previous.items():
            signal.signal(other, handler)

    _listening.append(caught)
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, note)
        yield caught
    finally:
        _listening.remove(caught)
        for number, handler in previous.items():
            signal.signal(number, handler)
