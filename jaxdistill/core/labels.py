"""Kinds of labels, and what a loss is given of each.

| loss | of probabilities | of free labels |
| --- | --- | --- |
| `cross_entropy`, `platt` | as they are | their class: 1 for the largest entry |
| `squared` | centred, times a scale | as they are |

A distillation that learns free labels never takes their class: the losses of its inner loop refuse them. A
protocol that tests images does, since every set of images can be tested under every protocol.
"""

import math

import jax
import jax.numpy as jnp

from jaxdistill.core.checks import fail
from jaxdistill.core.types import Array

LABELS = ("probabilities", "free")
"""`probabilities` are >= 0 and sum to 1; `free` labels are any numbers, targets of a squared loss."""
LOSSES = ("cross_entropy", "squared", "platt")
"""`platt` is the cross-entropy with a learned temperature."""


def centred(y: Array) -> Array:
    """sqrt(C / 10) (y - 1 / C): what a squared loss wants of probabilities.

    Args:
      y: [..., C] probabilities.

    Example:
      >>> [round(float(t), 3) for t in centred(jnp.array([1.0, 0.0]))]
      [0.224, -0.224]

    References: Zhou, Nezhadarya & Ba 2022, "Dataset Distillation using Neural Feature Regression".
    """
    return math.sqrt(y.shape[-1] / 10) * zero_mean(y)


def zero_mean(y: Array) -> Array:
    """y - 1 / C: what kernel ridge regression predicts of probabilities.

    Args:
      y: [..., C] probabilities.

    References: Nguyen, Chen & Lee 2021, "Dataset Meta-Learning from Kernel Ridge-Regression".
    """
    return y - 1 / y.shape[-1]


def targets(loss: str, labels: str, y: Array) -> Array:
    """What a loss is given of labels of a kind, as the table of this module says.

    Args:
      loss: one of `LOSSES`.
      labels: one of `LABELS`.
      y: [..., C].
    """
    if loss == "squared":
        return y if labels == "free" else centred(y)
    return jax.nn.one_hot(jnp.argmax(y, axis=-1), y.shape[-1], dtype=y.dtype) if labels == "free" else y


def check_probabilities(where: str, labels: str, condition: str = "", remedy: str = "") -> None:
    """Raises for labels that are no probabilities.

    Args:
      where: what takes probabilities alone, for the error.
      labels: one of `LABELS`.
      condition: with what no others are taken, a space in front.
      remedy: how to mend it.
    """
    if labels != "probabilities":
        raise fail(where, f"labels=probabilities{condition}", f"labels={labels}", remedy)
