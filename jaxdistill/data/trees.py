"""The files of a folder, a zip or a tar, all read in the same way."""

import bz2
import contextlib
import gzip
import lzma
import os
import re
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from jaxdistill.core.checks import UserError, fail

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
COMPRESSED: dict[str, Callable[..., Any]] = {
    ".gz": gzip.open,
    ".tgz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
}
MOST_BYTES = 256 * 2**20
"""A larger file is refused before it is read."""
MOST_RATIO = 1000
"""A file of a zip that grows by more than this factor is refused, from a megabyte on."""
MOST_GROWTH = 100
"""An archive that grows by more than this factor as a whole is refused, from `MOST_BYTES` on."""
BLOCK = 2**20
"""Bytes that are read at a time."""
ENCRYPTED = 1
"""The bit in `flag_bits` of a zip's member that needs a password."""
DAMAGED = (OSError, EOFError, ValueError, zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError)
DAMAGED += (RuntimeError, KeyError)
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
    """When it was changed, in any unit; of a file the time of its last change of any kind, since archives and
    copies may bring back the time of an older one."""


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
            try:
                read = self._reader(stack)
            except UserError:
                raise
            except DAMAGED as error:
                raise _damaged(self.where, f"{self.root.name} ({error})") from None
            for entry in wanted:
                try:
                    yield read(entry.path)
                except DAMAGED as error:
                    raise _damaged(self.where, f"{entry.path} ({error})") from None

    def _reader(self, stack: contextlib.ExitStack) -> Callable[[str], bytes]:
        """path -> content, while the stack is open."""
        if self.root.is_dir():
            return lambda path: (self.root / path).read_bytes()
        if _is_zip(self.root):
            archive = stack.enter_context(zipfile.ZipFile(self.root))
            infos = {_name_in_zip(info): info for info in archive.infolist()}
            return lambda path: archive.read(infos[path])
        file = stack.enter_context(_unpacked(self.root, self.where))
        tar = stack.enter_context(tarfile.TarFile(fileobj=file))
        members = {_plain(member.name): member for member in tar.getmembers()}

        def content(path: str) -> bytes:
            found = tar.extractfile(members[path])
            if found is None:
                raise ValueError("no regular file")
            return found.read()

        return content


def is_archive(path: str | os.PathLike) -> bool:
    """Whether a name is one of an archive that `tree` reads."""
    return os.fspath(path).lower().endswith(ARCHIVES)


def tree(path: Path, where: str) -> Tree:
    """The files of a folder or of an archive.

    Args:
      path: a folder, or a file that `is_archive`.
      where: for errors.

    Raises:
      UserError: nothing there, an archive that is damaged, needs a password or grows too much, a link that
        leads out of the folder, a file that is too large. An archive is read no further than its first fault.
    """
    if not path.exists():
        raise fail(where, "a folder or an archive", f"nothing at {path}")
    entries: Iterable[Entry]
    folders: list[str] = []
    if path.is_dir():
        entries, folders = _of_folder(path, where)
    elif not is_archive(path):
        kinds = ", ".join((*ARCHIVES, ".npz", ".parquet"))
        raise fail(where, f"a folder, or a file that ends in one of {kinds}", path.name)
    else:
        entries = _of_zip(path, where) if _is_zip(path) else _of_tar(path, where)
    kept = []
    for entry in entries:
        if OUTSIDE.search(entry.path):
            raise fail(where, "names that stay in the archive", f"{entry.path}, which leads out of it")
        if HIDDEN.search(entry.path):
            continue
        if entry.size > MOST_BYTES:
            got = f"{entry.path}, {entry.size >> 20} MB"
            raise fail(where, f"files of at most {MOST_BYTES >> 20} MB", got)
        kept.append(entry)
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
                if item.is_symlink() and not item.is_file():
                    raise fail(where, "links to files", f"{path}, a link to a folder or to nothing")
                if item.is_dir(follow_symlinks=False):
                    waiting.append(f"{path}/")
                elif item.is_file():
                    about = item.stat()
                    entries.append(Entry(path, about.st_size, about.st_ctime_ns))
        except OSError as error:
            raise fail(where, "a folder that can be read", f"{error.filename} ({error.strerror})") from None
        if not items:
            empty.append(here.rstrip("/"))
    return entries, empty


