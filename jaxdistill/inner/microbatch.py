"""Means over a batch, a few images at a time: faster on the CPU, and what fits memory runs."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from jaxdistill.core.platform import choices
from jaxdistill.core.types import Array, Batch, Learner, Params
from jaxdistill.inner.over_learners import data_shares

KEPT = 24 * 2**20
"""Bytes that images computed at a time may keep for their gradient, on the CPU. 256 of 28x28 pixels keep
600 MiB in ConvNet-3, and take up to twice as long at once: `experiments.benchmark --what=microbatch`."""


def images_at_a_time(
    learner: Learner, function: Callable[[Params, Batch], Any], params: Params, batch: Batch
) -> int:
    """How many images of a batch to compute at a time: what keeps `KEPT` on the CPU, all of them elsewhere.

    All too where images see one another, which is where `calibrate` adds statistics. Every part's gradient is
    added to one of the size of the weights, so a part keeps no less than they take. This is for one learner:
    K of them under `vmap` keep K times as much.

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
    if not choices().batches_in_parts or jax.tree.structure(remembered) != jax.tree.structure(params):
        return own

    def kept(images: int) -> int:
        some = jax.tree.map(lambda a: jax.ShapeDtypeStruct((images, *a.shape[1:]), a.dtype), batch)
        return _bytes(jax.eval_shape(lambda p, b: jax.vjp(lambda p: function(p, b), p)[1], params, some))

    fitting = max(1, max(KEPT, _bytes(params)) // max(1, kept(2) - kept(1)))
    if fitting >= own:
        return own
    divisor = max(n for n in range(1, fitting + 1) if own % n == 0)
    return divisor if 2 * divisor > fitting else fitting


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def in_parts(
    learner: Learner, loss: Callable[[Params, Batch], Array], *, microbatch: int | None = None
) -> Callable[[Params, Batch], Array]:
    """A loss that is a mean over images, computed a few at a time: the same numbers, faster on the CPU.

    To be differentiated by `params` alone and once, see `mean_over_batch`.

    Args:
      learner: the network.
      loss: (params, Batch) -> scalar, a mean over images and terms of the weights; what it closes over is
        constant (`lax.stop_gradient`).
      microbatch: images at a time; `images_at_a_time` when None.
    """

    def value(params: Params, batch: Batch) -> Array:
        size = microbatch or images_at_a_time(learner, loss, params, batch)
        return mean_over_batch(lambda p, part: (loss(p, part), jnp.zeros(())), params, batch, size)[0]

    return value


def mean_over_batch(
    score: Callable[[Params, Batch], tuple[Array, Array]],
    params: Params,
    batch: Batch,
    microbatch: int,
) -> tuple[Array, Array]:
    """Mean of `score` over a batch, computed a few images at a time.

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
    """Mean over a batch of a function that is itself a mean, computed a few images at a time.

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


def _forward(score: Callable, microbatch: int, params: Params, batch: Batch) -> tuple[Any, Params]:
    """Params come with whether what is learned moves them: the body of a network whose head alone is trained
    does not, and its gradient costs nothing then."""
    leaves, structure = jax.tree.flatten(params)
    values = [leaf.value for leaf in leaves]
    moved = [i for i, leaf in enumerate(leaves) if leaf.perturbed]
    batch = jax.tree.map(lambda leaf: leaf.value, batch)

    def both(part: Batch) -> Any:
        def of_moved(some: list[Array]) -> tuple[Array, Array]:
            new = dict(zip(moved, some, strict=True))
            return score(structure.unflatten([new.get(i, value) for i, value in enumerate(values)]), part)

        return jax.value_and_grad(of_moved, has_aux=True)([values[i] for i in moved])

    (loss, aux), gradient = mean_of_parts(both, microbatch, batch)
    return (loss, aux), structure.unflatten(
        [gradient[moved.index(i)] if i in moved else None for i in range(len(leaves))]
    )


def _backward(score: Callable, microbatch: int, gradient: Params, cotangent: Any) -> tuple[Params, None]:
    if isinstance(cotangent[0], SymbolicZero):
        return jax.tree.map(jnp.zeros_like, gradient), None
    return jax.tree.map(lambda g: g * cotangent[0], gradient), None


_accumulated.defvjp(_forward, _backward, symbolic_zeros=True)
