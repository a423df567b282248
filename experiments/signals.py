"""Signals of a script: one line and an exit code at any moment, inside a long compiled program too.

Python calls a signal's handler between two of its own instructions, so a compiled program that runs for
minutes keeps it waiting. The system writes the number into a pipe at once, where a thread of this module
reads it.
"""

import contextlib
import os
import signal
import sys
import threading
import time
import warnings
from typing import Any

from experiments.start import leave_at_once

GRACE = 1.0
"""Seconds in which the main thread may act on a signal by itself."""
LAST = 5.0
"""Seconds in which the main thread may clean up after a signal."""
NUMBERS = (signal.SIGINT, signal.SIGTERM)
_handled: list[int] = []
"""The signals that the main thread has acted on."""
_watching: list[int] = []
"""The ends of the pipe, once there is one."""


def listen() -> None:
    """From here on a signal ends the process, but for the outer loop, which saves first."""
    for number in NUMBERS:
        signal.signal(number, stop)
    if _watching:
        return
    reading, writing = os.pipe()
    _watching.extend((reading, writing))
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reading,), name="signals", daemon=True).start()


def end() -> None:
    """The script is done: a signal while Python shuts down leaves at once."""
    for number in NUMBERS:
        if signal.getsignal(number) is stop:
            signal.signal(number, leave_at_once)


def stop(number: int, frame: Any) -> None:
    """Ends the process outside of the loop: while data load, or in evaluation; a second signal at once."""
    from experiments.cli import leave

    _handled.append(number)
    end()
    hush()
    end_in(LAST, 128 + number)
    leave(_line(number), 128 + number)


def end_in(seconds: float, code: int) -> None:
    """Ends the process after that time, if it is still there: an exit raised in a native callback is lost."""
    timer = threading.Timer(seconds, os._exit, (code,))
    timer.daemon = True
    timer.start()


def exit_at_once(code: int) -> None:
    """Ends the process without Python's own end, in which native threads that still compile may crash."""
    for file in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            file.flush()
    os._exit(code)


def hush() -> None:
    """From here on this process has said its last line; threads and event loops that end add nothing."""
    sys.excepthook = lambda kind, error, trace: None  # native code prints its errors by it
    sys.unraisablehook = threading.excepthook = lambda about: None
    warnings.simplefilter("ignore")


def stopped() -> int | None:
    """The signal that ends this process; None if there was none."""
    return _handled[-1] if _handled else None


def _line(number: int) -> str:
    return f"stopped by {signal.Signals(number).name}"


def _watch(reading: int) -> None:
    """Acts for a main thread that is busy in a compiled program."""
    from jaxdistill.runtime import hosts
    from jaxdistill.runtime.signals import listening

    saves_first = True
    while number := os.read(reading, 1):
        (number,) = number
        before, in_loop = len(_handled), listening()
        time.sleep(GRACE)
        if number not in NUMBERS or len(_handled) > before:
            continue
        if in_loop and saves_first:
            saves_first = False
            if listening():
                name = signal.Signals(number).name
                text = f"{name}: waits for the running outer steps, then saves; again to stop at once"
                print(text, file=sys.stderr, flush=True)
        elif signal.getsignal(number) is stop:
            hosts.settle(_line(number))
            if hosts.joined():
                hosts.leave(128 + number)
            os._exit(128 + number)
