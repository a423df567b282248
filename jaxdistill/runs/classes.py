"""Classes of different sizes: notes about them, and whether tables show the balanced accuracy."""

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
    """The number of images of each class, as in result files."""
    return {"train": np.asarray(data.train.counts).tolist(), "test": np.asarray(data.test.counts).tolist()}


def uneven(counts: Sequence[int]) -> bool:
    """Whether the sizes of classes differ so much that balanced accuracy differs from accuracy."""
    return max(counts, default=0) > UNEVEN * min(counts, default=0)


def tested_unevenly(result: Mapping[str, Any]) -> bool:
    """Whether the classes of a result's test images are uneven; older files lack their counts."""
    return uneven(result.get("class_counts", {}).get("test", ()))


def say_uneven(plan: Plan) -> None:
    """Prints a note if the classes are uneven: their sizes, and how real batches are drawn."""
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
