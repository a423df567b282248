"""A pool of networks of all ages: each is trained a little, on synthetic or real data, after it was used."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxdistill.augment import cutmix
from jaxdistill.core.checks import above, at_least, fail, lookup, one_of
from jaxdistill.core.keys import at_step, stream
from jaxdistill.core.types import Array, Augment, Batch, Learner, Meta, Params, Population, Teacher
from jaxdistill.inner.losses import inner_loss as inner_loss_of
from jaxdistill.inner.losses import without_temperature
from jaxdistill.inner.microbatch import in_parts
from jaxdistill.inner.over_learners import over_learners
from jaxdistill.populations.fresh import new_networks
from jaxdistill.populations.source import Source

AGE_OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adam": optax.adam,
    "momentum": partial(optax.sgd, momentum=0.9),
    "rmsprop": optax.rmsprop,
    "sgd": optax.sgd,
}
"""By name: step size -> optimiser; `momentum` is SGD with a momentum of 0.9. Nothing differentiates these
steps, so they are Optax's own."""
AGE_DATA = ("synthetic", "real")


class Ages(NamedTuple):
    """The state: a pool of networks, and which of them are next."""

    params: Params
    """[pool_size, ...]."""
    optimizer: Any
    """[pool_size, ...], the states of their optimisers."""
    ages: Array
    """[pool_size] int32: steps since they were new; at the start, what they count from."""
    drawn: Array
    """[K] int32: the networks of the next outer step, all different."""


