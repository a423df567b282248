"""A network in first order about its first weights: linear in what is trained, so losses are convex."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxdistill.core.checks import fail
from jaxdistill.core.linalg import zeros_like
from jaxdistill.core.types import Array, Learner, Params


class Linearized(NamedTuple):
    """The parameters of a linearised learner."""

    start: Params
    """theta_0, about which it is linear; training leaves them as they are."""
    tangent: Params
    """t = theta - theta_0, what is trained."""
    head: Array | None = None
    """W, [features, classes]: a classifier on the features of theta_0, without bias; None for the network's
    own one."""


def linearized(learner: Learner) -> Learner:
    """f_lin(x) = f(theta_0, x) + (d f(theta_0, x) / d theta) t, and the same of the features.

    With a head f_lin(x) = h(theta_0, x) W + (d f(theta_0, x) / d theta) t, h the features and t without the
    entries of the network's own classifier, which count for nothing: linear in W and t together.

    The product with the Jacobian is the transpose of the map c -> J^T c and no `jax.jvp`, since convolutions
    have no forward mode; it is differentiable by x and t as often as the network is.

    Args:
      learner: any, without batch normalisation.

    Returns:
      A learner whose parameters are `Linearized`. `split` says that the tangent alone is trained, and an L2
      term is of it alone. `embed_all` is None. `init` gives no head.

    Raises:
      UserError: a learner that remembers statistics of batches (when calibrated).

    Example:
      >>> net = linearized(jd.learner("mlp", image_shape=(8, 8, 1), num_classes=10))
      >>> loss = jd.inner_loss(net, weight_decay=0.01)  # convex in the tangent

    References: Lee et al. 2019, "Wide Neural Networks of Any Depth Evolve as Linear Models Under Gradient
    Descent", equation 5; Loo et al. 2023, "Dataset Distillation with Convexified Implicit Gradients".
    """

    def init(key: Array) -> Linearized:
        start = learner.init(key)
        return Linearized(start, zeros_like(start))

    def along(function: Callable[[Params, Array], Array]) -> Callable[[Linearized, Array], Array]:
        def computed(params: Linearized, x: Array) -> Array:
            value, push = _derivative(function, params.start, x)
            return value + push(params.tangent)

        return computed

    own, of_parts = along(learner.apply), head_and_body(learner)

    def apply(params: Linearized, x: Array) -> Array:
        if params.head is None:
            return own(params, x)
        features, moved = of_parts(params, x)
        return features @ params.head + moved

    def calibrate(params: Linearized, x: Array) -> Linearized:
        remembered = jax.eval_shape(learner.calibrate, params.start, x)
        if jax.tree.structure(remembered) != jax.tree.structure(params.start):
            expected = "another one than batch for a linearised network"
            raise fail("norm", expected, "batch normalisation", "Set norm=none.")
        return params

    def split(params: Linearized) -> tuple[Params, Callable[[Params], Linearized]]:
        return params.tangent, lambda tangent: params._replace(tangent=tangent)

    return Learner(init=init, apply=apply, embed=along(learner.embed), calibrate=calibrate, split=split)


def head_and_body(learner: Learner) -> Callable[[Linearized, Array], tuple[Array, Array]]:
    """The two parts of a linearised learner with a head.

    Args:
      learner: one with a linear classifier.

    Returns:
      (parameters, [B, H, W, C]) -> (h(theta_0, x) [B, features], (d f(theta_0, x) / d theta) t [B, classes]),
      t without the entries of the classifier; the head does not enter.
    """

    def computed(params: Linearized, x: Array) -> tuple[Array, Array]:
        features = learner.embed(lax.stop_gradient(params.start), x)
        logits, push = _derivative(learner.apply, params.start, x)
        none = jnp.zeros((features.shape[1], logits.shape[1]), features.dtype)
        return features, push(_body(learner, params.tangent, none))

    return computed


def _derivative(
    function: Callable[[Params, Array], Array], start: Params, x: Array
) -> tuple[Array, Callable[[Params], Array]]:
    """(f(theta_0, x), t -> (d f(theta_0, x) / d theta) t)."""
    value, pull = jax.vjp(lambda theta: function(theta, x), lax.stop_gradient(start))
    _, push = jax.vjp(lambda c: pull(c)[0], jnp.zeros_like(value))
    return value, lambda tangent: push(tangent)[0]


def _body(learner: Learner, tangent: Params, kernel: Array) -> Params:
    """The tangent with zeros in the classifier, the entries that `with_classifier` replaces."""
    replaced = learner.with_classifier
    assert replaced is not None, "a learner without a linear classifier has no head"
    other = replaced(tangent, kernel, None)
    return jax.tree.map(lambda old, new: old if old is new else jnp.zeros_like(old), tangent, other)
