"""PyTorch files of images: ours and the papers' authors'; no code in them is ever run.

`torch.load(weights_only=True)` reads tensors and plain values and refuses code. PyTorch is the extra `torch`.
"""

import io
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from jaxdistill.core.checks import fail, needs
from jaxdistill.core.paths import as_path
from jaxdistill.runtime import progress
from jaxdistill.runtime.export import Synthetic, checked

SUFFIXES = (".pt", ".pth")
OURS = "jaxdistill synthetic images"
"""The value of `format` in our files."""
NAMES = {"images": "x_standardised", "pixels": "x", "labels": "y", "order": "order"}
NAMES |= {"soft_labels": "y_soft", "free_labels": "y_free"}
"""By key of a file of ours: the array of `synthetic.npz`."""
CHANNELS_FIRST = ("images", "pixels")
TEXTS = ("dataset", "method", "learner", "inner", "reading")


def require_torch(where: str) -> Any:
    """The module `torch`.

    Raises:
      UserError: it is not installed.
    """
    return needs(where, "torch", "torch", "PyTorch, for .pt files")


def write_torch(file: BinaryIO, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes synthetic data as a dict of tensors and plain values.

    | key | what |
    | --- | --- |
    | `images`, `pixels` | [N, C, H, W] float32: standardised; raw, 0 is black and `scale` white |
    | `labels`, `soft_labels` | [N] int64; [N, classes] float32, probabilities |
    | `free_labels` | in the place of `soft_labels`: outputs for a squared loss |
    | `order` | [T, B] int64, the images of each inner step |
    | `learning_rate`, `momentum` | [T] float32, those that the inner optimiser has |
    | `mean`, `std`, `scale` | [C], [C], a number: images = (pixels / scale - mean) / std |
    | `zca_mean`, `zca_vectors`, `zca_scales` | as in `synthetic.npz`, of values in order H, W, C |
    | `class_names` | list of text |
    | `dataset`, `method`, `learner`, `inner`, `reading` | text; the last three are JSON |
    | `start/<path>` | the weights that the images are for, if there is one start; in the layouts of JAX |

    Args:
      file: opened for writing.
      arrays: the arrays of `synthetic.npz`.

    Raises:
      UserError: PyTorch is not installed.
    """
    torch = require_torch("export torch")
    content: dict[str, Any] = {"format": OURS}
    keys = {array: key for key, array in NAMES.items()}
    for name, array in arrays.items():
        key = keys.get(name, name.removeprefix("hyper_"))
        if key in TEXTS:
            content[key] = str(array)
        elif key == "class_names":
            content[key] = array.tolist()
        elif key == "scale":
            content[key] = float(array)
        else:
            array = array.transpose(0, 3, 1, 2) if key in CHANNELS_FIRST else array
            array = array.astype(np.int64) if key == "order" else array
            content[key] = torch.from_numpy(np.array(array, order="C"))
    torch.save(content, file)


def read_torch(path: str | os.PathLike) -> Synthetic:
    """Reads a PyTorch file of images, ours or one of the papers' code.

    | file | who writes it |
    | --- | --- |
    | the dict of `write_torch` | `jd.export` |
    | `{"data": [[images, labels], ...]}`, an entry per experiment; the first is taken | DC, DSA, DM |
    | a tensor in `images_*.pt` with `labels_*.pt` beside it, integers or logits | MTT, TESLA, DATM |

    Images of the papers are [N, C, H, W], standardised by the statistics that their authors use for the set:
    `metadata["standardised_by"]` is "authors", and `pixels` are not in pixel units but as in the file. Images
    that were whitened (ZCA) look the same in a file and are not known from others; results with them mean
    nothing here.

    Args:
      path: ends in `.pt` or `.pth`. May have been written on a GPU.

    Returns:
      The content, checked. `labels` is [N, 0] if the file has none and no other stands beside it.

    Raises:
      UserError: PyTorch is missing; the file is missing, damaged, holds code or something else.
    """
    path = as_path("read_torch", path)
    where = f"read_torch({Path(*path.parts[-2:])})"
    content = _loaded(path, where)
    if isinstance(content, Mapping) and content.get("format") == OURS:
        return checked(where, _arrays_of_ours(where, content))
    if isinstance(content, Mapping) and "data" in content:
        images, labels = _first_experiment(where, content["data"])
    elif _is_tensor(content):
        images, labels = content, _labels_beside(path)
    else:
        got = (
            f"a dict of {', '.join(map(str, content)) or 'nothing'}" if isinstance(content, Mapping) else None
        )
        expected = "a tensor of images, {'data': [[images, labels]]} or what jd.export writes"
        raise fail(where, expected, got or type(content).__name__)
    x = _array(where, "images", images).astype(np.float32)
    if x.ndim != 4 or x.size == 0:
        raise fail(where, "images [N, C, H, W]", x.shape)
    if x.shape[1] not in (1, 3):
        raise fail(where, "images [N, C, H, W] of 1 or 3 channels", x.shape)
    x = np.ascontiguousarray(x.transpose(0, 2, 3, 1))
    arrays = {"x": x, "x_standardised": x}
    if labels is None:
        progress.say(f"note: {path.name} has no labels; as many images of each class are taken, in order")
        unknown = checked(where, arrays | {"y": np.zeros(len(x), np.int64)})
        found = unknown._replace(labels=np.zeros((len(x), 0), np.float32))
    else:
        y = _array(where, "labels", labels)
        found = checked(where, arrays | {"y": _probabilities(y) if y.shape[1:] > (1,) else y})
    return found._replace(metadata={"standardised_by": "authors"})


def _loaded(path: Path, where: str) -> Any:
    """The content of a file, on the CPU."""
    torch = require_torch(where)
    if not path.is_file():
        raise fail(where, "a .pt file", "no file of that name" if not path.exists() else "a folder")
    try:
        with torch.serialization.safe_globals(_numbers()):
            return torch.load(io.BytesIO(path.read_bytes()), map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # a parser of any bytes raises anything
        code = re.search(r"(?:GLOBAL|Unsupported class) `?([\w.]+)", str(error))
        if code:
            remedy = "Save tensors alone: torch.save(images, path)."
            raise fail(where, "tensors", f"Python objects ({code[1]}), which are code", remedy) from None
        raise fail(where, "an intact file of torch.save", "a damaged or different file") from None


def _numbers() -> list[Any]:
    """How NumPy's numbers are pickled: DC's files list accuracies as such."""
    scalar = np._core.multiarray.scalar  # pyright: ignore[reportAttributeAccessIssue]
    types = [type(np.dtype(name)) for name in ("float64", "float32", "int64")]
    return [
        (scalar, "numpy.core.multiarray.scalar"),
        (scalar, "numpy._core.multiarray.scalar"),
        np.dtype,
        *types,
    ]


def _is_tensor(value: Any) -> bool:
    return isinstance(value, require_torch("read_torch").Tensor)


def _array(where: str, what: str, value: Any) -> np.ndarray:
    """A tensor of numbers as an array; of half precision as float32."""
    if not _is_tensor(value):
        raise fail(where, f"{what} as a tensor", type(value).__name__)
    try:
        value = value.detach()
        return (value.float() if value.is_floating_point() else value).numpy()
    except (RuntimeError, TypeError) as error:
        raise fail(where, f"{what} as a dense tensor of real numbers", value.dtype) from error


def _first_experiment(where: str, data: Any) -> tuple[Any, Any]:
    """(images, labels) of DC's list."""
    if not isinstance(data, list | tuple) or not data:
        raise fail(
            where, "data as a list of [images, labels]", type(data).__name__ if data else "an empty one"
        )
    first = data[0]
    if not isinstance(first, list | tuple) or len(first) != 2:
        raise fail(where, "[images, labels] in data", type(first).__name__)
    if len(data) > 1:
        progress.say(f"note: {len(data)} experiments in the file; the first is taken")
    return first[0], first[1]


def _labels_beside(path: Path) -> Any:
    """The content of `labels_best.pt` beside `images_best.pt`; None if there is none."""
    name = path.name.replace("images", "labels", 1)
    beside = path.with_name(name)
    if name == path.name or not beside.is_file():
        return None
    return _loaded(beside, f"read_torch({Path(*beside.parts[-2:])})")


def _probabilities(y: np.ndarray) -> np.ndarray:
    """Rows that are probabilities as they are, others as logits: their softmax."""
    y = y.astype(np.float64)
    if not np.isfinite(y).all() or (y.min() >= 0 and np.abs(y.sum(axis=1) - 1).max() < 1e-3):
        return y
    powers = np.exp(y - y.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def _arrays_of_ours(where: str, content: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The arrays of `synthetic.npz` in a file of `write_torch`."""
    arrays: dict[str, np.ndarray] = {}
    for key, value in content.items():
        if key == "format":
            continue
        if _is_tensor(value):
            array = _array(where, key, value)
            if key in CHANNELS_FIRST and array.ndim == 4:
                array = np.ascontiguousarray(array.transpose(0, 2, 3, 1))
            plain = key in ("mean", "std") or key.startswith(("start/", "zca_"))
            arrays[NAMES.get(key, key if plain else f"hyper_{key}")] = array
        elif isinstance(value, str | int | float | list):
            arrays[key] = np.asarray(value)
        else:
            raise fail(where, f"{key} as a tensor or a plain value", type(value).__name__)
    return arrays
