r"""Normalisation layers as pure functions.

All of them compute

.. math:: y = \gamma \, (x - \mu) / \sqrt{\sigma^2 + \epsilon} + \beta

with one scale and one bias per channel, the biased variance and `epsilon` 1e-5, and differ in the axes
of the mean :math:`\mu` and the variance :math:`\sigma^2`. The variance is the mean of the squared
deviations, in two passes: `E[x^2] - mu^2` cancels in float32 where the mean is large. Maps of bfloat16 are
normalised in float32, and the result is cast back.
"""

import jax
import jax.numpy as jnp

from jaxdistill.core.types import Array

EPSILON = 1e-5
GROUPS = 4
"""Groups of the `group` norm of the dataset condensation networks."""


def instance_norm(x: Array, scale: Array, bias: Array, *, epsilon: float = EPSILON) -> Array:
    """Statistics per image and channel.

    Args:
      x: `[B, H, W, C]`. A map of one pixel has no deviation and becomes the bias.
      scale: `[C]`.
      bias: `[C]`.
      epsilon: added to the variance, > 0.

    Returns:
      `[B, H, W, C]`.

    References:
      Ulyanov et al. 2016, arXiv 1607.08022.
    """
    return _normalise(_wide(x), (1, 2), scale, bias, epsilon).astype(x.dtype)


def group_norm(x: Array, scale: Array, bias: Array, *, groups: int, epsilon: float = EPSILON) -> Array:
    """Statistics per image and group of neighbouring channels; one group is layer normalisation.

    Args:
      x: `[B, H, W, C]`.
      scale: `[C]`.
      bias: `[C]`.
      groups: a divisor of C.
      epsilon: added to the variance, > 0.

    Returns:
      `[B, H, W, C]`.

    References:
      Wu & He 2018, arXiv 1803.08494, equation 7.
    """
    b, h, w, c = x.shape
    grouped = _wide(x).reshape(b, h, w, groups, c // groups)
    deviation, variance = _moments(grouped, (1, 2, 4))
    unit = (deviation * jax.lax.rsqrt(variance + epsilon)).reshape(x.shape)
    return (unit * _per_channel(scale) + _per_channel(bias)).astype(x.dtype)


def batch_moments(x: Array) -> tuple[Array, Array]:
    """Mean and biased variance of each channel over a batch: `[B, H, W, C]` to two `[C]`."""
    x = _wide(x)
    mean = jnp.mean(x, (0, 1, 2))
    return mean, jnp.mean(jnp.square(x - _per_channel(mean)), (0, 1, 2))


def batch_norm(
    x: Array, scale: Array, bias: Array, mean: Array, variance: Array, *, epsilon: float = EPSILON
) -> Array:
    """Normalisation by given statistics of each channel.

    Args:
      x: `[B, H, W, C]`.
      scale: `[C]`.
      bias: `[C]`.
      mean: `[C]`, from `batch_moments` of this batch or of a remembered one.
      variance: `[C]`, likewise; biased.
      epsilon: added to the variance, > 0.

    Returns:
      `[B, H, W, C]`.

    References:
      Ioffe & Szegedy 2015, arXiv 1502.03167, algorithm 1.
    """
    gain = scale * jax.lax.rsqrt(variance + epsilon)
    return ((x - _per_channel(mean)) * _per_channel(gain) + _per_channel(bias)).astype(x.dtype)


def unit_lengths(kernel: Array) -> Array:
    """Euclidean norm of the weights of each output unit: `[..., out]` to `[out]`; its gradient is 0 at 0."""
    squares = jnp.sum(jnp.square(kernel), tuple(range(kernel.ndim - 1)))
    return jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), 0)


def weight_norm(kernel: Array, gain: Array) -> Array:
    r"""Weights as a direction and a length per output unit: :math:`w = g \, v / |v|`.

    Args:
      kernel: `[..., in, out]`, v; a unit whose weights are all zero keeps them.
      gain: `[out]`, g.

    Returns:
      Weights of the shape of `kernel`.

    References:
      Salimans & Kingma 2016, arXiv 1602.07868, equation 2.
    """
    lengths = unit_lengths(kernel)
    factor = gain / jnp.where(lengths > 0, lengths, 1)
    return kernel * factor.reshape((1,) * (kernel.ndim - 1) + factor.shape)


def _wide(x: Array) -> Array:
    """In float32, or in what is wider: itself unless its dtype is narrower."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _moments(x: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
    deviation = x - jnp.mean(x, axes, keepdims=True)
    return deviation, jnp.mean(jnp.square(deviation), axes, keepdims=True)


def _normalise(x: Array, axes: tuple[int, ...], scale: Array, bias: Array, epsilon: float) -> Array:
    deviation, variance = _moments(x, axes)
    return deviation * (jax.lax.rsqrt(variance + epsilon) * _per_channel(scale)) + _per_channel(bias)


def _per_channel(values: Array) -> Array:
    return values[None, None, None, :]
