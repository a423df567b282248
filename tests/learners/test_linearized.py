"""Linearised networks: exact in the tangent, first order of the network, and a convex inner problem."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import CLASSES, SHAPE, fixed_sgd, images_teacher, message, tiny_batch, tiny_net, to_float64
from jax.flatten_util import ravel_pytree

from jaxdistill.core.checks import UserError
from jaxdistill.core.linalg import squared_norm
from jaxdistill.core.types import Batch, InnerLoss, Meta
from jaxdistill.inner.implicit import implicit
from jaxdistill.inner.losses import inner_loss
from jaxdistill.inner.solvers import linear_solver
from jaxdistill.inner.unrolled import unrolled
from jaxdistill.learners import learner
from jaxdistill.learners.linearized import linearized

KEY = jax.random.key(0)
L2 = 0.1
NETS = {
    "mlp": {},
    "linear": {},
    "convnet": {"width": 2, "depth": 1, "norm": "none", "activation": "tanh"},
    "convnet instance": {"width": 2, "depth": 1, "norm": "instance", "activation": "tanh"},
}
pytestmark = pytest.mark.usefixtures("x64")


def flat(tree):
    return np.asarray(ravel_pytree(tree)[0])


@functools.cache
def pair(name):
    """(network, its linearisation, start and tangent of that)."""
    net = tiny_net(name.split()[0], **NETS[name])
    lin = linearized(net)
    params = to_float64(lin.init(KEY))
    generator = np.random.default_rng(0)
    tangent = jax.tree.map(lambda a: 0.3 * generator.normal(size=a.shape), params.start)
    return net, lin, params._replace(tangent=tangent)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("function", ["apply", "embed"])
def test_it_is_linear_in_the_tangent_and_the_network_in_first_order(name, function):
    net, lin, params = pair(name)
    x = tiny_batch(5).x
    ours, its = (jax.jit(getattr(each, function)) for each in (lin, net))

    def at(size):
        scaled = jax.tree.map(lambda a: size * a, params.tangent)
        moved = jax.tree.map(jnp.add, params.start, scaled)
        return np.asarray(ours(params._replace(tangent=scaled), x)), np.asarray(its(moved, x))

    zero, first = at(0.0)
    np.testing.assert_array_equal(zero, first)
    change = at(1.0)[0] - zero
    for size in (-2.0, 1e-3, 50.0):
        np.testing.assert_allclose(at(size)[0], zero + size * change, rtol=1e-9, atol=1e-9)
    errors = [np.abs(np.subtract(*at(size))).max() for size in (0.02, 0.01)]
    exact = name == "linear" or (name, function) == ("linear", "embed")
    if exact:
        assert max(errors) < 1e-14
    else:  # the second order remains: a quarter of it at half the step
        assert errors[0] > 1e-8 and errors[0] / errors[1] == pytest.approx(4, rel=0.1)
    if function == "apply":
        assert np.abs(change).max() > 1e-2


def squared_error(net):
    """The squared error of a linearised network with an L2 term on its tangent: a ridge regression."""

    def value(meta, params, batch):
        error = net.apply(params, batch.x) - batch.y
        return 0.5 * jnp.sum(error**2) / len(error) + 0.5 * L2 * squared_norm(net.split(params)[0])

    return InnerLoss(value, None, L2, net.split)


def hypergradient(solve, net, real):
    """Jitted (meta, start) -> ((outer loss, SolveInfo), (its gradient, what the probe is told))."""

    @jax.jit
    def run(meta, start):
        def loss(meta, probe):
            trained, info = solve(meta, start, probe, KEY)
            return jnp.mean((net.apply(trained, real.x) - real.y) ** 2), info

        return jax.value_and_grad(loss, (0, 1), has_aux=True)(meta, solve.probe(start))

    return run


@functools.cache
def in_closed_form():
    """(meta, start, loss, gradient) of the ridge regression by a dense Jacobian."""
    net, _, params = pair("mlp")
    teacher, real = images_teacher(), tiny_batch(9)
    meta, (theta, unravel) = Meta(to_float64(teacher.init(KEY)), {}), ravel_pytree(params.start)

    def features(x):
        def outputs(vector):
            return net.apply(unravel(vector), x).reshape(-1)

        return outputs(theta), jax.jacrev(outputs)(theta)

    def loss(meta):
        batch = Batch(*(a[0] for a in teacher.batches(meta.teacher, KEY)))
        first, jacobian = features(batch.x)
        matrix = jacobian.T @ jacobian / len(batch.y) + L2 * jnp.eye(theta.size)
        tangent = jnp.linalg.solve(matrix, jacobian.T @ (batch.y.reshape(-1) - first) / len(batch.y))
        outputs, slopes = features(real.x)
        return jnp.mean((outputs + slopes @ tangent - real.y.reshape(-1)) ** 2)

    return (
        meta,
        params._replace(tangent=jax.tree.map(jnp.zeros_like, params.tangent)),
        *jax.jit(jax.value_and_grad(loss))(meta),
    )


@pytest.mark.parametrize("way", ["cg", "nystrom", "unrolled"])
def test_the_hypergradient_of_the_convex_problem(way):
    """By cg, by a Nystrom sketch of full rank, and by backpropagation through training to the end."""
    _, net, _ = pair("mlp")
    meta, start, loss, gradient = in_closed_form()
    outer = {"net": net, "real": tiny_batch(9)}
    if way == "unrolled":
        teacher = images_teacher(distill_epochs=1000)
        solve = unrolled(teacher, squared_error(net), fixed_sgd(0.5, momentum=0.75))
    else:
        options = {"cg": {"tolerance": 1e-12, "max_steps": 500}, "nystrom": {"rank": 6 * CLASSES}}[way]
        solve = implicit(
            images_teacher(),
            squared_error(net),
            fixed_sgd(0.5, momentum=0.75),
            linear_solver=linear_solver(way, **options),
            tolerance=1e-12,
            max_steps=None,
        )
    (value, info), (found, told) = hypergradient(solve, **outer)(meta, start)
    assert float(value) == pytest.approx(float(loss), rel=1e-9)
    assert np.abs(flat(gradient)).max() > 1e-3
    np.testing.assert_allclose(flat(found), flat(gradient), rtol=0, atol=1e-8 * np.abs(flat(gradient)).max())
    if told is not None:
        assert told.report["residual"] < 1e-8 and told.report["curvature_v"] > L2
        assert told.report["failed_solves"] == 0 and info.report["inner_gradient"] <= 1e-12
        assert jax.tree.structure(told.solution) == jax.tree.structure(start.tangent)


def test_training_leaves_the_start_and_shrinks_the_tangent_alone():
    _, net, params = pair("mlp")
    batch = tiny_batch(4)
    gradient = jax.jit(jax.grad(lambda p: inner_loss(net, weight_decay=L2)(Meta((), {}), p, batch)))(params)
    plain = jax.jit(jax.grad(lambda p: inner_loss(net)(Meta((), {}), p, batch)))(params)
    assert not flat(gradient.start).any()
    np.testing.assert_allclose(
        flat(gradient.tangent), flat(plain.tangent) + L2 * flat(params.tangent), rtol=1e-9, atol=1e-12
    )


def test_statistics_of_batches_are_refused():
    net = linearized(
        learner("convnet", image_shape=SHAPE, num_classes=CLASSES, width=2, depth=1, norm="batch")
    )
    with pytest.raises(UserError) as error:
        net.calibrate(jax.eval_shape(net.init, KEY), jnp.zeros((2, *SHAPE)))
    assert "norm: expected another one than batch for a linearised network" in message(error)
