"""Solvers of the linear system behind an implicit gradient, by name.

A new one is one new file with a factory `(*, options) -> LinearSolver` and one line in `LINEAR_SOLVERS`.
"""

from collections.abc import Callable
from typing import Any

from jaxdistill.core import registry
from jaxdistill.core.registry import Registry
from jaxdistill.inner.solvers.cg import cg
from jaxdistill.inner.solvers.gauss_newton_cg import gauss_newton_cg
from jaxdistill.inner.solvers.identity import identity
from jaxdistill.inner.solvers.neumann import neumann
from jaxdistill.inner.solvers.normal_cg import normal_cg
from jaxdistill.inner.solvers.nystrom import nystrom
from jaxdistill.inner.solvers.recording_cg import recording_cg
from jaxdistill.inner.solvers.system import LinearSolver, System

__all__ = ["LINEAR_SOLVERS", "LinearSolver", "System", "linear_solver"]

LINEAR_SOLVERS: Registry[Callable[..., LinearSolver]] = Registry(
    "linear_solver",
    {
        "cg": cg,
        "gauss_newton_cg": gauss_newton_cg,
        "identity": identity,
        "neumann": neumann,
        "normal_cg": normal_cg,
        "nystrom": nystrom,
        "recording_cg": recording_cg,
    },
)


def linear_solver(name: str, **options: Any) -> LinearSolver:
    """The solver of that name.

    Args:
      name: a key of `LINEAR_SOLVERS`.
      **options: what its factory takes.

    Raises:
      UserError: for an unknown name, an option that it has not, or one out of range.

    Example:
      >>> solver = linear_solver("cg", tolerance=1e-4, max_steps=50)
    """
    return registry.make(LINEAR_SOLVERS, name, **options)
