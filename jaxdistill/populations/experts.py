"""Pieces of the training of networks on real data, which students are to follow."""

from typing import Any

import jax

from jaxdistill.core.checks import at_least, fail
from jaxdistill.core.keys import stream
from jaxdistill.core.types import Array, Params, Population, Segment
from jaxdistill.inner.over_learners import over_learners
from jaxdistill.populations.source import Source


def experts(*, start_epochs: int = 25, expert_epochs: int = 3) -> Population:
    """K segments drawn from a bank of trajectories; no state.

    Args:
      start_epochs: a segment starts at an epoch drawn from 0 ... start_epochs - 1.
      expert_epochs: M, epochs from its start to its target.

    Returns:
      The population. Its bank is a pytree of weights [experts, epochs + 1, ...], the start among the
      snapshots; its contexts are `Segment`s.

    Raises:
      UserError: a number below 1; no bank, or trajectories that are too short (when traced).

    Example:
      >>> population = experts(start_epochs=25, expert_epochs=3)

    References: Cazenavette et al. 2022, algorithm 1.
    """
    at_least("experts", "start_epochs", start_epochs, 1)
    at_least("experts", "expert_epochs", expert_epochs, 1)

    def context(state: tuple[()], bank: Params, key: Array, num_learners: int) -> Segment:
        del state
        if bank is None:
            raise fail("experts", "a bank of trajectories", "none")
        count, snapshots = jax.tree.leaves(bank)[0].shape[:2]
        if start_epochs + expert_epochs > snapshots:
            expected = f"start_epochs + expert_epochs <= {snapshots}, the snapshots of an expert"
            raise fail("experts", expected, f"{start_epochs} + {expert_epochs}")
        who = jax.random.randint(stream(key, "expert"), (num_learners,), 0, count)
        when = jax.random.randint(stream(key, "epoch"), (num_learners,), 0, start_epochs)

        def segment(who: Array, when: Array, bank: Params) -> Segment:
            ends = when, when + expert_epochs
            return Segment(*(jax.tree.map(lambda a, t=t: a[who, t], bank) for t in ends))

        return over_learners(segment, strategy="vmap")(who, when, shared=(bank,))

    def advance(state: Any, meta: Any, real: Any, key: Array) -> Any:
        del meta, real, key
        return state

    return Population(init=lambda key: (), context=context, advance=advance)


SOURCE = Source(experts, bank="trajectories", segments=True)
