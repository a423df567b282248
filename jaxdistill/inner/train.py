"""The one inner loop: T optimiser steps under `lax.scan`, with the memory of its reverse pass chosen.

Backpropagation through training keeps what each of T steps needs. `remat` trades memory for time,
values unchanged: `step` keeps only the learner's state between steps and recomputes each step;
`sqrt` keeps it only every sqrt(T) steps. `backprop_last` truncates: exact values, an approximate gradient.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxdistill.core.checks import fail, one_of
from jaxdistill.core.types import Array, InnerOptimizer, Params

REMAT = ("none", "step", "sqrt")
Steps = Any
"""A pytree with leading axis T: what each inner step's loss is given."""
Carry = tuple[Params, Any]
"""(weights, the optimiser's state)."""
Step = Callable[[Carry, Any], tuple[Carry, Array]]
"""(carry, (what the loss is given, hyper-parameters) of one step) -> (carry, loss before the step)."""


def train(
    loss: Callable[[Params, Any], Array],
    params: Params,
    steps: Steps,
    optimizer: InnerOptimizer,
    values: dict[str, Array],
    *,
    remat: str = "none",
    backprop_last: int | None = None,
    length: Array | None = None,
    keep_every: int | None = None,
) -> tuple[Params, Array]:
    """Trains a learner: theta_{t+1} = theta_t - optimiser(grad loss(theta_t, steps_t)).

    Args:
      loss: (params, steps of one t) -> scalar.
      params: theta_0.
      steps: pytree, leading axis T: usually the batches.
      optimizer: its `build` makes the update of one step; the state carries over.
      values: hyper-parameters as used, each [T] or [1].
      remat: one of `REMAT`, see above.
      backprop_last: how many last steps the gradient goes through; all when None.
      length: with `backprop_last`, train only the first so many steps: an int32 scalar in
        [backprop_last, T], traced, so that a drawn length puts the differentiated window anywhere (Feng et
        al. 2023); all T when None.
      keep_every: e, a divisor of T, without truncation: the weights after every e steps, not the last alone.

    Returns:
      (theta_length, or [T / e, ...] weights with `keep_every`; [T] losses before each step, those beyond
      `length` repeat the last one).

    Raises:
      UserError: an unknown remat, hyper-parameters of another length, `backprop_last` outside [1, T], or a
        `keep_every` that does not divide T.
    """
    one_of("train remat", remat, REMAT)
    num_steps = jax.tree.leaves(steps)[0].shape[0]
    for name, value in values.items():
        if value.shape not in ((1,), (num_steps,)):
            raise fail("train", f"1 or {num_steps} values of {name} (one per inner step)", value.shape)
    if keep_every is not None and (keep_every < 1 or num_steps % keep_every):
        raise fail("train", f"a divisor of the {num_steps} inner steps as keep_every", keep_every)
    if keep_every is not None and backprop_last is not None:
        raise fail("train", "no backprop_last with keep_every", backprop_last)
    if backprop_last is not None and not 1 <= backprop_last <= num_steps:
        raise fail("train", f"backprop_last in 1 ... {num_steps} (inner steps)", backprop_last)
    steps = (steps, {name: jnp.broadcast_to(value, (num_steps,)) for name, value in values.items()})
    first = {name: value[0] for name, value in steps[1].items()}
    carry = (params, optimizer.build(first).init(params))
    step = step_of(loss, optimizer)
    if keep_every is not None:
        return _keeping(step, carry, steps, remat, keep_every)
    if backprop_last is None or backprop_last == num_steps:
        (params, _), losses = _scan(step, carry, steps, remat)
        return params, losses
    if length is None:
        return _truncated(step, carry, steps, remat, backprop_last)
    return _windowed(step, carry, steps, remat, backprop_last, length)


