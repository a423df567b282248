"""The Nystrom method: a random sketch of the Hessian, inverted in closed form."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree

from jaxdistill.core.checks import at_least
from jaxdistill.core.types import Array, Metrics, Params
from jaxdistill.inner.solvers.system import LinearSolver, System


def nystrom(*, rank: int = 20) -> LinearSolver:
    """v = (B_rank + floor I)^-1 g, B_rank a rank-`rank` sketch of B = A - floor I, A = H + damping I.

    B_rank = Y (W^T Y)^+ Y^T with Y = B W, W standard normal, and by Woodbury's identity
    v = (g - Y (floor W^T Y + Y^T Y)^+ Y^T g) / floor. `floor` is weight decay + damping: what A is known to
    owe to the identity, so that B is the data's own curvature and has a rank to be sketched: about images
    times classes. A sketch far below that rank leaves residuals above 1. No iteration, no step size; it
    keeps `rank` vectors as large as the learner, drawn anew at every outer step.

    Args:
      rank: Hessian-vector products, and vectors kept; at most the number of parameters counts.

    Returns:
      The solver; `implicit` refuses it where `floor` is zero.

    Raises:
      UserError: `rank` < 1.

    References: Hataya & Yamada 2023, "Nystrom Method for Accurate and Scalable Implicit Differentiation",
    equations 4 and 5, who sketch by columns of H and add the damping alone.
    """
    at_least("nystrom", "rank", rank, 1)

    def solve(system: System) -> tuple[Params, Metrics]:
        right, unravel = ravel_pytree(system.right)
        size = min(rank, right.size)

        def beyond_floor(row: Array) -> Array:
            return ravel_pytree(system.matrix(unravel(row)))[0] - system.floor * row

        sketch = jax.random.normal(system.key, (size, right.size), right.dtype)
        image = lax.map(beyond_floor, sketch)
        core = system.floor * sketch @ image.T + image @ image.T
        weights = jnp.linalg.lstsq((core + core.T) / 2, image @ right)[0]
        return unravel((right - weights @ image) / system.floor), {}

    return LinearSolver(solve, needs_floor=True)
