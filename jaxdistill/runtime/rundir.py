"""The directory of a run: one config, one writer, and all output of the run.

runs/dd/
  config.json      the experiment, the chosen options, the resolved options, and the environment at the start
  lock             held by the live run, free again as soon as it ends, however it ends
  checkpoints/     the last states
  metrics.jsonl    a row per logged outer step
  synthetic.npz    the result, and images.png and curves.png to look at
  latents.npz      what is stored in the place of images, if they have a decoder or are quantised
  result.json      the numbers at the end
"""

import contextlib
import errno
import fcntl
import json
import os
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from jaxdistill.config.saved import DIGESTS
from jaxdistill.core.checks import UserError, fail
from jaxdistill.core.paths import as_path
from jaxdistill.runtime import atomic, hosts, profile
from jaxdistill.runtime.machine import writing

MOST_NAMED = 6
"""An error names this many differing fields."""
_ABSENT = object()


class Held(UserError):
    """Another live process has the run directory."""


class RunDir:
    """An open run directory from `open_run`; a context manager that releases the lock.

    Of a multi-host run only process 0 holds the lock and writes; the others have `primary` False, and
    their `write_json` does nothing.
    """

    def __init__(self, path: Path, lock: BinaryIO | None, notes: list[str]):
        self.path = path
        self.notes = notes
        """Lines worth telling the user: what differs from the environment the run started in."""
        self._lock = lock

    @property
    def primary(self) -> bool:
        """Whether this process writes."""
        return hosts.is_primary()

    @property
    def config(self) -> Path:
        return self.path / "config.json"

    @property
    def environment(self) -> Any:
        """The versions, devices and commit that the run started on."""
        return _read_json(self.config, "Restore that file.").get("environment")

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def synthetic(self) -> Path:
        return self.path / "synthetic.npz"

    @property
    def latents(self) -> Path:
        return self.path / "latents.npz"

    @property
    def images(self) -> Path:
        return self.path / "images.png"

    @property
    def curves(self) -> Path:
        return self.path / "curves.png"

    @property
    def result(self) -> Path:
        return self.path / "result.json"

    def write_json(self, path: str | os.PathLike, value: Any) -> None:
        """Atomically writes `value` to `path`, taken relative to the run directory."""
        if self.primary:
            atomic.write_json(self.path / path, value)

    def read_result(self) -> dict[str, Any] | None:
        """The content of `result.json`; None where the run has not ended."""
        remedy = "Delete it to have it written again."
        return hosts.from_primary(lambda: _read_json(self.result, remedy) if self.result.exists() else None)

    def close(self) -> None:
        """Releases the lock; may be called twice."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> "RunDir":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def open_run(
    path: str | os.PathLike,
    config: Mapping[str, Any],
    *,
    experiment: str,
    chosen: Mapping[str, Any] | None = None,
    free_fields: Collection[str] = (),
    upgrade: Callable[[dict[str, Any], str], Mapping[str, Any]] | None = None,
) -> RunDir:
    """Starts a run in `path`, or resumes the run that is there if it is the same.

    Args:
      path: the directory, made where it is missing.
      config: every choice that the run's numbers depend on, with the seed; nested dicts are fine.
      experiment: the script that the run belongs to.
      chosen: the part of the config that the user chose, to tell how the run was started.
      free_fields: names that may differ from the run already there (cadence of logs and the like);
        a nested one is written `outer.inner`. The new values replace the old ones in `config.json`.
      upgrade: from a config that an older version saved, with other options, and the path of its file to what
        this version would have saved.

    Returns:
      The open run; use it in a `with` statement.

    Raises:
      UserError: another live process has the run, the directory is not writable or holds something else,
        `config.json` is damaged, or the run there is another experiment's or has another config; the fields
        that differ are named.

    Example:
      >>> with open_run("runs/dd", {"seed": 0, "learner": "mlp"}, experiment="distill") as run:
      ...     run.write_json("result.json", {"accuracy": 0.9})
    """
    directory = as_path("open_run", path).absolute()
    plain = atomic.jsonable(config, nonfinite=str)
    about = {"experiment": experiment}
    about |= {} if chosen is None else {"chosen": atomic.jsonable(chosen, nonfinite=str)}
    opened: list[RunDir] = []
    hosts.from_primary(lambda: opened.append(_open(directory, path, plain, about, free_fields, upgrade)))
    return opened[0] if opened else RunDir(directory, None, [])


def check_folder(path: str | os.PathLike) -> None:
    """Raises if `open_run` could not write to `path`; makes nothing.

    Raises:
      UserError: a file, a directory of something else, or no permission.
    """
    directory = as_path("open_run", path).absolute()
    error = problem_of(directory)
    if error is not None:
        raise _unusable(path, error) from error
    _check_content(directory, path)


def problem_of(directory: Path) -> OSError | None:
    """Why a directory cannot be made or written to; None if it can. Makes nothing."""
    directory = directory.absolute()
    try:
        nearest = next(place for place in (directory, *directory.parents) if place.exists())
    except OSError as error:  # a name that is too long
        return error
    if nearest.is_dir() and os.access(nearest, os.R_OK | os.W_OK | os.X_OK):
        return None
    code = errno.EACCES if nearest.is_dir() else errno.ENOTDIR
    return OSError(code, os.strerror(code))


def others_in(directory: Path) -> list[str]:
    """The names of what a directory holds, sorted, but for what a run that was killed leaves."""
    there = directory.iterdir() if directory.exists() else ()
    return sorted(item.name for item in there if not _own_leftover(item.name))


def _check_content(directory: Path, path: Any) -> None:
    """Raises if a directory holds something other than a run."""
    others = others_in(directory)
    if others and "config.json" not in others:
        raise fail(
            "open_run",
            "a new or empty directory, or one that holds a run (config.json)",
            f"{path} with {', '.join(others[:3])} in it",
            "Choose another directory.",
        )


def _open(
    directory: Path,
    path: Any,
    plain: dict[str, Any],
    about: dict[str, Any],
    free_fields: Collection[str],
    upgrade: Callable[[dict[str, Any], str], Mapping[str, Any]] | None,
) -> RunDir:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _check_content(directory, path)
        lock = (directory / "lock").open("ab+", buffering=0)
    except OSError as error:
        raise _unusable(path, error) from error
    with contextlib.ExitStack() as on_error:
        on_error.callback(lock.close)
        _take(lock, path)
        run = RunDir(directory, lock, [])
        try:
            run.notes += _settle(run.config, plain, about, free_fields, path, upgrade)
        except OSError as error:
            raise _unusable(path, error) from error
        on_error.pop_all()
    return run


def _take(lock: BinaryIO, path: Any) -> None:
    """Takes the lock. The kernel frees it when the process ends, even by `kill -9`, so it is never stale."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise _unusable(path, error) from error
        lock.seek(0)
        owner = lock.read().decode(errors="replace").strip() or "unknown"
        held = f"a directory held by another live run (pid {owner})"
        remedy = "Wait for it to end, stop it, or choose another directory."
        raise Held(str(fail("open_run", f"{path} to be free", held, remedy))) from None
    with writing("open_run", path):
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n".encode())
        lock.flush()


