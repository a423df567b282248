"""Bases (LinBa): images are sums of a few bases that all classes share."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill.core.checks import check_whole, fail
from jaxdistill.core.types import Array
from jaxdistill.teachers.decoders.decoder import Decoder, Latents, along_sides, interpolation, shrunk

CODE = """\
def enlarged(large, small):
    at = np.clip((np.arange(large) + 0.5) * small / large - 0.5, 0, small - 1)
    return np.maximum(1 - np.abs(at[:, None] - np.arange(small)), 0)
b = array("bases")
rows, columns = enlarged(height, b.shape[1]), enlarged(width, b.shape[2])
images = np.einsum("nk,Hh,khwc,Ww->nHWc", array("coefficients"), rows, b, columns, optimize=True)
"""


def bases(*, image_shape: tuple[int, int, int], num_bases: int = 16, basis_factor: int = 2) -> Decoder:
    """x_n = U sum over k of a_nk b_k: K bases at half size, enlarged by bilinear interpolation U.

    Args:
      image_shape: (H, W, C).
      num_bases: K, the number of bases that the images of all classes share.
      basis_factor: how many times smaller the sides of a basis are; 2 in the paper.

    Returns:
      The decoder; latents are {"bases": [K, ceil(H / 2), ceil(W / 2), C], "coefficients": [N, K]}. It starts
      from the K bases that come closest to given images: their singular vectors in the range of U, each of
      mean square 1. With N < K the other bases are random and unused.

    Raises:
      UserError: more bases than a basis has pixels, or a basis_factor larger than a side.

    Example:
      >>> latents = bases(image_shape=(28, 28, 1)).init(jax.random.key(0), 290, None)
      >>> sum(leaf.size for leaf in latents.values())
      7776

    References: Deng & Russakovsky 2022, "Remember the Past: Distilling Datasets into Addressable Memories",
    section 4.
    """
    height, width, channels = image_shape
    where = "decoder bases"
    check_whole(where, num_bases=num_bases, basis_factor=basis_factor)
    if basis_factor > min(height, width):
        raise fail(where, f"basis_factor <= {min(height, width)}, the side of the images", basis_factor)
    small = (shrunk(height, basis_factor), shrunk(width, basis_factor), channels)
    pixels = int(np.prod(small))
    if num_bases > pixels:
        raise fail(where, f"num_bases <= {pixels}, the pixels of a basis", num_bases)
    sides = interpolation(height, small[0]), interpolation(width, small[1])
    (q_rows, r_rows), (q_columns, r_columns) = (np.linalg.qr(side) for side in sides)
    inverses = np.linalg.inv(r_rows), np.linalg.inv(r_columns)

    def init(key: Array, count: int, images: Array | None) -> Latents:
        keys = jax.random.split(key)
        found = jax.random.normal(keys[0], (num_bases, *small))
        coefficients = jax.random.normal(keys[1], (count, num_bases)) / jnp.sqrt(num_bases)
        if images is None:
            return {"bases": found, "coefficients": coefficients}
        inside = along_sides(q_rows.T, q_columns.T, images).reshape(count, -1)
        u, s, v = jnp.linalg.svd(inside, full_matrices=False)
        rank = min(num_bases, len(s))
        scale = jnp.asarray(np.sqrt(height * width * channels), v.dtype)  # mean square 1 at full size
        best = along_sides(*inverses, v[:rank].reshape(rank, *small)) * scale
        weights = u[:, :rank] * (s[:rank] / scale)[None, :]
        unused = jnp.zeros((count, num_bases - rank), weights.dtype)
        return {
            "bases": jnp.concatenate([best, found[rank:].astype(best.dtype)]),
            "coefficients": jnp.concatenate([weights, unused], axis=1),
        }

    def decode(latents: Latents) -> Array:
        large = along_sides(*sides, latents["bases"])
        return jnp.einsum("nk,khwc->nhwc", latents["coefficients"], large)

    return Decoder("bases", init, decode, CODE, sized=("num_bases", num_bases))
