"""Labels that are learned: softmax of logits, or any numbers; both start from the true class."""

import math
from collections.abc import Callable

import jax

from jaxdistill.core.checks import fail, one_of
from jaxdistill.core.labels import LABELS, centred
from jaxdistill.core.types import Array, Params


def labels_of(
    where: str, hard: Array, *, labels: str, soft_labels: bool, label_confidence: float
) -> tuple[Array | None, Callable[[Params], Array]]:
    """The labels of a teacher.

    Args:
      where: the teacher, for errors.
      hard: [..., classes] one-hot, the true class.
      labels: one of `LABELS`; free ones are learned, and start centred (`jaxdistill.core.labels.centred`).
      soft_labels: whether probabilities are learned.
      label_confidence: of these, the probability of the true class at the start.

    Returns:
      (the first value of `phi["y"]`, or None where labels are fixed; phi -> labels, [..., classes]).

    Raises:
      UserError: an unknown kind, `soft_labels` with free ones, a confidence out of range.
    """
    if one_of(f"{where} labels", labels, LABELS) == "free":
        if soft_labels:
            raise fail(where, "no soft_labels with labels=free, which are learned without", soft_labels)
        return centred(hard), lambda phi: phi["y"]
    if not soft_labels:
        return None, lambda phi: hard
    scale = logit_scale(where, label_confidence, hard.shape[-1])
    return scale * hard, lambda phi: jax.nn.softmax(phi["y"])


def logit_scale(where: str, confidence: float, num_classes: int) -> float:
    """The logit of the true class, all others 0, that gives it the probability `confidence`.

    Args:
      where: the teacher, for the error.
      confidence: in (1/classes, 1).
      num_classes: number of classes.

    Raises:
      UserError: a confidence out of range.

    Example:
      >>> round(logit_scale("images", 0.9, 10), 2)
      4.39
    """
    if not 1 / num_classes < confidence < 1:
        raise fail(where, f"label_confidence in (1/{num_classes}, 1)", confidence)
    return math.log(confidence * (num_classes - 1) / (1 - confidence))  # e^l / (e^l + classes - 1)
