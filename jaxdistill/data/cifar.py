"""CIFAR-10 and CIFAR-100 from their authors' archives, in either form: binary, or Python batches.

References:
  Krizhevsky 2009, "Learning multiple layers of features from tiny images"; https://www.cs.toronto.edu/~kriz/cifar.html
"""

import codecs
import io
import pickle
import tarfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxdistill.core.checks import Caution, fail
from jaxdistill.data.cache import cached, of_archive
from jaxdistill.data.dataset import Raw
from jaxdistill.data.original_files import Original, check, download
from jaxdistill.data.tfds_sets import Source, prepared_folder, read_prepared

PIXELS = 3 * 32 * 32
URL = "https://www.cs.toronto.edu/~kriz/"


class Form(NamedTuple):
    """One of the forms in which a set is published."""

    archive: Original
    folder: str
    """In the archive."""
    train: dict[str, int]
    """How many images each file holds, in the order of the images."""
    test: dict[str, int]
    names: str
    """The file with the names of the classes."""
    key: str
    """What the label is called in Python batches; empty in the binary form."""


BATCHES = [f"data_batch_{i}" for i in range(1, 6)]
FORMS: dict[str, tuple[Form, ...]] = {
    "cifar10": (
        Form(
            Original(
                f"{URL}cifar-10-binary.tar.gz",
                170_052_171,
                "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
            ),
            "cifar-10-batches-bin",
            {f"{name}.bin": 10_000 for name in BATCHES},
            {"test_batch.bin": 10_000},
            "batches.meta.txt",
            "",
        ),
        Form(
            Original(
                f"{URL}cifar-10-python.tar.gz",
                170_498_071,
                "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
            ),
            "cifar-10-batches-py",
            dict.fromkeys(BATCHES, 10_000),
            {"test_batch": 10_000},
            "batches.meta",
            "label",
        ),
    ),
    "cifar100": (
        Form(
            Original(
                f"{URL}cifar-100-binary.tar.gz",
                168_513_733,
                "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
            ),
            "cifar-100-binary",
            {"train.bin": 50_000},
            {"test.bin": 10_000},
            "fine_label_names.txt",
            "",
        ),
        Form(
            Original(
                f"{URL}cifar-100-python.tar.gz",
                169_001_437,
                "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
            ),
            "cifar-100-python",
            {"train": 50_000},
            {"test": 10_000},
            "meta",
            "fine_label",
        ),
    ),
}
"""The binary form comes first: it is downloaded. Its checksums are from TFDS, the others' from Keras."""
LABEL_BYTES = {"cifar10": 1, "cifar100": 2}
"""Bytes before the pixels of a binary record; the last one is the label (CIFAR-100: coarse, then fine)."""
CLASSES = {"cifar10": 10, "cifar100": 100}


def load_cifar(source: Source) -> Raw:
    """The set as 32x32x3 uint8, from the first of these that is there.

    - The set as TFDS prepared it, in `source.data_dir`.
    - In `source.manual_dir`: the binary archive, the Python one, or the folder that either unpacks to, whose
      files no checksum covers.
    - Without `manual_dir`: the arrays of an archive that was read before, or a download of the binary one.

    Images have the order of the files. TFDS has another, and therefore another validation part for the same
    seed. An archive is read once; then its arrays, 184 MB, are in the cache.

    Raises:
      UserError: files that are missing, damaged, hold something else, or cannot be downloaded.
    """
    folder = prepared_folder(source.data_dir, source.name)
    if folder is not None:
        return read_prepared(folder, source)
    where, forms = f"load({source.name})", FORMS[source.name]
    if source.manual_dir is None:
        form = next((form for form in forms if _cache(source, form).is_dir()), forms[0])
        return cached(_cache(source, form), lambda: _downloaded(source, form))
    for form in forms:
        path = source.manual_dir / form.archive.name
        if path.is_file():
            return cached(_cache(source, form), partial(_from_archive, source.name, form, path))
    for form in forms:
        path = source.manual_dir / form.folder
        if path.is_dir():
            line = f"{where}: no checksum covers the files in {path}; {form.archive.name} has one"
            warnings.warn(line, Caution, stacklevel=2)
            names = [name for name in (*form.train, *form.test, form.names) if (path / name).is_file()]
            return _read(source.name, form, path, {name: (path / name).read_bytes() for name in names})
    expected = " or ".join(form.archive.name for form in forms)
    folders = " or ".join(form.folder for form in forms)
    remedy = f"They come from {URL}"
    raise fail(where, f"{expected} in {source.manual_dir}, or the folder {folders}", "neither", remedy)


def _cache(source: Source, form: Form) -> Path:
    return of_archive(source.data_dir, source.name, form.archive.sha256[:16])


def _downloaded(source: Source, form: Form) -> Raw:
    return _from_archive(source.name, form, download(source, [form.archive]) / form.archive.name)


def _from_archive(name: str, form: Form, path: Path) -> Raw:
    check(f"load({name})", path, form.archive)
    contents = {}
    with tarfile.open(path) as archive:
        for member in archive:
            folder, _, file = member.name.rpartition("/")
            content = archive.extractfile(member)
            if Path(folder).name == form.folder and content is not None:
                contents[file] = content.read()
    return _read(name, form, path, contents)


