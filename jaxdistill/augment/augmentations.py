"""Augmentation of batches: the same draw for all images, or one for each."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdistill.augment.operations import Operation, Parameters, color, crop, cutout, flip, rotate, scale
from jaxdistill.core.checks import fail, lookup
from jaxdistill.core.keys import stream
from jaxdistill.core.types import Array, Augment

OPERATIONS: dict[str, Callable[[float], Operation]] = {
    "color": lambda s: color(brightness=0.5 * s, saturation=s, contrast=0.5 * s),
    "crop": lambda s: crop(ratio=0.125 * s),
    "cutout": lambda s: cutout(ratio=0.5 * s),
    "flip": lambda s: flip(probability=0.5 * s),
    "rotate": lambda s: rotate(degrees=15.0 * s),
    "scale": lambda s: scale(low=1 / (1 + 0.2 * s), high=1 + 0.2 * s),
}
"""DSA's operations by name, each made for a strength: 1 is the paper's, 0 changes nothing."""
WITHOUT_FLIP = ("color", "crop", "cutout", "rotate", "scale")
"""For digits and letters, whose mirror images mean something else."""


class Augmentation(NamedTuple):
    """One kind of augmentation, with the two ways in which it is drawn."""

    siamese: Augment
    """The same draw for all images of a call: one key for a real and a synthetic batch treats both alike."""
    per_image: Augment
    """The same operation for all images of a call, with parameters drawn for each."""


def operation(name: str, *, strength: float = 1.0) -> Operation:
    """One operation of DSA: what it draws, and what it does with it.

    Args:
      name: a key of `OPERATIONS`.
      strength: s in [0, 2], times the paper's range.

    Returns:
      The operation; `with_parameters` makes an augmentation of batches of it.

    Raises:
      UserError: an unknown operation, or a strength out of range.

    Example:
      >>> rotate = operation("rotate")
      >>> rotate.apply({"angle": 0.1}, jnp.zeros((8, 8, 1))).shape
      (8, 8, 1)
    """
    make = lookup("augmentation", name, OPERATIONS)
    if not 0 <= strength <= 2:
        raise fail("augmentation", "strength in [0, 2]", strength)
    return make(strength)


def with_parameters(operation: Operation, parameters: Parameters, *, per_image: bool = False) -> Augment:
    """An augmentation of batches that draws nothing: the operation with these parameters, whatever the key.

    Args:
      operation: `operation(name)`, or one of `jaxdistill.augment.operations`.
      parameters: as its `draw` makes them, by name.
      per_image: whether each has a leading axis B, one value per image; the same for all images otherwise.

    Returns:
      (key, images [B, H, W, C]) -> images.

    Raises:
      UserError: other names than the operation's, or other shapes.

    Example:
      >>> turned = with_parameters(operation("rotate"), {"angle": jnp.array([0.1, -0.2])}, per_image=True)
      >>> turned(jax.random.key(0), jnp.zeros((2, 8, 8, 1))).shape
      (2, 8, 8, 1)
    """
    drawn = jax.eval_shape(lambda: operation.draw(jax.random.key(0), (8, 8, 1)))
    arrays = {name: jnp.asarray(value) for name, value in parameters.items()}
    got = {name: each.shape for name, each in arrays.items()}
    batch = (next(iter(got.values()), ())[:1] or ("B",)) if per_image else ()
    expected = {name: (*batch, *each.shape) for name, each in drawn.items()}
    if got != expected:
        raise fail("with_parameters", f"parameters of shapes {expected}", got)

    def augment(key: Array, x: Array) -> Array:
        del key
        return jax.vmap(operation.apply, in_axes=(0 if per_image else None, 0))(arrays, x)

    return augment


def dsa(names: Sequence[str] = WITHOUT_FLIP, *, strength: float = 1.0) -> Augmentation:
    """Differentiable Siamese Augmentation: one of the operations, drawn at random with each key.

    Args:
      names: keys of `OPERATIONS`, at least one.
      strength: s in [0, 2], times the paper's ranges: brightness 0.5, saturation 1, contrast 0.5, crop 12.5%,
        cutout 50%, flip 50%, rotate 15 degrees, scale 20%.

    Returns:
      The augmentation; its functions take (key, images [B, H, W, C]), for any B.

    Raises:
      UserError: an unknown operation, none at all, or a strength out of range.

    Example:
      >>> jax.jit(dsa(["crop", "rotate"]).siamese)(jax.random.key(0), jnp.zeros((4, 8, 8, 1))).shape
      (4, 8, 8, 1)

    References: Zhao & Bilen 2021, "Dataset Condensation with Differentiable Siamese Augmentation", section 3.
    """
    if not names:
        raise fail("dsa", f"at least one of {', '.join(OPERATIONS)}", "none")
    operations = [operation(name, strength=strength).__call__ for name in names]

    def siamese(key: Array, x: Array) -> Array:
        return jax.vmap(lambda image: _any_of(operations, key, key, image))(x)

    def per_image(key: Array, x: Array) -> Array:
        keys = jax.random.split(stream(key, "images"), x.shape[0])
        return jax.vmap(lambda each, image: _any_of(operations, key, each, image))(keys, x)

    return Augmentation(siamese, per_image)


DSA = dsa()
"""The paper's strategy for digits: all operations but the flip, at full strength."""


def dc_evaluation(*, pixels: float = 4 / 28, degrees: float = 45.0) -> Augment:
    """What DC trains with when it evaluates images of MNIST: every image cropped, scaled or turned.

    The operation too is drawn for each image: crop by up to 4 of 28 pixels, scale by up to 20%, rotate by up
    to 45 degrees. The authors draw the magnification uniformly, this draws its inverse.

    Args:
      pixels: most pixels of a crop, relative to the side.
      degrees: largest angle.

    References: Zhao, Mopuri & Bilen 2021, supplement; Medvedev & D'yakonov 2022 (training with it).
    """
    every = [crop(ratio=pixels), scale(low=1 / 1.2, high=1 / 0.8), rotate(degrees=degrees)]
    operations = [each.__call__ for each in every]

    def augment(key: Array, x: Array) -> Array:
        keys = jax.random.split(key, x.shape[0])
        return jax.vmap(lambda each, image: _any_of(operations, each, each, image))(keys, x)

    return augment


def _any_of(
    operations: Sequence[Callable[[Array, Array], Array]], which: Array, key: Array, image: Array
) -> Array:
    """One image by the operation that the key `which` draws, its parameters drawn by `key`.

    The operations are functions that are made once: `switch` finds what it has traced by weak references to
    them, which a tuple of functions does not have.
    """
    number = jax.random.randint(stream(which, "operation"), (), 0, len(operations))
    return jax.lax.switch(number, operations, stream(key, "parameters"), image)
