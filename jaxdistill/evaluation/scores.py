"""Summaries of networks' test accuracies."""

from typing import Any, NamedTuple

import numpy as np

from jaxdistill.core.types import Array


class Correct(NamedTuple):
    """Correct predictions of one network; NaN if logits are NaN."""

    accuracy: Array
    """Share of all images: scalar in [0, 1]."""
    by_class: Array
    """[classes]: images of each class that it gets right, as a share of all images."""


class Score(NamedTuple):
    """Test accuracy of K networks."""

    mean: float
    std: float
    """Over the K networks (biased); 0 for one network."""
    every: list[float]
    """[K], in [0, 1]."""
    num_diverged: int
    """How many of the K diverged to NaN; each counts as chance, 1 / classes."""
    balanced_mean: float | None = None
    """Balanced accuracy, the mean over classes of the accuracy on each; None where that was not measured."""
    balanced_std: float | None = None
    """Of the balanced accuracy, over the K networks."""
    per_class: list[float | None] | None = None
    """[classes], accuracy on the test images of each class, mean over networks; None for a class without."""
    ridge: "Score | None" = None
    """Of untrained or hardly trained networks whose head is a ridge regression on the images; None where the
    images are not for such heads. What diverged are networks without a solution."""

    def __repr__(self) -> str:
        lost = f", {self.num_diverged} diverged" if self.num_diverged else ""
        ridge = "" if self.ridge is None else f", ridge {100 * self.ridge.mean:.1f}%"
        return (
            f"Score({100 * self.mean:.1f} ± {100 * self.std:.1f}% of {len(self.every)} networks{ridge}{lost})"
        )

    def as_row(self) -> dict[str, Any]:
        """The fields of a score in result files; the fields by class and of a ridge only if measured."""
        row = {
            "mean": self.mean,
            "std": self.std,
            "num_learners": len(self.every),
            "num_diverged": self.num_diverged,
            "every": self.every,
        }
        more = {name: getattr(self, name) for name in ("balanced_mean", "balanced_std", "per_class")}
        if (ridge := self.ridge) is not None:
            more |= {"ridge": ridge.every, "ridge_mean": ridge.mean, "ridge_std": ridge.std}
            more |= {"ridge_num_diverged": ridge.num_diverged or None}
        return row | {name: value for name, value in more.items() if value is not None}


def summarize(accuracies: Array, num_classes: int) -> Score:
    """Mean, standard deviation and every value of [K] accuracies, NaN for a network that diverged."""
    values = np.asarray(accuracies, np.float64)
    diverged = np.isnan(values)
    values = np.where(diverged, 1 / num_classes, values)
    return Score(float(values.mean()), float(values.std()), values.tolist(), int(diverged.sum()))


def summarize_by_class(right: Correct, labels: Array) -> Score:
    """As `summarize`, also with the accuracy on each class and the balanced accuracy.

    Args:
      right: of K networks, [K] and [K, classes].
      labels: [N, classes] one-hot, of the images that they were tested on.

    Example:
      >>> right = Correct(jnp.array([0.75]), jnp.array([[0.75, 0.0]]))  # all of three, and none of one
      >>> summarize_by_class(right, jnp.eye(2)[jnp.array([0, 0, 0, 1])]).balanced_mean
      0.5
    """
    size, classes = labels.shape
    counts = np.bincount(np.asarray(labels).argmax(axis=-1), minlength=classes)
    there = counts > 0
    shares = np.asarray(right.by_class, np.float64)
    recalls = np.rint(shares * size)[:, there] / counts[there]  # whole numbers of images
    recalls = np.where(np.isnan(recalls), 1 / classes, recalls)
    balanced, per_class = recalls.mean(axis=1), iter(recalls.mean(axis=0).tolist())
    return summarize(right.accuracy, classes)._replace(
        balanced_mean=float(balanced.mean()),
        balanced_std=float(balanced.std()),
        per_class=[next(per_class) if each else None for each in there],
    )
