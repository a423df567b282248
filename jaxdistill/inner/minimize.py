"""Inner training to a tolerance: as many steps as it takes, under `lax.while_loop`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from jaxdistill.core.checks import at_least, fail
from jaxdistill.core.linalg import add_scaled, norm, ratio
from jaxdistill.core.types import Array, Params


class Minimum(NamedTuple):
    """Where inner training ended."""

    params: Params
    loss: Array
    """Scalar, at `params`."""
    relative_gradient: Array
    """Scalar, |grad loss(params)| / |grad loss(start)|."""
    steps: Array
    """int32 scalar: optimiser steps taken."""


class _Carry(NamedTuple):
    params: Params
    state: Any
    loss: Array
    norm: Array
    first: Array
    steps: Array
    going: Array


def check_end(where: str, tolerance: float, max_steps: int | None) -> None:
    """Raises unless training ends: a tolerance in [0, 1), positive where no number of steps bounds it."""
    if not 0 <= tolerance < 1:
        raise fail(where, "tolerance in [0, 1), of the gradient norm at the start", tolerance)
    if max_steps is not None:
        at_least(where, "max_inner_steps", max_steps, 1)
    elif tolerance == 0:
        raise fail(
            where, "a tolerance > 0 or a limit max_inner_steps >= 1", "neither: training would not end"
        )


class _Newton(NamedTuple):
    params: Params
    loss: Array
    gradient: Params
    steps: Array


def minimize(
    loss: Callable[[Params], Array],
    params: Params,
    transform: optax.GradientTransformation,
    *,
    tolerance: float = 1e-3,
    max_steps: int | None = 1000,
) -> Minimum:
    """Full-batch training until |grad loss| <= tolerance |grad loss(start)|, or for `max_steps`.

    Not to be differentiated in reverse (`lax.while_loop`): `jaxdistill.inner.implicit` says how. A gradient
    that is not finite ends it.

    Args:
      loss: params -> scalar.
      params: the start.
      transform: the optimiser, the same at every step.
      tolerance: of the relative gradient norm, in [0, 1); with 0 it takes `max_steps`, or ends at zero.
      max_steps: most steps; no limit when None, which needs a positive tolerance.

    Returns:
      The minimum.

    Raises:
      UserError: a tolerance out of range, `max_steps` < 1, or neither of the two bounds it.
    """
    check_end("minimize", tolerance, max_steps)
    limit = np.iinfo(np.int32).max if max_steps is None else max_steps

    def go(carry: _Carry) -> _Carry:
        loss_now, gradient = jax.value_and_grad(loss)(carry.params)
        now = norm(gradient)
        first = jnp.where(carry.steps == 0, now, carry.first)
        going = (now > tolerance * first) & jnp.isfinite(now) & (carry.steps < limit)
        updates, state = transform.update(gradient, carry.state, carry.params)
        moved = (optax.apply_updates(carry.params, updates), state)
        kept = (carry.params, carry.state)
        new, state = jax.tree.map(lambda a, b: jnp.where(going, a, b), moved, kept)
        return _Carry(new, state, loss_now, now, first, carry.steps + going, going)

    value, size = (jnp.zeros((), of.dtype) for of in jax.eval_shape(lambda p: (loss(p), norm(p)), params))
    start = _Carry(
        params, transform.init(params), value, size, size, jnp.zeros((), jnp.int32), jnp.asarray(True)
    )
    end = lax.while_loop(lambda carry: carry.going, go, start)
    return Minimum(end.params, end.loss, ratio(end.norm, end.first), end.steps)


def newton(
    loss: Callable[[Params], Array],
    params: Params,
    solve: Callable[[Params, Callable[[Params], Params], Params], Params],
    *,
    tolerance: float = 1e-3,
    max_steps: int | None = 10,
) -> Minimum:
    """Newton's method until |grad loss| <= tolerance |grad loss(start)|, or for `max_steps`.

    One step is enough for a quadratic loss whose systems are solved to the tolerance; where they are not,
    the next step goes on from there. Not to be differentiated in reverse, as `minimize`.

    Args:
      loss: params -> scalar, convex.
      params: the start.
      solve: (params, u -> H u, g) -> H^-1 g, H the Hessian and g the gradient there.
      tolerance: of the relative gradient norm, in [0, 1).
      max_steps: most steps; no limit when None, which needs a positive tolerance.

    Returns:
      The minimum; `steps` are those of Newton.

    Raises:
      UserError: as `minimize`.
    """
    check_end("newton", tolerance, max_steps)
    limit = np.iinfo(np.int32).max if max_steps is None else max_steps
    value, gradient = jax.value_and_grad(loss)(params)
    first = norm(gradient)

    def going(carry: _Newton) -> Array:
        now = norm(carry.gradient)
        return (now > tolerance * first) & jnp.isfinite(now) & (carry.steps < limit)

    def step(carry: _Newton) -> _Newton:
        _, pull = jax.vjp(jax.grad(loss), carry.params)
        change = solve(carry.params, lambda u: pull(u)[0], carry.gradient)
        moved = add_scaled(carry.params, -1.0, change)
        return _Newton(moved, *jax.value_and_grad(loss)(moved), carry.steps + 1)

    end = lax.while_loop(going, step, _Newton(params, value, gradient, jnp.zeros((), jnp.int32)))
    return Minimum(end.params, end.loss, ratio(norm(end.gradient), first), end.steps)
