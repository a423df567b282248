"""The axis of K learners, added here and nowhere else."""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax

from jaxdistill.core.checks import at_least, one_of

STRATEGIES = ("auto", "vmap", "map")


def over_learners(function: Callable, *, strategy: str = "auto", chunk: int | None = None) -> Callable:
    """Maps `function` of one learner over the leading axis K of all its arguments.

    Args:
      function: of one learner: any pytrees in, any pytree out.
      strategy: `vmap` computes all K at once; `map` one chunk after another; `auto` is `map` on the CPU
        (measured faster there, and a fraction of the memory) and `vmap` elsewhere.
      chunk: learners per chunk: of `map` (1 when None), or of `vmap` (all K when None).

    Returns:
      The mapped function: the outputs stacked along K. Both strategies give the same numbers to rounding.
    """
    one_of("over_learners strategy", strategy, STRATEGIES)
    if chunk is not None:
        at_least("over_learners", "chunk", chunk, 1)
    if strategy == "auto":
        strategy = "map" if jax.default_backend() == "cpu" else "vmap"
    if strategy == "vmap" and chunk is None:
        return jax.vmap(function)

    def mapped(*arguments: Any) -> Any:
        return lax.map(lambda one: function(*one), arguments, batch_size=None if chunk == 1 else chunk)

    return mapped
