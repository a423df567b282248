"""Curricula: in which order the inner steps see a teacher's images.

| name | noise of a generator | order |
| --- | --- | --- |
| `full` | learned | learned with it: as it is |
| `batch_shuffled` | learned | batches shuffled |
| `all_shuffled` | learned | images shuffled over all batches |
| `none` | fresh | - |
| `fixed` | drawn once, not learned | as it is |

The order is a wrapper of any teacher; what becomes of the noise is the generator's matter.

References: Such et al. 2019, section 3.3 and figure 3 (the first four); Medvedev & D'yakonov 2022 (fixed).
"""

from typing import NamedTuple

import jax

from jaxdistill.core.checks import one_of
from jaxdistill.core.keys import stream
from jaxdistill.core.types import Array, Batch, Params, Teacher
from jaxdistill.teachers.batching import with_batches

SHUFFLES = ("none", "batches", "images")


class Curriculum(NamedTuple):
    """What `full`, `none` and the others mean."""

    noise: str
    """One of `teachers.generator.NOISES`."""
    shuffle: str
    """One of `SHUFFLES`."""


CURRICULA: dict[str, Curriculum] = {
    "full": Curriculum("learned", "none"),
    "batch_shuffled": Curriculum("learned", "batches"),
    "all_shuffled": Curriculum("learned", "images"),
    "none": Curriculum("fresh", "none"),
    "fixed": Curriculum("fixed", "none"),
}


def shuffled(teacher: Teacher, shuffle: str) -> Teacher:
    """The same images in a new random order at every inner training.

    Args:
      teacher: any; `by_class`, which knows no order, stays as it is.
      shuffle: `batches`, whole ones; `images`, over all batches, labels with them; `none`.

    Returns:
      The teacher.

    Raises:
      UserError: an unknown `shuffle`.

    Example:
      >>> teacher = jd.images(image_shape=(8, 8, 1), num_classes=10, distill_epochs=3)
      >>> teacher = shuffled(teacher, "images")
    """
    if one_of("shuffled", shuffle, SHUFFLES) == "none":
        return teacher

    def change(teacher: Teacher, phi: Params, key: Array) -> Batch:
        batches = teacher.batches(phi, key)
        steps, size = batches.y.shape[:2]
        count = steps if shuffle == "batches" else steps * size
        order = jax.random.permutation(stream(key, "shuffle"), count)

        def arrange(a: Array) -> Array:
            return a.reshape(count, *a.shape[2 if shuffle == "images" else 1 :])[order].reshape(a.shape)

        return jax.tree.map(arrange, batches)

    return with_batches(teacher, change)
