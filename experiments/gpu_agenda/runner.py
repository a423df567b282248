"""Runs items one after another, each in a process of its own, until the time of a piece is over."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.gpu_agenda.items import Item
from jaxdistill.core.checks import fail
from jaxdistill.runtime import progress
from jaxdistill.runtime.atomic import atomic_write, write_json
from jaxdistill.runtime.expected_time import duration

ROOT = Path(__file__).resolve().parents[2]
STOPPED = (-signal.SIGKILL, -signal.SIGTERM, 128 + signal.SIGTERM, 128 + signal.SIGINT)
"""Exit codes of a process that was asked to stop."""
STATES = ("not yet", "begun", "failed", "done")
State = dict[str, dict[str, Any]]
"""Item -> its `state`, a `note`, the `seconds` spent on it."""


@contextlib.contextmanager
def stop_requests() -> Iterator[list[int]]:
    """The signals that asked this process to stop, as they come."""
    asked: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda n, frame: asked.append(n)) for number in numbers]
    try:
        yield asked
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def of(state: State, item: Item) -> str:
    """How far an item is."""
    return state.get(item.name, {}).get("state", "not yet")


def read_state(folder: Path) -> State:
    """What `state.json` holds; empty for a new agenda.

    Raises:
      UserError: a damaged file.
    """
    file = folder / "state.json"
    if not file.exists():
        return {}
    try:
        state = json.loads(file.read_text(encoding="utf-8"))
        if all(
            each["state"] in STATES and each["seconds"] >= 0 and "note" in each for each in state.values()
        ):
            return state
        problem = "an unknown state"
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        problem = f"{type(error).__name__} {error}"
    remedy = "Delete it: finished items are seen again by their runs."
    raise fail("gpu_agenda", f"the states of items in {file}", f"a damaged file ({problem})", remedy)


class Piece(NamedTuple):
    """The time that a call has, and where it works."""

    folder: Path
    end: float
    """When the item that runs is asked to stop, on the clock `time.monotonic`."""
    least: float
    """Seconds; no item is started when less is left."""
    grace: float
    """Seconds that an item has to save its state."""
    asked: Collection[int]
    """The signals that asked this process to stop."""

    @property
    def over(self) -> bool:
        """Whether no further item is started."""
        return bool(self.asked) or self.end - time.monotonic() < self.least


def run_items(todo: Sequence[Item], agenda: Sequence[Item], state: State, piece: Piece) -> None:
    """Goes on with the items in order, each after the one that it needs and once at most; updates `state`."""
    by_name, tried = {item.name: item for item in agenda}, set()

    def go(item: Item) -> None:
        if item.name in tried or of(state, item) == "done":
            return
        if item.after is not None:
            needed = by_name[item.after]
            there = (piece.folder / "runs" / needed.name / "result.json").is_file()
            if of(state, needed) == "done" and not there:  # done on another machine
                del state[needed.name]
            go(needed)
            if of(state, needed) != "done":
                return
        if not piece.over:
            tried.add(item.name)
            _work(item, state, piece)

    for item in todo:
        go(item)


def _work(item: Item, state: State, piece: Piece) -> None:
    """Runs an item, collects its results and saves how far it is."""
    progress.say(f"{item.name}: {item.measures} ...")
    before, began = state.get(item.name, {}).get("seconds", 0.0), time.monotonic()
    found, note = execute(item, piece)
    missing = collect(item, piece.folder) if found == "done" else ""
    if missing:
        found, note = "failed", f"ended without {missing}"
    seconds = round(before + time.monotonic() - began, 1)
    state[item.name] = {"state": found, "note": note, "seconds": seconds}
    write_json(piece.folder / "state.json", state)
    progress.say(f"{item.name}: {found} after {duration(seconds)}{note and f', {note}'}")


def execute(item: Item, piece: Piece) -> tuple[str, str]:
    """Runs an item's process until it ends, the piece's time is up or a signal comes: (state, note)."""
    folder, end = piece.folder, piece.end
    log = folder / "logs" / f"{item.name}.log"
    log.parent.mkdir(exist_ok=True)
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": path, "JAX_COMPILATION_CACHE_DIR": str(folder / "compile")}
    command = [sys.executable, *item.command, f"--run_dir={folder / 'runs' / item.name}"]
    with log.open("ab") as out:
        out.write(f"\n$ {' '.join(command)}\n".encode())
        out.flush()
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
        stopped = False
        try:
            while process.poll() is None and not stopped:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=max(0.01, min(0.2, end - time.monotonic())))
                stopped = process.poll() is None and (bool(piece.asked) or time.monotonic() >= end)
            if stopped:
                process.terminate()
                process.wait(timeout=piece.grace)
        except subprocess.TimeoutExpired:
            pass
        finally:
            late = process.poll() is None
            with contextlib.suppress(ProcessLookupError):  # its processes, which may hold the GPU
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if process.returncode == 0:
        return "done", ""
    if stopped and process.returncode in STOPPED:
        return "begun", "killed, since it did not stop in time" if late else ""
    return "failed", f"exit {process.returncode}: {last_line(log)}"


def last_line(log: Path) -> str:
    """The last line of a log that says something."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "nothing"


def collect(item: Item, folder: Path) -> str:
    """Copies the results of an item; returns the name of a file that is missing."""
    for name, ending in item.results.items():
        source = folder / "runs" / item.name / name
        if not source.is_file():
            return name
        content = source.read_bytes()
        atomic_write(folder / "results" / f"{item.name}{ending}", lambda file, c=content: file.write(c))
    return ""
