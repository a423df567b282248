"""Gradient and distribution matching: the losses in NumPy, their gradients, and where gradients are zero."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import CLASSES, SHALLOW, SHAPE, message, tiny_data, tiny_net, to_float64

from jaxdistill.core.checks import UserError
from jaxdistill.core.types import Data, Meta
from jaxdistill.data import sample_per_class
from jaxdistill.inner.optimizers import sgd
from jaxdistill.methods.bilevel import bilevel
from jaxdistill.objectives.distribution_matching import distribution_matching
from jaxdistill.objectives.gradient_matching import DISTANCES, gradient_matching, layerwise
from jaxdistill.populations.fixed import fixed
from jaxdistill.teachers import generator, images

KEY = jax.random.key(0)
NET = tiny_net()
TEACHER = images(image_shape=SHAPE, num_classes=CLASSES, images_per_class=2)
x64 = pytest.mark.usefixtures("x64")


@functools.cache
def problem32():
    """(meta, params, real images by class)."""
    real = jax.jit(sample_per_class, static_argnums=2)(tiny_data(), KEY, 4)
    return Meta(TEACHER.init(KEY), {}), NET.init(jax.random.key(1)), real


def problem():
    """The same in float64."""
    with jax.enable_x64(False):
        given = problem32()
    return to_float64(given)


def softmax_gradients(params, x, y):
    """Gradient of the mean cross-entropy of the tiny tanh MLP by hand: {"kernel", "bias"} of two layers."""
    p = jax.tree.map(np.asarray, params["params"])
    flat = np.asarray(x).reshape(len(x), -1)
    hidden = np.tanh(flat @ p["dense1"]["kernel"] + p["dense1"]["bias"])
    logits = hidden @ p["classifier"]["kernel"] + p["classifier"]["bias"]
    odds = np.exp(logits - logits.max(1, keepdims=True))
    error = (odds / odds.sum(1, keepdims=True) - np.asarray(y)) / len(flat)
    back = (error @ np.asarray(p["classifier"]["kernel"]).T) * (1 - hidden**2)
    return [flat.T @ back, hidden.T @ error], [back.sum(0), error.sum(0)]


def by_hand(distance, params, real, synthetic):
    total = 0.0
    for c in range(CLASSES):
        (kernels, biases), (ours, our_biases) = (
            softmax_gradients(params, batch.x[c], batch.y[c]) for batch in (real, synthetic)
        )
        if distance == "layerwise":
            for a, b in zip(kernels, ours, strict=True):
                for unit in range(a.shape[1]):
                    lengths = np.linalg.norm(a[:, unit]) * np.linalg.norm(b[:, unit])
                    total += 1 - a[:, unit] @ b[:, unit] / (lengths + 1e-6)
            continue
        if distance.startswith("kernels"):  # no convolutions: both layers
            apart = np.concatenate([(a - b).ravel() for a, b in zip(kernels, ours, strict=True)])
            total += np.sum(np.abs(apart) if distance == "kernels_l1" else apart**2)
            continue
        a, b = (np.concatenate([v.ravel() for v in parts]) for parts in (kernels + biases, ours + our_biases))
        if distance == "l2":
            total += np.sum((a - b) ** 2)
        else:
            total += 1 - a @ b / (np.linalg.norm(a) * np.linalg.norm(b) + 1e-6)
    return total


@x64
@pytest.mark.parametrize("distance", sorted(DISTANCES))
def test_gradient_matching_equals_the_formula_by_hand(distance):
    meta, params, real = problem()
    objective = gradient_matching(NET, TEACHER, distance=distance)
    loss, metrics = jax.jit(objective)(meta, params, real, None, KEY)
    expected = by_hand(distance, params, real, TEACHER.by_class(meta.teacher, KEY))
    assert float(loss) == pytest.approx(expected, rel=1e-6) and expected > 1e-3
    assert metrics["loss"] == loss and -1 <= float(metrics["cosine"]) <= 1


def test_distances_of_kernels_are_those_of_convolutions_where_there_are_any():
    real = {"conv": np.full((1, 1, 2, 3), 0.5), "bias": np.ones(3), "dense": np.ones((4, 5))}
    zero = jax.tree.map(np.zeros_like, real)
    assert float(DISTANCES["kernels_l2"](real, zero)) == 6 * 0.25
    assert float(DISTANCES["kernels_l1"](real, zero)) == 6 * 0.5
    del real["conv"], zero["conv"]
    assert float(DISTANCES["kernels_l2"](real, zero)) == float(DISTANCES["kernels_l1"](real, zero)) == 20


@x64
def test_distribution_matching_equals_the_formula_by_hand():
    meta, params, real = problem()
    loss, _ = jax.jit(distribution_matching(NET, TEACHER))(meta, params, real, None, KEY)
    layer = jax.tree.map(np.asarray, params["params"]["dense1"])

    def mean(x):
        return np.tanh(np.asarray(x).reshape(len(x), -1) @ layer["kernel"] + layer["bias"]).mean(0)

    synthetic = TEACHER.by_class(meta.teacher, KEY)
    expected = sum(np.sum((mean(real.x[c]) - mean(synthetic.x[c])) ** 2) for c in range(CLASSES))
    assert float(loss) == pytest.approx(float(expected), rel=1e-6)


@x64
def test_all_layers_weigh_alike():
    """A layer's mean squared difference, times the size of the last one."""
    net = tiny_net("mlp", depth=2, width=5)
    params, (meta, _, real) = to_float64(net.init(KEY)), problem()
    objective = distribution_matching(net, TEACHER, layers="all")
    loss, _ = jax.jit(objective)(meta, params, real, None, KEY)
    layers = jax.tree.map(np.asarray, params["params"])
    synthetic = TEACHER.by_class(meta.teacher, KEY)
    expected = 0.0
    for c in range(CLASSES):
        a, b = (np.asarray(batch.x[c]).reshape(len(batch.x[c]), -1) for batch in (real, synthetic))
        for name in ("dense1", "dense2"):
            a, b = (np.tanh(x @ layers[name]["kernel"] + layers[name]["bias"]) for x in (a, b))
            expected += 5 * np.mean((a.mean(0) - b.mean(0)) ** 2)
    assert float(loss) == pytest.approx(expected, rel=1e-6)


