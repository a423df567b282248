"""Palettes: each image has a few colours of its own, and stores which of them a pixel has."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill.core.checks import above, check_whole, fail
from jaxdistill.core.types import Array
from jaxdistill.teachers.decoders.decoder import Decoder, Latents

CODE = """\
colors, index = array("colors"), array("index")
images = colors[np.arange(len(index))[:, None, None], index]
"""
LLOYD_STEPS = 10


def palette(*, image_shape: tuple[int, int, int], num_colors: int = 4, temperature: float = 0.1) -> Decoder:
    """Learned through x = sum over p of softmax(-|v - c_p|^2 / temperature)_p c_p; stored as nearest colours.

    Args:
      image_shape: (H, W, C).
      num_colors: P, colours of an image; an index takes ceil(log2 P) bits.
      temperature: of the soft assignment of a pixel to colours, in squared units of standardised pixels.

    Returns:
      The decoder; latents are {"pixels": v [N, H, W, C], "colors": c [N, P, C]}, of which colours and the
      index of each pixel's nearest colour are stored. It starts from the pixels of given images; their
      colours are the means of P clusters (Lloyd's algorithm from quantiles of brightness).

    Raises:
      UserError: fewer than 2 colours or more than 256, or a temperature that is not above 0.

    Example:
      >>> sorted(palette(image_shape=(8, 8, 3)).init(jax.random.key(0), 4, None))
      ['colors', 'pixels']

    References: Yuan et al. 2024, "Color-Oriented Redundancy Reduction in Dataset Distillation" (AutoPalette).
    """
    where = "decoder palette"
    check_whole(where, num_colors=num_colors)
    if not 2 <= num_colors <= 256:
        raise fail(where, "num_colors in 2 ... 256", num_colors)
    above(where, "temperature", temperature, float(np.finfo(np.float32).tiny))  # XLA takes smaller ones for 0
    height, width, channels = image_shape

    def distances(pixels: Array, colors: Array) -> Array:
        """[N, H W, C], [N, P, C] -> [N, H W, P], squared."""
        return jnp.sum(jnp.square(pixels[:, :, None, :] - colors[:, None, :, :]), axis=-1)

    def nearest(pixels: Array, colors: Array) -> Array:
        return jnp.argmin(distances(pixels, colors), axis=-1)

    def init(key: Array, count: int, images: Array | None) -> Latents:
        x = jax.random.normal(key, (count, *image_shape)) if images is None else images
        flat = x.reshape(count, -1, channels)
        order = jnp.argsort(flat.sum(axis=-1), axis=1)
        picks = ((jnp.arange(num_colors) + 0.5) * flat.shape[1] / num_colors).astype(jnp.int32)
        colors = jnp.take_along_axis(flat, order[:, picks][:, :, None], axis=1)

        def step(colors: Array, _: None) -> tuple[Array, None]:
            member = jax.nn.one_hot(nearest(flat, colors), num_colors, dtype=flat.dtype)
            sizes = member.sum(axis=1)[:, :, None]
            means = jnp.einsum("nqp,nqc->npc", member, flat) / jnp.maximum(sizes, 1)
            return jnp.where(sizes > 0, means, colors), None

        colors, _ = jax.lax.scan(step, colors, None, length=LLOYD_STEPS)
        return {"pixels": x, "colors": colors}

    def decode(latents: Latents) -> Array:
        pixels = latents["pixels"].reshape(-1, height * width, channels)
        shares = jax.nn.softmax(-distances(pixels, latents["colors"]) / temperature)
        return jnp.einsum("nqp,npc->nqc", shares, latents["colors"]).reshape(-1, *image_shape)

    def store(latents: Latents) -> Latents:
        pixels = latents["pixels"].reshape(-1, height * width, channels)
        index = nearest(pixels, latents["colors"]).astype(jnp.uint8).reshape(-1, height, width)
        return {"colors": latents["colors"], "index": index}

    def read(stored: Latents) -> Array:
        index = stored["index"].reshape(-1, height * width, 1).astype(jnp.int32)
        return jnp.take_along_axis(stored["colors"], index, axis=1).reshape(-1, *image_shape)

    bits = {"index": math.ceil(math.log2(num_colors))}
    return Decoder("palette", init, decode, CODE, store=store, read=read, bits=bits)
