"""Labels that are learned: softmax of logits, which start from the true class."""

import math

from jaxdistill.core.checks import fail


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
