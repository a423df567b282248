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


def minibatches(teacher: Teacher, batch_size: int, *, balanced: bool = False) -> Teacher:
    """As many inner steps, each on some of the images: shuffled, and shuffled anew when all had their turn.

    Args:
      teacher: all its batches are one set, each image once if it goes over them several times and tells
        images by class.
      batch_size: b >= 1, images of a step; a step may take from two shuffles.
      balanced: whether a step has equally many images of every class; each class is shuffled on its own.

    Raises:
      UserError: `batch_size` below 1, or above the number of images; of balanced ones, no multiple of the
        number of classes, or a teacher of fewer images than classes.

    References: Cazenavette et al. 2022, section 3.4 (batched synthetic data); Deng & Russakovsky 2022 and
    Feng et al. 2023 (of every class equally many).
    """
    at_least("minibatches", "batch_size", batch_size, 1)
    if balanced and teacher.by_class is None:
        raise fail("minibatches", "at least one synthetic image of every class", "fewer images than classes")

    def orders(key: Array, count: int, length: int) -> Array:
        """[length]: rows of `count` images in turn, each shuffle with a key of its own."""
        keys = jax.random.split(key, -(-length // count))
        return jax.vmap(lambda key: jax.random.permutation(key, count))(keys).reshape(-1)[:length]

    def of_each_class(pool: Batch, num_steps: int, key: Array) -> Batch:
        """[classes, n, ...] -> [T, b, ...], class by class within a step."""
        classes, count = pool.y.shape[:2]
        if batch_size % classes:
            raise fail("minibatches", f"batch_size a multiple of the {classes} classes", batch_size)
        each = batch_size // classes
        if each > count:
            raise fail("minibatches", f"batch_size <= {classes * count}, the synthetic images", batch_size)
        keys = jax.random.split(key, classes)
        rows = jax.vmap(lambda key: orders(key, count, num_steps * each))(keys)

        def drawn(a: Array) -> Array:
            a = jax.vmap(lambda of_class, rows: of_class[rows])(a, rows)
            a = a.reshape(classes, num_steps, each, *a.shape[2:]).swapaxes(0, 1)
            return a.reshape(num_steps, batch_size, *a.shape[3:])

        return jax.tree.map(drawn, pool)

    def change(teacher: Teacher, phi: Params, key: Array) -> Batch:
        given = teacher.batches(phi, key)
        num_steps = given.y.shape[0]
        pool = given if teacher.by_class is None else teacher.by_class(phi, key)
        if balanced:
            return of_each_class(pool, num_steps, stream(key, "minibatches"))
        pool = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), pool)
        count = pool.y.shape[0]
        if batch_size > count:
            raise fail("minibatches", f"batch_size <= {count}, the synthetic images", batch_size)
        rows = orders(stream(key, "minibatches"), count, num_steps * batch_size)
        rows = rows.reshape(num_steps, batch_size)
        return jax.tree.map(lambda a: a[rows], pool)

    return with_batches(teacher, change)


def some_of_each_class(teacher: Teacher, per_class: int) -> Teacher:
    """The teacher with `per_class` random images of every class in the place of all of them in `by_class`.

    Args:
      teacher: any that tells images by class; `batches` stay as they are.
      per_class: images of a class, drawn without replacement at every outer step.

    Raises:
      UserError: a number below 1 or above the images of a class.
    """
    at_least("some_of_each_class", "synthetic_batch_size", per_class, 1)
    by_class = teacher.by_class
    if by_class is None:
        expected = "at least one synthetic image of every class"
        raise fail("some_of_each_class", expected, "fewer images than classes")

    def some(phi: Params, key: Array) -> Batch:
        pool = by_class(phi, key)
        classes, count = pool.y.shape[:2]
        if per_class > count:
            raise fail("some_of_each_class", f"synthetic_batch_size <= {count}, images of a class", per_class)
        keys = jax.random.split(stream(key, "some of each class"), classes)
        rows = jax.vmap(lambda key: jax.random.permutation(key, count)[:per_class])(keys)
        return jax.tree.map(lambda a: jax.vmap(lambda of_class, rows: of_class[rows])(a, rows), pool)

    return teacher._replace(by_class=some)
