"""Means over a batch, a few images at a time: what fits the cache is fast, what fits memory runs."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxdistill.core.types import Array, Batch, Params
from jaxdistill.inner.over_learners import data_shares


def mean_over_batch(
    score: Callable[[Params, Batch], tuple[Array, Array]],
    params: Params,
    batch: Batch,
    microbatch: int | None,
) -> tuple[Array, Array]:
    """Mean of `score` over a batch, computed so many images at a time.

    The gradient is accumulated while the value is computed, so nothing is kept per image and nothing is
    computed twice. It flows from the loss into `params` alone, to first order: real data are constants, and
    the other scalar is only reported.

    Args:
      score: (params, Batch) -> (loss, anything scalar), both means over that batch.
      params: what the loss depends on.
      batch: [B, ...].
      microbatch: images at a time on a device; the whole batch when None. The last part may be smaller.

    Returns:
      (loss, the other scalar), means over the whole batch.
    """
    size = batch.y.shape[0]
    if microbatch is None or microbatch >= size // data_shares(size):
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
      microbatch: images at a time on a device, at most B; the last part may be smaller.
      batch: [B, ...].

    Returns:
      The pytree for the whole batch: the sum of function(part) * share of the part.
    """
    size = batch.y.shape[0]
    shares = data_shares(size)  # a part takes as many images of every device's share
    own = size // shares
    microbatch = min(microbatch, own)
    whole = own // microbatch * microbatch
    split = jax.tree.map(lambda a: a.reshape(shares, own, *a.shape[1:]), batch)

    def in_parts(a: Array) -> Array:
        a = a[:, :whole].reshape(shares, -1, microbatch, *a.shape[2:]).swapaxes(0, 1)
        return a.reshape(-1, shares * microbatch, *a.shape[3:])

    parts = jax.tree.map(in_parts, split)

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
