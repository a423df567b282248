"""Decoders: what is stored in the place of images, and how images come of it.

A new decoder is one new file with a factory `(*, image_shape, options) -> Decoder`, and one line in
`DECODERS`.
"""

from collections.abc import Callable

from jaxdistill.core.registry import Registry
from jaxdistill.teachers.decoders.decoder import Decoder

__all__ = ["DECODERS", "Decoder"]

DECODERS: Registry[Callable[..., Decoder]] = Registry(
    "decoder",
    {
        "bases": "jaxdistill.teachers.decoders.bases:bases",
        "dct": "jaxdistill.teachers.decoders.dct:dct",
        "field": "jaxdistill.teachers.decoders.field:field",
        "multiformation": "jaxdistill.teachers.decoders.multiformation:multiformation",
        "none": "jaxdistill.teachers.decoders.pixels:pixels",
        "palette": "jaxdistill.teachers.decoders.palette:palette",
    },
)
