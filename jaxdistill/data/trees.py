"""The files of a folder, a zip or a tar, all read in the same way."""

import contextlib
import os
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from jaxdistill.core.checks import fail

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
MOST_BYTES = 256 * 2**20
"""A larger file is refused before it is read."""
MOST_RATIO = 1000
"""A file of an archive that grows by more than this factor is refused, from a megabyte on."""
DAMAGED = (OSError, EOFError, ValueError, zipfile.BadZipFile, tarfile.TarError, zlib.error, RuntimeError)
HIDDEN = re.compile(r"(^|/)(\.|__MACOSX/|Thumbs\.db$|desktop\.ini$)")
OUTSIDE = re.compile(r"^/|(^|/)\.\.(/|$)")
"""Names of an archive's members that lead out of it."""


class Entry(NamedTuple):
    """A file."""

    path: str
    """Relative to the folder, or within the archive; parts are separated by `/`."""
    size: int
    """In bytes."""
    changed: float
    """When it was changed, in any unit."""


class Tree(NamedTuple):
    """All files of a folder or of an archive."""

    root: Path
    where: str
    """For errors."""
    entries: list[Entry]
    """Sorted by path; hidden files are left out."""
    folders: list[str]
    """Folders that hold no file; known of folders only."""

    def read(self, wanted: Sequence[Entry]) -> Iterator[bytes]:
        """The contents of some files, in that order.

        Raises:
          UserError: an archive that is damaged, or a file that is gone.
        """
        with contextlib.ExitStack() as stack:
            opened = None if self.root.is_dir() else stack.enter_context(_open(self.root))
            for entry in wanted:
                try:
                    yield self._read_one(opened, entry.path)
                except DAMAGED as error:
                    raise _damaged(self.where, f"{entry.path} ({error})") from None

    def _read_one(self, opened: zipfile.ZipFile | tarfile.TarFile | None, name: str) -> bytes:
        if opened is None:
            return (self.root / name).read_bytes()
        if isinstance(opened, zipfile.ZipFile):
            return opened.read(name)
        file = opened.extractfile(name)
        if file is None:
            raise ValueError("no regular file")
        return file.read()


def is_archive(path: str | os.PathLike) -> bool:
    """Whether a name is one of an archive that `tree` reads."""
    return os.fspath(path).lower().endswith(ARCHIVES)


def tree(path: Path, where: str) -> Tree:
    """The files of a folder or of an archive.

    Args:
      path: a folder, or a file that `is_archive`.
      where: for errors.

    Raises:
      UserError: nothing there, a damaged archive, a link that leads out of the folder, a file that is too
        large or grows too much.
    """
    if not path.exists():
        raise fail(where, "a folder or an archive", f"nothing at {path}")
    if path.is_dir():
        entries, folders = _of_folder(path, where)
    elif not is_archive(path):
        kinds = ", ".join((*ARCHIVES, ".npz", ".parquet"))
        raise fail(where, f"a folder, or a file that ends in one of {kinds}", path.name)
    else:
        entries, folders = _of_archive(path, where), []
        for entry in entries:
            if OUTSIDE.search(entry.path):
                raise fail(where, "names that stay in the archive", f"{entry.path}, which leads out of it")
    kept = [entry for entry in entries if not HIDDEN.search(entry.path)]
    for entry in kept:
        if entry.size > MOST_BYTES:
            raise fail(
                where, f"files of at most {MOST_BYTES >> 20} MB", f"{entry.path}, {entry.size >> 20} MB"
            )
    return Tree(path, where, sorted(kept), folders)


def _of_folder(root: Path, where: str) -> tuple[list[Entry], list[str]]:
    """(all files, all folders that hold nothing)."""
    entries, empty, inside = [], [], root.resolve()
    waiting = [""]
    while waiting:
        here = waiting.pop()
        at = root / here
        try:
            with os.scandir(at) as found:
                items = list(found)
            for item in items:
                path = f"{here}{item.name}"
                if item.is_symlink() and not Path(item.path).resolve().is_relative_to(inside):
                    raise fail(where, "links that stay in the folder", f"{path}, which leads out of it")
                if item.is_dir(follow_symlinks=False):
                    waiting.append(f"{path}/")
                elif item.is_file():
                    about = item.stat()
                    entries.append(Entry(path, about.st_size, about.st_mtime_ns))
        except OSError as error:
            raise fail(where, "a folder that can be read", f"{error.filename} ({error.strerror})") from None
        if not items:
            empty.append(here.rstrip("/"))
    return entries, empty


def _of_archive(path: Path, where: str) -> list[Entry]:
    changed = path.stat().st_mtime_ns
    try:
        with _open(path) as archive:
            if isinstance(archive, tarfile.TarFile):
                members = [m for m in archive.getmembers() if m.isfile()]
                return [Entry(m.name, m.size, changed) for m in members]
            infos = [info for info in archive.infolist() if not info.is_dir()]
    except DAMAGED as error:
        raise _damaged(where, f"{path.name} ({error})") from None
    for info in infos:
        if info.file_size > max(2**20, MOST_RATIO * info.compress_size):
            got = f"{info.filename}: {info.compress_size:,} bytes that become {info.file_size:,}"
            raise fail(where, f"files that grow by at most a factor of {MOST_RATIO}", got)
    return [Entry(info.filename, info.file_size, changed) for info in infos]


def _open(path: Path) -> zipfile.ZipFile | tarfile.TarFile:
    return zipfile.ZipFile(path) if path.name.lower().endswith(".zip") else tarfile.open(path)


def _damaged(where: str, got: str) -> Exception:
    return fail(where, "files that can be read", got, "Copy or unpack it anew.")
