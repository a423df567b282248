"""The Neumann series: a fixed number of Hessian-vector products, no inner products."""

import jax
import jax.numpy as jnp
from jax import lax

from jaxdistill.core.checks import above, at_least
from jaxdistill.core.linalg import add_scaled, norm, normal_like, ratio, scaled
from jaxdistill.core.types import Array, Metrics, Params
from jaxdistill.inner.solvers.system import LinearSolver, Product, System


def neumann(*, num_terms: int = 20, alpha: float | None = None, power_steps: int = 10) -> LinearSolver:
    """v = alpha sum_{k < num_terms} (I - alpha A)^k g, A = H + damping I.

    Equal to `num_terms` steps of unrolled gradient descent of step size alpha, started where training ended.
    It converges for 0 < alpha < 2 / lambda_max(A) and A positive definite; where alpha * num_terms is far
    below 1 / lambda_max it is nearly alpha * num_terms * g, the identity. A warm start iterates from there.

    Args:
      num_terms: terms of the series, >= 1; one Hessian-vector product each.
      alpha: the factor, > 0; 1 / lambda_max when None, estimated by power iteration.
      power_steps: of that estimate, one Hessian-vector product each.

    Returns:
      The solver; it reports `alpha`.

    Raises:
      UserError: numbers of terms or steps below 1, an alpha that is not positive.

    References: Lorraine, Vicol & Duvenaud 2020, algorithm 3; Medvedev & D'yakonov 2022, whose sum has one
    more term and lacks the factor alpha.
    """
    at_least("neumann", "num_terms", num_terms, 1)
    at_least("neumann", "power_steps", power_steps, 1)
    if alpha is not None:
        above("neumann", "alpha", alpha, 0.0)

    def solve(system: System) -> tuple[Params, Metrics]:
        if alpha is None:
            largest = largest_eigenvalue(system.matrix, system, power_steps)
            factor = ratio(jnp.ones_like(largest), largest)
        else:
            factor = jnp.asarray(alpha, jnp.result_type(*jax.tree.leaves(system.right)))

        def step(_: Array, v: Params) -> Params:
            residual = add_scaled(system.right, -1.0, system.matrix(v))
            return add_scaled(v, factor, residual)

        return lax.fori_loop(0, num_terms, step, system.start), {"alpha": factor}

    return LinearSolver(solve, reports=("alpha",), starts=True)


def largest_eigenvalue(product: Product, system: System, num_steps: int) -> Array:
    """The largest |eigenvalue| of a symmetric matrix, from below, by power iteration: scalar."""

    def step(_: Array, u: Params) -> Params:
        u = product(u)
        size = norm(u)
        return scaled(ratio(jnp.ones_like(size), size), u)

    u = normal_like(system.key, system.right)
    u = lax.fori_loop(0, num_steps - 1, step, scaled(1 / norm(u), u))
    return norm(product(u))
