"""Inner training to a tolerance: how far it gets, and that it is training."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import fixed_sgd, images_teacher

from jaxdistill.core.types import InnerLoss, Meta
from jaxdistill.inner.implicit import implicit
from jaxdistill.inner.minimize import minimize
from jaxdistill.inner.optimizers import adam
from jaxdistill.inner.train import train

pytestmark = pytest.mark.usefixtures("x64")
KEY = jax.random.key(1)


def valley(params):
    return jnp.sum((jnp.tanh(params) - jnp.asarray([0.5, -0.3, 0.1])) ** 2) + 0.01 * params @ params


@pytest.mark.parametrize("limit", [1000, 7])
def test_training_to_a_tolerance_under_vmap_is_a_loop(limit):
    starts, teacher = np.random.default_rng(1).normal(size=(3, 3)), images_teacher(distill_steps=2)
    loss, optimizer = InnerLoss(lambda meta, params, batch: valley(params)), fixed_sgd(0.25, 0.5)
    solve = implicit(teacher, loss, optimizer, max_steps=limit, calibrate=lambda params, x: (params, x))
    meta = Meta(teacher.init(KEY), {})
    (ends, seen), info = jax.jit(jax.vmap(lambda p: solve(meta, p, None, KEY)))(starts)
    np.testing.assert_array_equal(seen[0], meta.teacher["x"][-1])
    gradient, taken = jax.jit(jax.grad(valley)), []
    for k, p in enumerate(starts):
        g = first = np.asarray(gradient(p))
        velocity, steps = 0.0, 0
        while np.linalg.norm(g) > 1e-3 * np.linalg.norm(first) and steps < limit:
            velocity = g + 0.5 * velocity
            p, steps = p - 0.25 * velocity, steps + 1
            g = np.asarray(gradient(p))
        taken.append(steps)
        told = [info.report["inner_steps"][k], info.report["inner_gradient"][k], info.losses[k, 0]]
        expected = [steps, np.linalg.norm(g) / np.linalg.norm(first), valley(p)]
        np.testing.assert_allclose(told, expected, rtol=1e-9)  # rounding, of a gradient that nearly vanishes
        np.testing.assert_allclose(ends[k], p, rtol=1e-10)
    assert len(set(taken)) == (1 if limit == 7 else 3)  # or none of them would have had to wait


@pytest.mark.parametrize("optimizer", [fixed_sgd(), fixed_sgd(momentum=0.9), adam(num_steps=1, learned=())])
def test_without_a_tolerance_it_is_train(optimizer):
    start, values = jnp.asarray([1.0, 0.3, -0.7]), optimizer.values({})
    transform = optimizer.build({name: value[0] for name, value in values.items()})
    end = jax.jit(lambda p: minimize(valley, p, transform, tolerance=0.0, max_steps=6))(start)
    loop = jax.jit(lambda p: train(lambda p, _: valley(p), p, jnp.zeros(6), optimizer, values))
    np.testing.assert_allclose(end.params, loop(start)[0], rtol=1e-12)
    assert int(end.steps) == 6


@pytest.mark.parametrize("start", [0.0, np.nan])
def test_nothing_to_do_and_nothing_that_can_be_done(start):
    end = jax.jit(lambda p: minimize(lambda p: p @ p, p, optax.sgd(0.1), max_steps=None))(np.full(2, start))
    assert int(end.steps) == 0
    np.testing.assert_array_equal(end.relative_gradient, start)
