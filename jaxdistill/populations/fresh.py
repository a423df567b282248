"""Fresh random initialisations at every outer step: synthetic data for networks never seen."""

import jax

from jaxdistill.core.types import Array, Learner, Params, Population
from jaxdistill.inner.over_learners import over_learners
from jaxdistill.populations.source import Source


def new_networks(learner: Learner, key: Array, count: int) -> Params:
    """Draws of the learner's initial distribution, [count, ...].

    Initialised one after another (`map`) and outside the hypergradient: inside it, vmapped initialisers would
    double the compile time.
    """
    return over_learners(learner.init, strategy="map")(jax.random.split(key, count))


def fresh(learner: Learner) -> Population:
    """K new draws of the learner's initial distribution per outer step; no state.

    References: Wang et al. 2018, section 3.3.
    """

    def context(state: tuple[()], bank: Params, key: Array, num_learners: int) -> Params:
        del state, bank
        return new_networks(learner, key, num_learners)

    return Population(init=lambda key: (), context=context, advance=lambda state, meta, real, key: state)


SOURCE = Source(fresh)
