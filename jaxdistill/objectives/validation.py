"""The loss on real data of the learner that was trained on synthetic data."""

from typing import Any

import jax.numpy as jnp
from jax import lax

from jaxdistill.core.checks import at_least
from jaxdistill.core.platform import choices
from jaxdistill.core.types import Array, Batch, Learner, Meta, Metrics, Objective, Params, Solve
from jaxdistill.inner.losses import accuracy, cross_entropy
from jaxdistill.inner.microbatch import mean_over_batch

AT_A_TIME = 64
"""Real images that are computed at a time where batches are computed in parts."""


def validation(
    learner: Learner, solve: Solve, *, microbatch: int | None = None, intermediate: bool = False
) -> Objective:
    """L(phi) = cross-entropy of theta_T(phi) on a real batch: the objective of every bilevel method.

    Args:
      learner: the network.
      solve: the inner training map, differentiated in its own way.
      microbatch: real images per pass, so that activations stay in the cache (CPU) or in memory;
        64 on the CPU and all of them elsewhere when None.
      intermediate: the solve returns weights of several inner steps, [n, ...] (`unrolled(keep_every=...)`);
        the loss is the mean over them, the accuracy that of the last.

    Returns:
      (meta, start params, real Batch, probe, key) -> (loss, {"loss", "accuracy", "inner_loss"} and what the
      solve reports), all scalar; `accuracy` on the real batch, `inner_loss` the last that the solve reports.

    References: Wang et al. 2018, equation 4; Such et al. 2019, appendix (intermediate losses).
    """
    if microbatch is not None:
        at_least("validation", "microbatch", microbatch, 1)

    def score(params: Params, batch: Batch) -> tuple[Array, Array]:
        logits = learner.apply(params, batch.x)
        return cross_entropy(logits, batch.y), accuracy(logits, batch.y)

    def objective(meta: Meta, params: Params, real: Batch, probe: Any, key: Array) -> tuple[Array, Metrics]:
        trained, info = solve(meta, params, probe, key)

        def tested(params: Params) -> tuple[Array, Array]:
            size = microbatch or (AT_A_TIME if choices().batches_in_parts else real.y.shape[0])
            return mean_over_batch(score, params, real, size)

        if intermediate:
            every = lax.map(tested, trained)
            loss, right = jnp.mean(every[0]), every[1][-1]
        else:
            loss, right = tested(trained)
        return loss, {"loss": loss, "accuracy": right, "inner_loss": info.losses[-1]} | info.report

    return objective
