"""Conjugate gradients, by JAX: the solver for a positive definite Hessian."""

from jax.scipy.sparse.linalg import cg as scipy_cg

from jaxdistill.core.checks import at_least
from jaxdistill.core.types import Metrics, Params
from jaxdistill.inner.solvers.system import LinearSolver, Product, System


def cg(*, tolerance: float = 1e-3, max_steps: int = 100) -> LinearSolver:
    """v of (H + damping I) v = g by `jax.scipy.sparse.linalg.cg`.

    Diverges silently where the matrix is indefinite, and says nothing of its iterations: the residual that
    `implicit` reports tells the former, `recording_cg` the latter.

    Args:
      tolerance: ends at |r| <= tolerance |g|; float32 does not get below about 2e-5.
      max_steps: most iterations, one Hessian-vector product each.

    Returns:
      The solver; it reports nothing of its own.

    Raises:
      UserError: a negative tolerance, or `max_steps` < 1.

    References: Hestenes & Stiefel 1952; Pedregosa 2016 and Rajeswaran et al. 2019 (hypergradients).
    """
    check("cg", tolerance, max_steps)

    def solve(system: System) -> tuple[Params, Metrics]:
        return conjugate_gradients(system.matrix, system, tolerance, max_steps), {}

    return LinearSolver(solve, starts=True)


def check(where: str, tolerance: float, max_steps: int) -> None:
    """Raises unless the tolerance and the number of iterations are in range."""
    at_least(where, "tolerance", tolerance, 0.0)
    at_least(where, "max_steps", max_steps, 1)


def conjugate_gradients(product: Product, system: System, tolerance: float, max_steps: int) -> Params:
    """v of product(v) = g, from the system's start."""
    v, _ = scipy_cg(product, system.right, x0=system.start, tol=tolerance, maxiter=max_steps)
    return v