def _read(name: str, form: Form, path: Path, contents: dict[str, bytes]) -> Raw:
    """The set in the files of a form, by name.

    Args:
      name: of the set.
      form: which files there are.
      path: of the archive or folder, for errors.
      contents: bytes by the name of the file.
    """
    where = f"load({name}) {path.name}"
    missing = [file for file in (*form.train, *form.test, form.names) if file not in contents]
    if missing:
        raise fail(where, f"{', '.join((*form.train, *form.test, form.names))}", f"no {', '.join(missing)}")

    def part(files: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
        xs, ys = [], []
        for file, count in files.items():
            here = f"{where}/{file}"
            if form.key:
                x, y = read_batch(contents[file], f"{form.key}s", here)
            else:
                x, y = read_records(contents[file], LABEL_BYTES[name], here)
            if len(x) != count:
                raise fail(here, f"{count} images", len(x))
            if not ((y >= 0) & (y < CLASSES[name])).all():
                wrong = y[(y < 0) | (y >= CLASSES[name])][0]
                raise fail(here, f"labels 0 to {CLASSES[name] - 1}", wrong)
            xs.append(x)
            ys.append(y)
        return np.concatenate(xs), np.concatenate(ys)

    here = f"{where}/{form.names}"
    if form.key:
        class_names = _entry(unpickled(contents[form.names], here), f"{form.key}_names", here)
    else:
        class_names = contents[form.names].decode("utf-8", "replace").split("\n")
    class_names = tuple(str(text).strip() for text in class_names if str(text).strip())
    if len(class_names) != CLASSES[name]:
        raise fail(here, f"{CLASSES[name]} names of classes", len(class_names))
    (x, y), (x_test, y_test) = part(form.train), part(form.test)
    return Raw(name, x, y, class_names, 255.0, x_test, y_test)


def read_records(content: bytes, label_bytes: int, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Records of the binary form: labels, then 32x32 red, green and blue values.

    Args:
      content: of the file.
      label_bytes: how many bytes of a record are labels; the last one counts.
      where: for errors.

    Returns:
      ([N, 32, 32, 3] uint8, [N] int64).

    Raises:
      UserError: the file ends within a record.
    """
    record = label_bytes + PIXELS
    if len(content) % record:
        raise fail(where, f"records of {record} bytes", f"{len(content)} bytes, which is not a multiple")
    rows = np.frombuffer(content, np.uint8).reshape(-1, record)
    return _images(rows[:, label_bytes:]), rows[:, label_bytes - 1].astype(np.int64)


def read_batch(content: bytes, key: str, where: str) -> tuple[np.ndarray, np.ndarray]:
    """A batch of the Python form: a pickled dict with `data` and a list of labels.

    Args:
      content: of the file.
      key: what the labels are called.
      where: for errors.

    Returns:
      ([N, 32, 32, 3] uint8, [N] int64).

    Raises:
      UserError: a pickle that is damaged, or holds anything but arrays, lists, text and numbers; images of
        another shape; labels that are missing or not one per image.
    """
    batch = unpickled(content, where)
    data = _entry(batch, "data", where)
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape[1:] != (PIXELS,):
        got = f"{data.dtype} {data.shape}" if isinstance(data, np.ndarray) else type(data).__name__
        raise fail(where, f"data, a uint8 array [N, {PIXELS}]", got)
    labels = _entry(batch, key, where)
    if not isinstance(labels, list) or len(labels) != len(data) or not all(type(v) is int for v in labels):
        got = f"{len(labels)} of them" if isinstance(labels, list) else type(labels).__name__
        raise fail(where, f"{key}, a list of {len(data)} integers", got)
    return _images(data), np.asarray(labels, np.int64)


def _images(rows: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


def _entry(batch: Any, key: str, where: str) -> Any:
    if not isinstance(batch, dict) or key not in batch:
        got = f"only {', '.join(map(str, batch))}" if isinstance(batch, dict) else type(batch).__name__
        raise fail(where, f"a dict with {key}", got)
    return batch[key]


def unpickled(content: bytes, where: str) -> Any:
    """The content of a pickle of arrays, dicts, lists, text and numbers; no code in it is ever run.

    Args:
      content: the pickle, of Python 2 or 3.
      where: for errors.

    Raises:
      UserError: a pickle that is damaged, or names any function or class that arrays do not need.
    """
    try:
        return _ArraysOnly(io.BytesIO(content), encoding="latin1").load()
    except _Refused as error:
        remedy = "It could run code: do not open it. Download the archive again."
        raise fail(where, "a pickle of arrays", f"a pickle that names {error}", remedy) from None
    except Exception as error:  # damage in a pickle raises anything
        raise fail(where, "an intact pickle", f"a damaged or different file ({error!r})") from None


class _Refused(Exception):
    pass


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        """The only names that a pickle may use: those that make arrays."""
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return np.zeros(0).__reduce__()[0]  # pyright: ignore[reportReturnType]
        if (module, name) == ("numpy", "ndarray"):
            return np.ndarray
        if (module, name) == ("numpy", "dtype"):  # Python 2 wrote align and copy as 0 and 1
            return lambda kind, align=False, copy=False: np.dtype(kind, align=bool(align), copy=bool(copy))
        if (module, name) == ("_codecs", "encode"):  # the bytes of an array, in a pickle of Python 3
            return codecs.encode
        raise _Refused(f"{module}.{name}")
