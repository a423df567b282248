r"""Kernels of infinitely wide fully connected ReLU networks, in closed form.

For a pair of inputs with :math:`K^0 = \sigma_w^2 \, x \cdot x' / d + \sigma_b^2` and, after layer l,
:math:`c = \cos\theta = K^l(x, x') / \sqrt{K^l(x, x) K^l(x', x')}`,

.. math::
    K^{l+1} = \sigma_w^2 \sqrt{K^l(x, x) K^l(x', x')} \, J_1(c) / 2\pi + \sigma_b^2, \qquad
    J_1(c) = \sin\theta + (\pi - \theta) \cos\theta, \\
    \Theta^{l+1} = K^{l+1} + \sigma_w^2 \, \Theta^l \, J_0(c) / 2\pi, \qquad
    J_0(c) = \pi - \theta, \qquad \Theta^0 = K^0.

K after L hidden layers is the covariance of the outputs of random networks (NNGP); :math:`\Theta` is the
tangent kernel (NTK), the product of the outputs' gradients by all weights, in the NTK parametrisation.

References:
  Cho & Saul 2009, "Kernel Methods for Deep Learning" (arc-cosine kernels); Lee et al. 2018, "Deep Neural
  Networks as Gaussian Processes"; Jacot et al. 2018, "Neural Tangent Kernel"; Lee et al. 2019, "Wide Neural
  Networks of Any Depth Evolve as Linear Models Under Gradient Descent".
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxdistill.core.checks import above, at_least, check_whole, one_of
from jaxdistill.core.types import Array

Kernel = Callable[[Array, Array], Array]
"""([N, H, W, C], [M, H, W, C]) -> [N, M]."""
KERNELS = ("nngp", "ntk")


def infinite_mlp(
    kind: str = "ntk", *, depth: int = 1, weight_variance: float = 2.0, bias_variance: float = 0.01
) -> Kernel:
    """The kernel of an infinitely wide multilayer perceptron.

    Args:
      kind: `nngp` or `ntk`.
      depth: hidden layers, L >= 1.
      weight_variance: of the weights times the inputs of their layer, > 0.
      bias_variance: of the biases, >= 0.

    Returns:
      ([N, ...], [M, ...]) -> [N, M]; images are flattened. Differentiable, at equal images too; the diagonal
      is exact where both arguments are one array.

    Raises:
      UserError: an unknown kind, or a number out of range.

    Example:
      >>> kernel = infinite_mlp("ntk", depth=2)
      >>> kernel(jnp.ones((3, 8, 8, 1)), jnp.zeros((5, 8, 8, 1))).shape
      (3, 5)
    """
    one_of("infinite_mlp", kind, KERNELS)
    check_whole("infinite_mlp", depth=depth)
    above("infinite_mlp", "weight_variance", weight_variance, 0.0)
    at_least("infinite_mlp", "bias_variance", bias_variance, 0.0)

    def kernel(first: Array, second: Array) -> Array:
        a, b = (x.reshape(x.shape[0], math.prod(x.shape[1:])) for x in (first, second))
        scale = weight_variance / a.shape[1]
        own = [scale * jnp.sum(x * x, axis=1) + bias_variance for x in (a, b)]
        covariance = scale * a @ b.T + bias_variance
        tangent = covariance
        for _ in range(depth):
            lengths = _root(own[0])[:, None] * _root(own[1])[None, :]
            cosine = covariance / jnp.where(lengths == 0, 1.0, lengths)
            if first is second:  # or rounding would turn an image away from itself, by 3e-4 in float32
                cosine = jnp.where(jnp.eye(len(a), dtype=bool), 1.0, cosine)
            slope = weight_variance / (2 * math.pi) * _order_zero(cosine)
            covariance = weight_variance / (2 * math.pi) * lengths * _order_one(cosine) + bias_variance
            tangent = covariance + slope * tangent
            own = [weight_variance / 2 * each + bias_variance for each in own]  # J_1(1) = pi
        return tangent if kind == "ntk" else covariance

    return kernel


def _root(x: Array) -> Array:
    """The square root, with the derivative 0 at 0."""
    return jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1.0)), 0.0)


@jax.custom_jvp
def _order_zero(cosine: Array) -> Array:
    """J_0."""
    return math.pi - jnp.arccos(jnp.clip(cosine, -1, 1))


@_order_zero.defjvp
def _order_zero_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    """Its derivative 1 / sin; 0 where the angle is zero, of an image with itself, which stays zero."""
    (cosine,), (change,) = primals, tangents
    squared = 1 - cosine * cosine
    inside = squared > 0
    return _order_zero(cosine), jnp.where(inside, change / jnp.sqrt(jnp.where(inside, squared, 1.0)), 0.0)


@jax.custom_jvp
def _order_one(cosine: Array) -> Array:
    """J_1."""
    cosine = jnp.clip(cosine, -1, 1)
    return jnp.sqrt(1 - cosine * cosine) + (math.pi - jnp.arccos(cosine)) * cosine


@_order_one.defjvp
def _order_one_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    """Its derivative is J_0, where JAX's own would be infinite minus infinite at equal images."""
    (cosine,), (change,) = primals, tangents
    return _order_one(cosine), _order_zero(cosine) * change
