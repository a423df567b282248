"""Cluster centres of each class."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill.core.keys import stream
from jaxdistill.core.types import Array, Batch, Dataset
from jaxdistill.data import check_per_class


def k_means(dataset: Dataset, key: Array, images_per_class: int) -> Batch:
    """The centres of n clusters of every class, by scikit-learn's k-means.

    Args:
      dataset: the training set.
      key: typed PRNG key, of where the clusters start.
      images_per_class: n, 1 ... the size of the smallest class.

    Returns:
      Batch [classes * n, H, W, C], class by class.

    Raises:
      UserError: n below 1 or above the size of a class.

    References: Wang et al. 2018, section 4 (k-means).
    """
    from sklearn.cluster import KMeans  # takes a second to import

    check_per_class(dataset, "k_means", images_per_class)
    x, starts, counts = (np.asarray(a) for a in (dataset.x, dataset.starts, dataset.counts))
    seed = int(jax.random.bits(stream(key, "clusters")))
    clusters = KMeans(images_per_class, n_init="auto", random_state=seed)
    centres = [
        clusters.fit(x[start : start + count].reshape(count, -1)).cluster_centers_
        for start, count in zip(starts, counts, strict=True)
    ]
    labels = np.repeat(np.eye(len(counts), dtype=np.float32), images_per_class, axis=0)
    return Batch(jnp.asarray(np.concatenate(centres).reshape(-1, *x.shape[1:])), jnp.asarray(labels))
