"""Implicit gradients: a ladder from closed forms to dense solves; inner training."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import (
    CLASSES,
    fixed_sgd,
    images_teacher,
    tiny_batch,
    tiny_net,
    to_float64,
)
from jax.flatten_util import ravel_pytree
from scipy.linalg import hadamard

from jaxdistill.core.linalg import squared_norm
from jaxdistill.core.types import Batch, InnerLoss, InnerOptimizer, Meta, Teacher
from jaxdistill.inner.implicit import implicit
from jaxdistill.inner.losses import cross_entropy, gauss_newton_product, inner_loss
from jaxdistill.inner.solvers import LINEAR_SOLVERS, LinearSolver, linear_solver
from jaxdistill.inner.unrolled import unrolled

pytestmark = pytest.mark.usefixtures("x64")
KEY = jax.random.key(1)
WEIGHT_DECAY = 0.05
TIGHT = {"tolerance": 1e-12, "max_steps": 1000}
STILL = InnerOptimizer(init=dict, values=dict, build=lambda values: optax.set_to_zero())


def beside_log_l2(optimizer):
    """The same, with a learned L2 coefficient that the inner loss reads."""
    return optimizer._replace(init=lambda: {"log_l2": jnp.log(jnp.asarray([WEIGHT_DECAY]))})


def l2(meta, params):
    return 0.5 * jnp.exp(meta.inner["log_l2"][0]) * squared_norm(params)


def validation_loss(net):
    real = tiny_batch(9)
    return lambda params: cross_entropy(net.apply(params, real.x), real.y)


def flat(tree):
    return np.asarray(ravel_pytree(tree)[0])


def differentiate(solve, outer):
    """Jitted (meta, start, probe) -> (loss, info, its gradient by meta, what the probe was told)."""

    @jax.jit
    def run(meta, start, probe):
        def total(meta, probe):
            end, info = solve(meta, start, probe, KEY)
            return outer(end), (end, info)

        (value, (end, info)), (gradient, told) = jax.value_and_grad(total, (0, 1), has_aux=True)(meta, probe)
        return value, (end, info), gradient, told

    return run


def assert_close(a, b, rtol):
    """Relative to the largest entry, since single ones may vanish."""
    a, b = flat(a), flat(b)
    assert np.abs(b).max() > 1e-4  # or the comparison would say nothing
    np.testing.assert_allclose(a, b, rtol=0, atol=rtol * np.abs(b).max())


# ---------------------------------------------------------------- rung 1: ridge regression, in closed form

EXACT = {
    "cg": TIGHT,
    "gauss_newton_cg": TIGHT,
    "identity": {"scale": 1 / (1 + WEIGHT_DECAY)},  # given orthogonal inputs
    "neumann": {"num_terms": 600},
    "normal_cg": TIGHT,
    "nystrom": {"rank": 6},  # of 8, given two equal inputs: exact if the floor is
    "recording_cg": TIGHT,
}


def squared_error(meta, params, batch):
    error = batch.x @ params["w"] + params["b"][None] - batch.y
    return 0.5 * jnp.sum(error**2) / error.shape[0] + l2(meta, params)


def squared_error_product(meta, params, batch):
    del params  # the model is linear: H u is the gradient at u of the loss with targets 0
    return jax.grad(lambda u: squared_error(meta, u, batch._replace(y=jnp.zeros_like(batch.y))))


@functools.cache
def ridge(name, num_batches):
    """(run, meta, start, outer loss of meta in closed form): 8 inputs in 3 dimensions, 2 outputs."""
    x, real = np.random.default_rng(0).normal(size=(2, 8, 3))
    y, real_y = np.random.default_rng(1).normal(size=(2, 8, 2))
    x = {"identity": hadamard(8)[:, 1:4] + 0.0, "nystrom": x[:, [0, 1, 1]]}.get(name, x)
    phi = Batch(*(jnp.reshape(a, (num_batches, -1, a.shape[-1])) for a in (x, y)))
    teacher = Teacher(init=lambda key: phi, batches=lambda phi, key: phi, by_class=None)
    optimizer = beside_log_l2(fixed_sgd())
    loss = InnerLoss(squared_error, squared_error_product, WEIGHT_DECAY)
    solver = linear_solver(name, **EXACT[name])
    solve = implicit(teacher, loss, optimizer, linear_solver=solver, tolerance=1e-12, max_steps=None)

    def outer(params):
        return jnp.mean((real @ params["w"] + params["b"][None] - real_y) ** 2)

    def closed(meta):
        x, y = (a.reshape(8, -1) for a in meta.teacher)
        x = jnp.concatenate([x, jnp.ones((8, 1))], axis=1)
        matrix = x.T @ x / 8 + jnp.exp(meta.inner["log_l2"][0]) * jnp.eye(4)
        solution = jnp.linalg.solve(matrix, x.T @ y / 8)
        return outer({"w": solution[:3], "b": solution[3]})

    start = {"w": jnp.ones((3, 2)), "b": jnp.ones(2)}
    return differentiate(solve, outer), Meta(phi, optimizer.init()), start, closed


@pytest.mark.parametrize(
    ("name", "num_batches"),
    [*((name, 1) for name in sorted(LINEAR_SOLVERS)), ("cg", 2), ("gauss_newton_cg", 2)],
)
def test_ridge_regression_equals_autodiff_through_the_closed_form(name, num_batches):
    run, meta, start, closed = ridge(name, num_batches)
    value, _, gradient, _ = run(meta, start, None)
    loss, expected = jax.jit(jax.value_and_grad(closed))(meta)
    assert value == pytest.approx(float(loss), rel=1e-9)  # training to 1e-12, over lambda_min = 0.1
    for part, right in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected), strict=True):
        assert_close(part, right, rtol=1e-6)


def test_learners_under_vmap_equal_a_loop():
    run, meta, start, _ = ridge("recording_cg", 1)
    first = jax.device_get((start, meta))
    rows = [first, jax.tree.map(lambda a: 0.5 * a, first)]
    every = jax.jit(jax.vmap(lambda start, meta: run(meta, start, None)))(
        *jax.tree.map(lambda *a: np.stack(a), *rows)
    )
    for k, (start, meta) in enumerate(rows):
        # the same numbers of steps; rounding in them is shrunk by the steps after
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12),
            jax.tree.map(lambda a, k=k: a[k], every),
            run(meta, start, None),
        )
    steps = every[1][1].report["inner_steps"]
    assert steps[0] != steps[1]  # or none of them would have had to wait


# ---------------------------------------------------------------- rung 2: finite differences, retraining


def test_hypergradient_equals_central_differences_of_retraining():
    net, teacher, optimizer = tiny_net(), images_teacher(), beside_log_l2(fixed_sgd(momentum=0.9))
    data = inner_loss(net)
    loss = InnerLoss(lambda meta, params, batch: data(meta, params, batch) + l2(meta, params))
    cg = linear_solver("cg", tolerance=1e-12, max_steps=500)
    solve = implicit(teacher, loss, optimizer, linear_solver=cg, tolerance=1e-12, max_steps=None)
    run = differentiate(solve, validation_loss(net))
    meta, start = to_float64((Meta(teacher.init(KEY), optimizer.init()), net.init(KEY)))
    _, (_, info), gradient, _ = run(meta, start, None)
    assert info.report["inner_gradient"] <= 1e-12
    leaves, structure = jax.tree.flatten(jax.device_get(meta))
    for i, path in enumerate(path for path, _ in jax.tree.leaves_with_path(meta)):  # each part by itself
        direction = np.random.default_rng(i).normal(size=leaves[i].shape)

        def value(size, i=i, direction=direction):
            moved = [leaf + size * direction if j == i else leaf for j, leaf in enumerate(leaves)]
            return float(run(structure.unflatten(moved), start, None)[0])

        slope = np.vdot(jax.tree.leaves(gradient)[i], direction)
        eps = 1e-4  # truncation eps^2 = 1e-8; training to 1e-12, over lambda_min = 0.05 and eps: 1e-7
        assert abs(slope) > 1e-3, path  # or the comparison would say nothing
        assert slope == pytest.approx((value(eps) - value(-eps)) / (2 * eps), rel=1e-5), path


# ---------------------------------------------------------------- rung 3: unrolled training tends to it


def test_unrolled_logistic_regression_tends_to_the_implicit_gradient():
    net, teacher, rate = tiny_net("linear"), images_teacher(), 0.5
    loss, outer = inner_loss(net, weight_decay=WEIGHT_DECAY), validation_loss(net)
    phi, start = to_float64((teacher.init(KEY), net.init(KEY)))
    cg = linear_solver("cg", tolerance=1e-14, max_steps=200)
    exact = implicit(teacher, loss, fixed_sgd(rate), linear_solver=cg, tolerance=1e-14, max_steps=5000)
    gradient = differentiate(exact, outer)(Meta(phi, {}), start, None)[2]
    given = InnerOptimizer(
        init=dict, values=lambda raw: raw, build=lambda values: optax.scale(-values["rate"])
    )
    run = differentiate(unrolled(images_teacher(distill_epochs=1000), loss, given), outer)
    errors = []
    for steps in (10, 100, 1000):  # steps of size 0 do nothing, so one program does all
        rates = jnp.where(jnp.arange(1000) < steps, rate, 0.0)
        other = run(Meta(phi, {"rate": rates}), start, None)[2]
        errors.append(np.linalg.norm(flat(other.teacher) - flat(gradient)) / np.linalg.norm(flat(gradient)))
    # of the smallest eigenvalue: the data part is convex, and flat along a shift of all logits
    contraction = -np.log(1 - rate * WEIGHT_DECAY)
    decay = np.log([errors[0] / errors[1], errors[1] / errors[2]]) / [90, 900]
    assert 0.1 < errors[0] < 1 and errors[2] < 1e-10
    assert (contraction / 2 < decay).all() and (decay < contraction * 2).all(), (decay, contraction)


# ---------------------------------------------------------------- rungs 4 and 5: at a minimum of a tanh MLP


@functools.cache
def place():
    """(net, loss, meta, batch, dense Hessian as a function of params, w* with |grad F| < 1e-12)."""
    net, teacher = tiny_net(), images_teacher()
    loss = inner_loss(net, weight_decay=WEIGHT_DECAY)
    meta, end = to_float64((Meta(teacher.init(KEY), {}), net.init(KEY)))
    batch = jax.tree.map(lambda a: a[0], teacher.batches(meta.teacher, KEY))
    vector, unravel = ravel_pytree(end)

    def value(vector):
        return loss(meta, unravel(vector), batch)

    hessian, gradient = jax.jit(jax.hessian(value)), jax.jit(jax.grad(value))
    velocity, vector = 0.0, np.asarray(vector)
    for _ in range(300):  # near enough for Newton's method
        velocity = 0.9 * velocity - 0.5 * np.asarray(gradient(vector))
        vector = vector + velocity
    for _ in range(3):
        vector = vector - np.linalg.solve(hessian(vector), gradient(vector))
    assert np.linalg.norm(gradient(vector)) < 1e-12
    return net, loss, meta, batch, lambda params: np.asarray(hessian(flat(params))), unravel(vector)


def test_neumann_terms_equal_unrolled_steps_from_the_minimum():
    net, loss, meta, _, _, minimum = place()
    terms, alpha = 20, 0.25  # exact in the float32 that a step size is kept in
    neumann = linear_solver("neumann", num_terms=terms, alpha=alpha)
    series = implicit(images_teacher(), loss, STILL, linear_solver=neumann)
    steps = unrolled(images_teacher(distill_epochs=terms), loss, fixed_sgd(alpha))
    outer = validation_loss(net)
    a, b = (differentiate(solve, outer)(meta, minimum, None)[2] for solve in (series, steps))
    assert_close(a, b, rtol=1e-10)


def gauss_newton_matrix(net, params, x, weight_decay):
    """J^T (diag(p) - p p^T) J / B + weight_decay I, J by backward passes: convolutions have no other."""
    vector, unravel = ravel_pytree(params)
    logits = jax.jit(lambda v: net.apply(unravel(v), x))
    p, jacobian = np.asarray(jax.nn.softmax(logits(vector))), jax.jit(jax.jacrev(logits))(vector)
    curvature = np.eye(CLASSES) * p[:, :, None] - p[:, :, None] * p[:, None, :]
    data = np.einsum("bcn,bcd,bdm->nm", jacobian, curvature, jacobian) / len(p)
    return data + weight_decay * np.eye(vector.size)


DAMPING = 0.1
EXACT_THERE = {
    "cg": TIGHT,
    "gauss_newton_cg": TIGHT,
    "neumann": {"num_terms": 1000},
    "normal_cg": TIGHT,
    "recording_cg": TIGHT,
}


@functools.cache
def solve_there():
    """params -> every solver's flat v, and negative curvature, by one backward pass: compiling costs."""
    net, loss, meta, _, _, minimum = place()
    solvers = {name: linear_solver(name, **options) for name, options in EXACT_THERE.items()}

    def solve_all(system):
        solved = {name: solver.solve(system) for name, solver in solvers.items()}
        told = {name: ravel_pytree(v)[0] for name, (v, _) in solved.items()}
        return solved["cg"][0], told | solved["recording_cg"][1]

    solver = LinearSolver(solve_all, reports=("negative_curvature",))
    solve = implicit(images_teacher(), loss, STILL, linear_solver=solver, damping=DAMPING, max_steps=1)
    run, zero = differentiate(solve, validation_loss(net)), solve.probe(minimum)
    zero.report.update(dict.fromkeys(solvers, jnp.zeros_like(ravel_pytree(minimum)[0])))
    return lambda params: run(meta, params, zero)[3].report


