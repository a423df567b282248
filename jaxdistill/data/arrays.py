"""A user's arrays as a data set, with common keys, layouts, units and labels."""

import hashlib
import os
import re
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxdistill.core.checks import UserError, above, fail, one_of
from jaxdistill.core.paths import as_path
from jaxdistill.data.dataset import Raw
from jaxdistill.data.labels import numbered
from jaxdistill.data.mapped import forget, mapped_arrays
from jaxdistill.data.trees import ENCRYPTED, most_unpacked, too_much

# what zipfile, zlib and numpy raise on damage; NotImplementedError: an unknown compression
DAMAGED = (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error, NotImplementedError)
SMALLER = "If you trust it, write its arrays with numpy.savez, which does not compress."
"""The remedy for an archive that grows too much."""
PARTS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val"),
    "test": ("test", "testing"),
}
"""Common names of the parts of a set."""
NAMES_OF_ARRAYS = {
    "x": ("x", "images", "image", "data", "pixels", "inputs"),
    "y": ("y", "labels", "label", "targets", "target", "classes"),
}
"""Common names of images and labels."""
NAMES_OF_CLASSES = ("class_names", "label_names", "classes_names")
LAYOUTS = ("nhwc", "nchw")
CHANNELS = (1, 3, 4)
"""Numbers of channels by which a layout is recognised."""
BRIGHT = 1.5
"""Floats whose images are mostly below this are in 0..1, others in 0..255."""


class Reading(NamedTuple):
    """Settings for properties that the arrays do not state."""

    layout: str | None = None
    """`nhwc` or `nchw`; None takes NHWC, and refuses images that look like NCHW."""
    scale: float | None = None
    """The pixel value of white; None finds it, see `white`."""


UNSAID = Reading()
"""No settings: arrays are read by their own properties."""


def load_npz(path: str | os.PathLike, reading: Reading = UNSAID, *, mapped: bool = False) -> Raw:
    """A data set from an `.npz` file, `numpy.savez(path, x=..., y=...)`.

    | key | what |
    | --- | --- |
    | `x` | [N, H, W, C] or [N, H, W] images: uint8, uint16, other integers, bool or float |
    | `y` | labels: [N] or [N, 1] numbers or strings, or [N, classes] one-hot |
    | `x_test`, `y_test` | optional, the test part; else a stratified fifth of the images |
    | `x_validation`, `y_validation` | optional, the validation part; else a sixth of the rest |
    | `class_names` | optional, [classes] strings |
    | `scale` | optional, the pixel value of white |
    | `name` | optional, the named set that the images are, such as `mnist` |

    Other people's keys are read too: `x_train`, `train_images`, `val_images`, `train_labels`, `test_targets`,
    `images`, `labels` and the like.

    Args:
      path: of the file. Pickled objects in it are refused.
      reading: what the file does not say.
      mapped: leave arrays that are not compressed on the disk until they are used.

    Returns:
      The raw set; floats as float32, images of rank 4.

    Raises:
      UserError: as `raw_of_arrays`, or a file that is missing, damaged or no `.npz`.
    """
    where = f"load({path})"
    content = read_npz(path, where, mapped=mapped)
    name = content.get("name", np.asarray(Path(path).name))
    if name.dtype.kind != "U" or name.ndim:
        raise fail(where, "name as one string", f"dtype {name.dtype}, shape {name.shape}")
    return raw_of_arrays(content, str(name), where, reading)


def raw_of_arrays(
    content: dict[str, np.ndarray],
    name: str,
    where: str,
    reading: Reading = UNSAID,
) -> Raw:
    """The raw set of arrays under the keys that `load_npz` lists.

    Args:
      content: array by key.
      name: of the set.
      where: for errors.
      reading: what the arrays do not say.

    Raises:
      UserError: images or labels are missing, of the wrong type, shape or length, or under two keys; NaN or
        infinite pixels; labels that `jaxdistill.data.labels.numbered` refuses; a part without an image of a
        class.
    """
    if reading.layout is not None:
        one_of(where, reading.layout, LAYOUTS)
    keys = _keys(content, where)
    parts = [part for part in PARTS if part in keys]
    x = {part: _images(content[keys[part]["x"]], where, keys[part]["x"], reading) for part in parts}
    for part in parts[1:]:
        key, shape = keys[part]["x"], x["train"].shape[1:]
        if x[part].shape[1:] != shape:
            raise fail(where, f"images of shape {shape} in {key}", x[part].shape[1:])
        given, first = content[key].dtype, content[keys["train"]["x"]].dtype
        if given != first:
            raise fail(where, f"{key} of dtype {first}, as {keys['train']['x']}", given)
    widest = np.result_type(*(array.dtype for array in x.values()))
    x = {part: array.astype(widest, copy=False) for part, array in x.items()}
    for part in parts:
        y = content[keys[part]["y"]]
        if y.shape[:1] != x[part].shape[:1]:
            expected = f"{keys[part]['y']} of shape ({len(x[part])},), one label per image"
            raise fail(where, expected, y.shape)
    named = next((key for key in NAMES_OF_CLASSES if key in content), None)
    classes = numbered(
        {keys[part]["y"]: content[keys[part]["y"]] for part in parts},
        where,
        None if named is None else content[named],
        named or "class_names",
    )
    y = {part: classes.labels[keys[part]["y"]] for part in parts}
    for part in parts:
        counts = np.bincount(y[part], minlength=len(classes.class_names))
        if not counts.all():
            lacking = classes.class_names[int(counts.argmin())]
            raise fail(where, f"an image of each class in {keys[part]['y']}", f"none of class {lacking}")
    told = reading.scale if reading.scale is not None else _told_scale(content, where)
    x, scale, odd = _in_units(x, told, where)
    return Raw(
        name=name,
        x=x["train"],
        y=y["train"],
        class_names=classes.class_names,
        scale=scale,
        x_validation=x.get("validation"),
        y_validation=y.get("validation"),
        x_test=x.get("test"),
        y_test=y.get("test"),
        digest=digest_of([*x.values(), *y.values()]),
        cautions=(*classes.cautions, *odd),
    )


