"""Many pictures, from the bytes of their files to arrays of one kind."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple

import numpy as np

from jaxdistill.core.checks import fail
from jaxdistill.core.reporting import report
from jaxdistill.data.pictures import BROKEN, decode

CHUNK = 256
"""Pictures that one thread decodes at a time."""
SMALL = 16_384
"""Files of fewer bytes on average are decoded by one thread: most of their time goes to Python, for which
threads wait. 60,000 JPEGs of 32x32 take 5 s in one thread and 10 s in two."""


class Decoded(NamedTuple):
    """A picture from its file."""

    pixels: np.ndarray | str
    """As `jaxdistill.data.pictures.decode` returns them; the error of a broken file."""
    digest: str
    """SHA-256 of the file."""


def decoded(
    contents: Iterator[bytes], total: int, *, size: int | None = None, fit: str = "crop"
) -> Iterator[Decoded]:
    """Decodes pictures in threads, in their order, and reports how far it is.

    Args:
      contents: of the files; read as far ahead as threads decode.
      total: how many files there are, for the reports.
      size, fit: see `jaxdistill.data.pictures.decode`.

    Raises:
      UserError: pictures of that size take more than the memory of this machine.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if size is not None and total * size**2 > memory:
        expected = f"an image_size at which {total} grey pictures fit the memory of {memory / 1e9:.0f} GB"
        raise fail("load", expected, f"{size}, which takes {total * size**2 / 1e9:,.0f} GB")
    done = 0
    for chunk in _in_threads(contents, size, fit):
        yield from chunk
        done += len(chunk)
        report("decoding pictures", done, total)


def intact(pictures: Iterable[Decoded], names: Sequence[str], where: str) -> Iterator[np.ndarray]:
    """The pixels of pictures; raises if one is broken.

    Args:
      pictures: as `decoded` yields them.
      names: of their files.
      where: for errors.

    Raises:
      UserError: a broken picture, with its name.
    """
    for name, (pixels, _) in zip(names, pictures, strict=True):
        if isinstance(pixels, str):
            raise fail(f"{where} {name}", "a picture that can be decoded", f"a broken picture ({pixels})")
        yield pixels


def _in_threads(contents: Iterator[bytes], size: int | None, fit: str) -> Iterator[list[Decoded]]:
    """The pictures chunk by chunk."""
    threads = os.cpu_count() or 1

    def work(chunk: list[bytes]) -> list[Decoded]:
        return [_one(content, size, fit) for content in chunk]

    with ThreadPoolExecutor(threads) as pool:
        waiting: list[Future[list[Decoded]]] = []
        while chunk := list(islice(contents, CHUNK)):
            if sum(map(len, chunk)) < SMALL * len(chunk):
                for each in waiting:
                    yield each.result()
                waiting = []
                yield work(chunk)
                continue
            waiting.append(pool.submit(work, chunk))
            if len(waiting) > 2 * threads:
                yield waiting.pop(0).result()
        for each in waiting:
            yield each.result()


def _one(content: bytes, size: int | None, fit: str) -> Decoded:
    try:
        pixels = decode(content, size, fit)
    except BROKEN as error:
        pixels = " ".join(str(error).split()).split(" <_io")[0] or type(error).__name__
    return Decoded(pixels, hashlib.sha256(content).hexdigest())


def check_sizes(images: Sequence[np.ndarray], names: Sequence[str], where: str) -> None:
    """Raises unless all pictures have the height and width of the first; the error names two."""
    for name, image in zip(names, images, strict=True):
        if image.shape[:2] != images[0].shape[:2]:
            pair = ((names[0], images[0].shape), (name, image.shape))
            shapes = [f"{height}x{width} of {of}" for of, (height, width, _) in pair]
            remedy = "Pass image_size, say 64; fit says whether they are cropped, padded or stretched."
            raise fail(where, "pictures of one size", " and ".join(shapes), remedy)


def alike(images: list[np.ndarray]) -> tuple[list[np.ndarray], list[str]]:
    """The images with one type and one number of channels, and notes about changes."""
    told = []
    wide = [image.dtype == np.uint16 for image in images]
    if any(wide) and not all(wide):
        told.append(f"{sum(wide)} of {len(images)} pictures have 16 bits; they are rounded to 8")
        images = [np.rint(i / 257).astype(np.uint8) if w else i for i, w in zip(images, wide, strict=True)]
    colour = [image.shape[2] == 3 for image in images]
    if any(colour) and not all(colour):
        told.append(f"{len(images) - sum(colour)} of {len(images)} pictures are grey; they become colour")
        images = [i if c else np.repeat(i, 3, axis=2) for i, c in zip(images, colour, strict=True)]
    return images, told
