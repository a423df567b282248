"""The outer step: a mean over K learners, pure, a function of state and key; and it learns."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import CLASSES, SHAPE, message, same_bits, tiny_data, tiny_net, to_float64

from jaxdistill.core.checks import UserError
from jaxdistill.core.types import Batch, Data, InnerOptimizer, Population, Teacher
from jaxdistill.inner.losses import inner_loss
from jaxdistill.inner.optimizers import sgd
from jaxdistill.inner.unrolled import unrolled
from jaxdistill.methods.bilevel import bilevel
from jaxdistill.methods.dd import dd
from jaxdistill.objectives.validation import validation
from jaxdistill.populations.fixed import fixed
from jaxdistill.teachers.images import images

KEY = jax.random.key(0)
CONTEXTS = jnp.asarray(np.random.default_rng(0).normal(size=(5, 2)), jnp.float32)


def linear_method(num_learners=5, **options):
    """An objective <meta, context>, whose gradient is the context; a population that counts."""

    def objective(meta, context, real, probe, key):
        return jnp.vdot(meta.teacher, context), {
            "first": context[0],
            "real": real.x.mean(),
            "noise": jax.random.normal(key),
        }

    population = Population(
        init=lambda key: {"count": jnp.zeros((), jnp.int32), "sum": jnp.zeros(2)},
        context=lambda state, bank, key, count: CONTEXTS[:count] * bank + state["count"],
        advance=lambda state, meta, key: {"count": state["count"] + 1, "sum": state["sum"] + meta.teacher},
    )
    return bilevel(
        teacher=Teacher(init=lambda key: jnp.ones(2), batches=lambda phi, key: phi, by_class=None),
        inner_optimizer=InnerOptimizer(init=dict, values=dict, build=lambda values: optax.identity()),
        population=population,
        objective=objective,
        outer_optimizer=optax.sgd(0.5),
        **({"num_learners": num_learners, "real_batch_size": 4} | options),
    )


@pytest.mark.parametrize("options", [{"strategy": "vmap"}, {"strategy": "map"}, {"learner_chunk": 2}])
def test_the_step_is_the_mean_over_learners(options):
    method = linear_method(**options)
    state = method.init(KEY)
    data = Data(tiny_data(), jnp.asarray(2.0))
    update = jax.jit(method.update)
    new, metrics = update(state, data, KEY)
    mean = 2.0 * np.asarray(CONTEXTS).mean(axis=0)
    np.testing.assert_allclose(new.meta.teacher, 1 - 0.5 * mean, rtol=1e-5)
    assert float(metrics["gradient_norm"]) == pytest.approx(np.linalg.norm(mean), rel=1e-5)
    assert float(metrics["first"]) == pytest.approx(mean[0], rel=1e-5)
    assert int(new.step) == 1 and int(new.population["count"]) == 1
    np.testing.assert_allclose(new.population["sum"], new.meta.teacher)  # advance sees the new meta
    newer, _ = update(new, data, KEY)  # the population's state reaches the learners of the next step
    np.testing.assert_allclose(newer.meta.teacher, new.meta.teacher - 0.5 * (mean + 1), rtol=1e-5)


def test_learners_have_keys_of_their_own():
    noise = {
        count: float(linear_method(count).update(linear_method().init(KEY), DATA, KEY)[1]["noise"])
        for count in (1, 2)
    }
    assert abs(noise[1] - noise[2]) > 1e-3


@pytest.mark.parametrize("name", ["num_learners", "real_batch_size"])
def test_counts_below_one_are_refused(name):
    with pytest.raises(UserError) as error:
        linear_method(**{name: 0})
    assert f"{name} >= 1" in message(error)


# ---------------------------------------------------------------- Dataset Distillation


DATA = Data(tiny_data(), jnp.asarray(1.0))


def tiny_dd(**options):
    net = tiny_net("linear")
    teacher = images(image_shape=SHAPE, num_classes=CLASSES, distill_epochs=2)
    return dd(net, teacher, **({"num_learners": 2, "real_batch_size": 12} | options))


@pytest.fixture(scope="module")
def method():
    return tiny_dd()


@pytest.fixture(scope="module")
def update(method):
    return jax.jit(method.update)


def test_an_update_is_pure(method, update):
    state = method.init(KEY)
    before = jax.tree.map(np.array, state)
    new, metrics = update(state, DATA, KEY)
    same_bits(state, before)  # nothing is donated or written over
    same_bits(update(state, DATA, KEY), (new, metrics))
    assert set(metrics) == {"loss", "accuracy", "inner_loss", "gradient_norm"}
    assert all(value.shape == () and np.isfinite(value) for value in metrics.values())
    assert float(jnp.abs(new.meta.teacher["x"] - state.meta.teacher["x"]).max()) > 1e-3
    assert float(jnp.abs(new.meta.inner["learning_rate"] - state.meta.inner["learning_rate"]).min()) > 1e-3


def test_a_step_draws_anew_from_the_key_and_its_number(method, update):
    state = method.init(KEY)
    losses = {
        float(update(state._replace(step=jnp.asarray(step, jnp.int32)), DATA, key)[1]["loss"])
        for step in (0, 1, 7)
        for key in (KEY, jax.random.key(1))
    }
    assert len(losses) == 6


def test_two_times_three_steps_equal_six(method):
    def chunk(state, length):
        return jax.lax.scan(lambda state, _: method.update(state, DATA, KEY), state, None, length=length)

    run = jax.jit(chunk, static_argnums=1)
    middle, first = run(method.init(KEY), 3)
    end, second = run(middle, 3)
    expected, metrics = run(method.init(KEY), 6)
    assert int(end.step) == 6
    same_bits(end, expected)
    same_bits(jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first, second), metrics)


def test_an_update_follows_the_hypergradient(x64):
    """One fixed learner, real images all equal: the gradient is known whatever batch is drawn."""
    net, teacher = tiny_net("linear"), images(image_shape=SHAPE, num_classes=CLASSES)
    optimizer = sgd(num_steps=1)
    data = tiny_data(counts=(1, 1, 1))
    one = data._replace(**{name: jnp.repeat(getattr(data, name)[:1], 3, axis=0) for name in ("x", "y")})
    method = dd(
        net,
        teacher,
        population=fixed(net),
        num_learners=1,
        real_batch_size=5,
        outer_optimizer=optax.sgd(1.0),
    )
    state = to_float64(method.init(KEY))
    new, metrics = jax.jit(method.update)(state, to_float64(Data(one, None)), KEY)
    solve = unrolled(teacher, inner_loss(net), optimizer)
    objective = validation(net, solve)
    real = to_float64(Batch(one.x[:1], one.y[:1]))
    both = jax.jit(jax.value_and_grad(lambda meta: objective(meta, state.population, real, None, KEY)[0]))
    value, gradient = both(state.meta)
    assert float(metrics["loss"]) == pytest.approx(float(value), rel=1e-12)
    jax.tree.map(
        lambda a, b, g: np.testing.assert_allclose(a, b - g, rtol=1e-10), new.meta, state.meta, gradient
    )


def test_synthesis_and_schedule_are_those_of_the_state(method):
    state = method.init(KEY)
    batches = method.synthesize(state, KEY)
    assert batches.x.shape == (2, 3, *SHAPE) and batches.y.shape == (2, 3, 3)
    same_bits(batches.x[1], state.meta.teacher["x"][0])
    values = method.hyperparameters(state)
    np.testing.assert_allclose(values["learning_rate"], [0.02, 0.02], rtol=1e-6)  # the paper's start
    assert float(values["momentum"][0]) == 0
