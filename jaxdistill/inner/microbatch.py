"""Means over a batch, a few images at a time: what fits the cache is fast, what fits memory runs."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxdistill.core.types import Array, Batch, Learner, Params
from jaxdistill.inner.over_learners import data_shares

CACHE = 16 * 2**20
"""Bytes that the forward pass of images computed at a time may keep for its gradient, on the CPU. ConvNet-3
takes up to twice as long for 256 MNIST digits at once: `experiments.benchmark --what=microbatch`."""


def images_at_a_time(
    learner: Learner, function: Callable[[Params, Batch], Any], params: Params, batch: Batch
) -> int:
    """How many images of a batch to compute at a time: what fits the cache on the CPU, all of them elsewhere.

    All too where images depend on one another, which is where `calibrate` has something to remember. Every
    part's gradient is added to one of the size of the weights, so a part is not made smaller than they are.

    Args:
      learner: the network.
      function: (params, Batch) -> any pytree: what is computed, differentiated or not.
      params: of the network.
      batch: [B, ...].

    Returns:
      A number in 1 ... B, or in 1 ... a device's share where a mesh splits them: a divisor where one is near.
    """
    size = batch.y.shape[0]
    own = size // data_shares(size)
    remembered = jax.eval_shape(learner.calibrate, params, batch.x)
    if jax.default_backend() != "cpu" or jax.tree.structure(remembered) != jax.tree.structure(params):
        return own
    kept = jax.eval_shape(
        lambda params, batch: jax.vjp(lambda p: function(p, batch), params)[1], params, batch
    )
    fitting = max(CACHE, _bytes(params)) * size // max(1, _bytes(kept))
    if fitting >= own:
        return own
    divisor = max(n for n in range(1, max(1, fitting) + 1) if own % n == 0)
    return divisor if 2 * divisor > fitting else fitting


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def in_parts(learner: Learner, loss: Callable[[Params, Batch], Array]) -> Callable[[Params, Batch], Array]:
    """A loss that is a mean over images, computed `images_at_a_time`: the same numbers, faster on the CPU.

    To be differentiated by `params` alone and once, see `mean_over_batch`.

    Args:
      learner: the network.
      loss: (params, Batch) -> scalar.
    """

    def value(params: Params, batch: Batch) -> Array:
        microbatch = images_at_a_time(learner, loss, params, batch)
        return mean_over_batch(lambda p, part: (loss(p, part), jnp.zeros(())), params, batch, microbatch)[0]

    return value


def mean_over_batch(
    score: Callable[[Params, Batch], tuple[Array, Array]],
    params: Params,
    batch: Batch,
    microbatch: int,
) -> tuple[Array, Array]:
    """Mean of `score` over a batch, computed so many images at a time.

    The gradient is accumulated while the value is computed, so nothing is kept per image and nothing is
    computed twice. It flows from the loss into `params` alone, to first order: real data are constants, and
    the other scalar is only reported.

    Args:
      score: (params, Batch) -> (loss, anything scalar), both means over that batch.
      params: what the loss depends on.
      batch: [B, ...].
      microbatch: images at a time on a device, the last part may be smaller; B or more is all at once.

    Returns:
      (loss, the other scalar), means over the whole batch.
    """
    size = batch.y.shape[0]
    if microbatch >= size // data_shares(size):
        loss, other = score(params, lax.stop_gradient(batch))
        return loss, lax.stop_gradient(other)
    return _accumulated(score, microbatch, params, batch)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _accumulated(score: Callable, microbatch: int, params: Params, batch: Batch) -> tuple[Array, Array]:
    return mean_of_parts(lambda part: score(params, part), microbatch, batch)


def mean_of_parts(function: Callable[[Batch], Any], microbatch: int, batch: Batch) -> Any:
    """Mean over a batch of a function that is itself a mean, computed so many images at a time.

    Args:
      function: Batch -> any pytree of means over that batch.
      microbatch: images at a time on a device, the last part may be smaller; B or more is all at once.
      batch: [B, ...].

    Returns:
      The pytree for the whole batch: the sum of function(part) * share of the part.
    """
    size = batch.y.shape[0]
    shares = data_shares(size)  # a part takes as many images of every device's share
    own = size // shares
    if microbatch >= own:
        return function(batch)
    whole = own // microbatch * microbatch
    split = jax.tree.map(lambda a: a.reshape(shares, own, *a.shape[1:]), batch)

    def stacked(a: Array) -> Array:
        a = a[:, :whole].reshape(shares, -1, microbatch, *a.shape[2:]).swapaxes(0, 1)
        return a.reshape(-1, shares * microbatch, *a.shape[3:])

    parts = jax.tree.map(stacked, split)

    def weighted(part: Batch, images: int) -> Any:
        return jax.tree.map(lambda a: a * (images / size), function(part))

    def add(total: Any, part: Batch) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, weighted(part, shares * microbatch)), None

    shapes = jax.eval_shape(function, jax.tree.map(lambda a: a[0], parts))
    total, _ = lax.scan(add, jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes), parts)
    if whole == own:
        return total
    rest = jax.tree.map(lambda a: a[:, whole:].reshape(-1, *a.shape[2:]), split)
    return jax.tree.map(jnp.add, total, weighted(rest, shares * (own - whole)))


def _forward(score, microbatch, params, batch):
    def both(part):
        return jax.value_and_grad(lambda p: score(p, part), has_aux=True)(params)

    (loss, aux), gradient = mean_of_parts(both, microbatch, batch)
    return (loss, aux), gradient


def _backward(score, microbatch, gradient, cotangent):
    return jax.tree.map(lambda g: g * cotangent[0], gradient), None


_accumulated.defvjp(_forward, _backward)
