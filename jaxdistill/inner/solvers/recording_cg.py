"""Conjugate gradients that say how they went: the same iteration as JAX's, counted and watched."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from jaxdistill.core.linalg import add_scaled, dot, squared_norm
from jaxdistill.core.types import Array, Metrics, Params
from jaxdistill.inner.solvers.cg import check
from jaxdistill.inner.solvers.system import LinearSolver, System


class _Carry(NamedTuple):
    v: Params
    residual: Params
    direction: Params
    squared: Array
    steps: Array
    negative: Array


def recording_cg(*, tolerance: float = 1e-3, max_steps: int = 100) -> LinearSolver:
    """`cg`, which also reports `solver_steps` and `negative_curvature`.

    `negative_curvature` counts iterations whose direction p has p^T (H + damping I) p <= 0: where there is
    one, the matrix is not positive definite, and conjugate gradients have no guarantee.

    Args, Returns (the solution is equal) and Raises as for `cg`.
    """
    check("recording_cg", tolerance, max_steps)

    def solve(system: System) -> tuple[Params, Metrics]:
        enough = tolerance**2 * squared_norm(system.right)
        residual = add_scaled(system.right, -1.0, system.matrix(system.start))
        zero = jnp.zeros((), jnp.int32)

        def going(carry: _Carry) -> Array:
            return (carry.squared > enough) & (carry.steps < max_steps)

        def step(carry: _Carry) -> _Carry:
            product = system.matrix(carry.direction)
            curvature = dot(carry.direction, product)
            size = carry.squared / curvature
            residual = add_scaled(carry.residual, -size, product)
            squared = squared_norm(residual)
            return _Carry(
                v=add_scaled(carry.v, size, carry.direction),
                residual=residual,
                direction=add_scaled(residual, squared / carry.squared, carry.direction),
                squared=squared,
                steps=carry.steps + 1,
                negative=carry.negative + (curvature <= 0),
            )

        start = _Carry(system.start, residual, residual, squared_norm(residual), zero, zero)
        end = lax.while_loop(going, step, start)
        return end.v, {"solver_steps": end.steps, "negative_curvature": end.negative}

    return LinearSolver(solve, reports=("solver_steps", "negative_curvature"), starts=True)
