"""Multi-formation (IDC): small images, enlarged to full size."""

import jax
import numpy as np

from jaxdistill.core.checks import check_whole, fail
from jaxdistill.core.types import Array
from jaxdistill.teachers.decoders.decoder import Decoder, Latents, along_sides, interpolation, shrunk

CODE = """\
def enlarged(large, small):
    at = np.clip((np.arange(large) + 0.5) * small / large - 0.5, 0, small - 1)
    return np.maximum(1 - np.abs(at[:, None] - np.arange(small)), 0)
z = array("images")
rows, columns = enlarged(height, z.shape[1]), enlarged(width, z.shape[2])
images = np.einsum("Hh,nhwc,Ww->nHWc", rows, z, columns)
"""


def multiformation(*, image_shape: tuple[int, int, int], factor: int = 2) -> Decoder:
    """x = U z: f x f small images take the room of one and are enlarged by bilinear interpolation U.

    A side that f does not divide is padded, so a small side has ceil(side / f) pixels, all of which count.

    Args:
      image_shape: (H, W, C).
      factor: f, the number of small images along a side of a stored image.

    Returns:
      The decoder; latents are {"images": [N, ceil(H / f), ceil(W / f), C]}.

    Raises:
      UserError: a factor larger than a side.

    Example:
      >>> multiformation(image_shape=(28, 28, 1)).init(jax.random.key(0), 4, None)["images"].shape
      (4, 14, 14, 1)

    References: Kim et al. 2022, "Dataset Condensation via Efficient Synthetic-Data Parameterization", 4.1.
    """
    height, width, channels = image_shape
    check_whole("decoder multiformation", factor=factor)
    if factor > min(height, width):
        side = min(height, width)
        raise fail("decoder multiformation", f"factor <= {side}, the side of the images", factor)
    rows = interpolation(height, shrunk(height, factor))
    columns = interpolation(width, shrunk(width, factor))
    back = np.linalg.pinv(rows), np.linalg.pinv(columns)

    def init(key: Array, count: int, images: Array | None) -> Latents:
        if images is not None:
            return {"images": along_sides(*back, images)}
        return {"images": jax.random.normal(key, (count, rows.shape[1], columns.shape[1], channels))}

    def decode(latents: Latents) -> Array:
        return along_sides(rows, columns, latents["images"])

    return Decoder("multiformation", init, decode, CODE)
