"""The networks that test a run: new networks, networks held out of a pool, or the single network."""

import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxdistill.config import build
from jaxdistill.config.table import Config
from jaxdistill.core.checks import fail
from jaxdistill.core.keys import stream
from jaxdistill.core.types import Array, DistillState, Learner, Params
from jaxdistill.data import Splits
from jaxdistill.evaluation import Evaluation
from jaxdistill.inner.over_learners import by_turns
from jaxdistill.populations.fresh import fresh
from jaxdistill.populations.pretrained import pretrained
from jaxdistill.runs.banks import Bank


def evaluations(
    config: Config,
    data: Splits,
    learner: Learner,
    state: DistillState,
    key: Array,
    bank: Bank | None,
) -> tuple[Evaluation, Evaluation]:
    """The evaluations of a run's images and of its baselines; they differ in the number of networks.

    If the population is one network, the distilled images are scored on one, since all would be equal.
    """
    most, one = num_unseen(bank), only_network(config, state, bank) is not None
    distilled = Evaluation(
        learner=learner,
        contexts=unseen_networks(config, learner, state, bank),
        validation=data.validation,
        test=data.test,
        key=stream(key, "evaluation"),
        num_learners=1 if one else min(config.num_eval_learners, most),
        search_learners=config.num_search_learners,
        search_contexts=None if one else searching_networks(bank),
        strategy=config.strategy,
        learner_chunk=config.learner_chunk,
    )
    return distilled, distilled._replace(num_learners=min(config.num_baseline_learners, most))


def only_network(config: Config, state: DistillState, bank: Bank | None) -> Params | None:
    """The network that a run distills for, if it is a single one; None if there are more.

    Raises:
      UserError: the run draws from a pool, and no `pool` was given.
    """
    source = build.source(config)
    if source.bank == "pool" and bank is None:
        raise fail("evaluation", f"pool=FOLDER, with population={config.population}", "none")
    if not source.only_one:
        return None
    return state.population if bank is None else jax.tree.map(lambda a: a[0], bank.given)


def num_unseen(bank: Bank | None) -> int:
    """The number of networks for tests: a pool's held-out networks, or any number of new ones."""
    if bank is None or bank.held_out is None:
        return sys.maxsize
    return jax.tree.leaves(bank.held_out)[0].shape[0]


def searching_networks(bank: Bank | None) -> Callable[[jax.Array, int], Params] | None:
    """(key, K) -> K networks that a pool is distilled for, drawn with replacement; None without a pool."""
    if bank is None or bank.held_out is None:
        return None
    return lambda key, count: _drawn((), bank.given, key, count)


_drawn = jax.jit(pretrained().context, static_argnums=3)
_taken = jax.jit(lambda pool, who: jax.tree.map(lambda a: a[who], pool))


def unseen_networks(
    config: Config, learner: Learner, state: DistillState, bank: Bank | None
) -> Callable[[jax.Array, int], Params]:
    """(key, K) -> K start parameters to test a run's images on, unseen in distillation if possible.

    Usually new networks. For a pool, its held-out networks in a random order. For a population of one
    network, K copies of it.
    """
    only = only_network(config, state, bank)
    if only is not None:
        return lambda key, count: jax.tree.map(lambda a: jnp.broadcast_to(a[None], (count, *a.shape)), only)
    if bank is not None and bank.held_out is not None:
        pool = bank.held_out

        def from_pool(key: jax.Array, count: int) -> Params:
            if count > num_unseen(bank):
                expected = f"at most {num_unseen(bank)} networks, which the pool holds out"
                raise fail("evaluation", expected, count)
            order = jax.random.permutation(key, num_unseen(bank))
            return _taken(pool, order[:count])

        return from_pool
    return new_networks(learner)


def of_new_networks(learner: Learner, data: Splits, config: Any, num_learners: int) -> Evaluation:
    """The evaluation of images on fresh networks of any architecture.

    Args:
      learner: the architecture.
      data: the splits.
      config: options with `seed`, `num_search_learners`, `strategy` and `learner_chunk`.
      num_learners: networks that are tested.
    """
    return Evaluation(
        learner=learner,
        contexts=new_networks(learner),
        validation=data.validation,
        test=data.test,
        key=stream(jax.random.key(config.seed), "evaluation"),
        num_learners=num_learners,
        search_learners=config.num_search_learners,
        strategy=config.strategy,
        learner_chunk=config.learner_chunk,
    )


@lru_cache(maxsize=32)
def new_networks(learner: Learner) -> Callable[[jax.Array, int], Params]:
    """Compiled, once per learner: (key, K) -> K fresh initialisations; on a CPU by one program for all K."""
    population = fresh(learner)
    together = jax.jit(lambda key, count: population.context((), None, key, count), static_argnums=1)
    alone = jax.jit(
        lambda data, impl: learner.init(jax.random.wrap_key_data(data, impl=impl)), static_argnums=1
    )

    def draw(key: Array, count: int) -> Params:
        if isinstance(key, Tracer) or not by_turns("map", None):
            return together(key, count)
        data, impl = np.asarray(jax.random.key_data(jax.random.split(key, count))), jax.random.key_impl(key)
        each = [jax.device_get(alone(one, impl)) for one in data]
        return jax.device_put(jax.tree.map(lambda *leaves: np.stack(leaves), *each))

    return draw
