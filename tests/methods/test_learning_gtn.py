"""Generators teach: a learned curriculum beats none, and both beat real data at equal steps."""

import functools

import jax
import jax.numpy as jnp
import pytest

from jaxdistill.core.keys import stream
from jaxdistill.core.types import Batch, Data
from jaxdistill.data import load
from jaxdistill.evaluation import (
    as_distilled,
    evaluator,
    everything,
    few_steps,
    one_part_each,
    summarize,
    with_step_size,
)
from jaxdistill.inner.optimizers import sgd
from jaxdistill.learners import learner
from jaxdistill.methods.gtn import gtn
from jaxdistill.methods.outer import outer_adam, outer_schedule
from jaxdistill.teachers import CURRICULA, generator, shuffled

KEY = jax.random.key(0)
SHAPE = {"image_shape": (8, 8, 1), "num_classes": 10}
K, T, B = 20, 10, 10


@pytest.fixture(scope="module")
def digits():
    return load("digits")


@functools.partial(jax.jit, static_argnums=(0, 1))
def networks(net, name):
    return jax.lax.map(net.init, jax.random.split(stream(KEY, name), K))


def taught(digits, net, curriculum, num_outer_steps, weight_norm=True):
    """Mean test accuracy of K fresh networks after T steps on what a generator learned."""
    noise, shuffle = CURRICULA[curriculum]
    options = {"batch_size": B, "distill_steps": T, "generator_width": 8, "generator_hidden": 64}
    teacher = shuffled(generator(**SHAPE, **options, noise=noise, weight_norm=weight_norm), shuffle)
    learned = ("learning_rate", "momentum")
    optimizer = sgd(num_steps=T, learning_rate=0.1, momentum=0.5, learned=learned, positive="exp")
    rate = outer_schedule("cosine", learning_rate=0.01, num_steps=num_outer_steps, end=0.1)
    outer = outer_adam(learning_rate=rate, b1=0.9, clip=1.0, positive="exp")
    method = gtn(net, teacher, inner_optimizer=optimizer, outer_optimizer=outer)

    @functools.partial(jax.jit, static_argnums=2)
    def chunk(state, data, length):
        return jax.lax.scan(lambda state, _: method.update(state, data, KEY), state, None, length=length)[0]

    state = chunk(jax.jit(method.init)(KEY), Data(digits.train, None), num_outer_steps)
    keys = jax.random.split(stream(KEY, "draws"), K)
    made = jax.jit(
        lambda: jax.lax.map(lambda key: method.synthesize(state, key), keys)
    )()  # one for each network
    images = Batch(made.x.reshape(-1, 8, 8, 1), made.y.reshape(-1, 10))
    order = jnp.arange(T * B).reshape(T, B)
    plan = as_distilled(order, optimizer, method.hyperparameters(state))
    params = networks(net, "unseen")
    found = evaluator(net, plan)(params, images, one_part_each(T * B)(KEY, K), plan.values, digits.test, KEY)
    return summarize(found, 10).mean


def on_real_data(digits, net):
    """The same for real data, the step size and momentum searched on validation."""
    real = Batch(digits.train.x, digits.train.y)
    size, best = len(real.y), []
    run = evaluator(net, few_steps(size, num_steps=T, batch_size=B))  # of every value of the plans below
    for momentum in (0.0, 0.9):
        plan = few_steps(size, num_steps=T, batch_size=B, momentum=momentum)
        for rate in (0.03, 0.1, 0.3, 1.0):
            values = with_step_size(plan, rate).values
            found = run(
                networks(net, "search"), real, everything(size)(KEY, K), values, digits.validation, KEY
            )
            best.append((summarize(found, 10).mean, rate, values))
    _, _, values = max(best, key=lambda item: item[:2])
    found = run(networks(net, "unseen"), real, everything(size)(KEY, K), values, digits.test, KEY)
    return summarize(found, 10).mean


@pytest.mark.slow
def test_a_generator_teaches_a_tiny_net_more_than_real_data_do(digits):
    net = learner("mlp", **SHAPE, width=32, depth=1)
    full, real = taught(digits, net, "full", 40), on_real_data(digits, net)
    assert full > real + 0.1, (full, real)


@pytest.mark.slow
def test_a_learned_curriculum_beats_none_and_both_beat_real_data(digits):
    net = learner("mlp", **SHAPE, width=64)
    full, none = (taught(digits, net, name, 300) for name in ("full", "none"))
    real = on_real_data(digits, net)
    assert full > none + 0.03 and none > real + 0.05, (full, none, real)


@pytest.mark.slow
def test_curricula_come_in_the_papers_order(digits):
    net = learner("mlp", **SHAPE, width=64)
    names = ("full", "batch_shuffled", "all_shuffled", "none")
    found = {name: taught(digits, net, name, 600) for name in names}
    real = on_real_data(digits, net)
    assert found["full"] > found["batch_shuffled"] - 0.01, found
    assert found["batch_shuffled"] > max(found["all_shuffled"], found["none"]) + 0.03, found
    assert min(found.values()) > real + 0.1, (found, real)
