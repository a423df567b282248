"""Augmentation of batches: the same draw for all images, or one for each."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax

from jaxdistill.augment.operations import Operation, color, crop, cutout, flip, rotate, scale
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
"""Those of DSA by name, of a strength: 1 is the paper's, 0 changes nothing."""
WITHOUT_FLIP = ("color", "crop", "cutout", "rotate", "scale")
"""For digits and letters, whose mirror images mean something else."""


class Augmentation(NamedTuple):
    """One kind of augmentation, with the two ways in which it is drawn."""

    siamese: Augment
    """The same draw for all images of a call: one key for a real and a synthetic batch treats both alike."""
    per_image: Augment
    """The same operation for all images of a call, with parameters drawn for each."""


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
      >>> dsa(["crop", "rotate"]).siamese(jax.random.key(0), jnp.zeros((4, 8, 8, 1))).shape
      (4, 8, 8, 1)

    References: Zhao & Bilen 2021, "Dataset Condensation with Differentiable Siamese Augmentation", section 3.
    """
    if not names:
        raise fail("dsa", f"at least one of {', '.join(OPERATIONS)}", "none")
    if not 0 <= strength <= 2:
        raise fail("dsa", "strength in [0, 2]", strength)
    operations = [lookup("dsa", name, OPERATIONS)(strength) for name in names]

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
    operations = [crop(ratio=pixels), scale(low=1 / 1.2, high=1 / 0.8), rotate(degrees=degrees)]

    def augment(key: Array, x: Array) -> Array:
        keys = jax.random.split(key, x.shape[0])
        return jax.vmap(lambda each, image: _any_of(operations, each, each, image))(keys, x)

    return augment


def _any_of(operations: Sequence[Operation], which: Array, key: Array, image: Array) -> Array:
    """One image by the operation that the key `which` draws, its parameters drawn by `key`."""
    number = jax.random.randint(stream(which, "operation"), (), 0, len(operations))
    return jax.lax.switch(number, operations, stream(key, "parameters"), image)
