"""Losses of one batch, and the inner loss that every solve shares."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxdistill.core.checks import at_least
from jaxdistill.core.linalg import add_scaled, squared_norm
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


def inner_loss(learner: Learner, *, weight_decay: float = 0.0) -> InnerLoss:
    """The loss that the inner loop lowers: cross-entropy + weight_decay / 2 |params|^2.

    The L2 term is part of the loss and not of the optimiser, so that every solve, the implicit ones
    included, means the same minimiser. For SGD it equals PyTorch's `weight_decay` (biases too).

    Args:
      learner: the network.
      weight_decay: L2 coefficient, >= 0.

    Returns:
      The loss, called with (meta, params, Batch) -> scalar, and its Gauss-Newton product.
    """
    at_least("inner_loss", "weight_decay", weight_decay, 0.0)

    def value(meta: Meta, params: Params, batch: Batch) -> Array:
        del meta
        data = cross_entropy(learner.apply(params, batch.x), batch.y)
        return data if weight_decay == 0 else data + 0.5 * weight_decay * squared_norm(params)

    def gauss_newton(meta: Meta, params: Params, batch: Batch) -> Callable[[Params], Params]:
        del meta
        return gauss_newton_product(learner, params, batch, weight_decay=weight_decay)

    return InnerLoss(value, gauss_newton, weight_decay)


def gauss_newton_product(
    learner: Learner, params: Params, batch: Batch, *, weight_decay: float = 0.0
) -> Callable[[Params], Params]:
    """u -> G u with G = J^T (diag(p) - p p^T) J / B + weight_decay I, J the Jacobian of the logits.

    J u is the transpose of the map c -> J^T c, since convolutions have reverse mode alone.

    Args:
      learner: the network.
      params: where.
      batch: [B, ...]; labels that sum to 1 do not enter.
      weight_decay: of the inner loss.
    """
    logits, pull = jax.vjp(lambda p: learner.apply(p, batch.x), params)
    _, push = jax.vjp(lambda c: pull(c)[0], jnp.zeros_like(logits))
    p = jax.nn.softmax(logits)

    def product(u: Params) -> Params:
        change = push(u)[0]
        curved = p * (change - jnp.sum(p * change, axis=-1, keepdims=True)) / logits.shape[0]
        return add_scaled(pull(curved)[0], weight_decay, u)

    return product