@x64
@pytest.mark.parametrize("name", ["layerwise", "l2", "cosine", "all classes", "distribution"])
def test_gradients_equal_central_differences(name):
    meta, params, real = problem()
    if name == "distribution":
        objective = distribution_matching(NET, TEACHER)
    elif name == "all classes":
        real = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), real)
        objective = gradient_matching(NET, TEACHER, by_class=False)
    else:
        objective = gradient_matching(NET, TEACHER, distance=name)
    run = jax.jit(jax.value_and_grad(lambda x: objective(Meta({"x": x}, {}), params, real, None, KEY)[0]))
    x = np.asarray(meta.teacher["x"])
    direction = np.random.default_rng(0).normal(size=x.shape)
    eps = 1e-6
    ends = [run(x + sign * eps * direction)[0] for sign in (1, -1)]
    slope = float(np.vdot(run(x)[1], direction))
    assert abs(slope) > 1e-4
    assert slope == pytest.approx(float(ends[0] - ends[1]) / (2 * eps), rel=1e-5)


@x64
def test_all_classes_at_once_are_one_term():
    meta, params, real = problem()
    real = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), real)
    objective = gradient_matching(NET, TEACHER, by_class=False)
    loss, _ = jax.jit(objective)(meta, params, real, None, KEY)
    synthetic = TEACHER.batches(meta.teacher, KEY)
    (a, _), (b, _) = (
        softmax_gradients(params, x, y) for x, y in ((real.x, real.y), (synthetic.x[0], synthetic.y[0]))
    )
    expected = 0.0
    for left, right in zip(a, b, strict=True):
        lengths = np.linalg.norm(left, axis=0) * np.linalg.norm(right, axis=0)
        expected += np.sum(1 - (left * right).sum(0) / (lengths + 1e-6))
    assert float(loss) == pytest.approx(expected, rel=1e-6)


