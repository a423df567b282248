"""The inner solve by backpropagation through training."""

from collections.abc import Callable

import jax
from jax import lax

from jaxdistill.core.checks import fail
from jaxdistill.core.keys import stream
from jaxdistill.core.types import Array, InnerLoss, InnerOptimizer, Meta, Params, Solve, SolveInfo, Teacher
from jaxdistill.inner.train import train


def unrolled(
    teacher: Teacher,
    inner_loss: InnerLoss,
    optimizer: InnerOptimizer,
    *,
    calibrate: Callable[[Params, Array], Params] = lambda params, x: params,
    remat: str = "none",
    backprop_last: int | None = None,
    random_window: bool = False,
    keep_every: int | None = None,
) -> Solve:
    """theta_T(phi, eta) of T optimiser steps on the teacher's batches, differentiated by JAX.

    theta_{t+1} = theta_t - eta_t grad_theta L(theta_t, batch_t(phi)), for plain SGD.

    Args:
      teacher: makes the T batches, once per solve.
      inner_loss: what each step lowers.
      optimizer: the update rule, with its learned or fixed hyper-parameters.
      calibrate: the learner's; called with the last batch trained on (batch normalisation).
      remat: `none`, `step` or `sqrt`, see `jaxdistill.inner.train`.
      backprop_last: backpropagate through this many last steps alone; through all, exactly, when None.
      random_window: with `backprop_last`, the run's length is drawn from [backprop_last, T].
      keep_every: e, a divisor of T: the solve returns the weights after every e steps, [T / e, ...].

    Returns:
      The solve: (meta, start params, probe, key) -> (params after T steps, SolveInfo); it needs no probe.

    Raises:
      UserError: `random_window` without `backprop_last`; see `train` for the rest.

    References: Wang et al. 2018, algorithm 1; Feng et al. 2023 (random truncation).
    """
    if random_window and backprop_last is None:
        raise fail("unrolled", "backprop_last with random_window", None, "Set how many steps the window has.")

    def run(meta: Meta, params: Params, probe: None, key: Array) -> tuple[Params, SolveInfo]:
        del probe
        batches = teacher.batches(meta.teacher, stream(key, "teacher"))
        length = None
        if random_window and backprop_last is not None:
            num_steps = batches.y.shape[0]
            length = jax.random.randint(stream(key, "length"), (), backprop_last, num_steps + 1)
        params, losses = train(
            lambda params, batch: inner_loss(meta, params, batch),
            params,
            batches,
            optimizer,
            optimizer.values(meta.inner),
            remat=remat,
            backprop_last=backprop_last,
            length=length,
            keep_every=keep_every,
        )
        if keep_every is not None:
            kept = lax.map(lambda each: calibrate(*each), (params, batches.x[keep_every - 1 :: keep_every]))
            return kept, SolveInfo(losses=losses, report={})
        last = batches.x[-1 if length is None else length - 1]
        return calibrate(params, last), SolveInfo(losses=losses, report={})

    return Solve(run)
