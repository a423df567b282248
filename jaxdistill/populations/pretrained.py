"""Networks trained on real data beforehand: a pool of them, or one."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxdistill.core.checks import fail
from jaxdistill.core.keys import stream
from jaxdistill.core.types import Array, Params, Population
from jaxdistill.inner.over_learners import over_learners
from jaxdistill.populations.source import Source


def pretrained() -> Population:
    """K networks drawn from a pool at every outer step, with replacement; no state.

    Returns:
      The population. Its bank is a pytree of weights [networks, ...].

    Raises:
      UserError: no bank (when traced).

    Example:
      >>> population = pretrained()

    References: Wang et al. 2018, section 3.4 (random pre-trained weights).
    """

    def draw(key: Array, count: int, num_learners: int) -> Array:
        return jax.random.randint(stream(key, "network"), (num_learners,), 0, count)

    return _from_pool("pretrained", draw)


def fixed_pretrained() -> Population:
    """The first network of a pool at every outer step; no state.

    All K learners are equal, so one per outer step is enough.

    Returns:
      The population. Its bank is a pytree of weights [networks, ...].

    Raises:
      UserError: no bank (when traced).

    Example:
      >>> population = fixed_pretrained()

    References: Wang et al. 2018, section 3.4 (fixed pre-trained weights).
    """
    return _from_pool("fixed_pretrained", lambda key, count, num_learners: jnp.zeros(num_learners, jnp.int32))


def _from_pool(name: str, draw: Callable[[Array, int, int], Array]) -> Population:
    def context(state: tuple[()], bank: Params, key: Array, num_learners: int) -> Params:
        del state
        if bank is None:
            raise fail(name, "a bank of networks", "none")
        who = draw(key, jax.tree.leaves(bank)[0].shape[0], num_learners)

        def network(who: Array, bank: Params) -> Params:
            return jax.tree.map(lambda a: a[who], bank)

        return over_learners(network, strategy="vmap")(who, shared=(bank,))

    return Population(init=lambda key: (), context=context, advance=lambda state, meta, real, key: state)


PRETRAINED = Source(pretrained, bank="pool", tested_on="unseen pre-trained networks")
FIXED_PRETRAINED = Source(fixed_pretrained, bank="pool", only_one=True, tested_on="the pre-trained network")
