"""What is learned, and how it yields the batches of the inner loop.

A new teacher is one new file with a factory `(*, image_shape, num_classes, options) -> Teacher`, and one line
in `TEACHERS`.
"""

from collections.abc import Callable

from jaxdistill.core.registry import Registry
from jaxdistill.core.types import Teacher
from jaxdistill.teachers.batching import augmented, minibatches
from jaxdistill.teachers.curricula import CURRICULA, shuffled
from jaxdistill.teachers.generator import generator
from jaxdistill.teachers.images import images

__all__ = ["CURRICULA", "TEACHERS", "augmented", "generator", "images", "minibatches", "shuffled"]

TEACHERS: Registry[Callable[..., Teacher]] = Registry(
    "teacher",
    {
        "generator": "jaxdistill.teachers.generator:generator",
        "images": "jaxdistill.teachers.images:images",
    },
)
