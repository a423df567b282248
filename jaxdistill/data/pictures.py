"""One picture, from the bytes of its file to an array: any mode, upright, of one size."""

import io
import struct
import warnings
import zlib
from typing import Any

import numpy as np
from PIL import Image, ImageOps

FORMATS = {
    "PNG": (".png",),
    "JPEG": (".jpg", ".jpeg", ".jfif"),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".pbm", ".pgm", ".ppm", ".pnm"),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    "TGA": (".tga",),
}
"""The formats that are read, as Pillow calls them, and their suffixes. Pillow tells the size of each from the
header. It knows other formats, and starts other programs for some of them."""
SUFFIXES = tuple(suffix for suffixes in FORMATS.values() for suffix in suffixes)
MOST_PIXELS = 100_000_000
"""A larger picture is refused before it is decoded."""
BACKGROUND = (255, 255, 255)
"""The background of transparent pictures: white."""
BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, IndexError, TypeError)
"""The errors that Pillow raises on damaged files."""
WIDE = ("I;16", "I;16B", "I;16L", "I;16N", "I")
"""Pillow's modes of 16-bit grey pictures."""
FILTER = Image.Resampling.BILINEAR


def decode(content: bytes, size: int | None = None, fit: str = "crop") -> np.ndarray:
    """The pixels of a picture.

    It is turned upright as its EXIF data say. Palettes become colours. What is transparent is composited on
    white.

    Args:
      content: of the file, in one of `FORMATS`; of an animation the first frame.
      size: side in pixels to resize to (antialiased bilinear); None keeps the size.
      fit: how a picture that is no square becomes one, with `size`: `crop`, the middle is kept; `pad`, black
        is added; `stretch`.

    Returns:
      [H, W, 1] or [H, W, 3], uint8; uint16 of a grey picture of 16 bits.

    Raises:
      ValueError or another of `BROKEN`: a damaged file, another format, more than `MOST_PIXELS`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image: Any = Image.open(io.BytesIO(content), formats=list(FORMATS))
    except Image.DecompressionBombError:
        raise ValueError(f"more than {MOST_PIXELS:,} pixels") from None
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise ValueError(f"{width}x{height} pixels, more than {MOST_PIXELS:,}")
    image = _plain(ImageOps.exif_transpose(image))
    if size is not None:
        image = square(image, size, fit)
    pixels = np.asarray(image)
    if pixels.dtype not in (np.uint8, np.uint16):  # mode I or, after a resize, F
        if pixels.min() < 0 or pixels.max() > np.iinfo(np.uint16).max:
            raise ValueError(f"values from {pixels.min()} to {pixels.max()}, more than 16 bits")
        pixels = np.rint(pixels).astype(np.uint16)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _plain(image: Any) -> Any:
    """The same picture in a mode without palette or transparency: L, RGB or one of `WIDE`."""
    if image.mode in WIDE or (image.mode in ("L", "RGB") and "transparency" not in image.info):
        return image
    if image.mode == "F":
        raise ValueError("a picture of floats")
    if image.mode == "1":
        return image.convert("L")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        grey = image.mode in ("L", "LA", "La")
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (*BACKGROUND, 255)), image)
        return image.convert("L" if grey else "RGB")
    return image.convert("RGB")


def square(image: Any, size: int, fit: str) -> Any:
    """A picture of Pillow's as a square, see `decode`; one of 16 bits becomes one of floats."""
    width, height = image.size
    if (width, height) == (size, size):
        return image
    if image.mode in WIDE:
        image = image.convert("F")
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    if fit == "crop":
        return image.resize((size, size), FILTER, box=(left, top, left + side, top + side))
    if fit == "stretch":
        return image.resize((size, size), FILTER)
    longer = max(width, height)
    inner = (max(1, round(width * size / longer)), max(1, round(height * size / longer)))
    padded = Image.new(image.mode, (size, size), 0)
    padded.paste(image.resize(inner, FILTER), ((size - inner[0]) // 2, (size - inner[1]) // 2))
    return padded
