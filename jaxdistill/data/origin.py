"""Remembers the sets that `load` returned: `jd.distill(data=...)` knows such a set by its name.

A set that a user made or changed has other arrays, and is the user's own.
"""

import weakref
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from jaxdistill.data.dataset import DatasetInfo, Splits


class Origin(NamedTuple):
    """How `load` was called."""

    name: str
    reading: Mapping[str, Any]
    """Its options that say how a set is read, defaults left out."""


_known: list[tuple[list[weakref.ref], DatasetInfo, Origin]] = []
"""(arrays of a set, what is known of it, where it is from)."""


def remember(data: Splits, origin: Origin) -> None:
    """Lets `origin_of` find this set again, as long as it is in memory."""
    _known[:] = [each for each in _known if all(ref() is not None for ref in each[0])]
    _known.append(([weakref.ref(leaf) for leaf in _leaves(data)], data.info, origin))


def origin_of(data: Splits) -> Origin | None:
    """How `load` was called for this set; None for a set that was changed, or that `load` did not return."""
    leaves = _leaves(data)
    for refs, info, origin in _known:
        same = len(refs) == len(leaves) and all(r() is x for r, x in zip(refs, leaves, strict=True))
        if same and info is data.info:
            return origin
    return None


def _leaves(data: Splits) -> list[Any]:
    return jax.tree.leaves((data.train, data.validation, data.test))
