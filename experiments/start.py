"""How a script's process starts; nothing here imports anything slow."""

import contextlib
import os
import re
import sys
from pathlib import Path

HUGE_PAGES = "glibc.malloc.hugetlb=1"
HELP = ("--help", "-h", "-help", "--helpfull", "--helpshort")


def runs_a_script() -> bool:
    """Whether this process was started to run a module of this package, by `-m` or by its path.

    While Python looks for a module that `-m` names, `sys.argv[0]` is `-m`.
    """
    script = Path(sys.argv[0]) if sys.argv and sys.argv[0] else Path()
    return script.name == "-m" or Path(__file__).resolve().parent in script.resolve().parents


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
