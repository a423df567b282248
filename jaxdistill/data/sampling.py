"""Drawing images from a `Dataset`: pure functions of a key, index computations on the device.

The `Dataset` is an argument, never closed over: XLA would fold a captured one into the program.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill.core.checks import at_least, fail
from jaxdistill.core.types import Array, Batch, Dataset
from jaxdistill.data.streaming import on_host


def sample(dataset: Dataset, key: Array, batch_size: int) -> Batch:
    """A batch drawn uniformly from the whole set, with replacement.

    Args:
      dataset: N images.
      key: typed PRNG key, scalar.
      batch_size: B >= 1; static under `jit`.

    Returns:
      `Batch` [B, H, W, C], [B, classes].

    Raises:
      UserError: `batch_size` < 1.
    """
    at_least("sample", "batch_size", batch_size, 1)
    index = jax.random.randint(key, (batch_size,), 0, dataset.pixels.shape[0])
    return take(dataset, index)


def sample_per_class(dataset: Dataset, key: Array, num_per_class: int) -> Batch:
    """`num_per_class` images of every class, each drawn uniformly from its class, with replacement.

    Args:
      dataset: N images.
      key: typed PRNG key, scalar.
      num_per_class: n >= 1; static under `jit`. It may exceed the size of a class.

    Returns:
      `Batch` [classes, n, H, W, C], [classes, n, classes]; row c holds class c.

    Raises:
      UserError: `num_per_class` < 1.
    """
    at_least("sample_per_class", "num_per_class", num_per_class, 1)
    shape = (dataset.counts.shape[0], num_per_class)
    offset = jax.random.randint(key, shape, 0, dataset.counts[:, None])
    return take(dataset, dataset.starts[:, None] + offset)


def choose_per_class(dataset: Dataset, key: Array, num_per_class: int) -> Batch:
    """`num_per_class` *different* images of every class: a coreset, or the start of learned images.

    Runs on the host, since it looks at the counts; not for use under `jit`. For one key the choice is
    nested: the images for n are the first n of those for n + 1.

    Args:
      dataset: N images.
      key: typed PRNG key, scalar.
      num_per_class: n, from 1 to the size of the smallest class.

    Returns:
      `Batch` [classes, n, H, W, C], [classes, n, classes]; row c holds class c.

    Raises:
      UserError: `num_per_class` < 1, or above the size of the smallest class.
    """
    check_per_class(dataset, "choose_per_class", num_per_class)
    counts = np.asarray(dataset.counts)
    scores = np.asarray(jax.random.uniform(key, dataset.pixels.shape[:1]))
    order = np.lexsort((scores, np.repeat(np.arange(len(counts)), counts)))  # shuffled within each class
    index = order[np.asarray(dataset.starts)[:, None] + np.arange(num_per_class)[None]]
    return take(dataset, index) if on_host(dataset) else jax.jit(take)(dataset, index)


def check_per_class(dataset: Dataset, where: str, count: int) -> None:
    """Raises unless every class has at least `count` different images, and that is 1 or more."""
    at_least(where, "images_per_class", count, 1)
    counts = np.asarray(dataset.counts)
    if count > counts.min():
        smallest = f"{count}, but class {counts.argmin()} has {counts.min()} images"
        raise fail(where, f"images_per_class <= {counts.min()}", smallest, "Ask for fewer.")


def take(dataset: Dataset, index: Array | np.ndarray) -> Batch:
    """The images at `index`, integers of any shape [...]: a `Batch` [..., H, W, C], [..., classes]."""
    chex.assert_rank([dataset.pixels, dataset.y], [4, 2])
    pixels = dataset.pixels[index]
    return Batch(x=dataset.standardised(jnp.asarray(pixels)), y=dataset.y[index])
