"""No decoder: images are stored as they are."""

import jax

from jaxdistill.core.types import Array
from jaxdistill.teachers.decoders.decoder import Decoder, Latents


def pixels(*, image_shape: tuple[int, int, int]) -> Decoder:
    """Latents are the images: x = z.

    Args:
      image_shape: (H, W, C).

    Example:
      >>> pixels(image_shape=(8, 8, 1)).init(jax.random.key(0), 5, None)["pixels"].shape
      (5, 8, 8, 1)
    """

    def init(key: Array, count: int, images: Array | None) -> Latents:
        return {"pixels": jax.random.normal(key, (count, *image_shape)) if images is None else images}

    return Decoder("none", init, lambda latents: latents["pixels"], 'images = array("pixels")\n')
