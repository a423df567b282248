"""`load(name)`: any data set, split and standardised, by one name."""

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import chex
import numpy as np

from jaxdistill.core.checks import above, fail
from jaxdistill.core.registry import Registry
from jaxdistill.core.types import Dataset
from jaxdistill.data.arrays import load_npz, raw_of_arrays
from jaxdistill.data.dataset import (
    DatasetInfo,
    Raw,
    Splits,
    from_arrays,
    resize,
    standardise,
    statistics,
)
from jaxdistill.data.tfds_sets import Source, configured_names, known_to_tfds, load_prepared, prepared_folder

TEST_FRACTION = 0.2  # of a set that has no test part

DATASETS: Registry[Callable[[Source], Raw]] = Registry(
    "dataset",
    {
        "digits": "jaxdistill.data.digits:load_digits",
        "mnist": "jaxdistill.data.idx_sets:load_idx",
        "fashion_mnist": "jaxdistill.data.idx_sets:load_idx",
        "kmnist": "jaxdistill.data.idx_sets:load_idx",
        "cifar10": "jaxdistill.data.tfds_sets:load_prepared",
        "cifar100": "jaxdistill.data.tfds_sets:load_prepared",
        "svhn_cropped": "jaxdistill.data.tfds_sets:load_prepared",
        "usps": "jaxdistill.data.usps:load_usps",
    },
)
"""The sets that have a name of their own: one line each. `load` also takes any prepared TFDS set."""

NORMALISATION: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "mnist": ((0.1307,), (0.3081,)),
    "fashion_mnist": ((0.2861,), (0.3530,)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
}
"""Mean and standard deviation that the literature uses; computed from the training part of other sets."""

MIRRORS: dict[str, bool] = {
    "cifar10": True,
    "cifar100": True,
    "digits": False,
    "fashion_mnist": True,
    "kmnist": False,
    "mnist": False,
    "svhn_cropped": False,
    "usps": False,
}
"""Whether the mirror image of an image is one of its class; not known of other sets."""


def load(
    name: str,
    *,
    data_dir: str | os.PathLike | None = None,
    manual_dir: str | os.PathLike | None = None,
    image_size: int | None = None,
    validation_fraction: float = 1 / 6,
    seed: int = 0,
) -> Splits:
    """Train, validation and test part of a data set: on the device, standardised, sorted by class.

    Validation is a stratified part of the *training* set: 10,000 of MNIST's 60,000 by default. A set
    without a test part (`digits`, some `.npz`) first gives a stratified fifth of its images to `test`.

    Args:
      name: `digits` (bundled with scikit-learn), the name of a TFDS image classification set (`mnist`,
        `emnist/balanced`, ...), or a path that ends in `.npz` (see `load_npz` for what is in it).
      data_dir: folder of prepared TFDS sets; by default `jaxdistill/data` in the user's cache folder.
      manual_dir: folder with the original files of `mnist`, `fashion_mnist` or `kmnist`, used when the
        set is not prepared yet, instead of the network, and of `usps`, always. Where it is given, it has
        to be there for any set.
      image_size: side in pixels to resize to (square, antialiased bilinear); None keeps the size.
      validation_fraction: part of the training set that becomes `validation`, in (0, 1), rounded up.
      seed: of the splits, and of nothing else. Leave it: every run then has the same splits.

    Returns:
      The splits and what is known of the set.

    Raises:
      UserError: an unknown name, files that are missing or damaged, data that do not fit.

    Example:
      >>> load("digits").train.x.shape
      (1197, 8, 8, 1)
    """
    above("load", "validation_fraction", validation_fraction, 0)
    if not validation_fraction < 1:
        raise fail("load", "validation_fraction < 1", validation_fraction)
    if image_size is not None:
        resize(np.zeros((1, 1, 1, 1), np.uint8), image_size)  # a bad size fails before any file is read
    raw = _read(name, data_dir, manual_dir, image_size)
    return _splits_of(raw, image_size, validation_fraction, seed, NORMALISATION.get(name))


