"""Converts labels to class numbers: numbers with gaps, strings, one-hot rows, columns."""

from typing import NamedTuple

import numpy as np

from jaxdistill.core.checks import fail

LARGE = 2.0**63
"""Labels are below, so that they fit 64 bits."""
MOST_NAMED = 5
"""A message names this many classes."""


class Numbered(NamedTuple):
    """The labels of all parts of a set as class numbers."""

    labels: dict[str, np.ndarray]
    """[N] int64 in range(classes), by the name of the array."""
    class_names: tuple[str, ...]
    cautions: tuple[str, ...] = ()
    """What a user should know about the numbers."""


def numbered(
    given: dict[str, np.ndarray], where: str, names: np.ndarray | None = None, key: str = "class_names"
) -> Numbered:
    """Class numbers 0, 1, ... of the labels of all parts of a set.

    The classes are those of the first part, the training images; each has to occur there. Strings are sorted,
    and are the names of the classes. Numbers that do not start from 0, or have gaps, are numbered anew in
    their order, and a caution tells it.

    Args:
      given: labels by the name of their array, training part first: [N] integers, whole floats or strings,
        [N, 1] of them, or [N, classes] one-hot rows.
      where: for errors.
      names: [classes] strings, one per class, or one per number up to the largest label; None for none.
      key: the name of the array of names, for errors.

    Raises:
      UserError: labels of another kind, negative ones, fewer than two classes, a label that no training image
        has, names that do not fit.
    """
    flat = {name: _flat(y, f"{where} {name}") for name, y in given.items()}
    first, train = next(iter(flat.items()))
    kinds = {name: y.dtype.kind == "U" for name, y in flat.items()}
    if len(set(kinds.values())) > 1:
        got = ", ".join(f"{'strings' if text else 'numbers'} in {name}" for name, text in kinds.items())
        raise fail(where, "labels of one kind", got)
    classes = np.unique(train)
    if not kinds[first] and classes[0] < 0:
        raise fail(
            where,
            f"labels >= 0 in {first}",
            classes[0],
            "Leave out images without a class, or number the classes from 0.",
        )
    if len(classes) < 2:
        raise fail(where, f"at least two classes in {first}", f"labels that are all {classes[0]}")
    for name, y in flat.items():
        unknown = np.setdiff1d(y, classes)
        if len(unknown):
            raise fail(where, f"labels in {name} that {first} has too", f"{_few(unknown)}, which it lacks")
    numbers = {name: np.searchsorted(classes, y).astype(np.int64) for name, y in flat.items()}
    return Numbered(numbers, *_class_names(classes, names, where, key, text=kinds[first]))


def _flat(y: np.ndarray, where: str) -> np.ndarray:
    """[N] int64 or strings."""
    if y.dtype.kind == "S":
        y = np.char.decode(y, "utf-8", "replace")
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim == 2 and y.dtype.kind in "buif":
        if not (((y == 0) | (y == 1)).all() and (y.sum(1) == 1).all()):
            raise fail(where, "one-hot rows, or one label per image", f"shape {y.shape} with other values")
        y = y.argmax(1)
    if y.ndim != 1:
        raise fail(where, "one label per image", f"shape {y.shape}")
    if y.dtype.kind == "U":
        return y
    if y.dtype.kind in "uif" and y.size and float(np.abs(y.astype(np.float64)).max()) >= LARGE:
        raise fail(where, "labels below 2^63", y.max(), "Number the classes from 0.")
    whole = y.dtype.kind in "bui" or (y.dtype.kind == "f" and np.isfinite(y).all() and (y % 1 == 0).all())
    if not whole:
        got = f"dtype {y.dtype}" if y.dtype.kind != "f" else f"{y[~(np.isfinite(y) & (y % 1 == 0))][0]}"
        raise fail(where, "integer labels, or strings", got)
    return y.astype(np.int64)


def _class_names(
    classes: np.ndarray, names: np.ndarray | None, where: str, key: str, *, text: bool
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(a name for each of the classes, which are sorted; cautions)."""
    count = len(classes)
    if names is None:
        anew = not text and bool((classes != np.arange(count)).any())
        told = (f"labels {_few(classes)} are numbered 0 to {count - 1}",) if anew else ()
        return tuple(map(str, classes)), told
    names = np.char.decode(names, "utf-8", "replace") if names.dtype.kind == "S" else names
    if text or names.dtype.kind != "U" or names.ndim != 1:
        expected = f"{key} of {count} strings, and labels that are numbers" if text else f"{key} of strings"
        raise fail(where, expected, f"dtype {names.dtype}, shape {names.shape}")
    several = [
        str(name) for name, times in zip(*np.unique(names, return_counts=True), strict=True) if times > 1
    ]
    if several:
        raise fail(where, f"{key} that differ", f"{several[0]} more than once", "Give each class its own.")
    if len(names) == count:
        return tuple(map(str, names)), ()
    if len(names) != classes[-1] + 1:
        raise fail(where, f"{key} of {count} strings, one per class", f"{len(names)}")
    lacking = np.delete(names, classes)
    told = f"no image of {_few(lacking)}; these classes are left out"
    return tuple(map(str, names[classes])), (told,)


def _few(values: np.ndarray) -> str:
    more = f", ... ({len(values)} in all)" if len(values) > MOST_NAMED else ""
    return ", ".join(map(str, values[:MOST_NAMED])) + more