def _settle(
    file: Path,
    config: dict[str, Any],
    about: dict[str, Any],
    free: Collection[str],
    path: Any,
    upgrade: Callable[[dict[str, Any], str], Mapping[str, Any]] | None,
) -> list[str]:
    """Writes `config.json`, or compares with the existing one; returns notes about the environment."""
    now = atomic.jsonable(profile.environment())
    if not file.exists():
        atomic.write_json(file, {**about, "config": config, "environment": now})
        return []
    remedy = "Choose another directory, or restore that file."
    stored = _read_json(file, remedy)
    started, experiment = stored.get("config"), stored.get("experiment")
    if not isinstance(started, dict):
        raise fail("open_run", f'an object under "config" in {file}', json.dumps(started), remedy)
    if experiment not in (None, about["experiment"]):
        expected = f"a run of experiments.{about['experiment']} in {path}"
        raise fail("open_run", expected, f"one of experiments.{experiment}", "Choose another directory.")
    other_names = started.keys() != config.keys() or any(started.get(n) != config.get(n) for n in DIGESTS)
    if upgrade is not None and (experiment is None or other_names):
        started = atomic.jsonable(upgrade(started, str(file)), nonfinite=str)
    changes = _differences(started, config)
    pinned = {name: pair for name, pair in changes.items() if not _is_free(name, free)}
    if pinned:
        listed = [f"{n}: {_show(old)} there, {_show(new)} here" for n, (old, new) in pinned.items()]
        more = f"; {len(listed) - MOST_NAMED} more" if len(listed) > MOST_NAMED else ""
        changed = [name.removesuffix("_sha256") for name in DIGESTS if name in pinned]
        remedy = "Use the same values to resume it, or another directory for a new run."
        if changed and len(changed) == len(pinned):
            said = " and the ".join(changed)
            remedy = f"The {said} changed since that start: restore it, or choose another directory."
        raise fail(
            "open_run",
            f"the config that the run in {path} started with",
            "; ".join(listed[:MOST_NAMED]) + more,
            remedy,
        )
    environment = stored.get("environment")
    if changes or experiment is None:
        atomic.write_json(file, {**about, "config": config, "environment": environment})
    before = environment if isinstance(environment, dict) else {}
    differing = _differences(before, {name: value for name, value in now.items() if name in before})
    return [
        f"{name}: started with {_show(old)}, resumes with {_show(new)}"
        for name, (old, new) in differing.items()
    ]


def _read_json(file: Path, remedy: str) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise fail("open_run", f"a readable {file}", error.strerror or error) from error
    except ValueError as error:  # bad JSON, or bytes that are no text
        raise fail("open_run", f"JSON in {file}", f"a damaged file ({error})", remedy) from error
    if not isinstance(content, dict):
        raise fail("open_run", f"a JSON object in {file}", type(content).__name__, remedy)
    return content


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in config.items():
        nested = isinstance(value, Mapping) and value
        flat.update(_flat(value, f"{prefix}{name}.") if nested else {prefix + name: value})
    return flat


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    before, after = _flat(old), _flat(new)
    pairs = {name: (before.get(name, _ABSENT), after.get(name, _ABSENT)) for name in {**before, **after}}
    return {name: pair for name, pair in pairs.items() if pair[0] is not pair[1] and pair[0] != pair[1]}


def _is_free(name: str, free: Collection[str]) -> bool:
    return any(name == field or name.startswith(f"{field}.") for field in free)


def _show(value: Any) -> str:
    if value is _ABSENT:
        return "absent"
    if isinstance(value, str) and re.fullmatch("[0-9a-f]{40,}", value):
        return f"{value[:8]}..."  # a digest
    return json.dumps(value, ensure_ascii=False)


def _own_leftover(name: str) -> bool:
    """The files that a run may leave if it is killed before it writes its config."""
    return name == "lock" or (name.startswith(".") and name.endswith(".tmp"))


def _unusable(path: Any, error: OSError) -> UserError:
    return fail(
        "open_run", "a directory to write to", f"{path} ({error.strerror or error})", "Choose another one."
    )
