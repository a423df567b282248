"""The inner solve with the weights detached between steps: of these its memory holds the batches alone."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from jaxdistill.core.checks import fail
from jaxdistill.core.keys import stream
from jaxdistill.core.types import (
    Array,
    Batch,
    InnerLoss,
    InnerOptimizer,
    Meta,
    Params,
    Solve,
    SolveInfo,
    Teacher,
)
from jaxdistill.inner.train import train


def accumulated(
    teacher: Teacher,
    inner_loss: InnerLoss,
    optimizer: InnerOptimizer,
    *,
    calibrate: Callable[[Params, Array], Params] = lambda params, x: params,
) -> Solve:
    """theta_T = theta_0 - sum_t eta_t grad L(theta_t, batch_t(phi)), with constant theta_t for the gradient.

    The same theta_T as `unrolled`, and another gradient: what a step does to the gradients of later steps is
    left out. So a step's share needs that step alone, and the backward pass trains once more and adds them
    up: no activations and no weights of the way are kept, only the T batches and their gradients. Exact
    for T = 1.

    Args:
      teacher: makes the T batches, once per solve.
      inner_loss: what each step lowers.
      optimizer: plain gradient descent, whose steps add up; its step sizes may be learned.
      calibrate: the learner's; called with the last batch (batch normalisation).

    Returns:
      The solve: (meta, start params, probe, key) -> (params after T steps, SolveInfo); it needs no probe.

    Raises:
      UserError: an optimiser with momentum or of another kind.

    References: Cui et al. 2023, "Scaling Up Dataset Distillation to ImageNet-1K with Constant Memory"
    (TESLA), equations 8 to 11; called an identity there.
    """
    one_step = {name: value[0] for name, value in optimizer.values(optimizer.init()).items()}
    if jax.tree.leaves(optimizer.build(one_step).init({"w": jnp.zeros(())})):
        raise fail("accumulated", "an inner optimiser without a state (sgd without momentum)", "another")

    def losses_of(meta: Meta) -> Callable[[Params, Batch], Array]:
        return lambda params, batch: inner_loss(meta, params, batch)

    @jax.custom_vjp
    def solve(meta: Meta, batches: Batch, params: Params) -> tuple[Params, Array]:
        return train(losses_of(meta), params, batches, optimizer, optimizer.values(meta.inner))

    def forward(meta: Meta, batches: Batch, params: Params) -> tuple[tuple[Params, Array], tuple]:
        return solve(meta, batches, params), (meta, batches, params)

    def backward(residuals: tuple, cotangents: tuple[Params, Array]) -> tuple[Meta, Batch, Params]:
        meta, batches, params = residuals
        right, _ = cotangents
        values, to_raw = jax.vjp(optimizer.values, meta.inner)
        num_steps = batches.y.shape[0]
        every = {name: jnp.broadcast_to(value, (num_steps,)) for name, value in values.items()}

        def step(carry: tuple[Params, Meta], inputs: tuple[Batch, dict]) -> tuple[tuple[Params, Meta], tuple]:
            params, total = carry

            def change(meta: Meta, batch: Batch, now: dict[str, Array]) -> Params:
                transform = optimizer.build(now)
                gradient = jax.grad(losses_of(meta))(params, batch)
                return transform.update(gradient, transform.init(params), params)[0]

            moved, back = jax.vjp(change, meta, *inputs)
            by_meta, by_batch, by_values = back(right)
            total = jax.tree.map(jnp.add, total, by_meta)
            return (jax.tree.map(jnp.add, params, moved), total), (by_batch, by_values)

        start = params, jax.tree.map(jnp.zeros_like, meta)
        (_, by_meta), (by_batches, by_every) = lax.scan(step, start, (batches, every))
        shared = {
            n: v if values[n].shape[0] == num_steps else v.sum(keepdims=True) for n, v in by_every.items()
        }
        (by_inner,) = to_raw(shared)
        by_meta = by_meta._replace(inner=jax.tree.map(jnp.add, by_meta.inner, by_inner))
        return by_meta, by_batches, right

    solve.defvjp(forward, backward)

    def run(meta: Meta, params: Params, probe: None, key: Array) -> tuple[Params, SolveInfo]:
        del probe
        batches = teacher.batches(meta.teacher, stream(key, "teacher"))
        trained, losses = solve(meta, batches, params)
        return calibrate(trained, batches.x[-1]), SolveInfo(losses=lax.stop_gradient(losses), report={})

    return Solve(run)
