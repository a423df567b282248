"""What a decoder is, and the linear algebra that several share."""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxdistill.core.types import Array

Latents = dict[str, Array]
"""Arrays by name."""


def _same(latents: Latents) -> Latents:
    return latents


class Decoder(NamedTuple):
    """From what is stored to images; N images are in the order of their classes."""

    name: str
    """Its name in `DECODERS`."""
    init: Callable[[Array, int, Array | None], Latents]
    """(key, N, images [N, H, W, C] or None) -> latents of images closest to those; random for None."""
    decode: Callable[[Latents], Array]
    """latents -> images [N, H, W, C]: what is learned through."""
    numpy: str
    """Code that decodes a file of latents, after `NUMPY`; it leaves `images`."""
    store: Callable[[Latents], Latents] = _same
    """latents -> what is stored of them: floats, and integers that `bits` lists."""
    read: Callable[[Latents], Array] | None = None
    """what is stored -> images [N, H, W, C]; `decode` if None."""
    bits: Mapping[str, int] = MappingProxyType({})
    """Bits of one entry of each array of integers, `constants` included."""
    constants: Mapping[str, np.ndarray] = MappingProxyType({})
    """Arrays of integers that are stored with the latents and not learned."""
    sized: tuple[str, int] | None = None
    """The option that decides how much an image takes, and its value."""


NUMPY = """\
import numpy as np
file = dict(np.load(path))
(height, width, channels), prefix = file["image_shape"], "latents/"
def array(name):
    stored = file[prefix + name]
    if f"{name}/step" not in file:
        return stored.astype(np.float32) if stored.dtype.kind == "f" else stored
    return stored.astype(np.float32) * file[f"{name}/step"] + file[f"{name}/low"]
"""
"""The first lines of every code that decodes: `array(name)` gives latents, float32 or integers."""


def interpolation(large: int, small: int) -> np.ndarray:
    """[large, small]: bilinear interpolation along one axis, pixels at their centres, edges repeated.

    Example:
      >>> interpolation(4, 2).tolist()
      [[1.0, 0.0], [0.75, 0.25], [0.25, 0.75], [0.0, 1.0]]
    """
    at = np.clip((np.arange(large) + 0.5) * small / large - 0.5, 0, small - 1)
    return np.maximum(1 - np.abs(at[:, None] - np.arange(small)), 0)


def along_sides(rows: np.ndarray, columns: np.ndarray, x: Array) -> Array:
    """`rows` [H, h] and `columns` [W, w] applied to the sides of x [N, h, w, C]: [N, H, W, C]."""
    return jnp.einsum("Hh,nhwc,Ww->nHWc", jnp.asarray(rows, x.dtype), x, jnp.asarray(columns, x.dtype))


def shrunk(side: int, factor: int) -> int:
    """The side of an image that is `factor` times smaller, rounded up."""
    return math.ceil(side / factor)
