"""Brings images to one size and one number of channels."""

import chex
import jax
import numpy as np

from jaxdistill.core.checks import at_least, fail, one_of
from jaxdistill.data.dataset import CHUNK

FITS = ("crop", "pad", "stretch")
CHANNELS = (1, 3)
LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey (ITU-R BT.601)."""


def check_shaping(where: str, image_size: object, fit: str, channels: int | None) -> None:
    """Raises unless size, fit and number of channels are valid."""
    if image_size is not None:
        if not isinstance(image_size, int | np.integer) or isinstance(image_size, bool):
            raise fail(where, "image_size as an integer", repr(image_size))
        at_least(where, "image_size", int(image_size), 1)
    one_of(f"{where} fit", fit, FITS)
    if image_size is None and fit != FITS[0]:
        raise fail(where, "no fit without image_size, where it has no effect", fit)
    if channels is not None and channels not in CHANNELS:
        raise fail(where, "channels 1 (grey) or 3 (colour)", channels)


def fitted(pixels: np.ndarray, size: int, fit: str) -> np.ndarray:
    """Images of any one size as squares.

    Args:
      pixels: [N, H, W, C], any real dtype.
      size: side of the result in pixels.
      fit: `crop`, the middle of the longer side is kept; `pad`, black is added to the shorter side;
        `stretch`, both sides are resized.

    Returns:
      [N, size, size, C], see `resize`.
    """
    height, width = pixels.shape[1:3]
    if fit == "crop" and height != width:
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        pixels = pixels[:, top : top + side, left : left + side]
    if fit == "pad" and height != width:
        side = max(height, width)
        rows, columns = side - height, side - width
        around = ((0, 0), (rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2), (0, 0))
        pixels = np.pad(pixels, around)
    return resize(pixels, size)


def resize(pixels: np.ndarray, size: int) -> np.ndarray:
    """Antialiased bilinear resize to a square, smaller or larger; channels are kept.

    The filter is separable and linear: two matrices, taken from `jax.image.resize` of the identity.

    Args:
      pixels: [N, H, W, C], any real dtype.
      size: side of the result in pixels, >= 1.

    Returns:
      [N, size, size, C]: float32 in the same units, not rounded; `pixels` itself where it has that size.

    Raises:
      UserError: `size` is not an integer >= 1.
    """
    check_shaping("resize", size, "stretch", None)
    chex.assert_rank(pixels, 4)
    if pixels.shape[1:3] == (size, size):
        return pixels

    def weights(length: int) -> np.ndarray:
        return np.asarray(jax.image.resize(np.eye(length, dtype=np.float32), (size, length), "bilinear"))

    rows, columns = weights(pixels.shape[1]), weights(pixels.shape[2])
    out = np.empty((len(pixels), size, size, pixels.shape[3]), np.float32)
    for i in range(0, len(pixels), CHUNK):
        chunk = np.moveaxis(pixels[i : i + CHUNK].astype(np.float32), 3, 1)  # [n, C, H, W]
        out[i : i + CHUNK] = np.moveaxis(rows @ chunk @ columns.T, 1, 3)
    return out


def with_channels(pixels: np.ndarray, channels: int, where: str) -> np.ndarray:
    """Grey images as colour, or colour as grey.

    Args:
      pixels: [N, H, W, C]; C is 1 or 3.
      channels: 1 or 3. Grey is repeated; colour becomes its luma, rounded if pixels are integers.
      where: for errors.

    Raises:
      UserError: images that have neither 1 nor 3 channels.
    """
    there = pixels.shape[-1]
    if there == channels:
        return pixels
    if there not in CHANNELS:
        raise fail(where, f"images of 1 or 3 channels with channels={channels}", there)
    if channels == 3:
        return np.repeat(pixels, 3, axis=-1)
    out = np.empty((*pixels.shape[:3], 1), pixels.dtype)
    for i in range(0, len(pixels), CHUNK):
        grey = pixels[i : i + CHUNK].astype(np.float32) @ np.asarray(LUMA, np.float32)
        out[i : i + CHUNK, ..., 0] = np.rint(grey) if pixels.dtype.kind in "ui" else grey
    return out
