"""The parts of a set: what a user asks of them, and how a set without a test part is split."""

import math
from typing import NamedTuple

import numpy as np

from jaxdistill.core.checks import above, check_seed, fail, one_of
from jaxdistill.data.dataset import Raw
from jaxdistill.data.shaping import check_shaping, fitted, with_channels
from jaxdistill.data.streaming import HostImages
from jaxdistill.data.whitening import PREPROCESSINGS

TEST_FRACTION = 0.2
"""The default fraction for a set that has no test part."""
VALIDATION_FRACTION = 1 / 6
"""The default fraction of the training part, for a set that has no validation part."""


class Form(NamedTuple):
    """The form of a loaded set: sizes, channels, splits."""

    image_size: int | None = None
    fit: str = "crop"
    channels: int | None = None
    validation_fraction: float | None = None
    test_fraction: float | None = None
    preprocess: str = "standardise"
    seed: int = 0

    def check(self, where: str) -> None:
        """Raises on a value that no set can have."""
        check_shaping(where, self.image_size, self.fit, self.channels)
        one_of(f"{where} preprocess", self.preprocess, PREPROCESSINGS)
        check_seed(where, self.seed)
        for name in ("validation_fraction", "test_fraction"):
            value = getattr(self, name)
            if value is None:
                continue
            above(where, name, value, 0)
            if not value < 1:
                raise fail(where, f"{name} < 1", value)


class Parts(NamedTuple):
    """The images and labels of a set that is split, in its own units."""

    train: tuple[np.ndarray | HostImages, np.ndarray]
    validation: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]


def parts_of(raw: Raw, form: Form, data_memory: int | None) -> Parts:
    """The parts of a set; training images stay where they are if they are larger than `data_memory`."""
    x, y, x_test, y_test = raw.x, raw.y, raw.x_test, raw.y_test
    x_validation, y_validation = raw.x_validation, raw.y_validation
    _check_counts(raw, form)
    rows = np.arange(len(y))
    if x_test is None or y_test is None:
        parts = 2 if x_validation is None or y_validation is None else 1
        rest, taken = _split(raw, y, form, "test_fraction", parts)
        x_test, y_test, rows = x[rows[taken]], y[rows[taken]], rows[rest]
    if x_validation is None or y_validation is None:
        rest, taken = _split(raw, y[rows], form, "validation_fraction", 1)
        x_validation, y_validation, rows = x[rows[taken]], y[rows[taken]], rows[rest]
    y, size = y[rows], len(rows) * x[0].size
    streamed = data_memory is not None and size * x.dtype.itemsize > data_memory
    if streamed and form.preprocess != "standardise":
        expected = f"preprocess=standardise with images larger than data_memory={data_memory}"
        raise fail(f"load({raw.name})", expected, form.preprocess)
    if streamed and x.dtype != np.uint8:
        raise fail(f"load({raw.name}) data_memory", "images of 8 bits, not resized", x.dtype)
    x = HostImages(x, rows) if streamed else x[rows]
    return Parts((x, y), (x_validation, y_validation), (x_test, y_test))


def shaped(x: np.ndarray, form: Form, name: str) -> np.ndarray:
    """Images [N, H, W, C] of the set of that name, with the size and channels of the form."""
    if form.image_size is not None:
        x = fitted(x, form.image_size, form.fit)
    return x if form.channels is None else with_channels(x, form.channels, f"load({name})")


def _check_counts(raw: Raw, form: Form) -> None:
    """Raises if a fraction has no effect, or if a class has too few images to split."""
    where = f"load({raw.name})"
    own = {"validation": raw.x_validation, "test": raw.x_test}
    for part, there in own.items():
        value = getattr(form, f"{part}_fraction")
        if there is not None and value is not None:
            raise fail(where, f"no {part}_fraction, since the set has a {part} part", value)
    split_off = [part for part, there in own.items() if there is None]
    counts = np.bincount(raw.y, minlength=len(raw.class_names))
    if counts.min() < 1 + len(split_off):
        least = int(counts.argmin())
        expected = f"{1 + len(split_off)} images of each class ({', '.join(['train', *split_off])})"
        named = " and ".join(split_off)
        remedy = (
            f"Add images, or give {named} as folders, splits or arrays of their own." if split_off else ""
        )
        raise fail(where, expected, f"{counts[least]} of class {raw.class_names[least]}", remedy)


def _split(raw: Raw, y: np.ndarray, form: Form, name: str, parts_left: int) -> tuple[np.ndarray, np.ndarray]:
    """Splits off a stratified part; it and each of the parts that are left have every class."""
    chosen = getattr(form, name)
    fraction = chosen or {"test_fraction": TEST_FRACTION, "validation_fraction": VALIDATION_FRACTION}[name]
    size = math.ceil(round(len(y) * fraction, 6))  # 1/6 of 60,000 is 10,000 whatever the last bit is
    classes = len(raw.class_names)
    most = len(y) - parts_left * classes
    if chosen is not None and size > most:
        left = f"{parts_left * classes} of {len(y)} images, {parts_left} of each class,"
        raise fail(f"load({raw.name})", f"a {name} that leaves {left} to the other parts", chosen)
    return raw.split(y, min(max(size, classes), most), form.seed)
