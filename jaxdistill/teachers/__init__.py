"""What is learned, and how it yields the batches of the inner loop."""

from collections.abc import Callable

from jaxdistill.core.types import Teacher
from jaxdistill.teachers.images import images

TEACHERS: dict[str, Callable[..., Teacher]] = {"images": images}
