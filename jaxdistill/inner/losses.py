"""Losses of one batch, and the inner loss that every solve shares."""

import jax
import jax.numpy as jnp

from jaxdistill.core.checks import at_least
from jaxdistill.core.types import Array, Batch, InnerLoss, Learner, Meta, Params


def cross_entropy(logits: Array, labels: Array) -> Array:
    """Mean over the batch of -sum_c y_c log softmax(logits)_c.

    Args:
      logits: [B, classes].
      labels: [B, classes] probabilities.

    Returns:
      Scalar, nats.
    """
    return -jnp.mean(jnp.sum(labels * jax.nn.log_softmax(logits), axis=-1))


def accuracy(logits: Array, labels: Array) -> Array:
    """Share of rows whose largest logit is at the label's largest entry: scalar in [0, 1]."""
    return jnp.mean(jnp.argmax(logits, axis=-1) == jnp.argmax(labels, axis=-1), dtype=logits.dtype)


def squared_norm(tree: Params) -> Array:
    """Sum of the squares of every entry of a pytree: scalar."""
    return sum((jnp.vdot(leaf, leaf) for leaf in jax.tree.leaves(tree)), start=jnp.zeros(()))


def inner_loss(learner: Learner, *, weight_decay: float = 0.0) -> InnerLoss:
    """The loss that the inner loop lowers: cross-entropy + weight_decay / 2 |params|^2.

    The L2 term is part of the loss and not of the optimiser, so that every solve, the implicit ones
    included, means the same minimiser. For SGD it equals PyTorch's `weight_decay` (biases too).

    Args:
      learner: the network.
      weight_decay: L2 coefficient, >= 0.

    Returns:
      (meta, params, Batch) -> scalar.
    """
    at_least("inner_loss", "weight_decay", weight_decay, 0.0)

    def loss(meta: Meta, params: Params, batch: Batch) -> Array:
        del meta
        data = cross_entropy(learner.apply(params, batch.x), batch.y)
        return data if weight_decay == 0 else data + 0.5 * weight_decay * squared_norm(params)

    return loss
