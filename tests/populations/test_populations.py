"""Where learners come from."""

import jax
import numpy as np
import pytest
from helpers import message, same_bits, tiny_net

from jaxdistill.core.checks import UserError
from jaxdistill.core.types import Meta
from jaxdistill.populations.fixed import fixed
from jaxdistill.populations.fresh import fresh
from jaxdistill.populations.given import given

KEY = jax.random.key(0)


def test_fresh_learners_are_new_at_every_key():
    net = tiny_net()
    population = fresh(net)
    state = population.init(KEY)
    assert jax.tree.leaves(state) == []
    draw = jax.jit(lambda key: population.context(state, None, key, 4))
    contexts = jax.device_get(draw(jax.random.key(1)))
    init = jax.jit(net.init)
    for k, key in enumerate(jax.random.split(jax.random.key(1), 4)):
        jax.tree.map(lambda a, b, k=k: np.testing.assert_allclose(a[k], b, rtol=1e-6), contexts, init(key))
    kernels = np.asarray(contexts["params"]["classifier"]["kernel"]).reshape(4, -1)
    others = draw(jax.random.key(2))["params"]["classifier"]["kernel"]
    rows = np.concatenate([kernels, np.asarray(others).reshape(4, -1)])
    distances = np.abs(rows[:, None] - rows[None]).max(-1)
    assert distances[~np.eye(8, dtype=bool)].min() > 1e-3
    assert population.advance(state, Meta({}, {}), None, KEY) == state


@pytest.mark.parametrize("num_learners", [1, 3])
def test_a_fixed_learner_is_the_same_at_every_key(num_learners):
    net = tiny_net()
    population = fixed(net)
    state = population.init(KEY)
    same_bits(state, net.init(KEY))
    for key in (KEY, jax.random.key(5)):
        contexts = jax.device_get(population.context(state, None, key, num_learners))
        for k in range(num_learners):
            same_bits(jax.tree.map(lambda a, k=k: a[k], contexts), state)
    same_bits(population.advance(state, Meta({}, {}), None, KEY), state)


def test_given_networks_are_those_of_every_step():
    net = tiny_net()
    params = jax.vmap(net.init)(jax.random.split(KEY, 2))
    population = given(jax.device_get(params))
    state = population.init(KEY)
    jax.jit(lambda state: state, donate_argnums=0)(state)  # a loop may donate the state
    state = population.init(KEY)
    for key in (KEY, jax.random.key(5)):
        same_bits(population.context(state, None, key, 2), params)
    same_bits(population.advance(state, Meta({}, {}), None, KEY), params)
    with pytest.raises(UserError) as error:
        population.context(state, None, KEY, 3)
    assert "num_learners = 2, the networks given, got 3" in message(error)


@pytest.mark.parametrize(
    "params",
    [{}, {"a": np.ones((2, 3)), "b": np.ones((3, 3))}, {"a": np.ones(())}, {"a": np.ones((0, 3))}],
    ids=["nothing", "two counts", "a scalar", "no networks"],
)
def test_what_is_no_stack_of_networks_is_refused(params):
    with pytest.raises(UserError) as error:
        given(params)
    assert "arrays [K, ...] of one K >= 1" in message(error)
