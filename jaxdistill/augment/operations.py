"""Augmentations of one image: pure, differentiable functions of a key.

Each factory returns `(key, image [H, W, C]) -> image`. What is drawn depends on the key and the image's shape
alone, so one key makes one draw for any images, and several keys make several. Images are standardised: what
comes in from outside is 0, the mean.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates

from jaxdistill.core.checks import above, fail
from jaxdistill.core.keys import stream
from jaxdistill.core.types import Array

Operation = Callable[[Array, Array], Array]
"""(key, image [H, W, C]) -> image [H, W, C]."""


def flip(*, probability: float = 0.5) -> Operation:
    """Left and right exchanged, with a probability in [0, 1]."""
    _within("flip", "probability", probability, 0.0, 1.0)

    def apply(key: Array, image: Array) -> Array:
        return jnp.where(jax.random.uniform(key) < probability, image[:, ::-1], image)

    return apply


def crop(*, ratio: float = 0.125) -> Operation:
    """Moved by whole pixels, up to round(ratio * side) in each direction; 0 where nothing was."""
    _within("crop", "ratio", ratio, 0.0, 1.0)

    def apply(key: Array, image: Array) -> Array:
        most = [_pixels(ratio, side) for side in image.shape[:2]]
        keys = jax.random.split(key, 2)
        start = [jax.random.randint(keys[i], (), 0, 2 * most[i] + 1) for i in (0, 1)]
        padded = jnp.pad(image, [(most[0], most[0]), (most[1], most[1]), (0, 0)])
        return jax.lax.dynamic_slice(padded, [*start, jnp.zeros_like(start[0])], image.shape)

    return apply


def cutout(*, ratio: float = 0.5) -> Operation:
    """A window of round(ratio * side) pixels is set to 0, centred on any pixel: it may reach outside."""
    _within("cutout", "ratio", ratio, 0.0, 1.0)

    def apply(key: Array, image: Array) -> Array:
        keys, inside = jax.random.split(key, 2), []
        for i, side in enumerate(image.shape[:2]):
            size = _pixels(ratio, side)
            low = jax.random.randint(keys[i], (), 0, side + 1 - size % 2) - size // 2
            inside.append((jnp.arange(side) >= low) & (jnp.arange(side) < low + size))
        window = inside[0][:, None, None] & inside[1][None, :, None]
        return jnp.where(window, jnp.zeros_like(image), image)

    return apply


def scale(*, low: float = 1 / 1.2, high: float = 1.2) -> Operation:
    """Height and width sampled, each on its own, at steps drawn from U(low, high): above 1 it shrinks."""
    above("scale", "low", low, 0.0)
    _within("scale", "high", high, low, float("inf"))

    def apply(key: Array, image: Array) -> Array:
        steps = jax.random.uniform(key, (2,), image.dtype, low, high)
        return warp(image, jnp.diag(steps))

    return apply


def rotate(*, degrees: float = 15.0) -> Operation:
    """Turned about the centre by an angle from U(-degrees, degrees)."""
    _within("rotate", "degrees", degrees, 0.0, 180.0)

    def apply(key: Array, image: Array) -> Array:
        most = jnp.deg2rad(jnp.asarray(degrees, image.dtype))
        angle = jax.random.uniform(key, (), image.dtype, -most, most)
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        return warp(image, jnp.stack([jnp.stack([cos, sin]), jnp.stack([-sin, cos])]))

    return apply


def color(*, brightness: float = 0.5, saturation: float = 1.0, contrast: float = 0.5) -> Operation:
    """Brightness, saturation and contrast, in that order.

    x + U(-brightness, brightness); then (x - m) U(1 - saturation, 1 + saturation) + m, with m a pixel's mean
    over channels; then the same with m the image's mean, and `contrast`. Of one channel, saturation changes
    nothing.
    """
    for name, value in (("brightness", brightness), ("saturation", saturation), ("contrast", contrast)):
        _within("color", name, value, 0.0, float("inf"))

    def apply(key: Array, image: Array) -> Array:
        def around(center: float, spread: float, name: str) -> Array:
            return jax.random.uniform(stream(key, name), (), image.dtype, center - spread, center + spread)

        image += around(0.0, brightness, "brightness")
        for factor, axes in (
            (around(1.0, saturation, "saturation"), (2,)),
            (around(1.0, contrast, "contrast"), (0, 1, 2)),
        ):
            mean = jnp.mean(image, axis=axes, keepdims=True)
            image = (image - mean) * factor + mean
        return image

    return apply


def warp(image: Array, matrix: Array) -> Array:
    """The image sampled bilinearly on a linearly transformed grid about its centre, 0 outside.

    Output pixel p is the input at `matrix @ p`, with p = (row, column) in half sides from the centre; the
    corner pixels' centres lie half a pixel inside the border (`align_corners` false).

    Args:
      image: [H, W, C].
      matrix: [2, 2], acts on (row, column).
    """
    sides = jnp.asarray(image.shape[:2], image.dtype)
    grid = [(2 * jnp.arange(side, dtype=image.dtype) + 1) / side - 1 for side in image.shape[:2]]
    points = jnp.stack(jnp.meshgrid(*grid, indexing="ij"))
    places = ((jnp.einsum("ij,jhw->ihw", matrix, points) + 1) * sides[:, None, None] - 1) / 2

    def channel(plane: Array) -> Array:
        return map_coordinates(plane, list(places), order=1, mode="constant", cval=0.0)

    return jax.vmap(channel, in_axes=2, out_axes=2)(image)


def _pixels(ratio: float, side: int) -> int:
    return int(side * ratio + 0.5)


def _within(where: str, name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise fail(where, f"{name} in [{low:g}, {high:g}]", value)