def as_array(value: Any, where: str, key: str) -> np.ndarray:
    """What a user gives under a key, as an array."""
    try:
        return np.asarray(value)
    except ValueError as error:  # lists of lists that differ in length
        remedy = "Make all images of one size, or give a folder of pictures with image_size."
        raise fail(where, f"{key} as one array", f"lists of several shapes ({error})", remedy) from None


def digest_of(arrays: Collection[np.ndarray]) -> str:
    """SHA-256 of the types, shapes and values of arrays."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{array.dtype.str} {array.shape} ".encode())
        found.update(np.ascontiguousarray(array).data)
        forget(array)
    return found.hexdigest()


def read_npz(path: str | os.PathLike, where: str, *, mapped: bool = False) -> dict[str, np.ndarray]:
    """All arrays of an `.npz` file by name; nothing in it is ever unpickled.

    Args:
      path: of the file.
      where: for errors.
      mapped: memory maps of the arrays that are not compressed.

    Raises:
      UserError: the file is missing, damaged, encrypted, not an `.npz`, or holds Python objects or more than
        `most_unpacked` bytes.
    """
    path = as_path("load", path)
    if not path.is_file():
        raise fail(where, "an .npz file", "no file of that name" if not path.exists() else "a folder")
    remedy = "Write it with numpy.savez(path, x=..., y=...)."
    try:
        file = np.load(path, allow_pickle=False)
        if isinstance(file, np.ndarray):
            raise fail(where, "an .npz archive", "a single .npy array", remedy)
        with file, zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if any(member.flag_bits & ENCRYPTED for member in members):
                raise fail(where, "an .npz archive that needs no password", "one that is encrypted", remedy)
            if sum(member.file_size for member in members) > most_unpacked(path):
                raise too_much(where, path, SMALLER)
            there = mapped_arrays(path) if mapped else {}
            return {name: there[name] if name in there else file[name] for name in file.files}
    except UserError:
        raise
    except PermissionError as error:
        raise fail(where, f"a readable {path}", error.strerror) from None
    except DAMAGED as error:
        if "allow_pickle" in str(error) and zipfile.is_zipfile(path):
            remedy = "Save labels that are text as np.asarray(y, str), images as one array."
            raise fail(where, "arrays of numbers or text", "Python objects (dtype object)", remedy) from None
        why = "" if "pickle" in str(error) else f" ({error})"
        raise fail(where, "an intact .npz archive", f"a damaged or different file{why}", remedy) from None


def _keys(content: dict[str, np.ndarray], where: str) -> dict[str, dict[str, str]]:
    """Part -> {"x": key of its images, "y": key of its labels}, training part first.

    Raises:
      UserError: images without labels or the other way round, no training part, two keys that mean the same.
    """
    found: dict[str, dict[str, str]] = {}
    for key in content:
        part, kind = _meaning(key)
        if kind is None or part is None:
            continue
        other = found.setdefault(part, {}).get(kind)
        if other is not None:
            what = "images" if kind == "x" else "labels"
            raise fail(where, f"one array of {what} of the {part} part", f"two, {other} and {key}")
        found[part][kind] = key
    for part in ("train", *found):
        lacks = {"x", "y"} - found.get(part, {}).keys()
        if lacks:
            ours = "" if part == "train" else f"_{part}"
            got = f"only {', '.join(sorted(content)) or 'an empty archive'}"
            raise fail(where, f"arrays x{ours} and y{ours}", got)
    return found


def _meaning(key: str) -> tuple[str | None, str | None]:
    """(part, `x` or `y`) that a key means; (None, None) for other keys."""
    words = [word for word in re.split(r"[^a-z]+", key.lower()) if word]
    part = [p for word in words for p, names in PARTS.items() if word in names]
    kind = [k for word in words for k, names in NAMES_OF_ARRAYS.items() if word in names]
    if len(part) > 1 or len(kind) != 1 or len(part) + len(kind) != len(words):
        return None, None
    return (part or ["train"])[0], kind[0]


def _images(x: np.ndarray, where: str, key: str, reading: Reading) -> np.ndarray:
    """[N, H, W, C] uint8, uint16 or float32."""
    if x.dtype.kind not in "buif":
        raise fail(where, f"{key} of numbers", f"dtype {x.dtype}")
    if x.ndim not in (3, 4) or not x.size:
        raise fail(where, f"{key} of shape [N, H, W, C] or [N, H, W], not empty", x.shape)
    x = x[..., None] if x.ndim == 3 else _channels_last(x, where, key, reading.layout)
    x = np.ascontiguousarray(x)  # the bits of a mean depend on the order in memory
    if x.dtype.kind == "f":
        x = x.astype(np.float32)
        if not np.isfinite(x).all():
            bad = int(np.flatnonzero(~np.isfinite(x).all(axis=(1, 2, 3)))[0])
            raise fail(where, f"finite pixels in {key}", f"a NaN or an infinity in image {bad}")
        return x
    if x.dtype == bool:
        return x.astype(np.uint8)
    least, most = int(x.min()), int(x.max())
    if least < 0 or most > np.iinfo(np.uint16).max:
        remedy = f"Scale it: {key} / {most}, as floats." if least >= 0 else ""
        raise fail(where, f"integers from 0 to 65,535 in {key}", f"{least if least < 0 else most}", remedy)
    if x.dtype in (np.uint8, np.uint16):
        return x
    return x.astype(np.uint8 if most <= np.iinfo(np.uint8).max else np.uint16)


def _channels_last(x: np.ndarray, where: str, key: str, layout: str | None) -> np.ndarray:
    first, last = x.shape[1] in CHANNELS, x.shape[3] in CHANNELS
    if layout == "nchw":
        if last and not first and x.shape[2] > x.shape[3]:
            expected = f"{key} of shape [N, C, H, W], with layout=nchw"
            raise fail(where, expected, f"{x.shape}, which looks like [N, H, W, C]", "Leave layout out.")
        return x.transpose(0, 2, 3, 1)
    if layout is None and first and not last and x.shape[2] > x.shape[1]:
        remedy = f"Transpose it: {key}.transpose(0, 2, 3, 1), or set layout=nchw (nhwc if it is right)."
        raise fail(where, f"{key} of shape [N, H, W, C]", f"{x.shape}, which looks like [N, C, H, W]", remedy)
    return x


def _told_scale(content: dict[str, np.ndarray], where: str) -> float | None:
    """The pixel value of white in the arrays' own `scale`."""
    if "scale" not in content:
        return None
    value = content["scale"]
    if value.size != 1 or value.dtype.kind not in "uif":
        raise fail(where, "scale as one number", f"dtype {value.dtype}, shape {value.shape}")
    return float(value.item())


