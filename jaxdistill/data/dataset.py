"""What a data set is here: raw pixels on the host, standardised splits on the device.

Loaders return `Raw`; `jaxdistill.data.load` turns it into `Splits`. Everything downstream sees
`jaxdistill.core.types.Dataset` only: standardised, sorted by class, one-hot labels.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill.core.checks import at_least, fail
from jaxdistill.core.types import Array, Dataset

CHUNK = 8192  # images per step of a host computation in float32: bounds the temporaries


class DatasetInfo(NamedTuple):
    """What a set of pixels means: enough to standardise it and to show it."""

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


class Splits(NamedTuple):
    """A data set, ready to use. Nothing may be selected on `test`: that is what `validation` is for."""

    train: Dataset
    validation: Dataset
    test: Dataset
    info: DatasetInfo


def stratified_split(y: np.ndarray, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two disjoint sets of indices with the same class proportions, the second of `size` elements.

    Shares are rounded by largest remainder, so the sizes are exact and every class is within one image
    of its share.

    Args:
      y: [N] integer labels in range(classes).
      size: how many indices the second part has.
      seed: of the split; the same seed gives the same split.

    Returns:
      (kept, taken): [N - size] and [size], each sorted.
    """
    counts = np.bincount(y)
    share = counts * size / len(y)
    take = np.floor(share).astype(int)
    order = np.argsort(take - share, kind="stable")
    take[order[: size - take.sum()]] += 1
    generator = np.random.default_rng(seed)
    parts = [generator.permutation(np.flatnonzero(y == c))[:n] for c, n in enumerate(take)]
    taken = np.sort(np.concatenate(parts))
    return np.setdiff1d(np.arange(len(y)), taken, assume_unique=True), taken


class Raw(NamedTuple):
    """A labelled set on the host, in its own units, as a loader found it."""

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
    split: Callable[[np.ndarray, int, int], tuple[np.ndarray, np.ndarray]] = stratified_split
    """(y, size, seed) -> indices (kept, taken)."""


def _per_channel(values: Sequence[float], x: chex.Array) -> np.ndarray:
    return np.asarray(values, np.float32).reshape((1,) * (x.ndim - 1) + (len(values),))


def standardise(pixels: chex.Array, info: DatasetInfo) -> chex.Array:
    """(pixels / scale - mean) / std, per channel.

    Args:
      pixels: [..., H, W, C] in the units of the set (0 to `info.scale`), any real dtype.
      info: of the set.

    Returns:
      float32 of the same shape: a NumPy array of a NumPy array (no compilation), a JAX array of a JAX
      array. `to_pixels` is the inverse; a round trip of uint8 is exact after rounding.
    """
    chex.assert_axis_dimension(pixels, -1, len(info.mean))
    x = pixels.astype(np.float32) / np.float32(info.scale)
    return (x - _per_channel(info.mean, x)) / _per_channel(info.std, x)


def to_pixels(x: chex.Array, info: DatasetInfo) -> chex.Array:
    """The inverse of `standardise`: (x * std + mean) * scale, neither rounded nor clipped.

    Args:
      x: [..., H, W, C] standardised.
      info: of the set.

    Returns:
      float32 of the same shape, in the units of the set: NumPy of NumPy, JAX of JAX.
    """
    chex.assert_axis_dimension(x, -1, len(info.mean))
    x = x.astype(np.float32)
    return (x * _per_channel(info.std, x) + _per_channel(info.mean, x)) * np.float32(info.scale)


