"""A few images at a time: the same numbers, how many, and where all are taken at once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import images_teacher, message, tiny_batch, tiny_data, tiny_net, to_float64

from jaxdistill.core.checks import UserError
from jaxdistill.core.types import Batch, Meta
from jaxdistill.data import sample_per_class
from jaxdistill.evaluation import accuracy_on, confusion_on, published, training
from jaxdistill.inner import microbatch
from jaxdistill.inner.losses import accuracy, cross_entropy, inner_loss
from jaxdistill.inner.microbatch import images_at_a_time, mean_of_parts, mean_over_batch
from jaxdistill.learners import learner
from jaxdistill.objectives.distribution_matching import distribution_matching
from jaxdistill.objectives.gradient_matching import gradient_matching
from jaxdistill.populations.persistent import persistent

KEY = jax.random.key(0)


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")


@pytest.mark.parametrize("microbatch", [3, 5, 12])  # of 10 images
def test_microbatches_change_nothing(x64, microbatch):
    net, batch = tiny_net(), tiny_batch(10)
    params = to_float64(net.init(jax.random.key(0)))

    def score(params, batch):
        logits = net.apply(params, batch.x)
        return cross_entropy(logits, batch.y), accuracy(logits, batch.y)

    def outer(params, batch, microbatch):
        loss, right = mean_over_batch(score, params, batch, microbatch)
        return jnp.exp(loss), right  # so that the cotangent is not 1

    both = jax.jit(jax.value_and_grad(outer, (0, 1), has_aux=True), static_argnums=2)
    value, (gradient, to_images) = both(params, batch, microbatch)
    expected, (expected_gradient, _) = both(params, batch, 10)
    same = functools.partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-15)
    jax.tree.map(same, (value, gradient), (expected, expected_gradient))
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradient)) > 1e-3
    jax.tree.map(lambda a: np.testing.assert_array_equal(a, 0), to_images)  # real data are constants


def test_microbatches_under_vmap(x64):
    net, batch = tiny_net(), tiny_batch(7)
    params = to_float64(jax.jit(jax.vmap(net.init))(jax.random.split(jax.random.key(0), 2)))

    def score(params, batch):
        return cross_entropy(net.apply(params, batch.x), batch.y), jnp.zeros(())

    def gradient(params, microbatch):
        return jax.grad(lambda p: mean_over_batch(score, p, batch, microbatch)[0])(params)

    parts = jax.jit(jax.vmap(lambda p: gradient(p, 3)))(params)
    whole = jax.jit(jax.vmap(lambda p: gradient(p, 7)))(params)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-15), parts, whole)


def test_mean_of_parts_weighs_the_last_part():
    batch = tiny_batch(7)

    def measure(part):
        return {"x": part.x.mean(), "size": jnp.asarray(float(part.y.shape[0]))}

    means = mean_of_parts(measure, 3, batch)
    assert float(means["x"]) == pytest.approx(float(batch.x.mean()), rel=1e-5, abs=1e-6)
    assert float(means["size"]) == pytest.approx((3 * 3 + 3 * 3 + 1 * 1) / 7)


# ---------------------------------------------------------------- how many


def loss_of(net):
    return functools.partial(inner_loss(net), Meta((), {}))


def at_a_time(net, shape, size):
    batch = jax.eval_shape(lambda: Batch(jnp.zeros((size, *shape)), jnp.zeros((size, 10))))
    return images_at_a_time(net, loss_of(net), jax.eval_shape(net.init, KEY), batch)


@pytest.mark.parametrize(
    "name, shape, options, size, expected",
    [
        ("mlp", (8, 8, 1), {}, 1024, 1024),  # all of them fit
        ("convnet", (28, 28, 1), {"width": 128}, 256, 8),  # 2.45 MB an image: 10 fit, 8 divides
        ("convnet", (28, 28, 1), {"width": 128}, 257, 10),  # no divisor is near
        ("convnet", (28, 28, 1), {"width": 128}, 10, 10),
        ("convnet", (28, 28, 1), {"width": 32}, 256, 32),
        ("vgg11", (28, 28, 1), {}, 17, 14),  # of 3 MB an image, whose weights are 37 MB: they count once
    ],
)
def test_what_is_kept_says_how_many_on_the_cpu(name, shape, options, size, expected):
    assert at_a_time(learner(name, image_shape=shape, num_classes=10, **options), shape, size) == expected


def test_all_at_once_elsewhere_and_where_images_see_one_another(monkeypatch):
    monkeypatch.setattr(microbatch, "KEPT", 1)
    shape, options = (8, 8, 1), {"width": 8, "depth": 2}
    nets = [
        learner("convnet", image_shape=shape, num_classes=10, norm=norm, **options)
        for norm in ("instance", "batch", "mean_only")
    ]
    assert [at_a_time(net, shape, 64) == 64 for net in nets] == [False, True, True]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert at_a_time(nets[0], shape, 64) == 64


def test_a_batch_norm_that_remembers_is_taken_in_parts(monkeypatch):
    monkeypatch.setattr(microbatch, "KEPT", 1)
    net = learner("convnet", image_shape=(8, 8, 1), num_classes=10, norm="batch", width=8, depth=2)
    batch = jax.eval_shape(lambda: Batch(jnp.zeros((64, 8, 8, 1)), jnp.zeros((64, 10))))
    params = jax.eval_shape(net.calibrate, jax.eval_shape(net.init, KEY), batch.x)
    assert images_at_a_time(net, loss_of(net), params, batch) < 64


# ---------------------------------------------------------------- who asks


NET, TEACHER = tiny_net(), images_teacher()


def given():
    """(meta, params, real images by class) in float64."""
    real = jax.jit(sample_per_class, static_argnums=2)(tiny_data(), KEY, 7)
    return to_float64((Meta(jax.jit(TEACHER.init)(KEY), {}), NET.init(jax.random.key(1)), real))


def matching(objective, **options):
    loss = objective(NET, TEACHER, **options)
    return jax.value_and_grad(lambda meta, params, real: loss(meta, params, real, None, KEY)[0])


@pytest.mark.parametrize("objective", [gradient_matching, distribution_matching])
def test_a_chosen_microbatch_changes_the_program_and_no_number(x64, objective):
    arguments = given()
    parts, whole = (jax.jit(matching(objective, microbatch=n)).lower(*arguments) for n in (3, None))
    assert parts.as_text() != whole.as_text()
    values = [jax.device_get(jax.tree.leaves(lowered.compile()(*arguments))) for lowered in (parts, whole)]
    assert max(np.abs(leaf).max() for leaf in values[1]) > 1e-3
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12), *values)
    with pytest.raises(UserError) as error:
        objective(NET, TEACHER, microbatch=0)
    assert "microbatch >= 1, got 0" in message(error)


def of_a_split(meta, params, real):
    return accuracy_on(NET, params, tiny_batch(7)), confusion_on(NET, params, tiny_batch(7))


def between_matches(meta, params, real):
    population = persistent(NET, TEACHER, matches=2, epochs=3, learning_rate=0.5)
    meta = jax.tree.map(lambda a: a.astype(jnp.float32), meta)  # as new networks are
    return population.advance(population.init(KEY), meta, None, KEY).params


def in_evaluation(meta, params, real):
    (order, keys), _, loss = training(NET, published("dc", 6), tiny_batch(6), jnp.arange(6), KEY)
    return jax.value_and_grad(loss)(params, (order[0], keys[0]))


@pytest.mark.parametrize(
    "function, tolerance",
    [
        pytest.param(matching(gradient_matching), 1e-9, id="gradient matching"),
        pytest.param(of_a_split, 1e-9, id="test"),
        pytest.param(between_matches, 1e-5, id="persistent"),
        pytest.param(in_evaluation, 1e-9, id="evaluation"),
    ],
)
def test_keeping_less_changes_the_program_and_no_number(x64, monkeypatch, function, tolerance):
    arguments = given()
    whole = jax.jit(lambda *arguments: function(*arguments)).lower(*arguments)
    monkeypatch.setattr(microbatch, "KEPT", 1)
    parts = jax.jit(lambda *arguments: function(*arguments)).lower(*arguments)
    assert parts.as_text() != whole.as_text()
    values = [jax.device_get(jax.tree.leaves(lowered.compile()(*arguments))) for lowered in (parts, whole)]
    assert max(np.abs(leaf).max() for leaf in values[1]) > 1e-3
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=tolerance, atol=tolerance / 100), *values)
