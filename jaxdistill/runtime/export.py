"""Synthetic data of a run as an `.npz` that any framework reads.

    x               [N, H, W, C] float32, raw pixel units of the data set (0..255 for MNIST), not clipped
    x_standardised  [N, H, W, C] float32, what the networks see: u = (x / scale - mean) / std;
                    W (u - zca_mean) of its D = H W C values, if zca_mean is there
    y, y_soft       [N] int64; [N, classes] float32, rows sum to 1, the labels that were trained on
    y_free          [N, classes] float32, in the place of y_soft: the outputs that a network is trained to
                    give by a squared loss; any numbers, y is where they are largest
    order           [T, B] int32, rows of x in the batch of each inner step, in training order
    hyper_<name>    [T] float32, a hyper-parameter of the inner optimiser at each inner step
    start/<path>    the initial weights, where the images were distilled for one fixed initialisation
    zca_mean        [D] float32
    zca_vectors     [D, D] float32, U
    zca_scales      [D] float32, s: W = U diag(1 / s) U^T, and its inverse U diag(s) U^T
    scale, mean, std, class_names, dataset, method, learner (JSON), inner (JSON), reading (JSON)

Equal contents give equal bytes, and nothing in it is a pickle. U and s stand for W and its inverse, in half
the room: 38 MB for images of 32x32x3. They are not compressed, which would save 7%.
"""

import dataclasses
import io
import json
import math
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NotRequired, TypedDict, Unpack

import jax
import numpy as np

from jaxdistill.core.checks import fail
from jaxdistill.core.paths import as_path
from jaxdistill.core.types import Batch
from jaxdistill.data import DatasetInfo, read_npz, to_pixels
from jaxdistill.data.whitening import Whitening
from jaxdistill.runtime.atomic import atomic_write, jsonable

LABEL_ARRAYS = {"probabilities": "y_soft", "free": "y_free"}
"""By kind of labels: the name of their array."""
HYPERPARAMETERS = ("learning_rate", "momentum")
"""The hyper-parameters of inner optimisers, see `jaxdistill.inner.optimizers`."""
ZCA = tuple(field.name for field in dataclasses.fields(Whitening))


class Synthetic(NamedTuple):
    """The content of a synthetic data file, ours or a user's."""

    pixels: np.ndarray
    """[N, H, W, C] float32, raw pixel units."""
    images: np.ndarray | None
    """[N, H, W, C] float32, standardised; None where the file does not have them."""
    labels: np.ndarray
    """[N, classes] float32, of the kind `kind`."""
    order: np.ndarray | None
    """[T, B] int32, rows of the images per inner step; None where the file does not say."""
    hyperparameters: dict[str, np.ndarray]
    """Name to [T] float32; empty where the file has none."""
    fixed_start: bool
    """Whether the images were distilled for one fixed initialisation."""
    metadata: dict[str, Any]
    """`scale`, `mean`, `std`, `class_names` and texts, as far as the file has them."""
    whitening: Whitening | None = None
    """The whitening of the standardised images; None for none."""
    kind: str = "probabilities"
    """The kind of its labels, one of `jaxdistill.core.labels.LABELS`."""


class Content(TypedDict):
    """The synthetic data of a run."""

    images: Any
    """[N, H, W, C] float32, standardised."""
    labels: Any
    """[N, classes] float32; rows sum to 1 unless they are free."""
    order: Any
    """[T, B] integers below N: the batch of each inner step, in training order."""
    hyperparameters: Mapping[str, Any]
    """Name to [T], or [1] for one that all steps share."""
    info: Any
    """A `DatasetInfo`; of it `name`, `scale`, `mean`, `std`, `class_names` and `whitening` are used."""
    method: str
    """The method's name."""
    learner: Mapping[str, Any]
    """Its name and options."""
    inner: Mapping[str, Any]
    """The inner optimiser's name and options."""
    reading: NotRequired[Mapping[str, Any]]
    """How the data set was read: options of `jaxdistill.config.table.ReadingOptions`."""
    free: NotRequired[bool]
    """Whether the labels are free."""
    start: NotRequired[Any]
    """The weights that the data were distilled for, a nested dict, where it was one initialisation."""


