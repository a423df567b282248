"""Losses of one batch, and the inner loss that every solve shares."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxdistill.core.checks import above, at_least, fail, one_of
from jaxdistill.core.labels import LOSSES, check_probabilities, targets
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

    Its gradient by the logits equals the gradient of `cross_entropy`. The loss is 0 where the softmax
    equals the labels. It is not multiplied by tau^2.

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


def squared(outputs: Array, labels: Array) -> Array:
    """Mean over the batch of 1/2 sum_c (f_c - t_c)^2.

    Args:
      outputs: [B, classes], f.
      labels: [B, classes], t: any numbers; `jaxdistill.core.labels.centred` makes them of probabilities.

    Example:
      >>> float(squared(jnp.array([[1.0, 0.0]]), jnp.array([[0.5, -0.5]])))
      0.25
    """
    return 0.5 * jnp.mean(jnp.sum(jnp.square(outputs - labels), axis=-1))


def without_temperature(where: str, loss: str) -> None:
    """Raises for a loss with a learned temperature, of what is trained outside of the inner loop."""
    if loss == "platt":
        raise fail(where, "an inner_loss without a learned temperature", loss, "Take cross_entropy.")


def label_margin(labels: Array, *, gap: float) -> Array:
    """Mean over images of max(0, gap - (t_1 - t_2)), t_1 and t_2 the largest entries of a label.

    Args:
      labels: [B, classes], learned ones.
      gap: > 0; 1 / classes in FRePo, 1 / (2 classes) in RCIG.

    Example:
      >>> round(float(label_margin(jnp.array([[0.9, 0.0], [0.3, 0.2]]), gap=0.5)), 2)
      0.2

    References: Zhou, Nezhadarya & Ba 2022; Loo et al. 2023 (both subtract the gap up to this one, which has
    the same gradient).
    """
    largest, _ = jax.lax.top_k(labels, 2)
    return jnp.mean(jax.nn.relu(gap - (largest[:, 0] - largest[:, 1])))


def data_loss(loss: str, logits: Array, labels: Array, log_temperature: Array | None = None) -> Array:
    """One of `LOSSES` of a batch.

    Args:
      loss: its name.
      logits: [B, classes].
      labels: [B, classes], as the loss takes them (`jaxdistill.core.labels.targets`).
      log_temperature: of `platt`, scalar: it is the cross-entropy of exp(log_temperature) * logits.

    References: Platt 1999 (a learned scale of the outputs of a classifier); Loo et al. 2022, RFAD.
    """
    if loss == "squared":
        return squared(logits, labels)
    return cross_entropy(logits if log_temperature is None else jnp.exp(log_temperature) * logits, labels)


def log_temperature(loss: str, meta: Meta) -> Array | None:
    """The learned temperature of `platt`, see `jaxdistill.inner.optimizers.with_temperature`; else None."""
    return meta.inner["log_temperature"][0] if loss == "platt" else None


def inner_loss(
    learner: Learner,
    *,
    loss: str = "cross_entropy",
    labels: str = "probabilities",
    weight_decay: float = 0.0,
    temperature: float = 1.0,
) -> InnerLoss:
    """The loss that the inner loop lowers: a loss of the data + weight_decay / 2 |params|^2.

    The L2 term is part of the loss and not of the optimiser, so that every solve, the implicit ones
    included, means the same minimiser. For SGD it equals PyTorch's `weight_decay` (biases too). Of a learner
    that trains a part of its parameters it is that part's.

    Args:
      learner: the network.
      loss: one of `LOSSES`; `platt` reads its temperature from what is learned, see
        `jaxdistill.inner.optimizers.with_temperature`.
      labels: the kind of the labels that it is given, see `Teacher.labels`; free ones want `squared`.
      weight_decay: L2 coefficient, >= 0.
      temperature: what the logits are divided by, > 0; fixed.

    Returns:
      The loss, called with (meta, params, Batch) -> scalar, and its Gauss-Newton product.

    Raises:
      UserError: an unknown loss, labels of a kind that it does not take, or a number out of range.

    Example:
      >>> net = jd.learner("linear", image_shape=(8, 8, 1), num_classes=10)
      >>> loss = inner_loss(net, weight_decay=5e-4)
    """
    one_of("inner_loss", loss, LOSSES)
    if loss != "squared":
        check_probabilities(f"inner_loss {loss}", labels, remedy="Free labels want inner_loss=squared.")
    at_least("inner_loss", "weight_decay", weight_decay, 0.0)
    above("inner_loss", "temperature", temperature, 0.0)

    def scale(meta: Meta) -> Array | float:
        learned = log_temperature(loss, meta)
        return (1.0 if learned is None else jnp.exp(learned)) / temperature

    def value(meta: Meta, params: Params, batch: Batch) -> Array:
        logits = scale(meta) * learner.apply(params, batch.x)
        data = data_loss(loss, logits, targets(loss, labels, batch.y))
        trained = part_of(learner.split, params)
        return data if weight_decay == 0 else data + 0.5 * weight_decay * squared_norm(trained)

    def gauss_newton(meta: Meta, params: Params, batch: Batch) -> Callable[[Params], Params]:
        return gauss_newton_product(
            learner, params, batch, loss=loss, weight_decay=weight_decay, temperature=1 / scale(meta)
        )

    return InnerLoss(value, gauss_newton, weight_decay, learner.split)


def gauss_newton_product(
    learner: Learner,
    params: Params,
    batch: Batch,
    *,
    loss: str = "cross_entropy",
    weight_decay: float = 0.0,
    temperature: Array | float = 1.0,
) -> Callable[[Params], Params]:
    """u -> G u with G = J^T (diag(p) - p p^T) J / (B tau^2) + weight_decay I, J the Jacobian of the logits.

    p = softmax(logits / tau); of a squared loss the identity stands in the place of diag(p) - p p^T. J u is
    the transpose of the map c -> J^T c, since convolutions have reverse mode alone.

    Args:
      learner: the network.
      params: where.
      batch: [B, ...]; labels that sum to 1 do not enter.
      loss, weight_decay, temperature: of the inner loss.
    """
    part = part_of(learner.split, params)
    logits, pull = jax.vjp(lambda p: learner.apply(joined(learner.split, params, p), batch.x), part)
    _, push = jax.vjp(lambda c: pull(c)[0], jnp.zeros_like(logits))
    p = jax.nn.softmax(logits / temperature)

    def product(u: Params) -> Params:
        curved = push(u)[0]
        if loss != "squared":
            curved = p * (curved - jnp.sum(p * curved, axis=-1, keepdims=True))
        curved = curved / (logits.shape[0] * temperature**2)
        return add_scaled(pull(curved)[0], weight_decay, u)

    return product