def splits(
    x: chex.Array,
    y: chex.Array,
    x_test: chex.Array | None = None,
    y_test: chex.Array | None = None,
    *,
    class_names: Sequence[str] | None = None,
    image_size: int | None = None,
    validation_fraction: float = 1 / 6,
    seed: int = 0,
    name: str = "arrays",
) -> Splits:
    """Arrays as a data set, ready to distill: split, standardised, on the device.

    Args:
      x: [N, H, W, C] or [N, H, W] images: uint8 (0 to 255) or floats (white is 1 where no pixel exceeds 1,
        and 255 otherwise).
      y: [N] integers; all of 0..max(y) occur.
      x_test, y_test: the same for the test part; without them a stratified fifth of the images is split off.
      class_names: a name per class; their numbers when None.
      image_size, validation_fraction, seed: as for `load`.
      name: what tables call the set.

    Returns:
      The splits and what is known of the set.

    Raises:
      UserError: arrays of the wrong type, shape or length, NaN or infinite pixels, labels with gaps.

    Example:
      >>> import numpy as np
      >>> x = np.random.default_rng(0).integers(0, 256, (40, 8, 8), np.uint8)
      >>> splits(x, np.arange(40) % 4).info.image_shape
      (8, 8, 1)
    """
    given = {"x": x, "y": y, "x_test": x_test, "y_test": y_test}
    content = {key: np.asarray(value) for key, value in given.items() if value is not None}
    if class_names is not None:
        content["class_names"] = np.asarray(class_names, np.str_)
    raw = raw_of_arrays(content, name, f"splits({name})")
    return _splits_of(raw, image_size, validation_fraction, seed, None)


def _splits_of(
    raw: Raw,
    image_size: int | None,
    validation_fraction: float,
    seed: int,
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] | None,
) -> Splits:
    """Splits, resizes and standardises a set as a loader found it."""
    num_classes = len(raw.class_names)
    x, y, x_test, y_test = raw.x, raw.y, raw.x_test, raw.y_test
    if x_test is None or y_test is None:
        train, test = _split(raw, y, TEST_FRACTION, seed)
        x, y, x_test, y_test = x[train], y[train], x[test], y[test]
    train, validation = _split(raw, y, validation_fraction, seed)
    if image_size is not None:
        x, x_test = resize(x, image_size), resize(x_test, image_size)
    mean, std = normalisation or statistics(x[train], raw.scale)
    height, width, channels = x.shape[1:]
    info = DatasetInfo(
        name=raw.name,
        image_shape=(height, width, channels),
        num_classes=num_classes,
        class_names=raw.class_names,
        scale=raw.scale,
        mean=mean,
        std=std,
    )

    def part(x: np.ndarray, y: np.ndarray) -> Dataset:
        return from_arrays(standardise(x, info), y, num_classes)

    return Splits(part(x[train], y[train]), part(x[validation], y[validation]), part(x_test, y_test), info)


def _read(
    name: str,
    data_dir: str | os.PathLike | None,
    manual_dir: str | os.PathLike | None,
    image_size: int | None,
) -> Raw:
    files = None if manual_dir is None else Path(manual_dir).expanduser()
    if files is not None and not files.is_dir():
        remedy = "Leave it out where the set is prepared already."
        raise fail(f"load({name})", "manual_dir, a folder", f"{files}, where there is none", remedy)
    if name.endswith(".npz"):
        return load_npz(name)
    folder = Path(data_dir or default_data_dir()).expanduser()
    source = Source(name, folder, files, image_size)
    if name in DATASETS:
        return DATASETS[name](source)
    if not (prepared_folder(folder, name) or configured_names(folder, name) or known_to_tfds(name)):
        names = ", ".join(sorted(DATASETS))
        raise fail("load", f"one of {names}, any prepared TFDS set, or a path that ends in .npz", repr(name))
    return load_prepared(source)


def _split(raw: Raw, y: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Splits off a stratified part that has every class, as has what is left of it."""
    classes = len(raw.class_names)
    counts = np.bincount(y, minlength=classes)
    size = math.ceil(round(len(y) * fraction, 6))  # 1/6 of 60,000 is 10,000 whatever the last bit is
    kept, taken = raw.split(y, size, seed) if size < len(y) else (y[:0], y)
    for part in (kept, taken):
        if not np.bincount(y[part], minlength=classes).all():
            least = int(counts.argmin())
            expected = f"enough images of each class to split off a fraction of {fraction:.3g}"
            got = f"{counts[least]} of class {least} ({raw.class_names[least]})"
            raise fail(
                f"load({raw.name})", expected, got, "Add images; in Python, lower validation_fraction."
            )
    return kept, taken


def default_data_dir() -> Path:
    """Where prepared sets go: `jaxdistill/data` under XDG_CACHE_HOME, or under ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "jaxdistill" / "data"
