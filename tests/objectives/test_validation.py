"""The loss of a trained learner on real data."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import message, tiny_batch, tiny_net, to_float64

from jaxdistill.core.checks import UserError
from jaxdistill.core.types import SolveInfo
from jaxdistill.inner.losses import accuracy, cross_entropy
from jaxdistill.objectives.validation import validation


def shift(meta, params, probe, key):
    """A solve that is easy to see through: parameters + meta."""
    return jax.tree.map(lambda p: p + meta, params), SolveInfo(jnp.asarray([3.0, 2.0]), {})


def test_it_is_the_cross_entropy_of_what_the_solve_returns(x64):
    net, real = tiny_net(), tiny_batch(6)
    params = to_float64(net.init(jax.random.key(0)))
    objective = validation(net, shift)
    key = jax.random.key(0)
    loss, metrics = jax.jit(objective)(jnp.asarray(0.25), params, real, None, key)
    logits = jax.jit(net.apply)(jax.tree.map(lambda p: np.asarray(p) + 0.25, params), real.x)
    assert float(loss) == pytest.approx(float(cross_entropy(logits, real.y)), rel=1e-12)
    assert {name: float(value) for name, value in metrics.items()} == pytest.approx(
        {"loss": float(loss), "accuracy": float(accuracy(logits, real.y)), "inner_loss": 2.0}, rel=1e-12
    )
    to_real = jax.grad(lambda x: objective(jnp.zeros(()), params, real._replace(x=x), None, key)[0])
    np.testing.assert_array_equal(jax.jit(to_real)(real.x), 0)


def test_microbatches_do_not_change_the_hypergradient(x64):
    net, real, key = tiny_net(), tiny_batch(7), jax.random.key(0)
    params = to_float64(net.init(key))

    def gradient(microbatch):
        objective = validation(net, shift, microbatch=microbatch)
        both = jax.value_and_grad(lambda m: objective(m, params, real, None, key), has_aux=True)
        return jax.jit(both)(jnp.asarray(0.25))

    whole, parts = gradient(7), gradient(3)
    assert abs(float(whole[1])) > 1e-3
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-10), parts, whole)


def test_bad_microbatches_are_refused():
    with pytest.raises(UserError) as error:
        validation(tiny_net(), shift, microbatch=0)
    assert "microbatch >= 1" in message(error)
