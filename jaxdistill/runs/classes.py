"""Classes of different sizes: what is said of them, and whether tables show balanced accuracy."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxdistill.config import build
from jaxdistill.data import Splits
from jaxdistill.runs.plan import Plan
from jaxdistill.runtime import progress

UNEVEN = 1.5
"""Classes are uneven if the largest one has more than this many times the images of the smallest. Those of
MNIST, which are called balanced, differ by 1.27."""


def class_counts(data: Splits) -> dict[str, list[int]]:
    """Images of each class, as result files have them."""
    return {"train": np.asarray(data.train.counts).tolist(), "test": np.asarray(data.test.counts).tolist()}


def uneven(counts: Sequence[int]) -> bool:
    """Whether classes have such different sizes that accuracy and balanced accuracy are two things."""
    return max(counts, default=0) > UNEVEN * min(counts, default=0)


def tested_unevenly(result: Mapping[str, Any]) -> bool:
    """Whether the classes of a result's test images are uneven; older files do not say."""
    return uneven(result.get("class_counts", {}).get("test", ()))


def say_uneven(plan: Plan) -> None:
    """Says so if the classes that are distilled are uneven, and how real batches are drawn from them."""
    counts, names = np.asarray(plan.data.train.counts), plan.data.info.class_names
    if not uneven(counts.tolist()):
        return
    most, least = int(counts.argmax()), int(counts.argmin())
    if plan.method.draw is None:
        drawn = "no real images are drawn"
    elif build.draws_by_class(plan.config):
        drawn = "real batches have as many images of every class"
    else:
        drawn = "real batches are drawn uniformly over images, so large classes have more of them"
    progress.say(
        f"note: classes are uneven, {counts[most]} training images of {names[most]} to {counts[least]} of "
        f"{names[least]}; {drawn}"
    )
