"""Networks of random width and depth: what architecture-agnostic data are distilled for."""

from collections.abc import Callable
from typing import Any

import numpy as np

from jaxdistill.core.checks import at_least, lookup

Shape = dict[str, Any]
"""The options of a learner, including the options of its layers."""


def _between(generator: np.random.Generator, low: int, high: int) -> int:
    """A whole number in [low, high), at least 1."""
    return max(1, int(generator.integers(max(1, low), max(2, high))))


def _gtn(generator: np.random.Generator, of: Shape) -> Shape:
    width = of["width"]
    widths = {"width": _between(generator, width // 2, 2 * width)}
    return widths | {n: _between(generator, width, 4 * width) for n in ("second_width", "hidden")}


def _width_and_depth(generator: np.random.Generator, of: Shape) -> Shape:
    width = _between(generator, of["width"] // 2, 2 * of["width"])
    return {"width": width, "depth": _between(generator, 1, of["depth"] + 1)}


SHAPES: dict[str, Callable[[np.random.Generator, Shape], Shape]] = {
    "convnet": _width_and_depth,
    "gtn": _gtn,
    "mlp": _width_and_depth,
}
"""By learner: how the options of one are drawn around given ones."""


def random_shapes(name: str, options: Shape, *, count: int, seed: int) -> list[Shape]:
    """A bounded set of shapes of a learner, each compiled once.

    Widths are drawn from [1/2, 2) times the given one (`gtn`: the second and the hidden layer from [1, 4)
    times, 32-127, 64-255 and 64-255 in the paper), depths from 1 to the given one.

    Args:
      name: a key of `SHAPES`.
      options: of the learner that they are drawn around, `width` (and `depth`) among them.
      count: shapes, >= 1; two may be equal.
      seed: of the draw.

    Returns:
      The options of each.

    Raises:
      UserError: a learner that has no such shapes, or `count` < 1.

    Example:
      >>> random_shapes("convnet", {"width": 16, "depth": 3}, count=8, seed=0)[0].keys()
      dict_keys(['width', 'depth'])

    References: Such et al. 2019, section 4.1 and appendix (architecture-agnostic learning).
    """
    draw = lookup("random_shapes learner", name, SHAPES)
    at_least("random_shapes", "count", count, 1)
    generator = np.random.default_rng(seed)
    return [options | draw(generator, options) for _ in range(count)]
