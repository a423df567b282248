"""A head in closed form: against long training of the head alone, its two forms, and what it refuses."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import CLASSES, SHAPE, images_teacher, message, tiny_batch, tiny_net, to_float64

from jaxdistill.core.checks import UserError
from jaxdistill.core.labels import centred
from jaxdistill.core.types import InnerLoss, Learner, Meta
from jaxdistill.inner.closed_form import closed_form, ridge_regression
from jaxdistill.inner.losses import inner_loss, squared
from jaxdistill.inner.optimizers import sgd
from jaxdistill.inner.unrolled import unrolled
from jaxdistill.learners.adapter import from_flax
from jaxdistill.objectives.validation import validation

KEY = jax.random.key(0)
FEATURES, RIDGE = 4, 0.05
FREE = {"soft_labels": False, "labels": "free"}


def head_alone() -> Learner:
    """A network whose body is fixed: its parameters are a classifier."""
    body = np.random.default_rng(1).normal(size=(np.prod(SHAPE), FEATURES))

    def embed(params, x):
        return jnp.tanh(x.reshape(len(x), -1) @ body)

    return Learner(
        init=lambda key: {"head": jax.random.normal(key, (FEATURES, CLASSES))},
        apply=lambda params, x: embed(params, x) @ params["head"],
        embed=embed,
        calibrate=lambda params, x: params,
        with_classifier=lambda params, kernel, bias: {"head": kernel},
    )


def solved(net, teacher, **options):
    return closed_form(teacher, inner_loss(net), sgd(num_steps=1, learned=()), learner=net, **options)


@pytest.mark.parametrize("labels", [{"soft_labels": True}, FREE], ids=["probabilities", "free"])
def test_it_is_where_long_training_of_the_head_ends(labels, x64):
    """Loss, hypergradient and head agree to 1e-6 with autodiff through 3,000 steps of gradient descent."""
    net, real = head_alone(), tiny_batch(7)
    once, often = images_teacher(**labels), images_teacher(**labels, distill_epochs=3000)

    def ridge_loss(meta, params, batch):
        y = batch.y if labels is FREE else centred(batch.y)
        return (
            0.5 * jnp.sum((net.apply(params, batch.x) - y) ** 2)
            + 0.5 * RIDGE * len(y) * (params["head"] ** 2).sum()
        )

    trained = unrolled(often, InnerLoss(ridge_loss), sgd(num_steps=3000, learning_rate=0.1, learned=()))
    phi, start = to_float64((once.init(KEY), net.init(KEY)))
    found = []
    for solve in (solved(net, once, ridge=RIDGE, ridge_unit="images"), trained):
        objective = validation(net, solve, loss="squared")

        def both(meta, objective=objective, solve=solve):
            value = jax.value_and_grad(lambda m: objective(m, start, real, None, KEY)[0])(meta)
            return value, solve(meta, start, None, KEY)[0]

        found.append(jax.jit(both)(Meta(phi, {})))
    assert all(np.abs(leaf).max() > 1e-3 for leaf in jax.tree.leaves(found[0][0][1]))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-9), *found)


@pytest.mark.parametrize("unit", ["trace", "images"])
@pytest.mark.parametrize("count", [3, 12])
def test_dual_and_primal_are_one_solution(count, unit, x64):
    generator = np.random.default_rng(0)
    features, y = generator.normal(size=(count, 6)), generator.normal(size=(count, CLASSES))
    solve = partial(ridge_regression, ridge=0.1, ridge_unit=unit)
    every = jax.jit(lambda *given: [solve(*given, dual=dual)[0] for dual in (True, False, None)])
    one, other, chosen = jax.device_get(every(features, y))
    np.testing.assert_allclose(one, other, rtol=1e-10)
    np.testing.assert_array_equal(chosen, one if count < 6 else other)
    size = np.sum(features**2) / count if unit == "trace" else count
    residual = features.T @ (features @ one - y) + 0.1 * size * one  # the gradient of the ridge loss
    np.testing.assert_allclose(residual, 0, atol=1e-12)


def test_the_body_stays_and_the_head_predicts_the_images():
    net, teacher = tiny_net(), images_teacher(images_per_class=1, **FREE)
    params, phi = net.init(KEY), teacher.init(KEY)
    trained, info = jax.jit(solved(net, teacher).run)(Meta(phi, {}), params, None, KEY)
    assert float(info.report["singular_kernels"]) == 0
    np.testing.assert_array_equal(trained["params"]["dense1"]["kernel"], params["params"]["dense1"]["kernel"])
    np.testing.assert_array_equal(trained["params"]["classifier"]["bias"], 0)
    batch = jax.tree.map(lambda a: a[0], teacher.batches(phi, KEY))  # fewer images than features: no error
    np.testing.assert_allclose(net.apply(trained, batch.x), batch.y, atol=1e-2)
    assert float(info.losses[0]) == pytest.approx(
        float(squared(net.apply(trained, batch.x), batch.y)), rel=0.1
    )


def test_a_singular_kernel_is_told():
    net, start = tiny_net("linear"), np.ones((CLASSES, 2, *SHAPE), np.float32)
    teacher = images_teacher(start=start, **FREE)
    meta, params = Meta(teacher.init(KEY), {}), net.init(KEY)
    trained, info = jax.jit(solved(net, teacher, ridge=0.0).run)(meta, params, None, KEY)
    assert float(info.report["singular_kernels"]) == 1
    np.testing.assert_array_equal(trained["params"]["classifier"]["kernel"], 0)
    _, info = jax.jit(solved(net, teacher, ridge=1e-2).run)(meta, params, None, KEY)
    assert float(info.report["singular_kernels"]) == 0


class Doubled(nn.Module):
    """Its logits are no output of a dense layer."""

    @nn.compact
    def __call__(self, x, return_features=False):
        x = x.reshape(len(x), -1)
        return x if return_features else 2 * nn.Dense(CLASSES)(x)


class Plain(nn.Module):
    """A user's own network, without a bias."""

    @nn.compact
    def __call__(self, x, return_features=False):
        x = nn.tanh(nn.Dense(5)(x.reshape(len(x), -1)))
        return x if return_features else nn.Dense(CLASSES, use_bias=False)(x)


