"""What a run stores instead of images, as an `.npz` that NumPy alone decodes: `latents.npz`.

latents/<name>    what the decoder reads: float32, float16 or uint8, and integers such as the index of a
                  colour; [N, classes] under latents/labels, where labels are learned: logits, or free labels
                  themselves, the targets of a squared loss
<name>/low, step  float32, of an array of floats in uint8: value = step * level + low
image_shape       [3], (H, W, C) of the N decoded images, which are in the order of their classes
classes           [N] int64, the class of each image
label_kind        `probabilities` or `free`
decoder           its name
code              Python that decodes: exec(str(file["code"]), {"path": PATH, ...}) leaves `images`,
                  [N, H, W, C] standardised: u = (x / scale - mean) / std, and `labels`, [N, classes] of
                  their kind
scale, mean, std, class_names, dataset, zca_*    as in `synthetic.npz`, see `jaxdistill.runtime.export`
"""

import os
from typing import Any

import numpy as np

from jaxdistill.core.types import Stored
from jaxdistill.runtime.atomic import atomic_write
from jaxdistill.runtime.export import data_arrays, write_arrays
from jaxdistill.teachers.decoders.decoder import NUMPY, Decoder

OF_UINT8 = ("/low", "/step")
LABELS_CODE = """\
labels = np.eye(len(file["class_names"]))[file["classes"]]
if prefix + "labels" in file:
    labels = array("labels")
    if file["label_kind"] == "probabilities":
        labels = np.exp(labels - labels.max(axis=1, keepdims=True))
        labels = labels / labels.sum(axis=1, keepdims=True)
"""
"""The last lines of every code that decodes."""


def latents_arrays(
    stored: Stored, decoder: Decoder, info: Any, images_per_class: int, label_kind: str
) -> dict[str, np.ndarray]:
    """The arrays of a file of latents.

    Args:
      stored: what a teacher stores.
      decoder: its decoder.
      info: the `DatasetInfo` of its data.
      images_per_class: decoded images of a class.
      label_kind: one of `jaxdistill.core.labels.LABELS`.
    """
    arrays = {}
    for name, array in stored.arrays.items():
        value = np.asarray(array)
        value = value.astype(np.float32) if value.dtype == np.float64 else value
        arrays[name if name.endswith(OF_UINT8) else f"latents/{name}"] = value
    arrays |= {
        "image_shape": np.asarray(info.image_shape, np.int64),
        "classes": np.repeat(np.arange(info.num_classes), images_per_class),
        **data_arrays(info),
    }
    code = NUMPY + decoder.numpy + LABELS_CODE
    texts = {"decoder": decoder.name, "code": code, "dataset": info.name, "label_kind": label_kind}
    arrays |= {name: np.asarray(text, np.str_) for name, text in texts.items()}
    return arrays


def write_latents(path: str | os.PathLike, arrays: dict[str, np.ndarray]) -> None:
    """Writes a file of latents, atomically."""
    atomic_write(path, lambda file: write_arrays(file, arrays))
