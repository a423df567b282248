"""The types of data sets: raw pixels on the host, standardised splits on the device.

Loaders return `Raw`; `jaxdistill.data.load` turns it into `Splits`. Everything downstream sees
`jaxdistill.core.types.Dataset` only: standardised, sorted by class, one-hot labels.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill.core.checks import UserError, fail
from jaxdistill.core.reporting import report
from jaxdistill.core.types import Array, Dataset
from jaxdistill.data.splitting import stratified_split
from jaxdistill.data.streaming import HostImages
from jaxdistill.data.whitening import Whitening, zca

CHUNK = 8192  # images per step of a host computation in float32: bounds the temporaries
FLOAT_BYTES = 2**26
"""Larger sets of 8-bit images stay uint8, see `standardised`."""


class DatasetInfo(NamedTuple):
    """The facts about a set that are needed to standardise and to show its images."""

    name: str
    image_shape: tuple[int, int, int]
    """(H, W, C), after a resize."""
    num_classes: int
    class_names: tuple[str, ...]
    scale: float
    """The pixel value of white in the set's own units: 255 for uint8, 16 for `digits`."""
    mean: tuple[float, ...]
    """Per channel, of pixels / scale."""
    std: tuple[float, ...]
    """Per channel, of pixels / scale."""
    digest: str = ""
    """SHA-256 of a user's own images and labels; empty for a named set."""
    whitening: Whitening | None = None
    """What follows the standardisation; None for nothing."""

    @property
    def preprocess(self) -> str:
        """The option of `load` that makes such images."""
        return "standardise" if self.whitening is None else "zca"


class Splits(NamedTuple):
    """A data set, ready to use. Select nothing on `test`; use `validation`."""

    train: Dataset
    validation: Dataset
    test: Dataset
    info: DatasetInfo


class Raw(NamedTuple):
    """A labelled set from a loader, on the host and in its own units."""

    name: str
    x: np.ndarray
    """[N, H, W, C] uint8 or float32: the training images."""
    y: np.ndarray
    """[N] integers."""
    class_names: tuple[str, ...]
    scale: float
    x_test: np.ndarray | None = None
    """[M, H, W, C]; None where the set has no test part, so that one has to be split off."""
    y_test: np.ndarray | None = None
    x_validation: np.ndarray | None = None
    """[M, H, W, C]; None where the set has no validation part, so that one has to be split off."""
    y_validation: np.ndarray | None = None
    split: Callable[[np.ndarray, int, int], tuple[np.ndarray, np.ndarray]] = stratified_split
    """(y, size, seed) -> indices (kept, taken)."""
    digest: str = ""
    """SHA-256 of a user's own images and labels; empty for a named set."""
    cautions: tuple[str, ...] = ()
    """Cautions about the set, for the user."""


def _per_channel(values: Sequence[float], x: chex.Array) -> np.ndarray:
    return np.asarray(values, np.float32).reshape((1,) * (x.ndim - 1) + (len(values),))


def standardise(pixels: chex.Array, info: DatasetInfo) -> chex.Array:
    """(pixels / scale - mean) / std, per channel; then `info.whitening`, if there is one.

    Args:
      pixels: [..., H, W, C] in the units of the set (0 to `info.scale`), any real dtype.
      info: of the set.

    Returns:
      float32 of the same shape: a NumPy array of a NumPy array (no compilation), a JAX array of a JAX
      array. `to_pixels` is the inverse; a round trip of uint8 is exact after rounding.
    """
    chex.assert_axis_dimension(pixels, -1, len(info.mean))
    x = pixels.astype(np.float32) / np.float32(info.scale)
    x = (x - _per_channel(info.mean, x)) / _per_channel(info.std, x)
    return x if info.whitening is None else info.whitening.apply(x)


