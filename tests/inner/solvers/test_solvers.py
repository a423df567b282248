"""Linear solvers on explicit matrices, against dense solves; what is reported of them and what each owes."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import conforming, message
from jax.flatten_util import ravel_pytree
from jax.scipy.sparse.linalg import cg as scipy_cg

from jaxdistill.core.checks import UserError
from jaxdistill.core.types import Batch, InnerLoss, InnerOptimizer, Meta, Teacher
from jaxdistill.inner.implicit import implicit
from jaxdistill.inner.solvers import LINEAR_SOLVERS, System, linear_solver

SIZE = 7
DAMPING = 0.3
DEFINITE = np.linspace(0.5, 4, SIZE)  # apart from each other: conjugate gradients need SIZE steps
LOW_RANK = np.array([0.5, 0.5, 0.5, 0.5, 1, 2, 4])  # the floor, 0.5, and a part of rank 3 beyond it
INDEFINITE = np.array([-2, -1, 0.4, 1, 2, 3, 4])
FLOOR = 0.5 + DAMPING
EXACT = {
    "cg": {"tolerance": 1e-12},
    "gauss_newton_cg": {"tolerance": 1e-12},
    "neumann": {"num_terms": 200},  # (1 - 0.8 / 4.3)^200 = 1e-18
    "normal_cg": {"tolerance": 1e-12},
    "nystrom": {"rank": SIZE},
    "recording_cg": {"tolerance": 1e-12},
}
x64 = pytest.mark.usefixtures("x64")


def symmetric(eigenvalues, seed=0):
    """A dense matrix of those eigenvalues, in a random basis."""
    basis, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(SIZE, SIZE)))
    return basis @ np.diag(eigenvalues) @ basis.T


def vector(seed=0):
    """Two leaves of different shape."""
    b, w = np.split(np.random.default_rng(seed).normal(size=SIZE), [3])
    return {"b": jnp.asarray(b), "w": jnp.asarray(w.reshape(2, 2))}


def flat(tree):
    return np.asarray(ravel_pytree(tree)[0])


def system_of(matrix, right, *, start=None, gauss_newton=None, damping=DAMPING, key=None):
    _, unravel = ravel_pytree(right)

    def product_of(matrix):
        return lambda u: unravel(matrix @ ravel_pytree(u)[0])

    return System(
        hessian=product_of(matrix),
        gauss_newton=None if gauss_newton is None else lambda: product_of(gauss_newton),
        damping=damping,
        floor=FLOOR,
        right=right,
        start=jax.tree.map(jnp.zeros_like, right) if start is None else start,
        key=jax.random.key(0) if key is None else key,
    )


@functools.cache
def program(name, **options):
    solver = linear_solver(name, **options)
    return jax.jit(lambda matrix, right, system: solver.solve(system_of(matrix, right, **system)))


def solve(name, options, matrix, **system):
    """(v, reports) by that solver, the right side `vector()`."""
    return program(name, **options)(matrix, vector(), system)


def exact(matrix, damping=DAMPING):
    return np.linalg.solve(matrix + damping * np.eye(SIZE), flat(vector()))


def assert_solved(v, matrix):
    # what PROTOCOLS asks of a solver; conjugate gradients to 1e-12 leave about 1e-11
    np.testing.assert_allclose(flat(v), exact(matrix), rtol=1e-6)


@x64
@pytest.mark.parametrize("eigenvalues", [DEFINITE, LOW_RANK], ids=["definite", "low rank"])
@pytest.mark.parametrize("name", sorted(EXACT))
def test_exact_solvers_equal_the_dense_solve(name, eigenvalues):
    matrix, own = symmetric(eigenvalues), symmetric(DEFINITE[::-1], seed=1)
    v, _ = solve(name, EXACT[name], matrix, gauss_newton=own)
    chex.assert_trees_all_equal_shapes_and_dtypes(v, vector())
    assert_solved(v, own if name == "gauss_newton_cg" else matrix)


@x64
def test_identity_is_a_multiple_of_the_right_side():
    v, _ = solve("identity", {"scale": 0.25}, symmetric(DEFINITE))
    np.testing.assert_array_equal(flat(v), 0.25 * flat(vector()))  # a power of two: nothing to round


@x64
def test_a_sketch_of_the_rank_beyond_the_floor_is_exact():
    matrix = symmetric(LOW_RANK)
    for seed in range(2):
        assert_solved(solve("nystrom", {"rank": 3}, matrix, key=jax.random.key(seed))[0], matrix)
    less, _ = solve("nystrom", {"rank": 2}, matrix)
    assert np.abs(flat(less) - exact(matrix)).max() > 1e-3  # or the rank would not matter


@x64
def test_an_indefinite_matrix():
    matrix = symmetric(INDEFINITE)
    assert_solved(solve("normal_cg", {"tolerance": 1e-12}, matrix)[0], matrix)
    # The directions are conjugate: by Sylvester's law of inertia as many of them have negative curvature as
    # the damped matrix has negative eigenvalues.
    for damping, expected in [(0.3, 2), (1.5, 1), (2.5, 0)]:
        _, told = solve("recording_cg", {"tolerance": 0.0, "max_steps": SIZE}, matrix, damping=damping)
        assert int(told["negative_curvature"]) == expected and int(told["solver_steps"]) == SIZE


@jax.jit
def cg_of_jax(matrix, right, start, tolerance, max_steps):
    return scipy_cg(matrix, right, start, tol=tolerance, maxiter=max_steps)[0]


@x64
@pytest.mark.parametrize(
    ("tolerance", "max_steps", "expected", "warm"),  # None: as many as the tolerance asks for
    [
        (1e-10, 100, SIZE, False),
        (1e-10, 100, SIZE, True),
        (1e-12, 3, 3, True),
        (0.0, 1, 1, False),
        (0.3, 100, None, False),
        (1e-2, 100, None, True),
        (10.0, 5, None, True),
    ],
)
def test_recording_cg_is_the_cg_of_jax_counted(tolerance, max_steps, expected, warm):
    matrix, g = symmetric(DEFINITE), flat(vector())
    damped, start = matrix + DAMPING * np.eye(SIZE), vector(seed=5) if warm else None
    first = np.zeros(SIZE) if start is None else flat(start)
    options = {"tolerance": tolerance, "max_steps": max_steps}
    v, told = solve("recording_cg", options, matrix, start=start)
    # the same operations in another order
    np.testing.assert_allclose(flat(v), cg_of_jax(damped, g, first, tolerance, max_steps), rtol=1e-9)
    assert int(told["negative_curvature"]) == 0
    steps = int(told["solver_steps"])

    def residual(steps):
        return np.linalg.norm(damped @ cg_of_jax(damped, g, first, 0.0, steps) - g) / np.linalg.norm(g)

    assert expected in (None, steps)
    assert steps == max_steps or residual(steps) <= tolerance
    assert steps == 0 or residual(steps - 1) > tolerance


@x64
@pytest.mark.parametrize("name", ["cg", "gauss_newton_cg", "neumann", "normal_cg", "recording_cg"])
def test_iterations_start_where_they_are_told(name):
    matrix = symmetric(DEFINITE)
    answer = ravel_pytree(vector())[1](jnp.asarray(exact(matrix)))
    options = {"num_terms": 1, "alpha": 0.1} if name == "neumann" else {"max_steps": 1}
    v, _ = solve(name, options, matrix, start=answer, gauss_newton=matrix)
    np.testing.assert_allclose(flat(v), flat(answer), rtol=1e-12)  # which one step from zero is far from


@x64
def test_the_neumann_series_and_its_factor():
    matrix = symmetric(DEFINITE)
    largest = DEFINITE[-1] + DAMPING
    found, told = solve("neumann", {"num_terms": 3}, matrix)
    # Power iteration comes from below; 10 steps leave (3.7 / 4.3)^20 = 5 % of the second eigenvector's part.
    assert 1 - 1e-9 < told["alpha"] * largest < 1.03
    given, told_given = solve("neumann", {"num_terms": 3, "alpha": 0.125}, matrix)
    assert float(told_given["alpha"]) == 0.125
    for v, alpha in [(found, float(told["alpha"])), (given, 0.125)]:
        shrink = np.eye(SIZE) - alpha * (matrix + DAMPING * np.eye(SIZE))
        series = sum(alpha * np.linalg.matrix_power(shrink, k) @ flat(vector()) for k in range(3))
        np.testing.assert_allclose(flat(v), series, rtol=1e-12)
    _, told = solve("neumann", {"num_terms": 1, "power_steps": 100}, matrix)
    assert float(told["alpha"]) * largest == pytest.approx(1, rel=1e-6)


# ---------------------------------------------------------------- what every solver owes, and refuses


@pytest.mark.parametrize("name", sorted(LINEAR_SOLVERS))
def test_every_solver_conforms(name):
    solver = linear_solver(name)
    matrix = jnp.asarray(symmetric(DEFINITE), jnp.float32)
    right = jax.tree.map(lambda a: a.astype(jnp.float32), vector())

    def run(matrix, right, key):
        return solver.solve(system_of(matrix, right, key=key, gauss_newton=matrix))

    v, told = conforming(run, matrix, right, jax.random.key(0))  # pure, jit equals eager, vmap equals loop
    chex.assert_trees_all_equal_shapes_and_dtypes(v, jax.device_get(right))
    chex.assert_tree_all_finite((v, told))
    assert set(told) == set(solver.reports)
    assert all(value.shape == () for value in told.values())


OUT_OF_RANGE = {
    **{(name, "tolerance", -1e-3): "tolerance >= 0.0" for name in LINEAR_SOLVERS if name.endswith("cg")},
    **{(name, "max_steps", 0): "max_steps >= 1" for name in LINEAR_SOLVERS if name.endswith("cg")},
    ("cg", "tolerance", np.nan): "tolerance >= 0.0",
    ("neumann", "num_terms", 0): "num_terms >= 1",
    ("neumann", "power_steps", 0): "power_steps >= 1",
    ("neumann", "alpha", 0.0): "alpha > 0.0",
    ("identity", "scale", 0): "scale > 0.0",
    ("nystrom", "rank", 0): "rank >= 1",
}


@pytest.mark.parametrize(("name", "option", "value"), OUT_OF_RANGE)
def test_options_out_of_range_are_refused(name, option, value):
    with pytest.raises(UserError) as error:
        linear_solver(name, **{option: value})
    assert message(error) == f"{name}: expected {OUT_OF_RANGE[name, option, value]}, got {value}."


def test_unknown_names_list_the_known():
    with pytest.raises(UserError) as error:
        linear_solver("conjugate")
    assert f"one of {', '.join(sorted(LINEAR_SOLVERS))}, got 'conjugate'" in message(error)
    with pytest.raises(UserError) as error:
        linear_solver("cg", max_iterations=3)
    assert "linear_solver cg: expected an option, got 'max_iter" in message(error)
    with pytest.raises(UserError) as error:
        linear_solver("gauss_newton_cg").solve(system_of(np.eye(SIZE), vector()))
    assert "an inner loss with a Gauss-Newton product" in message(error)


# ---------------------------------------------------------------- what `implicit` reports of them

VECTOR = Teacher(init=jnp.zeros, batches=lambda phi, key: Batch(phi[None], jnp.zeros((1, 1))), by_class=None)
STILL = InnerOptimizer(init=dict, values=dict, build=lambda values: optax.set_to_zero())
BOWL, OTHER = np.diag([1.0, 2.0, 4.0]) + 0.5, np.diag([3.0, 1.0, 2.0]) - 0.5
SADDLE = np.diag([1.0, -1.0])
G = np.array([1.0, 0.9, -0.5])


@functools.cache
def bowl_program(name, damping, options):
    """Jitted gradient of g^T w*, w* = 0 stationary for w^T matrix w / 2 - w^T phi with phi = 0."""
    loss = InnerLoss(
        lambda meta, params, batch: 0.5 * params @ meta.inner["matrix"] @ params - params @ batch.x,
        lambda meta, params, batch: lambda u: OTHER @ u,
    )
    solver = linear_solver(name, **dict(options))
    solve = implicit(VECTOR, loss, STILL, linear_solver=solver, damping=damping)

    def total(phi, probe, matrix, g):
        return g @ solve(Meta(phi, {"matrix": matrix}), jnp.zeros_like(g), probe, jax.random.key(0))[0]

    return solve, jax.jit(jax.grad(total, (0, 1)))


def bowl(matrix, name, options, *, g=G, probe=True, solution=None, damping=0.5):
    """(hypergradient, what the probe was told); the mixed derivative is -1, so the former is v itself."""
    solve, gradient = bowl_program(name, damping, tuple(options.items()))
    g = jnp.asarray(g)
    zero = solve.probe(g) if probe else None
    if solution is not None:
        zero = zero._replace(solution=jnp.asarray(solution))
    return gradient(jnp.zeros_like(g), zero, matrix, g)


@x64
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cg", {"max_steps": 2}),
        ("gauss_newton_cg", {"max_steps": 2}),
        ("identity", {}),
        ("neumann", {"num_terms": 2}),
    ],
)
def test_the_probe_is_told_what_dense_matrices_say(name, options):
    gradient, told = bowl(BOWL, name, options)
    v = np.asarray(told.solution)
    np.testing.assert_array_equal(gradient, v)
    own = OTHER if name == "gauss_newton_cg" else BOWL
    residual = np.linalg.norm(own @ v + 0.5 * v - G) / np.linalg.norm(G)
    expected = {
        "residual": residual,
        "curvature_v": v @ BOWL @ v / (v @ v),  # of the Hessian, without damping
        "curvature_g": G @ BOWL @ G / (G @ G),
        "cosine": v @ G / np.sqrt((v @ v) * (G @ G)),
        "failed_solves": 0,  # the identity's residual is 1.8, but it solves nothing
    }
    assert residual > 0.01 and (residual > 1) == (name == "identity")
    assert {key: float(told.report[key]) for key in expected} == pytest.approx(expected, rel=1e-12)
    assert set(told.report) == set(expected) | set(linear_solver(name).reports)


@x64
def test_without_a_probe_the_hypergradient_is_the_same():
    v, told = bowl(BOWL, "cg", {"tolerance": 1e-12}, probe=False)
    np.testing.assert_allclose(v, np.linalg.solve(BOWL + 0.5 * np.eye(3), G), rtol=1e-10)
    assert told is None


@x64
@pytest.mark.parametrize(
    ("matrix", "g", "failed"),
    [
        (np.full((2, 2), np.nan), [1.0, 0.9], 1),  # JAX's cg returns zeros
        (SADDLE, [1.0, 0.9], 1),  # g^T H g is small, so one iteration goes far
        (SADDLE, [1.0, 1.0], 1),  # g^T H g = 0: infinitely far
        (np.eye(2), [1.0, 0.9], 0),
        (np.eye(2), [0.0, 0.0], 0),
    ],
)
def test_failed_solves_are_told(matrix, g, failed):
    _, told = bowl(matrix, "cg", {"max_steps": 1}, g=g, damping=0.0)
    assert told.report["failed_solves"] == failed == (not told.report["residual"] <= 1)
    if np.isnan(matrix).any():
        np.testing.assert_array_equal(told.solution, 0)


@x64
def test_a_solve_that_starts_at_the_solution_needs_no_steps():
    exact = np.linalg.solve(BOWL + 0.5 * np.eye(3), G)
    for solution, expected in [(exact, 0), (None, 3)]:
        v, told = bowl(BOWL, "recording_cg", {"tolerance": 1e-8}, solution=solution)
        assert told.report["solver_steps"] == expected
        np.testing.assert_allclose(v, exact, rtol=1e-7)


@x64
@pytest.mark.parametrize("name", sorted(LINEAR_SOLVERS))
def test_float32_parameters_stay_float32_beside_float64(name):
    def solution(matrix, g, key):
        def product(u):
            return matrix @ u

        system = System(product, lambda: product, 0.5, 0.5, g, jnp.zeros_like(g), key)
        return linear_solver(name).solve(system)[0]

    v = jax.eval_shape(solution, BOWL.astype(np.float32), G.astype(np.float32), jax.random.key(0))
    assert v.dtype == jnp.float32
