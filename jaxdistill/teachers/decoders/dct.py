"""Frequencies (FreD): the few coefficients of the cosine transform that explain images best."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill.core.checks import check_whole, fail
from jaxdistill.core.types import Array
from jaxdistill.teachers.decoders.decoder import Decoder, Latents, along_sides

CODE = """\
def cosines(n):
    waves = np.cos(np.pi * np.arange(n)[:, None] * (np.arange(n) + 0.5) / n)
    return waves * np.sqrt(np.where(np.arange(n) == 0, 1, 2) / n)[:, None]
full = np.zeros((len(array("coefficients")), height * width, channels), np.float32)
full[:, array("chosen")] = array("coefficients")
waves = full.reshape(-1, height, width, channels)
images = np.einsum("uH,nuvc,vW->nHWc", cosines(height), waves, cosines(width))
"""


def cosines(side: int) -> np.ndarray:
    """[side, side]: the orthonormal cosine transform along one axis, a row per frequency."""
    waves = np.cos(np.pi * np.arange(side)[:, None] * (np.arange(side) + 0.5)[None, :] / side)
    return waves * np.sqrt(np.where(np.arange(side) == 0, 1, 2) / side)[:, None]


def dct(
    *, image_shape: tuple[int, int, int], frequencies: int | None = None, real: Array | None = None
) -> Decoder:
    """x = D^T z on k of the H W frequencies, the same ones for all images and channels.

    Args:
      image_shape: (H, W, C).
      frequencies: k, coefficients of an image and channel; a quarter of H W when None.
      real: [n, H, W, C], real images: the frequencies of the largest variance in them are chosen. The lowest
        ones when None.

    Returns:
      The decoder; latents are {"coefficients": [N, k, C]}. Beside them the k chosen frequencies are stored.
      It starts from the coefficients of given images, whose distance to the decoded ones is least.

    Raises:
      UserError: more frequencies than pixels.

    Example:
      >>> dct(image_shape=(8, 8, 3), frequencies=10).init(jax.random.key(0), 4, None)["coefficients"].shape
      (4, 10, 3)

    References: Shin et al. 2023, "Frequency Domain-based Dataset Distillation", section 3.
    """
    height, width, channels = image_shape
    where, count_all = "decoder dct", height * width
    frequencies = math.ceil(count_all / 4) if frequencies is None else frequencies
    check_whole(where, frequencies=frequencies)
    if frequencies > count_all:
        raise fail(where, f"frequencies <= {count_all}, the pixels of a channel", frequencies)
    rows, columns = cosines(height), cosines(width)
    if real is None:
        order = (np.arange(height)[:, None] / height) ** 2 + (np.arange(width)[None, :] / width) ** 2
        importance = -order.reshape(-1)
    else:
        exact = np.asarray(real, np.float64)  # a chip's own precision would order near equals another way
        parts = np.einsum("Hh,nhwc,Ww->nHWc", rows, exact, columns, optimize=True)
        parts = parts.reshape(len(real), count_all, channels)
        importance = parts.var(axis=0).sum(axis=-1)
    chosen = np.sort(np.argsort(-importance, kind="stable")[:frequencies]).astype(np.int32)

    def init(key: Array, count: int, images: Array | None) -> Latents:
        if images is None:
            scale = math.sqrt(count_all / frequencies)  # pixels of variance 1
            return {"coefficients": scale * jax.random.normal(key, (count, frequencies, channels))}
        return {
            "coefficients": along_sides(rows, columns, images).reshape(count, count_all, channels)[:, chosen]
        }

    def decode(latents: Latents) -> Array:
        z = latents["coefficients"]
        full = jnp.zeros((z.shape[0], count_all, channels), z.dtype).at[:, chosen].set(z)
        return along_sides(rows.T, columns.T, full.reshape(-1, *image_shape))

    bits = {"chosen": max(1, math.ceil(math.log2(count_all)))}
    return Decoder(
        "dct", init, decode, CODE, bits=bits, constants={"chosen": chosen}, sized=("frequencies", frequencies)
    )