def to_pixels(x: chex.Array, info: DatasetInfo) -> chex.Array:
    """The inverse of `standardise`: (x * std + mean) * scale, neither rounded nor clipped.

    Args:
      x: [..., H, W, C] standardised, and whitened if `info` says so.
      info: of the set.

    Returns:
      float32 of the same shape, in the units of the set: NumPy of NumPy, JAX of JAX.
    """
    chex.assert_axis_dimension(x, -1, len(info.mean))
    x = x.astype(np.float32)
    x = x if info.whitening is None else info.whitening.undo(x)
    return (x * _per_channel(info.std, x) + _per_channel(info.mean, x)) * np.float32(info.scale)


def from_arrays(x: chex.Array, y: chex.Array, num_classes: int, table: np.ndarray | None = None) -> Dataset:
    """A `Dataset`: images sorted by class (stably), one-hot labels, and where each class starts.

    Args:
      x: [N, H, W, C], standardised, finite; or uint8, with `table`.
      y: [N] integers in range(num_classes), an array or a list; every class occurs.
      num_classes: how many classes there are.
      table: the standardised values of uint8 images, see `Dataset`.

    Returns:
      The data set, on the default device.

    Raises:
      UserError: images of another shape or type, or with a NaN; a label outside of the range; a class without
        an image.

    Example:
      >>> from_arrays(np.zeros((3, 2, 2, 1)), np.array([1, 0, 1]), 2).counts.tolist()
      [1, 2]
    """
    x, y = np.asarray(x), np.asarray(y)
    _check_images(x, table)
    if y.shape != x.shape[:1]:
        raise fail("from_arrays", f"y of shape ({len(x)},), a class for each image", f"shape {y.shape}")
    check_labels(y, "from_arrays", num_classes=num_classes)
    counts = np.bincount(y, minlength=num_classes)
    if not counts.all():
        raise fail(
            "from_arrays", f"an image of each of {num_classes} classes", f"none of class {counts.argmin()}"
        )
    order = np.argsort(y, kind="stable")
    return Dataset(
        pixels=jax.device_put(np.asarray(x, np.float32 if table is None else np.uint8)[order]),
        y=jax.device_put(np.eye(num_classes, dtype=np.float32)[y[order]]),
        starts=jax.device_put((np.cumsum(counts) - counts).astype(np.int32)),
        counts=jax.device_put(counts.astype(np.int32)),
        table=None if table is None else jax.device_put(table),
    )


def _check_images(x: np.ndarray, table: np.ndarray | None) -> None:
    """Raises unless `from_arrays` can take `x` as images."""
    where = "from_arrays"
    if x.ndim != 4 or not x.size:
        raise fail(where, "images x of shape [N, H, W, C]", f"shape {x.shape}")
    if table is not None and x.dtype != np.uint8:
        raise fail(where, "uint8 images x beside a table", f"dtype {x.dtype}")
    if table is None and not jnp.issubdtype(x.dtype, jnp.floating):
        remedy = "jd.splits(x, y, x_test, y_test) standardises pixels."
        raise fail(where, "standardised images x, of a floating dtype", f"dtype {x.dtype}", remedy)
    if table is None and not np.isfinite(x).all():
        bad = int(np.flatnonzero(~np.isfinite(x).all(axis=(1, 2, 3)))[0])
        raise fail(where, "finite images x", f"NaN or infinity in image {bad}", "Leave such images out.")


def standardised(x: np.ndarray | HostImages, y: np.ndarray, info: DatasetInfo) -> Dataset:
    """A `Dataset` of images in the units of a set.

    8-bit integers that would take more than `FLOAT_BYTES` as floats stay as they are: an outer step
    standardises the images that it draws, to the same bits. Whitened images are always floats.

    Args:
      x: [N, H, W, C] pixels, 0 to `info.scale`.
      y: [N] integers.
      info: of the set.
    """
    streamed = isinstance(x, HostImages)
    whitened = info.whitening is not None
    if not streamed and (x.dtype != np.uint8 or 4 * x.size <= FLOAT_BYTES or whitened):
        return from_arrays(standardise(x, info), y, info.num_classes)
    values = np.repeat(np.arange(256, dtype=np.uint8)[:, None], x.shape[-1], axis=1)
    table = np.asarray(standardise(values[:, None, None], info))[:, 0, 0]
    if not streamed:
        return from_arrays(x, y, info.num_classes, table)
    tiny = from_arrays(np.zeros((len(y), 1, 1, 1), np.uint8), y, info.num_classes, table)
    return tiny._replace(pixels=x.reordered(np.argsort(y, kind="stable")))


