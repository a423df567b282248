"""Random real images: the first baseline of every table."""

import jax

from jaxdistill.core.types import Array, Batch, Dataset
from jaxdistill.data import choose_per_class


def random_real(dataset: Dataset, key: Array, images_per_class: int) -> Batch:
    """The same number of real images of every class, drawn without replacement.

    Args:
      dataset: the training set.
      key: typed PRNG key.
      images_per_class: n, 1 ... the size of the smallest class.

    Returns:
      Batch [classes * n, H, W, C], class by class.

    Raises:
      UserError: n below 1 or above the size of a class, which it names.
    """
    chosen = choose_per_class(dataset, key, images_per_class)
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), chosen)