def test_networks_of_flax():
    net = from_flax(Plain(), SHAPE)
    params, x = net.init(KEY), tiny_batch(4).x
    assert net.with_classifier is not None
    after = net.with_classifier(params, jnp.ones((5, CLASSES)), None)
    np.testing.assert_allclose(net.apply(after, x), net.embed(params, x) @ np.ones((5, CLASSES)), rtol=1e-6)
    for wrong in ((jnp.ones((5, CLASSES)), jnp.ones(CLASSES)), (jnp.ones((4, CLASSES)), None)):
        with pytest.raises(UserError) as error:
            net.with_classifier(params, *wrong)
        assert "learner: expected a classifier" in message(error)


REFUSED = {
    "negative ridge": (tiny_net, {"ridge": -1.0}, "ridge >= 0"),
    "unknown unit": (
        tiny_net,
        {"ridge_unit": "rows"},
        "closed_form ridge_unit: expected one of images, trace",
    ),
    "few features": (lambda: tiny_net(width=2), {}, "at least 3 features, as many as classes, got 2"),
    "no linear classifier": (
        lambda: tiny_net()._replace(with_classifier=None),
        {},
        "closed_form: expected a learner with a linear classifier",
    ),
    "another last layer": (
        lambda: from_flax(Doubled(), SHAPE),
        {},
        "a network whose logits are the output of a dense layer, got Doubled",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_closed_form_is_refused(name):
    make, options, says = REFUSED[name]
    with pytest.raises(UserError) as error:
        solved(make(), images_teacher(), **options)
    assert says in message(error)
