"""One fixed initialisation, drawn once: synthetic data for one network known in advance."""

import jax
import jax.numpy as jnp

from jaxdistill.core.types import Array, Learner, Params, Population
from jaxdistill.populations.source import Source


def fixed(learner: Learner) -> Population:
    """The same start parameters at every outer step; the state holds them.

    All K learners are equal, so one per outer step is enough.

    References: Wang et al. 2018, section 3.2.
    """

    def context(state: Params, bank: Params, key: Array, num_learners: int) -> Params:
        del bank, key
        return jax.tree.map(lambda a: jnp.broadcast_to(a[None], (num_learners, *a.shape)), state)

    return Population(init=learner.init, context=context, advance=lambda state, meta, real, key: state)


SOURCE = Source(fixed, only_one=True, tested_on="the fixed initialisation")
