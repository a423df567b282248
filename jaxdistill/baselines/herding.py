"""Kernel herding: real images whose mean in a kernel's feature space is that of their class."""

import jax.numpy as jnp
import numpy as np

from jaxdistill.core.checks import above
from jaxdistill.core.types import Batch, Dataset
from jaxdistill.data import check_per_class

BLOCK = 512
"""Rows of the kernel matrix in memory at a time, and images that the bandwidth is estimated from."""


def kernel_herding(dataset: Dataset, images_per_class: int, *, bandwidth: float | None = None) -> Batch:
    r"""Real images of every class, chosen greedily without replacement; nothing is drawn at random.

    .. math:: x_{t+1} = \arg\max_x \; \mathbb{E}_{x'} k(x, x') - \frac{1}{t + 1} \sum_{i \le t} k(x, x_i),
       \quad k(x, x') = e^{-|x - x'|^2 / (2 h^2)}

    Differences from the paper: the maximum is over the images of the class that are not chosen yet, and h
    defaults to the median distance between the images of the class.

    Args:
      dataset: the training set.
      images_per_class: n, 1 ... the size of the smallest class.
      bandwidth: h > 0, in units of standardised pixels; for each class the median distance of (at most 512
        of) its images when None.

    Returns:
      Batch [classes * n, H, W, C], class by class, each class in the order of choice.

    Raises:
      UserError: n below 1 or above the size of a class; a bandwidth that is not positive.

    References: Chen, Welling & Smola 2010, "Super-Samples from Kernel Herding", equation 8.
    """
    from sklearn.metrics.pairwise import euclidean_distances, rbf_kernel  # takes a second to import

    check_per_class(dataset, "kernel_herding", images_per_class)
    if bandwidth is not None:
        above("kernel_herding", "bandwidth", bandwidth, 0.0)
    x, starts, counts = (np.asarray(a) for a in (dataset.x, dataset.starts, dataset.counts))
    chosen: list[int] = []
    for start, count in zip(starts, counts, strict=True):
        own = x[start : start + count].reshape(count, -1)
        width = bandwidth or _median_distance(euclidean_distances(own[:BLOCK]))
        gamma = 0.5 / width**2
        blocks = [rbf_kernel(own[i : i + BLOCK], own, gamma).mean(axis=1) for i in range(0, count, BLOCK)]
        mean, near, left = np.concatenate(blocks), np.zeros(count), np.ones(count, bool)
        for t in range(images_per_class):
            best = int(np.argmax(np.where(left, mean - near / (t + 1), -np.inf)))
            left[best] = False
            near += rbf_kernel(own, own[best : best + 1], gamma)[:, 0]
            chosen.append(int(start) + best)
    labels = np.repeat(np.eye(len(counts), dtype=np.float32), images_per_class, axis=0)
    return Batch(jnp.asarray(x[np.asarray(chosen)]), jnp.asarray(labels))


def _median_distance(distances: np.ndarray) -> float:
    """The median over pairs of different images; 1 where all images are equal."""
    pairs = distances[np.triu_indices(len(distances), k=1)]
    median = float(np.median(pairs)) if pairs.size else 0.0
    return median or 1.0
