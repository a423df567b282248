"""What becomes of a teacher's batches on their way to the inner steps: wrappers of any teacher."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from jaxdistill.core.checks import at_least, fail
from jaxdistill.core.keys import at_step, stream
from jaxdistill.core.types import Array, Augment, Batch, Params, Teacher


def with_batches(teacher: Teacher, change: Callable[[Teacher, Params, Array], Batch]) -> Teacher:
    """The teacher with the batches `change(teacher, phi, key)`, [T, B, ...], in the place of its own.

    `by_class` and `make` stay as they are; `change` is given phi or `Made`, whichever `batches` is given.
    """
    return teacher._replace(batches=partial(change, teacher))


def augmented(teacher: Teacher, augment: Augment) -> Teacher:
    """The teacher's batches, augmented with a key of its own for every inner step.

    Args:
      teacher: any.
      augment: (key, images [B, H, W, C]) -> images.

    References: Cazenavette et al. 2022, section 3.3 (the student's images are augmented at every step).
    """

    def change(teacher: Teacher, phi: Params, key: Array) -> Batch:
        batches = teacher.batches(phi, key)
        keys = jax.vmap(partial(at_step, stream(key, "augment")))(jnp.arange(batches.y.shape[0]))
        return batches._replace(x=jax.lax.map(lambda each: augment(*each), (keys, batches.x)))

    return with_batches(teacher, change)


def minibatches(teacher: Teacher, batch_size: int) -> Teacher:
    """As many inner steps, each on some of the images: shuffled, and shuffled anew when all had their turn.

    Args:
      teacher: all its batches are one set, each image once if it goes over them several times and tells
        images by class.
      batch_size: b >= 1, images of a step; a step may take from two shuffles.

    Raises:
      UserError: `batch_size` below 1, or above the number of images.

    References: Cazenavette et al. 2022, section 3.4 (batched synthetic data).
    """
    at_least("minibatches", "batch_size", batch_size, 1)

    def change(teacher: Teacher, phi: Params, key: Array) -> Batch:
        given = teacher.batches(phi, key)
        num_steps = given.y.shape[0]
        pool = given if teacher.by_class is None else teacher.by_class(phi, key)
        pool = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), pool)
        count = pool.y.shape[0]
        if batch_size > count:
            raise fail("minibatches", f"batch_size <= {count}, the synthetic images", batch_size)
        keys = jax.random.split(stream(key, "minibatches"), -(-num_steps * batch_size // count))
        order = jax.vmap(lambda key: jax.random.permutation(key, count))(keys).reshape(-1)
        rows = order[: num_steps * batch_size].reshape(num_steps, batch_size)
        return jax.tree.map(lambda a: a[rows], pool)

    return with_batches(teacher, change)