def write_synthetic(path: str | os.PathLike, **content: Unpack[Content]) -> None:
    """Writes the synthetic data of a run, atomically.

    Args:
      path: the `.npz`.
      **content: what is in it, see `Content`.

    Raises:
      UserError: shapes do not fit, or a value is not finite.
    """
    arrays = arrays_of("write_synthetic", content)
    atomic_write(path, lambda file: write_arrays(file, arrays))


def synthetic(**content: Unpack[Content]) -> Synthetic:
    """The synthetic data of a run, as `read_synthetic` returns them from its file.

    Args:
      **content: see `Content`.

    Raises:
      UserError: as `write_synthetic`.
    """
    where = "synthetic"
    return checked(where, arrays_of(where, content))


def arrays_of(where: str, content: Content) -> dict[str, np.ndarray]:
    """The arrays of a file.

    Args:
      where: for errors.
      content: of the file.

    Raises:
      UserError: as `write_synthetic`.
    """
    images, labels = np.asarray(content["images"], np.float32), np.asarray(content["labels"], np.float32)
    order, info = np.asarray(content["order"], np.int32), content["info"]
    kind = "free" if content.get("free") else "probabilities"
    _check(where, images, labels, order, kind)
    steps = order.shape[0]
    arrays: dict[str, Any] = {
        "x": to_pixels(images, info),
        "x_standardised": images,
        "y": labels.argmax(axis=-1).astype(np.int64),
        LABEL_ARRAYS[kind]: labels,
        "order": order,
    }
    for name, value in content["hyperparameters"].items():
        value = np.asarray(value, np.float32)
        if value.shape not in {(steps,), (1,), ()} or not np.isfinite(value).all():
            raise fail(
                where, f"{name} finite, of shape ({steps},) or (1,)", f"shape {value.shape}, {value.tolist()}"
            )
        arrays[f"hyper_{name}"] = np.broadcast_to(value, (steps,))
    arrays |= data_arrays(info)
    for keys, weights in jax.tree_util.tree_leaves_with_path(content.get("start")):
        arrays["/".join(["start", *(str(k.key) for k in keys)])] = np.asarray(weights)
    texts = {"dataset": info.name, "method": content["method"]}
    texts |= {"learner": _json(content["learner"]), "inner": _json(content["inner"])}
    texts |= {"reading": _json(content["reading"])} if "reading" in content else {}
    return arrays | {name: np.asarray(text, np.str_) for name, text in texts.items()}


def data_arrays(info: DatasetInfo) -> dict[str, np.ndarray]:
    """The arrays of a file that say how its images were standardised and what its classes are called.

    Args:
      info: of the data set; of it `scale`, `mean`, `std`, `class_names` and `whitening` are used.

    Returns:
      `scale`, `mean` and `std` [C] float32, `class_names`, and `zca_*` if images are whitened.
    """
    arrays: dict[str, np.ndarray] = {
        "scale": np.asarray(info.scale, np.float32),
        "mean": np.asarray(info.mean, np.float32),
        "std": np.asarray(info.std, np.float32),
        "class_names": np.asarray(info.class_names, np.str_),
    }
    if info.whitening is not None:
        arrays |= {f"zca_{name}": getattr(info.whitening, name) for name in ZCA}
    return arrays


def read_synthetic(path: str | os.PathLike) -> Synthetic:
    """Reads a synthetic data file of a run, or any `.npz` with images `x` and labels `y`.

    Args:
      path: the `.npz`. `x` is [N, H, W, C] or [N, H, W] in raw pixel units, of any numeric type; `y` is
        [N] integers from 0 to the number of classes - 1, or [N, classes] probabilities (`y_soft` or `y_free`
        goes before it where it is there).

    Returns:
      The content, checked.

    Raises:
      UserError: the file is missing, damaged, lacks images or labels, or they do not fit together.
    """
    path = as_path("read_synthetic", path)
    where = f"read_synthetic({Path(*path.parts[-2:])})"  # of many runs, the folder tells which
    return checked(where, read_npz(path, where))


