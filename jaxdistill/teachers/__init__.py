"""What is learned, and how it yields the batches of the inner loop."""

from collections.abc import Callable

from jaxdistill.core.types import Teacher
from jaxdistill.teachers.batching import augmented, minibatches
from jaxdistill.teachers.curricula import CURRICULA, shuffled
from jaxdistill.teachers.generator import generator
from jaxdistill.teachers.images import images

__all__ = ["CURRICULA", "TEACHERS", "augmented", "generator", "images", "minibatches", "shuffled"]

TEACHERS: dict[str, Callable[..., Teacher]] = {"generator": generator, "images": images}
