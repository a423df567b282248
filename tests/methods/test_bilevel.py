"""The outer step: a mean over K learners, pure, a function of state and key; and it learns."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import (
    CLASSES,
    SHALLOW,
    SHAPE,
    images_teacher,
    message,
    same_bits,
    tiny_data,
    tiny_net,
    to_float64,
)

from jaxdistill.augment import Augmentation, dsa
from jaxdistill.core.checks import UserError
from jaxdistill.core.keys import at_step, stream
from jaxdistill.core.types import Batch, Data, InnerOptimizer, Population, Teacher
from jaxdistill.data import sample, sample_per_class
from jaxdistill.inner.implicit import implicit
from jaxdistill.inner.losses import inner_loss
from jaxdistill.inner.optimizers import sgd
from jaxdistill.inner.unrolled import unrolled
from jaxdistill.methods import METHODS
from jaxdistill.methods.average import averaged
from jaxdistill.methods.bilevel import bilevel
from jaxdistill.methods.dd import dd
from jaxdistill.methods.mtt import mtt
from jaxdistill.methods.recipe import recipe_of
from jaxdistill.objectives.validation import validation
from jaxdistill.populations.fixed import fixed
from jaxdistill.populations.given import given
from jaxdistill.teachers.decoders import DECODERS
from jaxdistill.teachers.generator import generator
from jaxdistill.teachers.images import images

KEY = jax.random.key(0)
IMPLICIT = {
    "solve": functools.partial(implicit, max_steps=5),
    "inner_optimizer": sgd(num_steps=2, learning_rate=0.1, learned=()),
    "weight_decay": 0.1,
    "warm_start": True,
}
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
        advance=lambda state, meta, real, key: {
            "count": state["count"] + 1,
            "sum": state["sum"] + meta.teacher,
        },
    )
    return bilevel(
        teacher=Teacher(init=lambda key: jnp.ones(2), batches=lambda phi, key: phi, by_class=None),
        inner_optimizer=InnerOptimizer(init=dict, values=dict, build=lambda values: optax.identity()),
        population=population,
        outer_optimizer=optax.sgd(0.5),
        **({"num_learners": num_learners, "real_batch_size": 4, "objective": objective} | options),
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
    state = linear_method().init(KEY)
    noise = {
        count: float(jax.jit(linear_method(count).update)(state, DATA, KEY)[1]["noise"]) for count in (1, 2)
    }
    assert abs(noise[1] - noise[2]) > 1e-3


@pytest.mark.parametrize("name", ["num_learners", "real_batch_size"])
def test_counts_below_one_are_refused(name):
    with pytest.raises(UserError) as error:
        linear_method(**{name: 0})
    assert f"{name} >= 1" in message(error)


def test_without_a_size_no_real_data_are_drawn():
    """The objective is given None, and the data set need not be there."""
    given = []

    def objective(meta, context, real, probe, key):
        given.append(real)
        return jnp.vdot(meta.teacher, context), {}

    method = linear_method(real_batch_size=None, objective=objective)
    update = jax.jit(method.update)
    state, metrics = update(method.init(KEY), Data(None, jnp.asarray(2.0)), KEY)
    assert given and set(given) == {None} and set(metrics) == {"gradient_norm"}
    mean = 2.0 * np.asarray(CONTEXTS).mean(axis=0)
    np.testing.assert_allclose(state.meta.teacher, 1 - 0.5 * mean, rtol=1e-5)


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
def state(method):
    return jax.jit(method.init)(KEY)


@pytest.fixture(scope="module")
def update(method):
    return jax.jit(method.update)


def test_an_update_is_pure(state, update):
    before = jax.tree.map(np.array, state)
    new, metrics = update(state, DATA, KEY)
    same_bits(state, before)  # nothing is donated or written over
    same_bits(update(state, DATA, KEY), (new, metrics))
    assert set(metrics) == {"loss", "accuracy", "inner_loss", "gradient_norm"}
    assert all(value.shape == () and np.isfinite(value) for value in metrics.values())
    assert float(jnp.abs(new.meta.teacher["x"] - state.meta.teacher["x"]).max()) > 1e-3
    assert float(jnp.abs(new.meta.inner["learning_rate"] - state.meta.inner["learning_rate"]).min()) > 1e-3


def test_a_step_draws_anew_from_the_key_and_its_number(state, update):
    losses = {
        float(update(state._replace(step=jnp.asarray(step, jnp.int32)), DATA, key)[1]["loss"])
        for step in (0, 1, 7)
        for key in (KEY, jax.random.key(1))
    }
    assert len(losses) == 6


def test_an_augmentation_is_of_inner_steps_and_real_images_and_not_of_what_is_exported(method, state):
    """Mirrored in zero: minus the gradient of mirrored images on mirrored data."""
    mirrored = tiny_dd(augmentation=Augmentation(lambda key, x: -x, lambda key, x: x))
    found, metrics = jax.jit(mirrored.gradient)(state, DATA, KEY)
    minus = state._replace(meta=state.meta._replace(teacher={"x": -state.meta.teacher["x"]}))
    data = DATA._replace(real=DATA.real._replace(pixels=-DATA.real.pixels))
    expected, plain = jax.jit(method.gradient)(minus, data, KEY)
    np.testing.assert_allclose(found.teacher["x"], -expected.teacher["x"], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(found.inner["learning_rate"], expected.inner["learning_rate"], rtol=1e-5)
    assert float(metrics["loss"]) == pytest.approx(float(plain["loss"]), rel=1e-5)
    np.testing.assert_array_equal(mirrored.synthesize(state, KEY).x[0], state.meta.teacher["x"][0])


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_trajectories_are_matched_through_a_decoder():
    """The gradient of the latents is that of the images, carried back by the linear decoder."""
    net = tiny_net("linear")
    decoder = DECODERS["multiformation"](image_shape=SHAPE)
    bank = jax.tree.map(lambda a: jnp.cumsum(jnp.ones((2, 30, *a.shape)), 1), net.init(KEY))
    shared = {"image_shape": SHAPE, "num_classes": CLASSES, "distill_epochs": 2}
    options = {"augmentation": None, "num_learners": 2}

    def gradient_of(teacher):
        method = mtt(net, teacher, **options)
        return to_float64(jax.jit(method.init)(KEY)), jax.jit(method.gradient)

    state, gradient = gradient_of(images(**shared, decoder=decoder))
    latents = state.meta.teacher["latents"]
    x, pull = jax.vjp(decoder.decode, latents)
    decoded, plain = gradient_of(images(**shared))
    decoded = decoded._replace(meta=decoded.meta._replace(teacher={"x": x[None]}))
    data = Data(tiny_data(), bank)
    (found, told), (expected, same) = (g(s, data, KEY) for g, s in ((gradient, state), (plain, decoded)))
    assert float(told["loss"]) == pytest.approx(float(same["loss"]), rel=1e-10)
    (by_hand,) = pull(expected.teacher["x"][0])
    np.testing.assert_allclose(found.teacher["latents"]["images"], by_hand["images"], rtol=1e-8)
    np.testing.assert_allclose(found.inner["learning_rate"], expected.inner["learning_rate"], rtol=1e-8)
    assert np.abs(by_hand["images"]).min() > 0


def test_two_times_three_steps_equal_six(method, state):
    def chunk(state, length):
        return jax.lax.scan(lambda state, _: method.update(state, DATA, KEY), state, None, length=length)

    run = jax.jit(chunk, static_argnums=1)
    middle, first = run(state, 3)
    end, second = run(middle, 3)
    expected, metrics = run(state, 6)
    assert int(end.step) == 6
    same_bits(end, expected)
    same_bits(jax.tree.map(lambda a, b: np.concatenate([a, b]), first, second), metrics)


def test_an_update_follows_the_hypergradient(x64):
    """One fixed learner, real images all equal: the gradient is known whatever batch is drawn."""
    net, teacher = tiny_net("linear"), images(image_shape=SHAPE, num_classes=CLASSES)
    optimizer = sgd(num_steps=1)
    data = tiny_data(counts=(1, 1, 1))
    one = data._replace(
        **{name: np.repeat(np.asarray(getattr(data, name))[:1], 3, axis=0) for name in ("pixels", "y")}
    )
    method = dd(
        net,
        teacher,
        population=fixed(net),
        num_learners=1,
        real_batch_size=5,
        outer_optimizer=optax.sgd(1.0),
    )
    state = to_float64(jax.jit(method.init)(KEY))
    new, metrics = jax.jit(method.update)(state, to_float64(Data(one, None)), KEY)
    solve = unrolled(teacher, inner_loss(net), optimizer)
    objective = validation(net, solve)
    real = to_float64(Batch(one.x[:1], one.y[:1]))
    both = jax.jit(jax.value_and_grad(lambda meta: objective(meta, state.population, real, None, KEY)[0]))
    value, gradient = both(state.meta)
    assert float(metrics["loss"]) == pytest.approx(float(value), rel=1e-12)
    jax.tree.map(
        lambda a, b, g: np.testing.assert_allclose(a, np.asarray(b) - np.asarray(g), rtol=1e-10),
        new.meta,
        state.meta,
        gradient,
    )


@pytest.mark.parametrize("name", ["made once", "implicit"])
def test_the_gradient_is_what_plain_descent_subtracts(name, x64):
    """Of the same draws, at any step; `update` with SGD(1) moves by exactly that."""
    net = tiny_net("linear")  # a convex loss: its solve is well-conditioned
    options = {"made once": {"solve": unrolled}, "implicit": IMPLICIT}[name]
    if name == "made once":
        small = SHALLOW | {"noise": "fresh", "noise_size": 2}
        teacher = generator(image_shape=SHAPE, num_classes=CLASSES, batch_size=3, distill_steps=2, **small)
    else:
        teacher = images(image_shape=SHAPE, num_classes=CLASSES, distill_epochs=2)
    if name == "implicit":  # training to a tolerance wants weights of one precision with the data
        options = options | {"population": given(to_float64(jax.vmap(net.init)(jax.random.split(KEY, 2))))}
    method = dd(net, teacher, num_learners=2, real_batch_size=5, outer_optimizer=optax.sgd(1.0), **options)
    data = to_float64(Data(tiny_data(), None))
    both = jax.jit(lambda state: (method.update(state, data, KEY), method.gradient(state, data, KEY)))
    first = to_float64(jax.jit(method.init)(KEY))
    exact = 1e-7 if name == "implicit" else 1e-9
    found = []
    for step in (0, 3):
        state = first._replace(step=jnp.asarray(step, jnp.int32))
        (new, metrics), (gradient, same) = both(state)
        assert float(gradient_norm := optax.tree.norm(gradient)) > 1e-3
        assert float(metrics["gradient_norm"]) == pytest.approx(float(gradient_norm), rel=exact)
        jax.tree.map(
            lambda a, b, g: np.testing.assert_allclose(b - a, g, rtol=exact, atol=exact * 1e-4),
            *(new.meta, state.meta, gradient),
        )
        assert set(same) == set(metrics)
        found.append(float(same["loss"]))
    assert abs(found[0] - found[1]) > 1e-6  # steps draw anew


@pytest.mark.parametrize(
    "name", ["dd", "dm", *(pytest.param(n, marks=pytest.mark.slow) for n in ("dc", "dsa"))]
)
def test_a_caller_gives_the_very_real_batch(name):
    """The batch that the method itself would draw, in the place of other data, is the same step."""
    net, teacher = tiny_net("linear"), images(image_shape=SHAPE, num_classes=CLASSES)
    size = 6
    key = stream(at_step(KEY, jnp.zeros((), jnp.int32)), "real")
    draws = sample if name == "dd" else sample_per_class
    drawn = jax.jit(draws, static_argnums=2)(tiny_data(), key, size)
    other = Data(tiny_data(seed=5), None)
    options = {"augmentation": dsa(["crop"])} if name in ("dsa", "dm") else {}  # six operations by default

    def moving(draw):
        method = METHODS[name].make(net, teacher, real_batch_size=size, num_learners=1, draw=draw, **options)
        update = jax.jit(lambda data: method.update(method.init(KEY), data, KEY)[0].meta.teacher["x"])
        return lambda data: np.asarray(update(data))

    by_itself = moving(None)
    expected = by_itself(Data(tiny_data(), None))
    np.testing.assert_allclose(moving(lambda data, key: drawn)(other), expected, rtol=1e-4, atol=1e-5)
    assert np.abs(by_itself(other) - expected).max() > 1e-3


@pytest.mark.parametrize("name", ["frepo", "rcig", "kip"])
def test_a_closed_form_sees_each_image_once(name):
    with pytest.raises(UserError) as error:
        METHODS[name].make(tiny_net("mlp"), images_teacher(distill_epochs=3))
    assert "expected each of 6 images once, got 18 in all batches. Set distill_epochs to 1" in message(error)


@pytest.mark.parametrize("name", ["dd", "frepo"])
def test_losses_on_the_way_are_of_unrolled_gradients_alone(name):
    options = {"solve": functools.partial(implicit, max_steps=5)} if name == "dd" else {}
    with pytest.raises(UserError) as error:
        METHODS[name].make(tiny_net("mlp"), images_teacher(), validate_every=1, **options)
    assert "dd: expected no validate_every, of unrolled gradients only, got 1 with " in message(error)


def test_the_average_is_that_of_its_definition():
    method = linear_method()
    mean, data = averaged(method, 0.75), Data(tiny_data(), jnp.asarray(2.0))
    state, update = mean.init(KEY), jax.jit(mean.update)
    expected = now = np.asarray(state.meta.teacher)
    for _ in range(3):
        state, _ = update(state, data, KEY)
        now = np.asarray(state.meta.teacher)
        expected = 0.75 * expected + 0.25 * now
    np.testing.assert_allclose(mean.synthesize(state, KEY), expected, rtol=1e-6)
    assert np.abs(expected - now).max() > 0.1
    skipping = averaged(method._replace(update=lambda *given: _skipped(*method.update(*given))), 0.75)
    kept, _ = skipping.update(skipping.init(KEY), data, KEY)
    same_bits(kept.average, kept.meta._replace(teacher=jnp.ones(2)))
    with pytest.raises(UserError) as error:
        averaged(method, 1.0)
    assert "decay in (0, 1), got 1.0" in message(error)


def _skipped(state, metrics):
    return state, metrics | {"skipped": jnp.ones(())}


def test_synthesis_and_schedule_are_those_of_the_state(method, state):
    batches = method.synthesize(state, KEY)
    assert batches.x.shape == (2, 3, *SHAPE) and batches.y.shape == (2, 3, 3)
    same_bits(batches.x[1], state.meta.teacher["x"][0])
    values = method.hyperparameters(state)
    np.testing.assert_allclose(values["learning_rate"], [0.05, 0.05], rtol=1e-6)  # the recipe, small images
    assert float(values["momentum"][0]) == 0


@pytest.mark.parametrize("name", ["dc", "dm"])
def test_labels_are_learned_by_methods_whose_loss_sees_them(name):
    teacher, key = images(image_shape=SHAPE, num_classes=CLASSES, soft_labels=True), jax.random.key(0)
    plain = {"augmentation": None} if name == "dm" else {}  # six operations by default
    method = recipe_of(METHODS[name]).make(tiny_net("linear"), teacher, real_batch_size=2, **plain)
    gradient = jax.jit(method.gradient)(method.init(key), Data(tiny_data(), None), key)[0].teacher["y"]
    assert bool(np.abs(gradient).max() > 0) == recipe_of(METHODS[name]).sees_labels