def checked(where: str, arrays: Mapping[str, np.ndarray]) -> Synthetic:
    """The checked content of a file with the given arrays.

    Args:
      where: for errors.
      arrays: the arrays of an `.npz`, by name.

    Raises:
      UserError: as `read_synthetic`.
    """
    if "x" not in arrays or not {"y", *LABEL_ARRAYS.values()} & set(arrays):
        raise fail(where, "arrays x and y", f"only {', '.join(sorted(arrays)) or 'an empty file'}")
    pixels = _images(where, "x", arrays["x"])
    images = (
        _images(where, "x_standardised", arrays["x_standardised"]) if "x_standardised" in arrays else None
    )
    if images is not None and images.shape != pixels.shape:
        raise fail(where, f"x_standardised of the shape of x, {pixels.shape}", images.shape)
    kind = "free" if LABEL_ARRAYS["free"] in arrays else "probabilities"
    labels = _labels(where, arrays.get(LABEL_ARRAYS[kind], arrays.get("y")))
    order = arrays.get("order")
    if order is not None and order.dtype.kind not in "iu":
        raise fail(where, "order as integers", order.dtype)
    _check(where, pixels, labels, order, kind)
    names = ("scale", "mean", "std", "class_names", "dataset", "method", "learner", "inner", "reading")
    for name in ("scale", "mean", "std"):
        if name in arrays:
            _check_units(where, name, arrays[name], pixels.shape[-1])
    return Synthetic(
        pixels=pixels,
        images=images,
        labels=labels,
        order=None if order is None else order.astype(np.int32),
        hyperparameters=_hyperparameters(where, arrays),
        fixed_start=any(name.startswith("start/") for name in arrays),
        metadata={name: _plain(where, name, arrays[name]) for name in names if name in arrays},
        whitening=_whitening(where, arrays, pixels.shape[1:]),
        kind=kind,
    )


def _check_units(where: str, name: str, array: np.ndarray, channels: int) -> None:
    """Raises unless they are numbers, finite, one per channel, and above 0 where they divide."""
    sizes = (1,) if name == "scale" else (1, channels)
    numbers = array.dtype.kind in "biuf" and array.ndim < 2 and array.size in sizes
    if not numbers or not np.isfinite(array).all() or (name != "mean" and (array <= 0).any()):
        count = "one number" if name == "scale" else f"a number, or {channels}"
        got = f"dtype {array.dtype}, shape {array.shape}, {str(array.ravel()[:4].tolist())[:40]}"
        raise fail(where, f"{name} as {count}, finite{'' if name == 'mean' else ', above 0'}", got)


