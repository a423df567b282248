"""Conjugate gradients, by JAX: the solver for a positive definite Hessian."""

from typing import Any

import jax
import jax.numpy as jnp
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
    right, start = _aligned(system.right, system.start)
    v, _ = scipy_cg(product, right, x0=start, tol=tolerance, maxiter=max_steps)
    return v


@jax.custom_batching.custom_vmap
def _aligned(right: Params, start: Params) -> tuple[Params, Params]:
    """Both as they are; under `vmap` all leaves have the axis of learners at the same place.

    `jax.scipy.sparse.linalg.cg` fails where some leaves have no such axis, or have it elsewhere.
    """
    return right, start


@_aligned.def_vmap
def _aligned_over_learners(size: int, batched: list, right: Params, start: Params) -> tuple[Any, Any]:
    leaves, structure = jax.tree.flatten((right, start))
    flags = jax.tree.leaves(batched)
    whole = [a if b else jnp.broadcast_to(a, (size, *a.shape)) for a, b in zip(leaves, flags, strict=True)]
    return _aligned(*structure.unflatten(whole)), structure.unflatten([True] * len(leaves))
