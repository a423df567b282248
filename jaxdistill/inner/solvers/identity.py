"""No curvature at all: the baseline that tells whether solving for it helps."""

from jaxdistill.core.checks import above
from jaxdistill.core.linalg import scaled
from jaxdistill.core.types import Metrics, Params
from jaxdistill.inner.solvers.system import LinearSolver, System


def identity(*, scale: float = 1.0) -> LinearSolver:
    """v = scale * g: the inverse Hessian taken for a multiple of the identity.

    Args:
      scale: > 0; an outer Adam does not feel it.

    Returns:
      The solver; its residual is reported and not judged.

    Raises:
      UserError: a scale that is not positive.

    References: Luketina et al. 2016 (T1-T2).
    """
    above("identity", "scale", scale, 0.0)

    def solve(system: System) -> tuple[Params, Metrics]:
        return scaled(scale, system.right), {}

    return LinearSolver(solve, judged=False)
