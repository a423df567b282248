"""All batches of a teacher as one set, which solves in closed form and networks of a population are on."""

import jax

from jaxdistill.core.checks import fail
from jaxdistill.core.keys import stream
from jaxdistill.core.types import Array, Batch, Meta, Teacher
from jaxdistill.teachers.shapes import shapes_by_class, shapes_of


def whole_set(teacher: Teacher, meta: Meta, key: Array) -> Batch:
    """The images of all batches, [T B, ...]."""
    return in_one_batch(teacher.batches(meta.teacher, stream(key, "teacher")))


def in_one_batch(batches: Batch) -> Batch:
    """[T, B, ...] -> [T B, ...]."""
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), batches)


def check_once(where: str, teacher: Teacher) -> None:
    """Raises where the set has an image twice, whose kernel is singular.

    Args:
      where: what solves in closed form, for the error.
      teacher: of the set; one that does not tell its images by class is not checked.
    """
    by_class = shapes_by_class(teacher)
    if by_class is None:
        return
    (steps, size, _), (classes, count, _) = shapes_of(teacher).y, by_class.y
    if steps * size - classes * count >= classes:  # by class, a generator leaves out what does not divide
        expected = f"each of {classes * count} images once"
        raise fail(where, expected, f"{steps * size} in all batches", "Set distill_epochs to 1.")
