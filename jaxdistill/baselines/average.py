"""Average images: what the classes have in common."""

import jax
import jax.numpy as jnp

from jaxdistill.core.keys import stream
from jaxdistill.core.types import Array, Batch, Dataset
from jaxdistill.data import check_per_class


def average_real(dataset: Dataset, key: Array, images_per_class: int = 1) -> Batch:
    """The average image of every class; of more than one per class, those of random equal parts of it.

    Args:
      dataset: the training set.
      key: typed PRNG key, of the parts.
      images_per_class: n, 1 ... the size of the smallest class.

    Returns:
      Batch [classes * n, H, W, C], class by class.

    Raises:
      UserError: n below 1 or above the size of a class.

    References: Wang et al. 2018, section 4 (average real images), which has one per class.
    """
    check_per_class(dataset, "average_real", images_per_class)
    num_classes = dataset.y.shape[1]
    label = jnp.argmax(dataset.y, axis=1)
    place = jnp.lexsort((jax.random.uniform(stream(key, "parts"), label.shape), label))
    within = jnp.arange(label.shape[0]) - dataset.starts[label]  # sorted by class: `place` has it too
    part = label * images_per_class + within % images_per_class
    total = num_classes * images_per_class
    count = jax.ops.segment_sum(jnp.ones(label.shape), part, total)
    x = (
        jax.ops.segment_sum(dataset.standardised(dataset.pixels[place]), part, total)
        / count[:, None, None, None]
    )
    return Batch(x, jnp.repeat(jnp.eye(num_classes, dtype=jnp.float32), images_per_class, axis=0))
