"""The shapes of what a teacher makes; asking twice traces it once."""

from functools import lru_cache
from typing import NamedTuple

import jax

from jaxdistill.core.types import Teacher

Shape = tuple[int, ...]


class Shapes(NamedTuple):
    """The shapes of the images and labels of a batch."""

    x: Shape
    y: Shape


@lru_cache(maxsize=8)
def shapes_of(teacher: Teacher) -> Shapes:
    """[T, B, H, W, C] and [T, B, classes], of all its batches.

    Example:
      >>> shapes_of(jd.images(image_shape=(8, 8, 1), num_classes=10, distill_epochs=3)).y
      (3, 10, 10)
    """
    key = jax.random.key(0)
    made = jax.eval_shape(lambda: teacher.batches(teacher.init(key), key))
    return Shapes(made.x.shape, made.y.shape)


@lru_cache(maxsize=8)
def shapes_by_class(teacher: Teacher) -> Shapes | None:
    """[classes, n, H, W, C] and [classes, n, classes]; None of a teacher that has no images by class."""
    key, by_class = jax.random.key(0), teacher.by_class
    if by_class is None:
        return None
    made = jax.eval_shape(lambda: by_class(teacher.init(key), key))
    return Shapes(made.x.shape, made.y.shape)
