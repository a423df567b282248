"""USPS zip code digits, 7,291 and 2,007, from the text files of "The Elements of Statistical Learning".

References:
  LeCun et al. 1990, "Handwritten Digit Recognition with a Back-Propagation Network"; Hastie, Tibshirani &
  Friedman 2009, "The Elements of Statistical Learning", whose web page has the files.
"""

import gzip
import io
import zlib
from pathlib import Path

import numpy as np

from jaxdistill.core.checks import fail
from jaxdistill.data.dataset import Raw
from jaxdistill.data.tfds_sets import Source

FILES = ("zip.train", "zip.test")
SIDE = 16


def load_usps(source: Source) -> Raw:
    """The set as 16x16x1 float32 in [0, 1], white 1, from `zip.train` and `zip.test` in `manual_dir`.

    Either file may be gzipped, with `.gz` at the end of its name.

    Raises:
      UserError: no folder, files that are missing or that hold something else.
    """
    remedy = "The web page of The Elements of Statistical Learning has them, as ZIP code."
    if source.manual_dir is None:
        raise fail("load(usps)", f"manual_dir, a folder with {' and '.join(FILES)} (.gz)", "none", remedy)
    (x, y), (x_test, y_test) = (read_text(_find(source.manual_dir, name, remedy)) for name in FILES)
    return Raw(
        name="usps",
        x=x,
        y=y,
        class_names=tuple(map(str, range(10))),
        scale=1.0,
        x_test=x_test,
        y_test=y_test,
    )


def read_text(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """([N, 16, 16, 1] float32 in [0, 1], [N] int64): a line is a label and 256 grey values, -1 to 1.

    Raises:
      UserError: a file that is damaged, or whose lines are others.
    """
    where = f"load(usps) {path.name}"
    try:
        content = path.read_bytes()
        text = gzip.decompress(content) if path.suffix == ".gz" else content
        rows = np.loadtxt(io.BytesIO(text), ndmin=2)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise fail(where, "lines of numbers", f"a damaged or different file ({error})") from None
    if rows.shape[1] != 1 + SIDE**2:
        raise fail(where, f"lines of a label and {SIDE**2} grey values", f"{rows.shape[1]} numbers per line")
    labels, grey = rows[:, 0], rows[:, 1:]
    if not np.isin(labels, np.arange(10)).all():
        raise fail(where, "labels 0 to 9", labels[~np.isin(labels, np.arange(10))][0])
    if not (np.abs(grey) <= 1).all():  # NaN neither
        raise fail(where, "grey values from -1 to 1", grey[~(np.abs(grey) <= 1)][0])
    pixels = ((grey + 1) / 2).reshape(-1, SIDE, SIDE, 1)
    return pixels.astype(np.float32), labels.astype(np.int64)


def _find(folder: Path, name: str, remedy: str) -> Path:
    for path in (folder / f"{name}.gz", folder / name):
        if path.is_file():
            return path
    raise fail("load(usps)", f"{name}.gz or {name} in {folder}", "neither", remedy)