def ages(
    learner: Learner,
    teacher: Teacher,
    *,
    num_learners: int = 1,
    pool_size: int = 10,
    max_age: int = 100,
    age_steps: int = 1,
    max_age_steps: int | None = None,
    age_optimizer: str = "adam",
    age_learning_rate: float = 3e-4,
    age_data: str = "synthetic",
    age_weight_decay: float = 0.0,
    age_cutmix: float = 0.0,
    inner_loss: str = "cross_entropy",
    augment: Augment | None = None,
    strategy: str = "auto",
) -> Population:
    """K networks of a pool, drawn at random; after use each is trained, and replaced where it got too old.

    At the start all networks are new, and their ages are counted from 0, max_age / pool_size, 2 max_age /
    pool_size and so on. So they are replaced one after another, and after the first max_age steps of each
    the pool has networks of all ages.

    Args:
      learner: the network.
      teacher: makes the synthetic data; all its batches are one set, which every step is on.
      num_learners: K, as in the method; at most pool_size.
      pool_size: networks that are kept, with their optimisers.
      max_age: steps after which a network is replaced by a new one; a use without a step counts as one.
      age_steps: steps of training after a network was used, >= 0.
      max_age_steps: the number is drawn from age_steps to this one, both included; it is age_steps when None.
      age_optimizer: their optimiser, a key of `AGE_OPTIMIZERS`.
      age_learning_rate: its step size.
      age_data: what networks of the pool are trained on, synthetic images or real ones; these are the real
        batch of the outer step, which was matched before, each image in one step at most.
      age_weight_decay: L2 coefficient of this training.
      age_cutmix: probability of a step to mix its images, see `jaxdistill.augment.cutmix`.
      inner_loss: what these steps lower, `cross_entropy` or `squared`.
      augment: applied to the images of every step.
      strategy: how the K axis is computed, see `jaxdistill.inner.over_learners`.

    Returns:
      The population; its state is an `Ages`.

    Raises:
      UserError: a number out of range, an unknown optimiser, a loss that does not take the labels; of real
        images (when traced), fewer than steps, or a method that draws none.

    Example:
      >>> teacher = jd.images(image_shape=(8, 8, 1), num_classes=10, labels="free")
      >>> net = jd.learner("convnet", image_shape=(8, 8, 1), num_classes=10)
      >>> population = ages(net, teacher, pool_size=10, max_age=100, inner_loss="squared")

    References: Zhou, Nezhadarya & Ba 2022, algorithm 1 (10 networks, one step); Loo et al. 2023 (30 networks,
    1 to 15 steps); Kim et al. 2022, section 4.2 (one network, on real data).
    """
    most = age_steps if max_age_steps is None else max_age_steps
    for name, value in (("num_learners", num_learners), ("pool_size", pool_size), ("max_age", max_age)):
        at_least("ages", name, value, 1)
    at_least("ages", "age_steps", age_steps, 0)
    at_least("ages", "max_age_steps", most, age_steps)
    above("ages", "age_learning_rate", age_learning_rate, 0.0)
    if num_learners > pool_size:
        raise fail("ages", f"num_learners <= pool_size = {pool_size}", num_learners)
    without_temperature("ages", inner_loss)
    rule = lookup("ages age_optimizer", age_optimizer, AGE_OPTIMIZERS)(age_learning_rate)
    on_real = one_of("ages age_data", age_data, AGE_DATA) == "real"
    labels = "probabilities" if on_real else teacher.labels
    loss = inner_loss_of(learner, loss=inner_loss, labels=labels, weight_decay=age_weight_decay)
    loss_of = in_parts(learner, partial(loss, Meta((), {})))
    mix = cutmix(probability=age_cutmix) if age_cutmix else None

    def draw(key: Array) -> Array:
        return jax.random.permutation(key, pool_size)[:num_learners].astype(jnp.int32)

    def init(key: Array) -> Ages:
        params = new_networks(learner, stream(key, "learners"), pool_size)
        first = (jnp.arange(pool_size, dtype=jnp.int32) * max_age) // pool_size
        return Ages(params, jax.vmap(rule.init)(params), first, draw(stream(key, "draw")))

    def trained(
        params: Params, optimizer: Any, age: Array, key: Array, images: Batch
    ) -> tuple[Params, Any, Array]:
        count = jax.random.randint(stream(key, "steps"), (), age_steps, most + 1)
        some = parts_of(images, stream(key, "order")) if on_real else lambda number: images

        def step(number: Array, carry: tuple[Params, Any]) -> tuple[Params, Any]:
            params, optimizer = carry
            batch = some(number)
            if augment is not None:
                batch = batch._replace(x=augment(at_step(stream(key, "augment"), number), batch.x))
            if mix is not None:
                batch = mix(at_step(stream(key, "mix"), number), batch)
            updates, optimizer = rule.update(jax.grad(loss_of)(params, batch), optimizer, params)
            return optax.apply_updates(params, updates), optimizer

        def new() -> tuple[Params, Any, Array]:
            params = learner.init(stream(key, "learners"))
            return params, rule.init(params), jnp.zeros_like(age)

        params, optimizer = lax.fori_loop(0, count, step, (params, optimizer))
        age = age + jnp.maximum(count, 1).astype(age.dtype)
        return lax.cond(age >= max_age, new, lambda: (params, optimizer, age))

    def parts_of(images: Batch, key: Array) -> Callable[[Array], Batch]:
        """Number of a step -> its images: shuffled, and split into as many equal parts as steps at most."""
        count = images.y.shape[0]
        size = count // max(1, most)
        if size < 1:
            raise fail("ages", f"age_steps <= {count}, the real images of an outer step", most)
        rows = jax.random.permutation(key, count)[: max(1, most) * size].reshape(-1, size)
        return lambda number: jax.tree.map(lambda a: a[rows[number]], images)

    def advance(state: Ages, meta: Meta, real: Batch | None, key: Array) -> Ages:
        batches = real if on_real else teacher.batches(meta.teacher, stream(key, "teacher"))
        if batches is None:
            raise fail("ages", "a method that draws real images, with age_data=real", "none")
        images = Batch(
            batches.x.reshape(-1, *batches.x.shape[-3:]), batches.y.reshape(-1, batches.y.shape[-1])
        )
        pool = state.params, state.optimizer, state.ages
        used = jax.tree.map(lambda a: a[state.drawn], pool)
        keys = jax.random.split(stream(key, "networks"), num_learners)
        after = over_learners(trained, strategy=strategy)(*used, keys, shared=(images,))
        pool = jax.tree.map(lambda a, b: a.at[state.drawn].set(b), pool, after)
        params, optimizer, counted = pool
        return Ages(params, optimizer, counted, draw(stream(key, "draw")))

    def context(state: Ages, bank: Any, key: Array, count: int) -> Params:
        del bank, key
        if count != num_learners:
            raise fail("ages", f"{num_learners} learners, as it was made for", count)
        return jax.tree.map(lambda a: a[state.drawn], state.params)

    return Population(init=init, context=context, advance=advance)


SOURCE = Source(ages)
