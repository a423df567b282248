"""Atomic writes: after an interruption a file is the old one or the new one, never a part of it."""

import json
import math
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from jaxdistill.runtime.machine import writing


def atomic_write(path: str | os.PathLike, write: Callable[[BinaryIO], Any]) -> None:
    """Writes a file beside `path`, syncs it to the disk and renames it over `path`.

    A process killed at any moment leaves the old file (or none) or the whole new one; what it may
    leave besides is a hidden `.NAME.PID.tmp`.

    Args:
      path: the file to make or replace; its directory is made where it is missing.
      write: called with the open binary file.

    Raises:
      UserError: the disk is full or the directory not writable; `path` is as it was.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with writing("write", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def atomic_folder(path: str | os.PathLike, write: Callable[[Path], Any]) -> None:
    """Makes a folder beside `path` and renames it to `path`; a folder there is removed after that.

    Args:
      path: the folder to make or replace; its parent is made where it is missing.
      write: called with the new, empty folder.

    Raises:
      UserError: the disk is full or the parent not writable; `path` is as it was.
    """
    path = Path(path)
    new, old = (path.with_name(f".{path.name}.{os.getpid()}.{end}") for end in ("tmp", "old"))
    with writing("write", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            new.mkdir()
            write(new)
            if path.exists():
                path.rename(old)
            new.rename(path)
        finally:
            shutil.rmtree(new, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Atomically writes `value`, made plain by `jsonable`, as indented strict JSON."""
    text = json.dumps(jsonable(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    atomic_write(path, lambda file: file.write(text.encode()))


def jsonable(value: Any, nonfinite: Callable[[float], Any] = lambda number: None) -> Any:
    """`value` in JSON's own types: arrays become lists, tuples lists, paths and odd objects strings.

    Strict JSON has no NaN and no infinity.

    Args:
      value: numbers, strings, arrays, dicts, NamedTuples, lists of them.
      nonfinite: what to write for a NaN or an infinity; None by default, which reads as null.

    Returns:
      The same content in dict, list, str, int, float, bool and None.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else nonfinite(value)
    if isinstance(value, Mapping):
        return {str(name): jsonable(part, nonfinite) for name, part in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        # a named tuple: known by hasattr, which the type checker does not follow
        return jsonable(value._asdict(), nonfinite)  # type: ignore[attr-defined]
    if isinstance(value, list | tuple):
        return [jsonable(part, nonfinite) for part in value]
    if isinstance(value, set | frozenset):
        return sorted(jsonable(list(value), nonfinite))
    if hasattr(value, "__array__"):
        return jsonable(np.asarray(value).astype(_plain_dtype(value)).tolist(), nonfinite)
    return str(value)


def _plain_dtype(value: Any) -> Any:
    """bfloat16 and its kin have no JSON-able scalar: go through float32."""
    dtype = np.asarray(value).dtype
    return dtype if dtype.kind in "biufU" else np.float32
