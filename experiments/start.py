"""How a script's process starts; nothing here imports anything slow."""

import contextlib
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

HUGE_PAGES = "glibc.malloc.hugetlb=1"
HELP = ("--help", "-h", "-help", "--helpfull", "--helpshort")


def runs_a_script() -> bool:
    """Whether this process was started to run a module of this package, by `-m` or by its path.

    While Python looks for a module that `-m` names, `sys.argv[0]` is `-m`.
    """
    script = Path(sys.argv[0]) if sys.argv and sys.argv[0] else Path()
    return script.name == "-m" or Path(__file__).resolve().parent in script.resolve().parents


def open_standard_files() -> None:
    """Opens the null device in the place of every standard file that a script was started without.

    Otherwise the next file that is opened, such as a checkpoint, takes its number, and what native code
    prints goes into that file.
    """
    if not runs_a_script():
        return
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:  # the lowest number that is free is this one
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))


def use_huge_pages() -> None:
    """Starts this process again with glibc's huge pages on (Linux; opt out: JAXDISTILL_HUGE_PAGES=0).

    Page faults of large temporaries take up to half of an outer step on the CPU; the tunable is read at start
    only.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    wanted = os.environ.get("JAXDISTILL_HUGE_PAGES", "1") != "0" and not set(HELP) & set(sys.argv)
    if not wanted or not sys.platform.startswith("linux") or re.search("malloc.hugetlb", tunables):
        return
    if "CS_GNU_LIBC_VERSION" not in os.confstr_names or not runs_a_script():
        return
    environment = os.environ | {"GLIBC_TUNABLES": f"{tunables}:{HUGE_PAGES}".strip(":")}
    with contextlib.suppress(OSError):  # without huge pages everything works, slower
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def end_by_signals() -> None:
    """A script that is interrupted while it imports ends with one line, too."""
    if not runs_a_script():
        return
    for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
        if signal.getsignal(number) is usual:  # else the signal is ignored or handled already
            signal.signal(number, leave_at_once)


def leave_at_once(number: int, frame: Any = None) -> None:
    """Ends this process with one line, whatever it is doing; nothing is cleaned up."""
    os.write(2, f"stopped by {signal.Signals(number).name}\n".encode())
    os._exit(128 + number)
