"""Accuracy of one network on a split: tests that an evaluator runs after or during training."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxdistill.core.checks import at_least
from jaxdistill.core.types import Array, Batch, Dataset, Learner, Params
from jaxdistill.evaluation.scores import Correct
from jaxdistill.inner.losses import accuracy, top_k_accuracy
from jaxdistill.inner.microbatch import images_at_a_time, mean_of_parts
from jaxdistill.inner.over_learners import over_data

Measure = Callable[[Learner, Params, Dataset | Batch], Any]
"""(network, trained parameters, split) -> arrays, NaN where training diverged."""


def accuracy_on(
    learner: Learner, params: Params, dataset: Dataset | Batch, *, microbatch: int = 256
) -> Array:
    """Accuracy of one network on a split: scalar in [0, 1]; NaN if logits are NaN.

    Args:
      learner: the network.
      params: its trained (calibrated) parameters.
      dataset: the split.
      microbatch: images at a time, fewer on the CPU (`jaxdistill.inner.microbatch.images_at_a_time`).
    """
    return _share_right(accuracy, learner, params, dataset, microbatch)


@lru_cache
def top_k_on(k: int) -> Callable[..., Array]:
    """A test that counts an image as correct if its class is among the k largest logits.

    Args:
      k: in 1 ... classes.

    Returns:
      (learner, params, dataset, *, microbatch=256) -> scalar in [0, 1], NaN for NaN logits; for k = 1
      it is `accuracy_on`. The same k gives the same function, so that `evaluator` compiles once for it.

    Raises:
      UserError: k below 1, or above the number of classes (when traced).

    Example:
      >>> measure = top_k_on(5)
    """
    at_least("top_k_on", "k", k, 1)

    def measure(
        learner: Learner, params: Params, dataset: Dataset | Batch, *, microbatch: int = 256
    ) -> Array:
        return _share_right(partial(top_k_accuracy, k=k), learner, params, dataset, microbatch)

    return measure


def correct_on(
    learner: Learner, params: Params, dataset: Dataset | Batch, *, microbatch: int = 256
) -> Correct:
    """Accuracy of one network on a split, overall and by class.

    Args:
      learner: the network.
      params: its trained (calibrated) parameters.
      dataset: the split.
      microbatch: images at a time, fewer on the CPU (`jaxdistill.inner.microbatch.images_at_a_time`).
    """

    def shares(logits: Array, y: Array) -> Correct:
        truth = jnp.argmax(y, axis=-1)
        right = jnp.argmax(logits, axis=-1) == truth
        of_class = jax.nn.one_hot(truth, y.shape[-1], dtype=logits.dtype)
        return Correct(accuracy(logits, y), jnp.mean(of_class * right[:, None], axis=0))

    return _share_right(shares, learner, params, dataset, microbatch)


def _share_right(
    share: Callable[[Array, Array], Any],
    learner: Learner,
    params: Params,
    dataset: Dataset | Batch,
    microbatch: int,
) -> Any:
    """Mean over a split of what `share` gives for (logits, labels) of a batch; NaN logits count as NaN."""

    def right(batch: Batch) -> Any:
        logits = learner.apply(params, batch.x)
        finite = jnp.all(jnp.isfinite(logits))
        return jax.tree.map(lambda a: jnp.where(finite, a, jnp.nan), share(logits, batch.y))

    return _mean_over(learner, params, right, microbatch, dataset)


def confusion_on(
    learner: Learner, params: Params, dataset: Dataset | Batch, *, microbatch: int = 256
) -> Array:
    """Fractions of a split by true class and by the class that one network predicts.

    Args:
      learner: the network.
      params: its trained (calibrated) parameters.
      dataset: the split.
      microbatch: images at a time, fewer on the CPU (`jaxdistill.inner.microbatch.images_at_a_time`).

    Returns:
      [classes, classes], summing to 1; row c for images of class c. NaN for NaN logits.
    """

    def shares(batch: Batch) -> Array:
        logits = learner.apply(params, batch.x)
        taken_for = jax.nn.one_hot(jnp.argmax(logits, axis=-1), logits.shape[-1])
        found = batch.y.T @ taken_for / batch.y.shape[0]
        return jnp.where(jnp.all(jnp.isfinite(logits)), found, jnp.nan)

    return _mean_over(learner, params, shares, microbatch, dataset)


def _mean_over(
    learner: Learner,
    params: Params,
    function: Callable[[Batch], Any],
    microbatch: int,
    dataset: Dataset | Batch,
) -> Any:
    """Mean of a function over a split, at most `microbatch` images at a time; only those become floats."""
    stored = over_data(Batch(dataset.pixels if isinstance(dataset, Dataset) else dataset.x, dataset.y))

    def seen(part: Batch) -> Batch:
        return part._replace(x=dataset.standardised(part.x)) if isinstance(dataset, Dataset) else part

    shapes = jax.eval_shape(seen, stored)
    fitting = images_at_a_time(learner, lambda p, part: learner.apply(p, part.x), params, shapes)
    return mean_of_parts(lambda part: function(seen(part)), min(microbatch, fitting), stored)
