"""Networks that live for several outer steps, trained on the synthetic data between them."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxdistill.core.checks import above, at_least, fail
from jaxdistill.core.keys import at_step, stream
from jaxdistill.core.types import Array, Augment, Batch, Learner, Meta, Params, Population, Teacher
from jaxdistill.inner.losses import inner_loss as inner_loss_of
from jaxdistill.inner.losses import without_temperature
from jaxdistill.inner.microbatch import in_parts
from jaxdistill.inner.optimizers import sgd
from jaxdistill.inner.over_learners import over_learners
from jaxdistill.inner.train import train
from jaxdistill.inner.whole_set import whole_set
from jaxdistill.populations.fresh import new_networks
from jaxdistill.populations.source import Source

MATCH_SCHEDULES = {1: (1, 1), 10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10)}
"""By images per class in the paper: (matches of one network, epochs of training between them)."""


def match_schedule(images_per_class: int) -> tuple[int, int]:
    """(matches of one network, epochs between them), for the next fewer images per class in the paper."""
    return MATCH_SCHEDULES[max(known for known in MATCH_SCHEDULES if known <= images_per_class)]


class Persistent(NamedTuple):
    """The state: networks, and how many outer steps they have been matched in."""

    params: Params
    """[K, ...]."""
    matches: Array
    """int32 scalar."""


def persistent(
    learner: Learner,
    teacher: Teacher,
    *,
    num_learners: int = 1,
    matches: int = 10,
    epochs: int = 50,
    learning_rate: float = 0.01,
    batch_size: int = 256,
    inner_loss: str = "cross_entropy",
    augment: Augment | None = None,
    strategy: str = "auto",
) -> Population:
    """K networks, trained on the synthetic data after each outer step, new ones after `matches` of them.

    They are not trained after the last outer step before they are replaced. With `matches=1` they are fresh
    at every outer step.

    Args:
      learner: the network.
      teacher: makes the synthetic data; all its batches are one set.
      num_learners: K, as in the method.
      matches: outer steps of one network.
      epochs: passes over the synthetic data between them.
      learning_rate: of plain gradient descent.
      batch_size: the most images of a step; batches are equal parts.
      inner_loss: what training lowers, `cross_entropy` or `squared`.
      augment: applied to every batch that they are trained on.
      strategy: how the K axis is computed, see `jaxdistill.inner.over_learners`.

    Returns:
      The population; its state is a `Persistent`.

    Raises:
      UserError: a number out of range.

    Example:
      >>> teacher = jd.images(image_shape=(8, 8, 1), num_classes=10, images_per_class=10)
      >>> net = jd.learner("convnet", image_shape=(8, 8, 1), num_classes=10)
      >>> population = persistent(net, teacher, matches=10, epochs=50)  # DC's numbers for ten images

    References: Zhao, Mopuri & Bilen 2021, algorithm 1 and section 4.1.
    """
    for name, value in (("num_learners", num_learners), ("matches", matches), ("batch_size", batch_size)):
        at_least("persistent", name, value, 1)
    at_least("persistent", "epochs", epochs, 0)
    above("persistent", "learning_rate", learning_rate, 0.0)
    without_temperature("persistent", inner_loss)
    loss = inner_loss_of(learner, loss=inner_loss, labels=teacher.labels)
    loss_of = in_parts(learner, partial(loss, Meta((), {})))

    def fresh(key: Array) -> Persistent:
        return Persistent(new_networks(learner, key, num_learners), jnp.zeros((), jnp.int32))

    def trained(params: Params, key: Array, images: Batch) -> Params:
        count = images.y.shape[0]
        parts = -(-count // batch_size)
        size = -(-count // parts)

        def epoch(number: Array) -> Array:
            shuffled = jax.random.permutation(at_step(key, number), count)
            return jnp.resize(shuffled, (parts, size))

        rows = lax.map(epoch, jnp.arange(epochs)).reshape(epochs * parts, size)
        keys = jax.vmap(partial(at_step, stream(key, "augment")))(jnp.arange(epochs * parts))
        optimizer = sgd(num_steps=epochs * parts, learning_rate=learning_rate, learned=())

        def loss(params: Params, step: tuple[Array, Array]) -> Array:
            rows, key = step
            batch = jax.tree.map(lambda a: a[rows], images)
            if augment is not None:
                batch = batch._replace(x=augment(key, batch.x))
            return loss_of(params, batch)

        return train(loss, params, (rows, keys), optimizer, optimizer.values({}))[0]

    def advance(state: Persistent, meta: Meta, real: Any, key: Array) -> Persistent:
        del real

        def go_on() -> Persistent:
            if epochs == 0:
                return state._replace(matches=state.matches + 1)
            images = whole_set(teacher, meta, key)
            keys = jax.random.split(stream(key, "order"), num_learners)
            mapped = over_learners(trained, strategy=strategy)
            return Persistent(mapped(state.params, keys, shared=(images,)), state.matches + 1)

        if matches == 1:
            return fresh(stream(key, "learners"))
        last = state.matches + 1 >= matches
        return lax.cond(last, lambda: fresh(stream(key, "learners")), go_on)

    def context(state: Persistent, bank: Any, key: Array, count: int) -> Params:
        del bank, key
        if count != num_learners:
            raise fail("persistent", f"{num_learners} learners, as it was made for", count)
        return state.params

    return Population(init=fresh, context=context, advance=advance)


SOURCE = Source(persistent)
