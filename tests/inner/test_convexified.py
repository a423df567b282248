"""The convex problem of a linearised network with a head: against training to its end."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import CLASSES, fixed_sgd, images_teacher, message, tiny_batch, tiny_net, to_float64

from jaxdistill.core.checks import UserError
from jaxdistill.core.linalg import squared_norm, zeros_like
from jaxdistill.core.types import InnerLoss, Meta, Solve
from jaxdistill.inner.closed_form import ridge_regression
from jaxdistill.inner.convexified import convexified
from jaxdistill.inner.solvers import linear_solver
from jaxdistill.inner.unrolled import unrolled
from jaxdistill.learners.linearized import Linearized, head_and_body, linearized
from jaxdistill.objectives.validation import validation

KEY = jax.random.key(0)
RIDGE = 0.05
FREE = {"soft_labels": False, "labels": "free"}
EXACT = {"linear_solver": linear_solver("cg", tolerance=1e-12, max_steps=300), "tolerance": 1e-10}


def net():
    return tiny_net("mlp", width=3)


def solved(network, teacher, **options):
    options = {"ridge": RIDGE, "clip": False} | options
    return convexified(teacher, InnerLoss(lambda *a: 0.0), fixed_sgd(), learner=network, **options)


def by_training(network, teacher, num_steps=1000):
    """The body by gradient descent through all steps, the head by ridge regression at its end."""
    of_parts, lin = head_and_body(network), linearized(network)

    def head(params, batch):
        features, moved = of_parts(params, batch.x)
        return ridge_regression(features, batch.y - moved, ridge=RIDGE, ridge_unit="images")[0]

    def loss(meta, params, batch):
        kernel = head(params, batch)
        outputs = lin.apply(params._replace(head=kernel), batch.x)
        squares = jnp.sum((outputs - batch.y) ** 2) / len(batch.y)
        return 0.5 * (squares + RIDGE * (squared_norm(kernel) + squared_norm(params.tangent)))

    optimizer = fixed_sgd(0.5, momentum=0.9, num_steps=num_steps)
    train = unrolled(images_teacher(**FREE, distill_epochs=num_steps), InnerLoss(loss), optimizer)

    def run(meta, params, probe, key):
        trained, info = train(meta, Linearized(params, zeros_like(params)), probe, key)
        (batch,) = (jax.tree.map(lambda a: a[0], teacher.batches(meta.teacher, key)),)
        return trained._replace(head=head(trained, batch)), info

    return Solve(run, learner=lin)


def gradient_of(network, solve, meta, start, real):
    """((loss, metrics), (hypergradient, what the probe is told))."""
    objective = validation(network, solve, loss="squared")

    probe = solve.probe(start)
    if solve.clipped:
        probe = probe._replace(implicit=zeros_like(meta))

    def loss(meta, probe):
        return objective(meta, start, real, probe, KEY)

    return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(meta, probe)


@functools.cache
def problem():
    teacher = images_teacher(**FREE)
    return teacher, Meta(to_float64(teacher.init(KEY)), {}), to_float64(net().init(KEY)), tiny_batch(7)


@pytest.mark.parametrize("way", ["cg", pytest.param("nystrom", marks=pytest.mark.slow)])
def test_the_hypergradient_is_that_of_training_to_the_end(way, x64):
    teacher, *given = problem()
    options = {"cg": EXACT, "nystrom": {"linear_solver": linear_solver("nystrom", rank=6 * CLASSES)}}[way]
    (value, _), (expected, _) = gradient_of(net(), by_training(net(), teacher), *given)
    (found, metrics), (gradient, told) = gradient_of(net(), solved(net(), teacher, **options), *given)
    assert float(found) == pytest.approx(float(value), rel=1e-9)
    assert all(np.abs(leaf).max() > 1e-3 for leaf in jax.tree.leaves(expected))
    for one, other in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7 * np.abs(other).max())
    assert told.report["residual"] < 1e-6 and told.report["failed_solves"] == 0
    assert metrics["inner_steps"] <= 2 and metrics["singular_kernels"] == 0


def test_a_head_and_a_body_are_the_network_at_small_steps(x64):
    """Its own classifier is the head: the second order remains, a quarter of it at half the step."""
    network, x = net(), tiny_batch(5).x
    start = to_float64(network.init(KEY))
    layer = start["params"]["classifier"]
    start["params"]["classifier"] = layer | {"bias": jnp.zeros_like(layer["bias"])}
    generator = np.random.default_rng(0)
    tangent = jax.tree.map(lambda a: generator.normal(size=a.shape), start)
    body = tangent | {"params": tangent["params"] | {"classifier": zeros_like(layer)}}
    lin = jax.jit(linearized(network).apply)
    errors, changes = [], []
    for size in (0.0, 0.02, 0.01):
        params = Linearized(start, jax.tree.map(lambda a, size=size: size * a, tangent), layer["kernel"])
        found = lin(params, x)  # the classifier's entries of t count for nothing
        moved = network.apply(jax.tree.map(lambda a, b, size=size: a + size * b, start, body), x)
        errors.append(float(np.abs(found - moved).max()))
        changes.append(float(np.abs(found - network.apply(start, x)).max()))
    assert errors[0] < 1e-14 and changes[0] < 1e-14 < 1e-3 < changes[2]
    assert 1e-8 < errors[2] < 0.1 * changes[2] and errors[1] / errors[2] == pytest.approx(4, rel=0.1)


def test_the_residuals_are_told_and_the_implicit_part_leaves_by_the_probe(x64):
    """Solves that stop early say so; what is clipped and what is not are the parts of one gradient."""
    teacher, meta, start, real = problem()
    loose = {"linear_solver": linear_solver("recording_cg", max_steps=2), "max_steps": 1}
    found = {}
    for name, options in {"exact": EXACT, "loose": loose, "clipped": EXACT | {"clip": True}}.items():
        solve = solved(net(), teacher, **options)
        found[name] = gradient_of(net(), solve, meta, start, real)
    (_, near), (direct_and_implicit, told) = found["exact"]
    (_, far), (_, early) = found["loose"]
    assert near["inner_gradient"] < 1e-10 and near["inner_steps"] == 1 and told.report["residual"] < 1e-10
    assert 1e-2 < far["inner_gradient"] < 1 and early.report["residual"] > 0.1
    assert early.report["solver_steps"] == 2 and far["inner_loss"] > near["inner_loss"]
    direct, probe = found["clipped"][1]
    assert all(np.abs(leaf).max() > 1e-3 for leaf in jax.tree.leaves((direct, probe.implicit)))
    total = jax.tree.map(jnp.add, direct, probe.implicit)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-7), total, direct_and_implicit)


REFUSED = {
    "no ridge": (net, {"ridge": 0.0}, "convexified: expected ridge > 0.0, got 0.0"),
    "unknown unit": (net, {"ridge_unit": "rows"}, "convexified ridge_unit: expected one of images, trace"),
    "few features": (lambda: tiny_net(width=2), {}, "convexified: expected at least 3 features"),
    "no linear classifier": (
        lambda: net()._replace(with_classifier=None),
        {},
        "convexified: expected a learner with a linear classifier",
    ),
    "batch normalisation": (
        lambda: tiny_net("convnet", width=2, depth=1, norm="batch"),
        {},
        "norm: expected another one than batch for a linearised network",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_convex_problem_is_refused(name):
    make, options, says = REFUSED[name]
    with pytest.raises(UserError) as error:
        solved(make(), images_teacher(**FREE), **options)
    assert says in message(error)