def _of_zip(path: Path, where: str) -> Iterator[Entry]:
    changed = path.stat().st_ctime_ns
    try:
        with zipfile.ZipFile(path) as archive:
            infos = [info for info in archive.infolist() if not info.is_dir()]
    except DAMAGED as error:
        raise _damaged(where, f"{path.name} ({error})") from None
    for info in infos:
        if info.flag_bits & ENCRYPTED:
            got = f"{path.name}, which is encrypted"
            remedy = "Unpack it with its password, and give the folder."
            raise fail(where, "an archive that needs no password", got, remedy)
        if info.file_size > max(2**20, MOST_RATIO * info.compress_size):
            got = f"{info.filename}: {info.compress_size:,} bytes that become {info.file_size:,}"
            raise fail(where, f"files that grow by at most a factor of {MOST_RATIO}", got)
    if sum(info.file_size for info in infos) > most_unpacked(path):
        raise too_much(where, path)
    return (Entry(_name_in_zip(info), info.file_size, changed) for info in infos)


def _of_tar(path: Path, where: str) -> Iterator[Entry]:
    """Its files in their order, each as soon as its header is read."""
    changed, total, most = path.stat().st_ctime_ns, 0, most_unpacked(path)
    try:
        with _stream(path, where) as file, tarfile.TarFile(fileobj=file) as archive:
            for member in archive:
                if not (member.isfile() or member.isdir()):
                    got = f"{member.name}, a link or a device"
                    raise fail(where, "files and folders in the archive", got)
                total += member.size  # of a sparse file more than is in the archive
                if total > most:
                    raise too_much(where, path)
                if member.isfile():
                    yield Entry(_plain(member.name), member.size, changed)
    except UserError:
        raise
    except DAMAGED as error:
        raise _damaged(where, f"{path.name} ({error})") from None


def most_unpacked(path: Path) -> int:
    """The number of bytes that an archive may hold."""
    return max(MOST_BYTES, MOST_GROWTH * path.stat().st_size)


def too_much(
    where: str, path: Path, remedy: str = "If you trust it, unpack it and give the folder."
) -> UserError:
    """The error of an archive that holds more than `most_unpacked`."""
    expected = f"at most {most_unpacked(path):,} bytes in an archive of {path.stat().st_size:,}"
    return fail(where, expected, f"more in {path.name}", remedy)


def _is_zip(path: Path) -> bool:
    return path.name.lower().endswith(".zip")


def _plain(name: str) -> str:
    """A member's name without the `./` that `tar -C FOLDER .` begins it with."""
    return name.removeprefix("./")


def _name_in_zip(info: zipfile.ZipInfo) -> str:
    """A member's name with slashes: some programs of Windows write backslashes, against the format."""
    return _plain(info.filename if "/" in info.filename else info.filename.replace("\\", "/"))


class _Limited:
    """A file with a limit of bytes: reading more raises `error` before memory or disk is full."""

    def __init__(self, file: IO[bytes], most: int, error: UserError):
        self._file, self._most, self._error = file, most, error

    def read(self, size: int) -> bytes:
        found = []
        while size > 0 and (block := self._file.read(min(size, BLOCK))):
            found.append(block)
            size -= len(block)
            self._check(self._file.tell())
        return b"".join(found)

    def seek(self, place: int) -> int:
        self._check(place)
        return self._file.seek(place)

    def tell(self) -> int:
        return self._file.tell()

    def _check(self, place: int) -> None:
        if place > self._most:
            raise self._error


@contextlib.contextmanager
def _stream(path: Path, where: str) -> Iterator[Any]:
    """The bytes of a tar, unpacked as they are read; raises as soon as they are too many."""
    endings = (open_ for ending, open_ in COMPRESSED.items() if path.name.lower().endswith(ending))
    with next(endings, open)(path, "rb") as file:
        yield _Limited(file, most_unpacked(path), too_much(where, path))


@contextlib.contextmanager
def _unpacked(path: Path, where: str) -> Iterator[IO[bytes]]:
    """A tar that is not compressed, so that its members can be read in any order at once."""
    if not path.name.lower().endswith(tuple(COMPRESSED)):
        with path.open("rb") as file:
            yield file
        return
    with _stream(path, where) as packed, tempfile.TemporaryFile() as file:
        shutil.copyfileobj(packed, file, BLOCK)
        file.seek(0)
        yield file


def _damaged(where: str, got: str) -> Exception:
    return fail(where, "files that can be read", got, "Copy or unpack it again.")
