"""Arrays of a set that was read once, kept as an `.npz` that the next load reads in half a second."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from jaxdistill.core.checks import UserError
from jaxdistill.data.arrays import read_npz
from jaxdistill.data.dataset import Raw

CACHE = "jaxdistill-1"  # count up when what is in it changes


def cached(path: Path, read: Callable[[], Raw]) -> Raw:
    """The set in the cache file `path`; where it is not there, or damaged, `read()`, and writes the file."""
    raw = read_cache(path)
    if raw is None:
        raw = read()
        write_cache(path, raw)
    return raw


def read_cache(path: Path) -> Raw | None:
    """The set in a cache file; None where there is none, or a damaged one: it is written anew."""
    if not path.is_file():
        return None
    try:
        content = read_npz(path, "load")
        return Raw(
            name=str(content["name"]),
            x=content["x"],
            y=content["y"],
            class_names=tuple(map(str, content["class_names"])),
            scale=float(content["scale"]),
            x_test=content.get("x_test"),
            y_test=content.get("y_test"),
        )
    except (UserError, KeyError):
        return None


def write_cache(path: Path, raw: Raw) -> None:
    """Writes the file whole or not at all; a disk that is full or read-only does no harm."""
    kept = ("name", "x", "y", "class_names", "scale", "x_test", "y_test")
    content = {key: getattr(raw, key) for key in kept if getattr(raw, key) is not None}
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            np.savez(file, **content)
        part.replace(path)
    except OSError:
        pass
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
