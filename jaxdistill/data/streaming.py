"""Images that stay on the host or the disk; the draws of a chunk of outer steps are fetched in advance.

The draws are those of a set on the device, from the same keys, so numbers are the same to the last bit and a
resumed run goes on exactly. On a mesh of several processes each one reads the images that its devices hold.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Sharding

from jaxdistill.core.checks import fail, needs
from jaxdistill.core.types import Array, Batch, Dataset, Drawn
from jaxdistill.data.mapped import forget

AHEAD = 2
"""Chunks that are fetched before they are needed."""
BLOCK = 8192
"""Images that are read at a time where all are."""
Draw = Callable[[Dataset, Array, Array], Batch]
"""(data set, root key, outer step) -> its real batch."""


class HostImages:
    """Some rows of an array of images on the host; a memory map keeps no page in memory.

    Attributes:
      shape, dtype: of the images, [N, H, W, C].
    """

    def __init__(self, images: np.ndarray, rows: np.ndarray):
        self._images, self._rows = images, rows
        self.shape = (len(rows), *images.shape[1:])
        self.dtype = images.dtype
        self.ndim = len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def reordered(self, order: np.ndarray) -> "HostImages":
        """The same images in another order."""
        return HostImages(self._images, self._rows[order])

    def blocks(self) -> Iterator[np.ndarray]:
        """All images, in order, `BLOCK` at a time."""
        for start in range(0, len(self), BLOCK):
            yield self[np.arange(start, min(start + BLOCK, len(self)))]

    def __getitem__(self, index: Any) -> np.ndarray:
        """The images at `index`, integers of any shape [...]: [..., H, W, C]."""
        rows = self._rows[np.asarray(index)]
        found = np.empty((rows.size, *self.shape[1:]), self.dtype)
        order = np.argsort(rows, axis=None, kind="stable")  # a disk reads forwards
        found[order] = self._images[rows.ravel()[order]]
        forget(self._images)
        return found.reshape(*rows.shape, *self.shape[1:])


def on_host(dataset: Dataset) -> bool:
    """Whether the images of a set are on the host."""
    return isinstance(dataset.pixels, HostImages)


def check_on_device(dataset: Any, where: str) -> None:
    """Raises if a data set has images on the host, for what needs all of them on the device."""
    if isinstance(dataset, Dataset) and on_host(dataset):
        raise fail(where, "training images on the device", "images on the host", "Leave data_memory out.")


def indices(draw: Draw, dataset: Dataset, key: Array, length: int) -> Callable[[int], np.ndarray]:
    """First outer step -> [length, ...] int32: the images that `length` outer steps draw; compiled at once.

    A set whose images are their own numbers goes through the same function that draws images.
    """
    drawn = jax.jit(_numbers(draw, dataset.pixels.shape[0], length))
    given = (dataset.starts, dataset.counts, key)
    program = drawn.lower(*given, jax.ShapeDtypeStruct((), jnp.int32)).compile()
    return lambda step: np.asarray(program(*given, np.int32(step)))


def _numbers(draw: Draw, count: int, length: int) -> Callable[[Array, Array, Array, Array], Array]:
    """(starts, counts, root key, first outer step) -> [length, ...], what is drawn of `count` images."""

    def drawn(starts: Array, counts: Array, key: Array, step: Array) -> Array:
        numbers = jnp.arange(count, dtype=jnp.int32).reshape(count, 1, 1, 1)
        stub = Dataset(numbers, jnp.zeros((count, 1)), starts, counts)
        steps = step + jnp.arange(length, dtype=jnp.int32)
        return lax.map(lambda s: draw(stub, key, s).x[..., 0, 0, 0], steps)

    return drawn


def drawn_shape(draw: Draw, dataset: Dataset, key: Array) -> tuple[int, ...]:
    """[..., B]: the shape of what an outer step draws, by image."""
    drawn = _numbers(draw, dataset.pixels.shape[0], 1)
    return jax.eval_shape(drawn, dataset.starts, dataset.counts, key, jnp.int32(0)).shape[1:]


def own_images(sharding: Sharding, shape: Sequence[int]) -> np.ndarray:
    """Which images of every batch the devices of this process hold, ascending.

    Args:
      sharding: of the batches.
      shape: [length, ..., B], by image.
    """
    held = sharding.addressable_devices_indices_map(tuple(shape)).values()
    every = np.arange(shape[-1])
    return np.unique(np.concatenate([every[index[-1]] for index in held if index is not None]))


class Chunks:
    """The drawn images of every chunk from `step` on: a source for Grain.

    Args:
      draw: the method's.
      dataset: with images on the host.
      key: root key of the run.
      step: where the run starts or goes on.
      num_steps: outer steps of the whole run.
      length: outer steps of a chunk.
      sharding: where the batches [length, ..., B] of a chunk lie; None for one device.
    """

    def __init__(
        self,
        draw: Draw,
        dataset: Dataset,
        key: Array,
        step: int,
        num_steps: int,
        length: int,
        sharding: Sharding | None = None,
    ):
        self.sharding = sharding
        self._pixels, self._labels = dataset.pixels, np.asarray(dataset.y)
        self._chunks = [(at, min(length, num_steps - at)) for at in range(step, num_steps, length)]
        sizes = {size for _, size in self._chunks}
        self._indices = {size: indices(draw, dataset, key, size) for size in sizes}  # not in Grain's threads

    def __len__(self) -> int:
        return len(self._chunks)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """(images [length, ..., H, W, C], labels [length, ..., classes]) of a chunk, this process's part."""
        step, size = self._chunks[index]
        rows = self._indices[size](step)
        if self.sharding is not None:
            rows = rows[..., own_images(self.sharding, rows.shape)]
        return np.asarray(self._pixels[rows]), self._labels[rows]


def fetched(chunks: Chunks, table: Array | None) -> Iterator[Drawn]:
    """The items of `chunks` in order, each fetched `AHEAD` chunks in advance.

    Raises:
      UserError: Grain is not installed.
    """
    grain = needs("data_memory", "grain", "grain", "grain, which fetches images ahead")
    ahead = grain.ReadOptions(num_threads=1, prefetch_buffer_size=AHEAD)
    where = chunks.sharding
    put = jnp.asarray if where is None else partial(jax.make_array_from_process_local_data, where)
    batches = grain.MapDataset.source(chunks).to_iter_dataset(ahead)
    return (Drawn(put(pixels), put(labels), table) for pixels, labels in batches)
