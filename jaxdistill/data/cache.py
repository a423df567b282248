"""A cache of a set's arrays as `.npy` files, which the next load maps into memory."""

import hashlib
import json
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from jaxdistill.core.checks import Caution
from jaxdistill.core.reporting import report
from jaxdistill.data.arrays import DAMAGED
from jaxdistill.data.dataset import Raw
from jaxdistill.data.trees import BLOCK, Entry

VERSION = "arrays-2"
"""A part of each cache's name; increase it when the content changes."""
ABANDONED = 3600.0
"""Seconds without a write after which an unfinished folder is removed."""
ARRAYS = ("x", "y", "x_validation", "y_validation", "x_test", "y_test")
FACTS = ("name", "class_names", "scale", "digest", "cautions")
DIGESTS = "sha256.json"
"""The file with the digests of the others."""


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    found, size = hashlib.sha256(), path.stat().st_size
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            found.update(block)
            report(f"checking {path.name}, bytes", file.tell(), size)
    return found.hexdigest()


def of_archive(data_dir: Path, name: str, key: str) -> Path:
    """The cache of a named set whose files have those checksums."""
    return data_dir / "arrays" / f"{name}-{key}-{VERSION}"


def key_of(files: Iterable[Entry], **settings: Any) -> str:
    """The name of the cache of a user's files that are read with these settings."""
    found = hashlib.sha256(json.dumps(settings | {"version": VERSION}, sort_keys=True).encode())
    for path, size, changed in files:
        found.update(f"{path}\0{size}\0{changed}\n".encode("utf-8", "surrogateescape"))
    return found.hexdigest()[:24]


def cached(folder: Path, read: Callable[[], Raw]) -> Raw:
    """The set in the cache `folder`; if it is missing or damaged, calls `read()` and writes the folder.

    A note says that a cache is damaged.

    Args:
      folder: its name tells the files that the set is made of, and `VERSION`.
      read: () -> the set.

    Returns:
      The set, its arrays memory maps wherever the folder could be written.
    """
    raw = read_cache(folder)
    if raw is None:
        raw = read()
        problem = write_cache(folder, raw)
        told = (
            f"the decoded images cannot be kept in {folder.parent} ({problem}): they stay in memory, and are"
        )
        kept = (
            raw if problem is None else raw._replace(cautions=(*raw.cautions, f"{told} decoded every time"))
        )
        raw = read_cache(folder) or kept
    return raw


def read_cache(folder: Path) -> Raw | None:
    """The set in a cache, with arrays that stay on the disk until use; None if it is missing or damaged.

    All bytes are compared with the digests that were taken when they were written, which takes a second per
    gigabyte. Of a cache without digests, of an older version, only the sizes are checked.
    """
    if not folder.is_dir():
        return None
    try:
        digests = json.loads((folder / DIGESTS).read_text()) if (folder / DIGESTS).is_file() else {}
        changed = [name for name, digest in digests.items() if sha256_of(folder / name) != digest]
        if changed:
            raise ValueError(f"{', '.join(changed)} changed since it was written")
        about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in about["arrays"]}
        return Raw(
            name=about["name"],
            class_names=tuple(about["class_names"]),
            scale=about["scale"],
            digest=about["digest"],
            cautions=tuple(about["cautions"]),
            **arrays,
        )
    except (*DAMAGED, KeyError, TypeError, AttributeError) as error:
        line = f"the cache of decoded images {folder} is damaged ({error}): they are decoded anew"
        warnings.warn(line, Caution, stacklevel=2)
        return None


def write_cache(folder: Path, raw: Raw) -> str | None:
    """Writes the whole cache or nothing; returns why it cannot, on a full or read-only disk for example."""
    arrays = {name: getattr(raw, name) for name in ARRAYS if getattr(raw, name) is not None}
    about = {name: getattr(raw, name) for name in FACTS} | {"arrays": list(arrays)}
    part = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        for left in folder.parent.glob(f".{folder.name}.*"):  # by a process that was killed
            if part.stat().st_mtime - left.stat().st_mtime > ABANDONED:
                shutil.rmtree(left, ignore_errors=True)
        for name, array in arrays.items():
            np.save(part / f"{name}.npy", array)
        (part / "about.json").write_text(json.dumps(about), encoding="utf-8")
        digests = {file.name: sha256_of(file) for file in sorted(part.iterdir())}
        (part / DIGESTS).write_text(json.dumps(digests))
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
        return None
    except OSError as error:
        return error.strerror or str(error)
    finally:
        if part is not None:
            shutil.rmtree(part, ignore_errors=True)
