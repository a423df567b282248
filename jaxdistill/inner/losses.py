"""Losses of one batch, and the inner loss that every solve shares."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxdistill.core.checks import above, at_least, fail
from jaxdistill.core.linalg import add_scaled, joined, part_of, squared_norm
from jaxdistill.core.types import Array, Batch, InnerLoss, Learner, Meta, Params


def cross_entropy(logits: Array, labels: Array, *, temperature: float = 1.0) -> Array:
    """Mean over the batch of -sum_c y_c log softmax(logits / tau)_c.

    It is not multiplied by tau^2. A term of soft labels that stands beside one of hard labels wants that
    factor: its gradient by the logits shrinks as 1 / tau^2 (Hinton et al. 2015, section 2).

    Args:
      logits: [B, classes].
      labels: [B, classes] probabilities; those of a teacher network are softmax(its logits / tau).
      temperature: tau > 0.

    Returns:
      Scalar, nats.

    Example:
      >>> teacher, student = jnp.array([[2.0, 0.0]]), jnp.array([[1.0, 0.0]])
      >>> loss = 4.0**2 * cross_entropy(student, jax.nn.softmax(teacher / 4.0), temperature=4.0)

    References: Hinton, Vinyals & Dean 2015, "Distilling the Knowledge in a Neural Network".
    """
    return -jnp.mean(jnp.sum(labels * jax.nn.log_softmax(logits / temperature), axis=-1))


def kl_divergence(logits: Array, labels: Array, *, temperature: float = 1.0) -> Array:
    """Mean over the batch of KL(y || softmax(logits / tau)): the cross-entropy less the labels' entropy.

    Its gradient by the logits is that of `cross_entropy`, and it is 0 where the network gives the labels. It
    is not multiplied by tau^2 either.

    Args:
      logits: [B, classes].
      labels: [B, classes] probabilities; a class of probability 0 adds nothing.
      temperature: tau > 0.

    Returns:
      Scalar, nats, >= 0.

    Example:
      >>> round(float(kl_divergence(jnp.array([[0.0, 0.0]]), jnp.array([[1.0, 0.0]]))), 3)  # log 2
      0.693

    References: Hinton, Vinyals & Dean 2015, "Distilling the Knowledge in a Neural Network".
    """
    logs = jnp.log(jnp.where(labels > 0, labels, 1.0))  # 0 log 0 = 0
    difference = logs - jax.nn.log_softmax(logits / temperature)
    return jnp.mean(jnp.sum(labels * difference, axis=-1))


def accuracy(logits: Array, labels: Array) -> Array:
    """Share of rows whose largest logit is at the label's largest entry: scalar in [0, 1]."""
    return jnp.mean(jnp.argmax(logits, axis=-1) == jnp.argmax(labels, axis=-1), dtype=logits.dtype)


def top_k_accuracy(logits: Array, labels: Array, k: int) -> Array:
    """Share of rows whose label's largest entry is among the k largest logits.

    Args:
      logits: [B, classes].
      labels: [B, classes] probabilities.
      k: in 1 ... classes. Of equal logits the first ones count as larger, so that k = 1 is `accuracy`.

    Returns:
      Scalar in [0, 1].

    Raises:
      UserError: k out of range.

    Example:
      >>> float(top_k_accuracy(jnp.array([[3.0, 2.0, 1.0]]), jnp.array([[0.0, 1.0, 0.0]]), 2))
      1.0
    """
    if not 1 <= k <= logits.shape[-1]:
        raise fail("top_k_accuracy", f"k in 1 ... {logits.shape[-1]}, the classes", k)
    _, largest = jax.lax.top_k(logits, k)
    found = largest == jnp.argmax(labels, axis=-1)[:, None]
    return jnp.mean(jnp.any(found, axis=-1), dtype=logits.dtype)


def inner_loss(learner: Learner, *, weight_decay: float = 0.0, temperature: float = 1.0) -> InnerLoss:
    """The loss that the inner loop lowers: cross-entropy + weight_decay / 2 |params|^2.

    The L2 term is part of the loss and not of the optimiser, so that every solve, the implicit ones
    included, means the same minimiser. For SGD it equals PyTorch's `weight_decay` (biases too). Of a learner
    that trains a part of its parameters it is that part's.

    Args:
      learner: the network.
      weight_decay: L2 coefficient, >= 0.
      temperature: of the cross-entropy, > 0.

    Returns:
      The loss, called with (meta, params, Batch) -> scalar, and its Gauss-Newton product.

    Raises:
      UserError: a number out of range.

    Example:
      >>> net = jd.learner("linear", image_shape=(8, 8, 1), num_classes=10)
      >>> loss = inner_loss(net, weight_decay=5e-4)
    """
    at_least("inner_loss", "weight_decay", weight_decay, 0.0)
    above("inner_loss", "temperature", temperature, 0.0)

    def value(meta: Meta, params: Params, batch: Batch) -> Array:
        del meta
        data = cross_entropy(learner.apply(params, batch.x), batch.y, temperature=temperature)
        trained = part_of(learner.split, params)
        return data if weight_decay == 0 else data + 0.5 * weight_decay * squared_norm(trained)

    def gauss_newton(meta: Meta, params: Params, batch: Batch) -> Callable[[Params], Params]:
        del meta
        return gauss_newton_product(
            learner, params, batch, weight_decay=weight_decay, temperature=temperature
        )

    return InnerLoss(value, gauss_newton, weight_decay, learner.split)


def gauss_newton_product(
    learner: Learner,
    params: Params,
    batch: Batch,
    *,
    weight_decay: float = 0.0,
    temperature: float = 1.0,
) -> Callable[[Params], Params]:
    """u -> G u with G = J^T (diag(p) - p p^T) J / (B tau^2) + weight_decay I, J the Jacobian of the logits.

    p = softmax(logits / tau). J u is the transpose of the map c -> J^T c, since convolutions have reverse
    mode alone.

    Args:
      learner: the network.
      params: where.
      batch: [B, ...]; labels that sum to 1 do not enter.
      weight_decay, temperature: of the inner loss.
    """
    part = part_of(learner.split, params)
    logits, pull = jax.vjp(lambda p: learner.apply(joined(learner.split, params, p), batch.x), part)
    _, push = jax.vjp(lambda c: pull(c)[0], jnp.zeros_like(logits))
    p = jax.nn.softmax(logits / temperature)

    def product(u: Params) -> Params:
        change = push(u)[0]
        curved = p * (change - jnp.sum(p * change, axis=-1, keepdims=True))
        curved = curved / (logits.shape[0] * temperature**2)
        return add_scaled(pull(curved)[0], weight_decay, u)

    return product
