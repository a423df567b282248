"""Tiny ImageNet, 200 classes of 64x64 pixels, from its original zip.

References:
  Le & Yang 2015, "Tiny ImageNet Visual Recognition Challenge", CS 231N.
"""

import numpy as np

from jaxdistill.core.checks import fail
from jaxdistill.data.cache import cached, of_archive, sha256_of
from jaxdistill.data.dataset import Raw
from jaxdistill.data.decoding import decoded, intact
from jaxdistill.data.tfds_sets import Source
from jaxdistill.data.trees import Entry, Tree, tree

ARCHIVE = "tiny-imagenet-200.zip"
FOLDER = "tiny-imagenet-200"
URL = f"http://cs231n.stanford.edu/{ARCHIVE}"
CLASSES = 200
PER_CLASS = 500
TESTED = 10_000
SIDE = 64


def load_tiny_imagenet(source: Source) -> Raw:
    """The set as 64x64x3 uint8, 100,000 and 10,000 images, from `tiny-imagenet-200.zip` in `manual_dir`.

    What its authors call validation images is the test part here: their test images have no labels. Classes
    are sorted by their WordNet numbers, images by their numbers. TFDS does not know the set, so
    no checksum of the zip is registered: the checksums inside of it, the names of the files and their counts
    are checked instead. The zip is read once; then its arrays, 1.35 GB, are in the cache, under its checksum.

    Raises:
      UserError: no archive, or one that is damaged or holds something else.
    """
    where = f"load({source.name})"
    remedy = f"It comes from {URL}"
    if source.manual_dir is None:
        raise fail(where, f"manual_dir, a folder with {ARCHIVE}", "none", remedy)
    path = source.manual_dir / ARCHIVE
    if not path.is_file():
        raise fail(where, f"{ARCHIVE} in {source.manual_dir}", "none", remedy)
    cache = of_archive(source.data_dir, source.name, sha256_of(path)[:16])
    return cached(cache, lambda: _read(source.name, tree(path, where)))


def _read(name: str, files: Tree) -> Raw:
    """The set in the archive."""
    entries = {str(entry.path): entry for entry in files.entries}
    where = files.where

    def found(file: str) -> Entry:
        if f"{FOLDER}/{file}" not in entries:
            raise fail(where, f"{FOLDER}/{file} in {ARCHIVE}", "no file of that name")
        return entries[f"{FOLDER}/{file}"]

    def lines(file: str) -> list[str]:
        return next(files.read([found(file)])).decode("utf-8", "replace").splitlines()

    def images(names: list[str]) -> np.ndarray:
        """[N, 64, 64, 3] uint8; grey images become colour."""
        out = np.empty((len(names), SIDE, SIDE, 3), np.uint8)
        contents = files.read([found(file) for file in names])
        for row, picture in enumerate(intact(decoded(contents, len(names)), names, where)):
            if picture.shape[:2] != (SIDE, SIDE):
                got = "x".join(map(str, picture.shape[:2]))
                raise fail(f"{where} {names[row]}", f"{SIDE}x{SIDE} pixels", got)
            out[row] = picture
        return out

    ids = sorted(line.strip() for line in lines("wnids.txt") if line.strip())
    if len(ids) != CLASSES:
        raise fail(f"{where} wnids.txt", f"{CLASSES} classes", len(ids))
    words = dict(line.split("\t", 1) for line in lines("words.txt") if "\t" in line)
    rows = [line.split("\t") for line in lines("val/val_annotations.txt")]
    here = f"{where} val/val_annotations.txt"
    if len(rows) != TESTED:
        raise fail(here, f"{TESTED} lines", len(rows))
    for row in rows:
        if len(row) < 2 or row[1] not in ids:
            raise fail(here, "lines of a file and its class, one of wnids.txt", " ".join(row))
    return Raw(
        name=name,
        x=images([f"train/{i}/images/{i}_{k}.JPEG" for i in ids for k in range(PER_CLASS)]),
        y=np.repeat(np.arange(CLASSES), PER_CLASS),
        class_names=tuple(words.get(i, i) for i in ids),
        scale=255.0,
        x_test=images([f"val/images/{row[0]}" for row in rows]),
        y_test=np.asarray([ids.index(row[1]) for row in rows]),
    )