def labels(dataset: Dataset) -> Array:
    """The class of each image: [N] int32, sorted."""
    return jnp.argmax(dataset.y, axis=-1).astype(jnp.int32)


def check_labels(y: np.ndarray, where: str, *, num_classes: int | None = None) -> None:
    """Raises unless `y` are integers >= 0, below `num_classes` where that is given."""
    if not np.issubdtype(y.dtype, np.integer):
        remedy = "Number the classes: np.unique(y, return_inverse=True)[1]."
        raise fail(where, "integer labels", f"dtype {y.dtype}", remedy)
    if y.size and y.min() < 0:
        raise fail(where, "labels >= 0", int(y.min()), "Number the classes from 0.")
    if y.size and num_classes is not None and y.max() >= num_classes:
        raise fail(where, f"labels in 0..{num_classes - 1}", int(y.max()), "Number the classes from 0.")


def statistics(pixels: np.ndarray | HostImages, scale: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of [N, H, W, C] pixels / scale, in float64.

    Raises:
      UserError: a channel that is constant cannot be standardised.
    """
    if pixels.dtype == np.uint8 and 4 * math.prod(pixels.shape) > FLOAT_BYTES:
        return _counted(pixels, scale)
    pixels = np.asarray(pixels[np.arange(len(pixels))]) if isinstance(pixels, HostImages) else pixels
    constant = pixels.min((0, 1, 2)) == pixels.max((0, 1, 2))
    if constant.any():
        raise _constant(int(constant.argmax()))
    starts = range(0, len(pixels), CHUNK)
    size = pixels[..., 0].size

    def average(of: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        sums = (of(pixels[i : i + CHUNK].astype(np.float64) / scale).sum((0, 1, 2)) for i in starts)
        return np.sum(list(sums), axis=0) / size

    mean = average(lambda x: x)
    variance = average(lambda x: (x - mean) ** 2)
    return tuple(map(float, mean)), tuple(map(float, np.sqrt(variance)))


def _counted(pixels: np.ndarray | HostImages, scale: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The statistics of uint8 pixels from the counts of their values, which is ten times as fast."""
    channels, count = pixels.shape[-1], pixels.shape[0]
    counts = np.zeros((channels, 256), np.int64)
    for i in range(0, count, CHUNK):
        part = np.asarray(pixels[np.arange(i, min(i + CHUNK, count))])
        for channel in range(channels):
            counts[channel] += np.bincount(part[..., channel].ravel(), minlength=256)
    values, found = np.arange(256) / scale, []
    for channel, shares in enumerate(counts / counts[0].sum()):
        if shares.max() == 1:
            raise _constant(channel)
        mean = float(shares @ values)
        found.append((mean, float(np.sqrt(shares @ (values - mean) ** 2))))
    means, deviations = zip(*found, strict=True)
    return means, deviations


def _constant(channel: int) -> UserError:
    return fail("standardise", "pixels that vary in each channel", f"a constant channel {channel}")


def with_whitening(info: DatasetInfo, pixels: np.ndarray) -> DatasetInfo:
    """The same facts with the ZCA whitening of the given training images.

    Args:
      info: of the set, complete but for the whitening.
      pixels: [N, H, W, C] in the units of the set.

    Raises:
      UserError: images with too many values.
    """

    def standardised_parts() -> Iterator[np.ndarray]:
        for i in range(0, len(pixels), CHUNK):
            report("whitening: images", i, len(pixels))
            yield np.asarray(standardise(pixels[i : i + CHUNK], info))
        report("whitening: images", len(pixels), len(pixels))

    return info._replace(whitening=zca(standardised_parts, f"load({info.name})"))