def test_zero_gradients_cost_one_or_nothing_and_stay_finite():
    zero, some = {"kernel": jnp.zeros((3, 2))}, {"kernel": jnp.ones((3, 2)).at[:, 1].set(0.0)}
    bias = {"bias": jnp.ones(4)}
    assert float(layerwise(bias, {"bias": -jnp.ones(4)})) == 0.0  # of one axis: left out
    pairs = {(0, 0): (zero, zero), (0, 1): (zero, some), (1, 0): (some, zero)}
    for name, distance in DISTANCES.items():
        run = jax.jit(jax.value_and_grad(distance, argnums=1))
        found = {which: run(*pair) for which, pair in pairs.items()}
        assert np.isfinite(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(found)])).all()
        if name == "layerwise":
            assert {which: float(value) for which, (value, _) in found.items()} == {
                (0, 0): 0,
                (0, 1): 1,
                (1, 0): 1,
            }


@pytest.mark.parametrize("factory", [gradient_matching, distribution_matching])
def test_one_key_augments_both_sides_of_a_class_alike(factory):
    seen = []

    def augment(key, x):
        seen.append(x.shape)
        return x + jax.random.normal(key, ())

    meta, params, _ = problem32()
    same = TEACHER.by_class(meta.teacher, KEY)  # real images that are the synthetic ones

    def loss(real, **options):
        return jax.jit(factory(NET, TEACHER, **options))(meta, params, real, None, KEY)[0]

    plain, augmented = (loss(same, augment=how, class_strategy="map") for how in (None, augment))
    assert len(seen) == 2
    # a unit of gradient g costs 1e-6 / |g|^2: small, and not nothing
    np.testing.assert_allclose([plain, augmented], 0.0, atol=0.01)
    other = same._replace(x=same.x[::-1])
    assert float(loss(other, class_strategy="map")) > 0.05


@pytest.mark.parametrize("factory", [gradient_matching, distribution_matching])
def test_classes_one_after_another_are_classes_at_once(factory):
    meta, params, real = problem32()

    def loss(strategy):
        objective = factory(NET, TEACHER, class_strategy=strategy)
        return jax.jit(jax.value_and_grad(lambda meta: objective(meta, params, real, None, KEY)[0]))(meta)

    a, b = loss("map"), loss("vmap")
    for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("factory", "kind"),
    [(gradient_matching, "generator"), (distribution_matching, "images")],
)
def test_any_teacher_lowers_the_loss(factory, kind):
    teacher = TEACHER
    if kind == "generator":
        teacher = generator(image_shape=SHAPE, num_classes=CLASSES, batch_size=6, distill_steps=2, **SHALLOW)
    method = bilevel(
        teacher=teacher,
        inner_optimizer=sgd(num_steps=2 if kind == "generator" else 1, learned=()),
        population=fixed(NET),
        objective=factory(NET, teacher),
        outer_optimizer=optax.adam(0.05),
        num_learners=1,
        real_batch_size=4,
        draw=lambda dataset, key: sample_per_class(dataset, key, 4),
    )
    state, data = jax.jit(method.init)(KEY), Data(tiny_data(), None)

    @jax.jit
    def run(state):
        return jax.lax.scan(lambda state, _: method.update(state, data, KEY), state, None, length=60)

    _, metrics = run(state)
    losses = np.asarray(metrics["loss"])
    assert losses[-15:].mean() < 0.8 * losses[0], losses


def test_bad_choices_are_refused():
    small = {"batch_size": 2, "generator_width": 4, "generator_hidden": 5}
    few = generator(image_shape=SHAPE, num_classes=CLASSES, **small)
    refused = {
        "one of cosine, kernels_l1, kernels_l2, l2, layerwise, got 'l1'": lambda: gradient_matching(
            NET, TEACHER, distance="l1"
        ),
        "one of all, last, got 'first'": lambda: distribution_matching(NET, TEACHER, layers="first"),
        "layers=last with a learner without embed_all": lambda: distribution_matching(
            NET._replace(embed_all=None), TEACHER, layers="all"
        ),
        "one of auto, map, vmap": lambda: gradient_matching(NET, TEACHER, class_strategy="scan"),
        "at least one synthetic image of every class, with": lambda: gradient_matching(NET, few),
        "at least one synthetic image of every class, got": lambda: distribution_matching(NET, few),
    }
    for says, make in refused.items():
        with pytest.raises(UserError) as error:
            make()
        assert says in message(error)
    gradient_matching(NET, few, by_class=False)
