"""What a linear solver is given, and what it gives back."""

from collections.abc import Callable
from typing import NamedTuple

from jaxdistill.core.linalg import add_scaled
from jaxdistill.core.types import Array, Metrics, Params

Product = Callable[[Params], Params]
"""u -> A u, for a symmetric A."""


class System(NamedTuple):
    """(H + damping I) v = g, H the Hessian of the inner loss where inner training ended."""

    hessian: Product
    """u -> H u."""
    gauss_newton: Callable[[], Product] | None
    """() -> (u -> G u), traced only where it is called for; None if the inner loss has none."""
    damping: float
    floor: float
    """weight decay + damping: what the matrix owes to its multiples of the identity."""
    right: Params
    """g, the gradient of the outer loss by the trained parameters."""
    start: Params
    """Where an iteration starts: zeros, or the solution of the last outer step."""
    key: Array
    """For solvers that draw."""

    def damped(self, product: Product) -> Product:
        """u -> product(u) + damping u."""
        return lambda u: add_scaled(product(u), self.damping, u)

    def matrix(self, u: Params) -> Params:
        """(H + damping I) u."""
        return self.damped(self.hessian)(u)


class LinearSolver(NamedTuple):
    """One way to solve the system, exactly or not."""

    solve: Callable[[System], tuple[Params, Metrics]]
    """system -> (v, scalars of its own to report)."""
    reports: tuple[str, ...] = ()
    """Names of those scalars."""
    matrix: Callable[[System], Product] | None = None
    """The solver's own matrix, which the reported residual is of; H + damping I when None."""
    judged: bool = True
    """Whether a relative residual above 1 (worse than v = 0) is a failure; not where nothing is solved."""
    starts: bool = False
    """Whether it starts from the system's start, so that a warm start does anything."""
    uses_gauss_newton: bool = False
    needs_floor: bool = False
    """Whether weight decay + damping has to be positive."""
