"""Classification by the nearest images: how much a small set says without any training."""

import numpy as np

from jaxdistill.core.checks import at_least, fail
from jaxdistill.core.types import Batch, Dataset


def nearest_neighbors(images: Batch, test: Dataset, *, k: int = 1, p: float = 2.0) -> float:
    """Share of a split that a vote of the k nearest images gets right, by scikit-learn.

    Args:
      images: [N, H, W, C], the small set; the class of an image is the largest of its label.
      test: the split.
      k: neighbours that vote, 1 ... N.
      p: of the norm that says how near an image is, >= 1.

    Returns:
      The accuracy, in [0, 1].

    Raises:
      UserError: k outside 1 ... N, or p below 1.

    References: Wang et al. 2018, section 4 (baselines as nearest neighbours).
    """
    from sklearn.neighbors import KNeighborsClassifier  # takes a second to import

    at_least("nearest_neighbors", "k", k, 1)
    at_least("nearest_neighbors", "p", p, 1)
    count = images.y.shape[0]
    if k > count:
        raise fail("nearest_neighbors", f"k <= {count}, the number of images", k)
    x, labels = np.asarray(images.x).reshape(count, -1), np.asarray(images.y).argmax(axis=1)
    vote = KNeighborsClassifier(k, p=p).fit(x, labels)  # pyright: ignore[reportArgumentType]
    expected = np.asarray(test.y).argmax(axis=1)
    return float(vote.score(np.asarray(test.x).reshape(len(expected), -1), expected))
