"""Networks that the caller has: their weights as arrays."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill.core.checks import fail
from jaxdistill.core.types import Array, Params, Population


def given(params: Params) -> Population:
    """The same K networks at every outer step; the state holds them.

    Args:
      params: their weights, a pytree of arrays [K, ...].

    Returns:
      The population, for a method with `num_learners` = K.

    Raises:
      UserError: no arrays, or arrays without one leading axis K >= 1; another number of learners (when
        traced).

    Example:
      >>> net = jd.learner("mlp", image_shape=(8, 8, 1), num_classes=10, width=8)
      >>> population = given(jax.vmap(net.init)(jax.random.split(jax.random.key(0), 2)))
    """
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(params)]
    counts = {shape[0] if shape else None for shape in shapes}
    if len(counts) != 1 or counts & {None, 0}:
        raise fail("given", "a pytree of arrays [K, ...] of one K >= 1", f"shapes {shapes}")
    (count,) = counts

    def context(state: Params, bank: Params, key: Array, num_learners: int) -> Params:
        del bank, key
        if num_learners != count:
            raise fail("given", f"num_learners = {count}, the networks given", num_learners)
        return state

    return Population(
        init=lambda key: jax.tree.map(jnp.array, params),  # copies: a state may be donated
        context=context,
        advance=lambda state, meta, real, key: state,
    )
