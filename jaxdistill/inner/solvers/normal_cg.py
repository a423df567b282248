"""Conjugate gradients on the normal equations: for a Hessian that is indefinite."""

from jaxdistill.core.types import Metrics, Params
from jaxdistill.inner.solvers.cg import check, conjugate_gradients
from jaxdistill.inner.solvers.system import LinearSolver, System


def normal_cg(*, tolerance: float = 1e-3, max_steps: int = 100) -> LinearSolver:
    """v of A^2 v = A g with A = H + damping I: the solution of A v = g for any invertible symmetric A.

    Two Hessian-vector products per iteration, and the condition number squared: where H is positive
    definite, `cg` is better.

    Args:
      tolerance: ends at |A r| <= tolerance |A g|.
      max_steps: most iterations.

    Returns:
      The solver; it reports nothing of its own.

    Raises:
      UserError: a negative tolerance, or `max_steps` < 1.
    """
    check("normal_cg", tolerance, max_steps)

    def solve(system: System) -> tuple[Params, Metrics]:
        def squared(u: Params) -> Params:
            return system.matrix(system.matrix(u))

        normal = system._replace(right=system.matrix(system.right))
        return conjugate_gradients(squared, normal, tolerance, max_steps), {}

    return LinearSolver(solve, starts=True)
