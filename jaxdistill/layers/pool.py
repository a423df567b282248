"""Pooling by reshape, or by slices: on the CPU several times faster than `lax.reduce_window`.

A maximum is chosen by comparing the values of a window with each other. The gradient of `jnp.max` looks for
values that equal the maximum; where XLA computes them twice, rounded differently, it finds none, and is lost.
"""

import functools

import jax.numpy as jnp
from jax import lax

from jaxdistill.core.checks import fail
from jaxdistill.core.types import Array


def max_pool(x: Array, window: int = 2) -> Array:
    """Largest value of each window; of equal ones the first, row by row, gets the gradient, as in PyTorch.

    Args:
      x: [B, H, W, C], or batch minor [C, H, W, B]: axes 1 and 2 are space.
      window: side of a window and the step between windows, pixels.

    Returns:
      The same with H and W divided by `window`, rounded down (rows left over are dropped).

    Raises:
      UserError: an image smaller than the window.
    """
    x = _windows(x, window)
    columns = functools.reduce(_larger, (x[:, :, :, :, i] for i in range(window)))
    return functools.reduce(_larger, (columns[:, :, i] for i in range(window)))


def average_pool(x: Array, window: int = 2) -> Array:
    """Mean of each window; arguments and shapes as for `max_pool`."""
    return jnp.mean(_windows(x, window), axis=(2, 4))


def overlapping_max_pool(x: Array, window: int = 3, stride: int = 2, padding: int = 1) -> Array:
    """Largest value of windows that overlap, by pairwise maxima of shifted slices.

    Args:
      x: [B, H, W, C].
      window: side of a window, pixels.
      stride: step between windows, pixels.
      padding: pixels on each side that no maximum is taken of.

    Returns:
      [B, H', W', C] with H' = floor((H + 2 padding - window) / stride) + 1.

    Raises:
      UserError: a padded image smaller than the window.
    """
    if min(x.shape[1:3]) + 2 * padding < window:
        least = window - 2 * padding
        raise fail("pool", f"an image of at least {least}x{least}", f"{x.shape[1]}x{x.shape[2]}")
    margin = (padding, padding)
    x = jnp.pad(x, ((0, 0), margin, margin, (0, 0)), constant_values=-jnp.inf)

    def along(x: Array, axis: int) -> Array:
        last = (x.shape[axis] - window) // stride * stride + 1
        shifts = [lax.slice_in_dim(x, i, i + last, stride, axis) for i in range(window)]
        return functools.reduce(_larger, shifts)

    return along(along(x, 1), 2)


def _larger(x: Array, y: Array) -> Array:
    """Elementwise maximum, NaN if one is NaN; of equal values the first gets the gradient."""
    return jnp.where((x >= y) | jnp.isnan(x), x, y)


def _windows(x: Array, window: int) -> Array:
    rows, columns = x.shape[1] // window, x.shape[2] // window
    if rows == 0 or columns == 0:
        raise fail("pool", f"an image of at least {window}x{window}", f"{x.shape[1]}x{x.shape[2]}")
    x = x[:, : rows * window, : columns * window]
    return x.reshape(x.shape[0], rows, window, columns, window, x.shape[3])
