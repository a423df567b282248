"""Conjugate gradients on the normal equations: for a Hessian that is indefinite."""

from jax.scipy.sparse.linalg import cg as scipy_cg

from jaxdistill.core.types import Metrics, Params
from jaxdistill.inner.solvers.cg import check
from jaxdistill.inner.solvers.system import LinearSolver, System


def normal_cg(*, tolerance: float = 1e-3, max_steps: int = 100) -> LinearSolver:
    """v of A^2 v = A g with A = H + damping I: the solution of A v = g for any invertible symmetric A.

    Two Hessian-vector products per iteration, and the condition number squared: where H is positive
    definite, `cg` is better.

    Args:
      tolerance: ends at |A r| <= tolerance |A g|.
      max_steps: most iterations.
    """
    check("normal_cg", tolerance, max_steps)

    def solve(system: System) -> tuple[Params, Metrics]:
        def squared(u: Params) -> Params:
            return system.matrix(system.matrix(u))

        right = system.matrix(system.right)
        v, _ = scipy_cg(squared, right, x0=system.start, tol=tolerance, maxiter=max_steps)
        return v, {}

    return LinearSolver(solve)
