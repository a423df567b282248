"""Conjugate gradients on the Gauss-Newton matrix: positive semi-definite wherever training ended."""

from jaxdistill.core.checks import fail
from jaxdistill.core.types import Metrics, Params
from jaxdistill.inner.solvers.cg import check, conjugate_gradients
from jaxdistill.inner.solvers.system import LinearSolver, Product, System


def gauss_newton_cg(*, tolerance: float = 1e-3, max_steps: int = 100) -> LinearSolver:
    """v of (G + damping I) v = g, G = J^T H_loss J + weight_decay I in place of the Hessian.

    G leaves out the curvature of the network itself. It is exact for a linear learner, and close to the
    Hessian where the inner loss is nearly zero. The reported residual belongs to this system.

    Args, Returns and Raises as for `cg`.

    References: Schraudolph 2002; Martens 2010, section 4.2.
    """
    check("gauss_newton_cg", tolerance, max_steps)

    def matrix(system: System) -> Product:
        if system.gauss_newton is None:
            raise fail("gauss_newton_cg", "an inner loss with a Gauss-Newton product", "one without")
        return system.damped(system.gauss_newton())

    def solve(system: System) -> tuple[Params, Metrics]:
        return conjugate_gradients(matrix(system), system, tolerance, max_steps), {}

    return LinearSolver(solve, matrix=matrix, starts=True, uses_gauss_newton=True)