@pytest.mark.parametrize("name", sorted(EXACT_THERE))
def test_solutions_equal_the_dense_solve(name):
    net, _, _, batch, hessian, minimum = place()
    g = flat(jax.jit(jax.grad(validation_loss(net)))(minimum))
    matrix = hessian(minimum)
    if name == "gauss_newton_cg":
        matrix = gauss_newton_matrix(net, minimum, batch.x, WEIGHT_DECAY)
        assert np.abs(matrix - hessian(minimum)).max() > 1e-3  # or it would not matter which
    assert_close(
        solve_there()(minimum)[name], np.linalg.solve(matrix + DAMPING * np.eye(g.size), g), rtol=1e-6
    )


def test_an_indefinite_hessian_is_flagged():
    *_, hessian, minimum = place()
    away = jax.tree.map(lambda a: -0.5 * a, minimum)
    for params, indefinite in [(away, True), (minimum, False)]:
        assert (np.linalg.eigvalsh(hessian(params))[0] + DAMPING < -0.1) == indefinite
        assert (solve_there()(params)["negative_curvature"] > 0) == indefinite


def test_gauss_newton_product_of_a_convolution():
    net, batch = tiny_net("convnet", width=8, depth=1), tiny_batch(2)
    params = to_float64(net.init(KEY))
    u = np.random.default_rng(0).normal(size=flat(params).shape)

    @jax.jit
    def product(u):
        return gauss_newton_product(net, params, batch, weight_decay=0.1)(ravel_pytree(params)[1](u))

    assert_close(product(u), gauss_newton_matrix(net, params, batch.x, 0.1) @ u, rtol=1e-10)
