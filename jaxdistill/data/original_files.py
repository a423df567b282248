"""Original files of data sets: found in a folder or downloaded, and checked before they are read."""

import contextlib
import threading
import urllib.request
import warnings
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from jaxdistill.core.checks import Caution, fail
from jaxdistill.core.reporting import report
from jaxdistill.data.cache import sha256_of
from jaxdistill.data.tfds_sets import Source

PROBE_SECONDS = 10.0
READ_SECONDS = 30.0
LARGE = 50_000_000
"""A caution names the size of a download of more bytes than this."""
BLOCK = 2**20
"""Bytes that are fetched at a time."""


class Original(NamedTuple):
    """A file with its registered size and checksum."""

    url: str
    size: int
    """In bytes."""
    sha256: str

    @property
    def name(self) -> str:
        """The last part of the address."""
        return self.url.rpartition("/")[2]


def folder_of(source: Source, files: Sequence[Original]) -> Path:
    """The folder with all files intact: `source.manual_dir`, or else the folder of downloads.

    Raises:
      UserError: a file that is missing, damaged, or cannot be downloaded.
    """
    if source.manual_dir is None:
        return download(source, files)
    where, folder = f"load({source.name})", source.manual_dir
    missing = [file.name for file in files if not (folder / file.name).is_file()]
    if missing:
        names = ", ".join(file.name for file in files)
        got = "none of them" if len(missing) == len(files) else f"no {', '.join(missing)}"
        remedy = f"They come from {files[0].url.rpartition('/')[0]}/"
        raise fail(where, f"{names} in {folder}", got, remedy)
    for file in files:
        check(where, folder / file.name, file)
    return folder


def check(where: str, path: Path, registered: Original) -> None:
    """Raises unless the file is the registered one, byte by byte."""
    problem = damage(path, registered)
    if problem:
        remedy = f"Download it again from {registered.url} (a separate folder for each set)."
        raise fail(where, f"the registered file {path}", problem, remedy)


def download(source: Source, files: Sequence[Original]) -> Path:
    """Downloads the files into `data_dir/downloads/<name>`, unless they are there and intact.

    Raises:
      UserError: no connection (said within `PROBE_SECONDS`), or what arrives is not the registered file.
    """
    where = f"load({source.name})"
    folder = source.data_dir / "downloads" / source.name
    wanted = [file for file in files if damage(folder / file.name, file)]
    host = urlsplit(files[0].url).hostname
    names = ", ".join(file.name for file in files)
    remedy = f"Or pass manual_dir, a folder with {names} (from {files[0].url.rpartition('/')[0]}/)."
    if wanted:
        problem = probe(wanted[0].url, PROBE_SECONDS)
        if problem:
            raise fail(where, f"a connection to {host} to download the set", problem, remedy)
        size = sum(file.size for file in wanted)
        if size > LARGE:
            line = f"{where}: downloads {size / 1e6:.0f} MB from {host} to {folder}"
            warnings.warn(line, Caution, stacklevel=3)
    for file in wanted:
        part = folder / f"{file.name}.part"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with urllib.request.urlopen(file.url, timeout=READ_SECONDS) as response, part.open("wb") as out:
                while block := response.read(BLOCK):
                    out.write(block)
                    report(f"downloading {file.name}, bytes", out.tell(), file.size)
            problem = damage(part, file)
            if problem:
                raise fail(where, f"the registered {file.name} from {host}", problem, remedy)
            part.replace(folder / file.name)
        except (OSError, HTTPException) as error:
            raise fail(
                where, f"a complete download of {file.name} from {host}", repr(error), remedy
            ) from None
        finally:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
    return folder


def probe(url: str, seconds: float) -> str:
    """Why `url` cannot be fetched, in words; empty if it can. Takes `seconds` at most.

    In a thread, since looking up a name heeds no timeout; through the proxies of the environment.
    """
    answer = [f"no answer in {seconds:.0f} s"]

    def ask() -> None:
        try:
            with urllib.request.urlopen(url, timeout=seconds):
                answer[0] = ""
        except (OSError, HTTPException) as error:
            answer[0] = str(getattr(error, "reason", error)) or repr(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return answer[0]


def damage(path: Path, registered: Original) -> str:
    """The difference of a file from its registered facts, in words; empty if there is none."""
    if not path.is_file():
        return "no such file"
    if path.stat().st_size != registered.size:
        return f"{path.stat().st_size} bytes in place of {registered.size}"
    actual = sha256_of(path)
    return (
        ""
        if actual == registered.sha256
        else f"SHA-256 {actual[:12]}... in place of {registered.sha256[:12]}..."
    )