def step_of(loss: Callable[[Params, Any], Array], optimizer: InnerOptimizer) -> Step:
    """One optimiser step, the body of every loop of training."""

    def step(carry: Carry, inputs: Any) -> tuple[Carry, Array]:
        params, state = carry
        item, now = inputs
        value, gradient = jax.value_and_grad(loss)(params, item)
        updates, state = optimizer.build(now).update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), value

    return step


def _keeping(step: Step, carry: Carry, steps: Steps, remat: str, every: int) -> tuple[Params, Array]:
    """The weights at regular intervals of steps, stacked."""
    parts = jax.tree.map(lambda a: a.reshape(-1, every, *a.shape[1:]), steps)

    def part(carry: Carry, steps: Steps) -> tuple[Carry, tuple[Params, Array]]:
        carry, losses = _scan(step, carry, steps, remat)
        return carry, (carry[0], losses)

    _, (kept, losses) = lax.scan(part, carry, parts)
    return kept, losses.reshape(-1)


def _truncated(step: Step, carry: Carry, steps: Steps, remat: str, last: int) -> tuple[Params, Array]:
    """Runs all steps; the gradient passes through a fixed number of last steps."""
    before = jax.tree.leaves(steps)[0].shape[0] - last
    carry, early = lax.scan(step, lax.stop_gradient(carry), _slice(lax.stop_gradient(steps), 0, before))
    (params, _), late = _scan(step, lax.stop_gradient(carry), _slice(steps, before, last), remat)
    return params, jnp.concatenate([early, late])


def _windowed(
    step: Step, carry: Carry, steps: Steps, remat: str, last: int, length: Array
) -> tuple[Params, Array]:
    """Runs the first `length` steps; the gradient passes through a fixed number of the last of them."""
    num_steps = jax.tree.leaves(steps)[0].shape[0]
    frozen, begin = lax.stop_gradient(steps), length - last

    def warm(t: Array, carry_losses: tuple[Carry, Array]) -> tuple[Carry, Array]:
        carry, losses = carry_losses
        carry, value = step(carry, jax.tree.map(lambda a: a[t], frozen))
        return carry, losses.at[t].set(value)

    blank = jnp.zeros((num_steps,), jax.tree.leaves(carry[0])[0].dtype)
    carry, losses = lax.stop_gradient(lax.fori_loop(0, begin, warm, (lax.stop_gradient(carry), blank)))
    (params, _), late = _scan(step, carry, _slice(steps, begin, last), remat)
    losses = lax.dynamic_update_slice_in_dim(losses, late, begin, 0)
    return params, jnp.where(jnp.arange(num_steps) < length, losses, late[-1])


def _slice(steps: Steps, begin: Array | int, length: int) -> Steps:
    return jax.tree.map(lambda a: lax.dynamic_slice_in_dim(a, begin, length), steps)


def _scan(step: Step, carry: Carry, steps: Steps, remat: str) -> tuple[Carry, Array]:
    """All steps, with the memory of their reverse pass as `remat` says."""
    if remat == "none":
        return lax.scan(step, carry, steps)
    # Inside a scan nothing is shared across iterations, so the barrier against that only costs.
    step = jax.checkpoint(step, prevent_cse=False)
    if remat == "step":
        return lax.scan(step, carry, steps)
    num_steps = jax.tree.leaves(steps)[0].shape[0]
    segment = max(1, math.isqrt(num_steps))
    whole = num_steps // segment * segment
    head = jax.tree.map(lambda a: a[:whole].reshape(whole // segment, segment, *a.shape[1:]), steps)
    tail = jax.tree.map(lambda a: a[whole:], steps)

    @partial(jax.checkpoint, prevent_cse=False)
    def run(carry: Carry, part: Steps) -> tuple[Carry, Array]:
        return lax.scan(step, carry, part)

    carry, losses = lax.scan(run, carry, head)
    losses = losses.reshape(-1)
    if whole == num_steps:
        return carry, losses
    carry, rest = lax.scan(step, carry, tail)
    return carry, jnp.concatenate([losses, rest])
