"""Cautions about a run that continues but no longer learns."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxdistill.core.checks import Caution

NEAR = 1e-5
"""A value this near to a bound, relative to it, is at the bound."""


class Bound(NamedTuple):
    """The values that a learned hyper-parameter may take."""

    low: float
    high: float
    at_low: str
    """What to change if it stays at `low`."""
    at_high: str


class Stalls:
    """Warns once if all values of a hyper-parameter stay at a bound, and once if gradients are zero.

    Args:
      bounds: of learned hyper-parameters, by name.

    Example:
      >>> stalls = Stalls({"learning_rate": Bound(1e-6, 2.0, "Lower hyper_learning_rate.", "")})
      >>> stalls.check([{"step": 10, "learning_rate": [1e-6]}, {"step": 20, "learning_rate": [0.1]}])
    """

    def __init__(self, bounds: Mapping[str, Bound]):
        self._bounds = bounds
        self._said: set[Any] = set()

    def check(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Looks at the last two rows of the log: the start and the end of a chunk of outer steps."""
        if not rows:
            return
        *before, last = rows[-2:]
        if last.get("gradient_norm") == 0 and self._first("gradient"):
            text = f"the gradient of what is learned is 0 in every step up to outer step {last['step']}"
            _warn(f"{text}. Lower inner_learning_rate or change the network.")
        for name, bound in self._bounds.items():
            for value, remedy in ((bound.low, bound.at_low), (bound.high, bound.at_high)):
                sign = -1 if value == bound.high else 1
                stays = bool(before) and all(_beyond(row.get(name), value, sign) for row in (*before, last))
                if stays and self._first((name, value)):
                    steps = f"from outer step {before[0]['step']} to {last['step']}"
                    _warn(f"{name}: at its bound {value:g} {steps}. {remedy}")

    def _first(self, what: Any) -> bool:
        first = what not in self._said
        self._said.add(what)
        return first


def _beyond(values: Any, bound: float, sign: int) -> bool:
    """Whether there are values and a finite bound, and none is above it (sign 1), or below it (sign -1)."""
    if values is None or not np.isfinite(bound):
        return False
    return bool(np.all(sign * (np.asarray(values) - bound) <= NEAR * abs(bound)))


def _warn(text: str) -> None:
    warnings.warn(text, Caution, stacklevel=2)