def _in_units(
    x: dict[str, np.ndarray], told: float | None, where: str
) -> tuple[dict[str, np.ndarray], float, list[str]]:
    """The images, the pixel value of white, and a caution if pixels lie far from it."""
    if told is not None:
        above(where, "scale", told, 0)
        if not np.isfinite(told):
            raise fail(where, "a finite scale", told)
    if all(part.dtype == np.uint8 for part in x.values()):
        only_ones = max(int(part.max()) for part in x.values()) == 1
        scale = told or (1.0 if only_ones else 255.0)
    elif all(part.dtype == np.uint16 for part in x.values()):
        scale = told or 65535.0
    else:
        scale = told or white(x["train"])
    low, high = _extremes(x["train"])
    odd = []
    if low < -0.02 * scale:
        odd = [f"pixels lie from {low:.3g} to {high:.3g}; pictures show 0 as black and {scale:g} as white"]
    elif not 0.25 * scale <= high <= BRIGHT * scale:
        line = f"the brightest pixel of an image is {high:.3g}, and white is taken to be {scale:g}"
        odd = [f"{line}; scale=VALUE sets another value"]
    return x, scale, odd


def white(x: np.ndarray) -> float:
    """The pixel value of white in float images: 1 or 255.

    It is 1 if the brightest pixel of half of the images is below `BRIGHT`, or their darkest below 0 (they are
    centred), and 255 otherwise: single pixels change nothing.

    Args:
      x: [N, H, W, C] floats.
    """
    low, high = _extremes(x)
    return 1.0 if high <= BRIGHT or low < -0.02 * high else 255.0


def _extremes(x: np.ndarray) -> tuple[float, float]:
    """Medians over the images of their darkest and of their brightest pixel."""
    return float(np.median(x.min((1, 2, 3)))), float(np.median(x.max((1, 2, 3))))
