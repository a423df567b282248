"""Augmentations of one image, each in two halves: what is drawn, and what is done with it.

`draw(key, shape)` depends on the key and the image's shape alone, so one key makes one draw for any images,
and several keys make several. `apply(parameters, image)` is differentiable in the image, and takes parameters
from anywhere. Images are standardised: what comes in from outside is 0, the mean.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates

from jaxdistill.core.checks import above, fail
from jaxdistill.core.keys import stream
from jaxdistill.core.types import Array

Parameters = dict[str, Array]
"""What an operation draws, by name."""


@dataclass(frozen=True)
class Operation:
    """An augmentation of one image. Called as `(key, image) -> image`: applied with what the key draws."""

    draw: Callable[[Array, tuple[int, ...]], Parameters]
    """(key, (H, W, C)) -> parameters."""
    apply: Callable[[Parameters, Array], Array]
    """(parameters, image [H, W, C]) -> image [H, W, C]."""

    def __call__(self, key: Array, image: Array) -> Array:
        return self.apply(self.draw(key, image.shape), image)


def flip(*, probability: float = 0.5) -> Operation:
    """Left and right exchanged, with a probability in [0, 1].

    Parameters: `flipped`, a truth value.
    """
    within("flip", "probability", probability, 0.0, 1.0)

    def draw(key: Array, shape: tuple[int, ...]) -> Parameters:
        del shape
        return {"flipped": jax.random.uniform(key) < probability}

    def apply(parameters: Parameters, image: Array) -> Array:
        return jnp.where(parameters["flipped"], image[:, ::-1], image)

    return Operation(draw, apply)


def crop(*, ratio: float = 0.125) -> Operation:
    """Moved by whole pixels, up to round(ratio * side) in each direction; 0 where nothing was.

    Parameters: `offset` [2] int32: pixel p of the result is pixel p + offset of the image, (row, column). An
    offset beyond the largest is taken for the largest.
    """
    within("crop", "ratio", ratio, 0.0, 1.0)

    def draw(key: Array, shape: tuple[int, ...]) -> Parameters:
        keys, most = jax.random.split(key, 2), _pixels(ratio, shape)
        corner = [jax.random.randint(keys[i], (), 0, 2 * most[i] + 1) for i in (0, 1)]
        return {"offset": jnp.stack(corner) - jnp.asarray(most)}

    def apply(parameters: Parameters, image: Array) -> Array:
        most = _pixels(ratio, image.shape)
        corner = jnp.asarray(parameters["offset"]) + jnp.asarray(most)
        padded = jnp.pad(image, [(most[0], most[0]), (most[1], most[1]), (0, 0)])
        return jax.lax.dynamic_slice(padded, [*corner, jnp.zeros_like(corner[0])], image.shape)

    return Operation(draw, apply)


def cutout(*, ratio: float = 0.5) -> Operation:
    """A window of round(ratio * side) pixels is set to 0, centred on any pixel: it may reach outside.

    Parameters: `center` [2] int32, (row, column): a window of n pixels begins n // 2 before it.
    """
    within("cutout", "ratio", ratio, 0.0, 1.0)

    def draw(key: Array, shape: tuple[int, ...]) -> Parameters:
        keys, sizes = jax.random.split(key, 2), _pixels(ratio, shape)
        center = [jax.random.randint(keys[i], (), 0, shape[i] + 1 - sizes[i] % 2) for i in (0, 1)]
        return {"center": jnp.stack(center)}

    def apply(parameters: Parameters, image: Array) -> Array:
        inside = []
        for i, size in enumerate(_pixels(ratio, image.shape)):
            low, places = jnp.asarray(parameters["center"])[i] - size // 2, jnp.arange(image.shape[i])
            inside.append((places >= low) & (places < low + size))
        window = inside[0][:, None, None] & inside[1][None, :, None]
        return jnp.where(window, jnp.zeros_like(image), image)

    return Operation(draw, apply)


def scale(*, low: float = 1 / 1.2, high: float = 1.2) -> Operation:
    """Height and width sampled, each on its own, at steps drawn from U(low, high): above 1 it shrinks.

    Parameters: `steps` [2], of (row, column).
    """
    above("scale", "low", low, 0.0)
    within("scale", "high", high, low, float("inf"))

    def draw(key: Array, shape: tuple[int, ...]) -> Parameters:
        del shape
        return {"steps": jax.random.uniform(key, (2,), minval=low, maxval=high)}

    def apply(parameters: Parameters, image: Array) -> Array:
        return warp(image, jnp.diag(jnp.asarray(parameters["steps"], image.dtype)))

    return Operation(draw, apply)


def rotate(*, degrees: float = 15.0) -> Operation:
    """Turned about the centre by an angle from U(-degrees, degrees).

    Parameters: `angle`, in radians.
    """
    within("rotate", "degrees", degrees, 0.0, 180.0)

    def draw(key: Array, shape: tuple[int, ...]) -> Parameters:
        del shape
        most = jnp.deg2rad(jnp.asarray(degrees, float))
        return {"angle": jax.random.uniform(key, minval=-most, maxval=most)}

    def apply(parameters: Parameters, image: Array) -> Array:
        angle = jnp.asarray(parameters["angle"], image.dtype)
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        return warp(image, jnp.stack([jnp.stack([cos, sin]), jnp.stack([-sin, cos])]))

    return Operation(draw, apply)


def color(*, brightness: float = 0.5, saturation: float = 1.0, contrast: float = 0.5) -> Operation:
    """Brightness, saturation and contrast, in that order.

    x + U(-brightness, brightness); then (x - m) U(1 - saturation, 1 + saturation) + m, with m a pixel's mean
    over channels; then the same with m the image's mean, and `contrast`. Of one channel, saturation changes
    nothing.

    Parameters: `brightness`, what is added; `saturation` and `contrast`, the factors.
    """
    for name, value in (("brightness", brightness), ("saturation", saturation), ("contrast", contrast)):
        within("color", name, value, 0.0, float("inf"))

    def draw(key: Array, shape: tuple[int, ...]) -> Parameters:
        del shape

        def around(center: float, spread: float, name: str) -> Array:
            return jax.random.uniform(stream(key, name), minval=center - spread, maxval=center + spread)

        return {
            "brightness": around(0.0, brightness, "brightness"),
            "saturation": around(1.0, saturation, "saturation"),
            "contrast": around(1.0, contrast, "contrast"),
        }

    def apply(parameters: Parameters, image: Array) -> Array:
        drawn = {name: jnp.asarray(value, image.dtype) for name, value in parameters.items()}
        image += drawn["brightness"]
        for name, axes in (("saturation", (2,)), ("contrast", (0, 1, 2))):
            mean = jnp.mean(image, axis=axes, keepdims=True)
            image = (image - mean) * drawn[name] + mean
        return image

    return Operation(draw, apply)


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


def _pixels(ratio: float, shape: tuple[int, ...]) -> tuple[int, int]:
    """That part of the height and of the width, in whole pixels."""
    return int(shape[0] * ratio + 0.5), int(shape[1] * ratio + 0.5)


def within(where: str, name: str, value: float, low: float, high: float) -> None:
    """Raises for a number outside of [low, high]."""
    if not low <= value <= high:
        raise fail(where, f"{name} in [{low:g}, {high:g}]", value)