def _hyperparameters(where: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The inner optimiser's hyper-parameters in a file, by name, checked."""
    found = {}
    for key in (key for key in arrays if key.startswith("hyper_")):
        name, value = key.removeprefix("hyper_"), arrays[key]
        if name not in HYPERPARAMETERS:
            known = " or ".join(f"hyper_{known}" for known in HYPERPARAMETERS)
            raise fail(where, known, key, "Leave out what is no hyper-parameter of an inner optimiser.")
        steps = len(arrays["order"]) if "order" in arrays else value.size
        if value.dtype.kind not in "biuf" or value.shape not in {(steps,), (1,), ()}:
            raise fail(where, f"{key} as {steps} numbers", f"dtype {value.dtype}, shape {value.shape}")
        if not np.isfinite(value).all():
            raise fail(where, f"finite {key}", value[~np.isfinite(value)][0])
        found[name] = np.asarray(value, np.float32)
    return found


def _whitening(where: str, arrays: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> Whitening | None:
    """The whitening of a file, checked; None if it has none."""
    found = {name: arrays.get(f"zca_{name}") for name in ZCA}
    if all(array is None for array in found.values()):
        return None
    size = math.prod(shape)
    for name, array in found.items():
        expected = (size, size) if name == "vectors" else (size,)
        if array is None or array.shape != expected or not np.isfinite(array).all():
            got = "nothing" if array is None else f"shape {array.shape}"
            raise fail(where, f"zca_{name} finite, of shape {expected}", got)
    return Whitening(**{name: np.asarray(array, np.float32) for name, array in found.items()})


def dedupe(batch: Batch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The distinct images of the batches of all inner steps, and the indices of each step's batch.

    Several epochs over the same data give the same images again. Two equal ones inside one batch stay
    two, so the number of images per class is what it was.

    Args:
      batch: `Batch` [T, B, ...].

    Returns:
      images [N, H, W, C] and labels [N, classes] in the order of first appearance, equal to the last bit,
      and order [T, B] int32 such that `images[order]` is `batch.x`.
    """
    x, y = np.asarray(batch.x), np.asarray(batch.y)
    found: dict[tuple[bytes, bytes, int], int] = {}
    first: list[tuple[int, int]] = []
    order = np.zeros(x.shape[:2], np.int32)
    for step in range(x.shape[0]):
        seen: dict[tuple[bytes, bytes], int] = {}
        for i in range(x.shape[1]):
            content = x[step, i].tobytes(), y[step, i].tobytes()
            copy = seen[content] = seen.get(content, -1) + 1
            if (*content, copy) not in found:
                found[(*content, copy)] = len(first)
                first.append((step, i))
            order[step, i] = found[(*content, copy)]
    steps, rows = np.asarray(first).T
    return x[steps, rows], y[steps, rows], order


def write_arrays(file: BinaryIO, arrays: Mapping[str, Any]) -> None:
    """`numpy.savez` stamps the time into the archive; here equal arrays are equal bytes."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, np.array(array, order="C"), version=(1, 0), allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.create_system, entry.external_attr = 3, 0o644 << 16
            archive.writestr(entry, buffer.getvalue())


def _images(where: str, name: str, array: np.ndarray) -> np.ndarray:
    if array.dtype.kind not in "biuf":
        raise fail(where, f"{name} as numbers", array.dtype)
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4 or array.size == 0:
        raise fail(where, f"{name} of shape [N, H, W, C] or [N, H, W]", array.shape)
    return array.astype(np.float32)


def _labels(where: str, y: Any) -> np.ndarray:
    if y.dtype.kind not in "biuf":
        raise fail(where, "y as integers or probabilities", y.dtype)
    if y.ndim == 2 and y.shape[1] > 1:
        return y.astype(np.float32)
    y = y.reshape(-1)
    if y.size == 0 or not np.isfinite(y).all() or (y != np.round(y)).any() or y.min() < 0:
        raise fail(where, "y as integers from 0", y[:3].tolist())
    return np.eye(int(y.max()) + 1, dtype=np.float32)[y.astype(np.int64)]


def _check(where: str, images: np.ndarray, labels: np.ndarray, order: np.ndarray | None, kind: str) -> None:
    if images.ndim != 4:
        raise fail(where, "images [N, H, W, C]", images.shape)
    if labels.ndim != 2 or len(labels) != len(images):
        raise fail(where, f"labels [{len(images)}, classes], one row per image", labels.shape)
    for name, array in (("images", images), ("labels", labels)):
        if not np.isfinite(array).all():
            raise fail(
                where, f"finite {name}", f"{int((~np.isfinite(array)).sum())} that are NaN or infinite"
            )
    sums = np.abs(labels.sum(axis=-1) - 1)
    if kind == "probabilities" and ((sums > 1e-3).any() or labels.min() < 0):
        worst = labels[sums.argmax()]
        raise fail(where, "labels that are >= 0 and sum to 1", np.round(worst, 4).tolist())
    if order is None:
        return
    if order.ndim != 2 or order.size == 0 or order.min() < 0 or order.max() >= len(images):
        bounds = f"shape {order.shape}" + (f", {order.min()}..{order.max()}" if order.size else "")
        raise fail(where, f"order [T, B] with values in 0..{len(images) - 1}", bounds)


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(jsonable(value), ensure_ascii=False, sort_keys=True, allow_nan=False)


def _plain(where: str, name: str, array: np.ndarray) -> Any:
    if name in ("learner", "inner", "reading"):
        try:
            found = json.loads(str(array))
        except ValueError as error:
            raise fail(where, f"JSON in {name}", str(array)[:60]) from error
        if not isinstance(found, dict):
            raise fail(where, f"a JSON object in {name}", str(array)[:60])
        return found
    return tuple(array.tolist()) if array.ndim else array.item()
