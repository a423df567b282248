"""A user's own `.npz` as a data set, and the checks of its arrays."""

import os
import zipfile
import zlib
from pathlib import Path

import numpy as np

from jaxdistill.core.checks import UserError, fail
from jaxdistill.data.dataset import Raw, check_labels

# what zipfile, zlib and numpy raise on damage; NotImplementedError: an unknown compression
DAMAGED = (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error, NotImplementedError)


def load_npz(path: str | os.PathLike) -> Raw:
    """A data set from an `.npz` file, `numpy.savez(path, x=..., y=...)`.

    | key | what |
    | --- | --- |
    | `x` | [N, H, W, C] or [N, H, W] images, uint8 (0 to 255) or float |
    | `y` | [N] integers; all of 0..max(y) occur |
    | `x_test`, `y_test` | optional, the same for the test part; otherwise a stratified fifth is split off |
    | `class_names` | optional, [classes] strings |

    White is 255 for uint8. For floats it is 1 where no pixel exceeds 1, and 255 otherwise.

    Args:
      path: of the file. Pickled objects in it are refused.

    Returns:
      The raw set; floats as float32, images of rank 4.

    Raises:
      UserError: the file is missing, damaged or no `.npz`; `x` or `y` is missing; arrays of the wrong
        type, shape or length; NaN or infinite pixels; labels that are negative or not integers, fewer
        than two classes, or a class without an image.
    """
    where = f"load({path})"
    return raw_of_arrays(read_npz(path, where), Path(path).name, where)


def raw_of_arrays(content: dict[str, np.ndarray], name: str, where: str) -> Raw:
    """The raw set of arrays under the keys that `load_npz` lists.

    Args:
      content: array by key.
      name: of the set.
      where: for errors.

    Raises:
      UserError: as `load_npz`.
    """
    x, y = check_images(content, where)
    num_classes = int(y.max()) + 1
    if num_classes < 2:
        raise fail(where, "at least two classes in y", "labels that are all 0")
    present = np.unique(y)
    if len(present) < num_classes:
        gap = next(c for c, label in enumerate(present) if c != label)
        expected = f"an image of each class from 0 to {num_classes - 1} in y"
        raise fail(where, expected, f"none of class {gap}", "Number the classes without gaps.")
    x_test = y_test = None
    if "x_test" in content or "y_test" in content:
        keys = ("x_test", "y_test")
        x_test, y_test = check_images(
            content, where, keys=keys, num_classes=num_classes, image_shape=x.shape[1:]
        )
        if x_test.dtype != x.dtype:
            raise fail(where, f"x_test of dtype {x.dtype}, as x", str(x_test.dtype))
    largest = max(float(part.max()) for part in (x, x_test) if part is not None)
    return Raw(
        name=name,
        x=x,
        y=y,
        class_names=_class_names(content, num_classes, where),
        scale=1.0 if x.dtype != np.uint8 and largest <= 1 else 255.0,
        x_test=x_test,
        y_test=y_test,
    )


def read_npz(path: str | os.PathLike, where: str) -> dict[str, np.ndarray]:
    """All arrays of an `.npz` file by name; nothing in it is ever unpickled.

    Raises:
      UserError: the file is missing, damaged, not an `.npz`, or holds Python objects.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise fail(where, "an .npz file", "no file of that name" if not path.exists() else "a folder")
    remedy = "Write it with numpy.savez(path, x=..., y=...)."
    try:
        file = np.load(path, allow_pickle=False)
        if isinstance(file, np.ndarray):
            raise fail(where, "an .npz archive", "a single .npy array", remedy)
        with file:
            return {name: file[name] for name in file.files}
    except UserError:
        raise
    except DAMAGED as error:
        if "allow_pickle" in str(error) and zipfile.is_zipfile(path):
            raise fail(where, "arrays of numbers", "Python objects (dtype object)", remedy) from None
        why = "" if "pickle" in str(error) else f" ({error})"
        raise fail(where, "an intact .npz archive", f"a damaged or different file{why}", remedy) from None


def check_images(
    content: dict[str, np.ndarray],
    where: str,
    *,
    keys: tuple[str, str] = ("x", "y"),
    num_classes: int | None = None,
    image_shape: tuple[int, ...] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The images and labels under `keys`, as [N, H, W, C] uint8 or float32 and [N] int64.

    Raises:
      UserError: as `load_npz`.
    """
    for key in keys:
        if key not in content:
            got = f"only {', '.join(sorted(content)) or 'an empty archive'}"
            raise fail(where, f"arrays {keys[0]} and {keys[1]}", got)
    x, y = (content[key] for key in keys)
    name = keys[0]
    if x.dtype != np.uint8 and not np.issubdtype(x.dtype, np.floating):
        remedy = f"Convert it: {name}.astype('uint8') or 'float32'."
        raise fail(where, f"{name} of dtype uint8 or float", str(x.dtype), remedy)
    if x.ndim not in (3, 4) or not x.size:
        raise fail(where, f"{name} of shape [N, H, W, C] or [N, H, W], not empty", str(x.shape))
    x = x[..., None] if x.ndim == 3 else x
    if image_shape is not None and x.shape[1:] != tuple(image_shape):
        raise fail(where, f"images of shape {tuple(image_shape)} in {name}", str(x.shape[1:]))
    if y.shape != x.shape[:1]:
        raise fail(where, f"{keys[1]} of shape ({len(x)},), one label per image", str(y.shape))
    check_labels(y, where, num_classes=num_classes)
    if x.dtype != np.uint8:
        x = x.astype(np.float32)
        if not np.isfinite(x).all():
            bad = int(np.flatnonzero(~np.isfinite(x).all(axis=(1, 2, 3)))[0])
            raise fail(where, f"finite pixels in {name}", f"a NaN or an infinity in image {bad}")
    return x, y.astype(np.int64)


def _class_names(content: dict[str, np.ndarray], num_classes: int, where: str) -> tuple[str, ...]:
    if "class_names" not in content:
        return tuple(map(str, range(num_classes)))
    names = content["class_names"]
    if names.shape != (num_classes,) or names.dtype.kind != "U":
        expected = f"class_names of {num_classes} strings, one per class"
        raise fail(where, expected, f"dtype {names.dtype}, shape {names.shape}")
    return tuple(map(str, names))
