"""The loss on real data of the learner that was trained on synthetic data."""

from typing import Any

import jax.numpy as jnp
from jax import lax

from jaxdistill.core.checks import at_least, fail, one_of
from jaxdistill.core.keys import stream
from jaxdistill.core.labels import LOSSES, targets
from jaxdistill.core.platform import choices
from jaxdistill.core.types import (
    Array,
    Augment,
    Batch,
    Learner,
    Meta,
    Metrics,
    Objective,
    Params,
    Solve,
    Teacher,
)
from jaxdistill.inner.losses import accuracy, data_loss, label_margin, log_temperature
from jaxdistill.inner.microbatch import mean_over_batch

AT_A_TIME = 64
"""Real images that are computed at a time where batches are computed in parts."""
LARGEST_LOG = 10.0
"""A temperature diverges where the logarithm of its factor exceeds this, either way."""


def validation(
    learner: Learner,
    solve: Solve,
    *,
    loss: str = "cross_entropy",
    margin: float = 0.0,
    teacher: Teacher | None = None,
    microbatch: int | None = None,
    augment: Augment | None = None,
    intermediate: bool = False,
) -> Objective:
    """L(phi) = the loss of theta_T(phi) on a real batch: the objective of every bilevel method.

    Args:
      learner: the network; the solve's own where it has one (`Solve.learner`).
      solve: the inner training map, differentiated in its own way.
      loss: one of `jaxdistill.core.labels.LOSSES`. `platt` has a learned temperature, see
        `jaxdistill.inner.optimizers.with_temperature`.
      margin: where positive, `label_margin` of the synthetic labels is added, its gap margin / classes.
      teacher: makes the labels that have a margin.
      microbatch: real images per pass, so that activations stay in the cache (CPU) or in memory;
        64 on the CPU and all of them elsewhere when None.
      augment: applied to the real batch, with a key of its own for every learner.
      intermediate: the solve returns weights of several inner steps, [n, ...] (`unrolled(keep_every=...)`);
        the loss is the mean over them, the accuracy is measured at the last.

    Returns:
      (meta, start params, real Batch, probe, key) -> (loss, {"loss", "accuracy", "inner_loss"} and what the
      solve reports), all scalar; `accuracy` on the real batch, `inner_loss` the last that the solve reports.
      With `platt`, here or in the inner loop, also `temperature`, which divides the logits, and
      `diverged_temperatures`, 1 where it is below e^-10 or above e^10; with a margin `label_margin`, a part
      of the loss.

    Raises:
      UserError: an unknown loss, a number out of range, or a margin without a teacher.

    References: Wang et al. 2018, equation 4; Such et al. 2019, appendix (intermediate losses); Zhou et al.
    2022 (squared, margin); Loo et al. 2023 (platt).
    """
    one_of("validation", loss, LOSSES)
    at_least("validation", "margin", margin, 0.0)
    if margin and teacher is None:
        raise fail("validation", "the teacher, with a margin of its labels", "none")
    if microbatch is not None:
        at_least("validation", "microbatch", microbatch, 1)
    tested_learner = solve.learner or learner

    def score(trained: tuple[Params, Array | None], batch: Batch) -> tuple[Array, Array]:
        params, temperature = trained
        logits = tested_learner.apply(params, batch.x)
        y = targets(loss, "probabilities", batch.y)
        return data_loss(loss, logits, y, temperature), accuracy(logits, batch.y)

    def objective(meta: Meta, params: Params, real: Batch, probe: Any, key: Array) -> tuple[Array, Metrics]:
        trained, info = solve(meta, params, probe, key)
        learned = log_temperature(loss, meta)
        if augment is not None:
            real = real._replace(x=augment(stream(key, "augment"), real.x))

        def tested(params: Params) -> tuple[Array, Array]:
            size = microbatch or (AT_A_TIME if choices().batches_in_parts else real.y.shape[0])
            return mean_over_batch(score, (params, learned), real, size)

        if intermediate:
            every = lax.map(tested, trained)
            value, right = jnp.mean(every[0]), every[1][-1]
        else:
            value, right = tested(trained)
        more: Metrics = {}
        if isinstance(meta, Meta) and "log_temperature" in meta.inner:  # or of the inner loss alone
            watched = meta.inner["log_temperature"][0]
            diverged = jnp.abs(watched) > LARGEST_LOG
            more |= {"temperature": jnp.exp(-watched), "diverged_temperatures": diverged.astype(value.dtype)}
        if margin and teacher is not None:
            labels = teacher.batches(meta.teacher, stream(key, "teacher")).y
            classes = labels.shape[-1]
            more |= {"label_margin": label_margin(labels.reshape(-1, classes), gap=margin / classes)}
            value = value + more["label_margin"]
        return value, {"loss": value, "accuracy": right, "inner_loss": info.losses[-1]} | more | info.report

    return objective