def from_arrays(x: chex.Array, y: chex.Array, num_classes: int) -> Dataset:
    """A `Dataset`: images sorted by class (stably), one-hot labels, and where each class starts.

    Args:
      x: [N, H, W, C], standardised.
      y: [N] integers in range(num_classes); every class occurs.
      num_classes: how many classes there are.

    Returns:
      The data set, on the default device.

    Raises:
      UserError: a label outside of the range, or a class without an image.

    Example:
      >>> from_arrays(np.zeros((3, 2, 2, 1)), np.array([1, 0, 1]), 2).counts.tolist()
      [1, 2]
    """
    chex.assert_rank([x, y], [4, 1])
    chex.assert_equal_shape_prefix([x, y], 1)
    y = np.asarray(y)
    check_labels(y, "from_arrays", num_classes=num_classes)
    counts = np.bincount(y, minlength=num_classes)
    if not counts.all():
        raise fail(
            "from_arrays", f"an image of each of {num_classes} classes", f"none of class {counts.argmin()}"
        )
    order = np.argsort(y, kind="stable")
    return Dataset(
        x=jax.device_put(np.asarray(x, np.float32)[order]),
        y=jax.device_put(np.eye(num_classes, dtype=np.float32)[y[order]]),
        starts=jax.device_put((np.cumsum(counts) - counts).astype(np.int32)),
        counts=jax.device_put(counts.astype(np.int32)),
    )


def labels(dataset: Dataset) -> Array:
    """The class of each image: [N] int32, sorted."""
    return jnp.argmax(dataset.y, axis=-1).astype(jnp.int32)


def check_labels(y: np.ndarray, where: str, *, num_classes: int | None = None) -> None:
    """Raises unless `y` are integers >= 0, below `num_classes` where that is given."""
    if not np.issubdtype(y.dtype, np.integer):
        raise fail(where, "integer labels", f"dtype {y.dtype}", "Convert them: y.astype(int).")
    if y.size and y.min() < 0:
        raise fail(where, "labels >= 0", int(y.min()), "Number the classes from 0.")
    if y.size and num_classes is not None and y.max() >= num_classes:
        raise fail(where, f"labels in 0..{num_classes - 1}", int(y.max()), "Number the classes from 0.")


def resize(pixels: np.ndarray, size: int) -> np.ndarray:
    """Antialiased bilinear resize to a square, smaller or larger; channels are kept.

    The filter is separable and linear: two matrices, taken from `jax.image.resize` of the identity.

    Args:
      pixels: [N, H, W, C], any real dtype.
      size: side of the result in pixels, >= 1.

    Returns:
      [N, size, size, C]: float32 in the same units, not rounded; `pixels` itself where it has that size.

    Raises:
      UserError: `size` is not an integer >= 1.
    """
    if not isinstance(size, int | np.integer) or isinstance(size, bool):
        raise fail("resize", "image_size as an integer", repr(size))
    at_least("resize", "image_size", size, 1)
    chex.assert_rank(pixels, 4)
    if pixels.shape[1:3] == (size, size):
        return pixels

    def weights(length: int) -> np.ndarray:
        return np.asarray(jax.image.resize(np.eye(length, dtype=np.float32), (size, length), "bilinear"))

    rows, columns = weights(pixels.shape[1]), weights(pixels.shape[2])
    out = np.empty((len(pixels), size, size, pixels.shape[3]), np.float32)
    for i in range(0, len(pixels), CHUNK):
        chunk = np.moveaxis(pixels[i : i + CHUNK].astype(np.float32), 3, 1)  # [n, C, H, W]
        out[i : i + CHUNK] = np.moveaxis(rows @ chunk @ columns.T, 1, 3)
    return out


def statistics(pixels: np.ndarray, scale: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of [N, H, W, C] pixels / scale, in float64.

    Raises:
      UserError: a channel that is constant cannot be standardised.
    """
    constant = pixels.min((0, 1, 2)) == pixels.max((0, 1, 2))
    if constant.any():
        got = f"a constant channel {constant.argmax()}"
        raise fail("standardise", "pixels that vary in each channel", got)
    starts = range(0, len(pixels), CHUNK)
    size = pixels[..., 0].size

    def average(of: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        sums = (of(pixels[i : i + CHUNK].astype(np.float64) / scale).sum((0, 1, 2)) for i in starts)
        return np.sum(list(sums), axis=0) / size

    mean = average(lambda x: x)
    variance = average(lambda x: (x - mean) ** 2)
    return tuple(map(float, mean)), tuple(map(float, np.sqrt(variance)))
