"""Matching of trajectories: synthetic images that take an expert's weights where real data took them."""

from typing import Any

from jaxdistill.core.linalg import add_scaled, squared_norm
from jaxdistill.core.types import Array, Batch, Meta, Metrics, Objective, Segment, Solve


def trajectory_matching(solve: Solve) -> Objective:
    """L(phi) = |theta_N(phi) - theta*_{t+M}|^2 / |theta*_t - theta*_{t+M}|^2.

    A student starts where an expert was and takes N steps on synthetic data; it should end where the expert
    was M epochs later. 1 is what a student that stays where it is has.

    Args:
      solve: the student's training, N steps.

    Returns:
      (meta, Segment, real Batch, probe, key) -> (loss, {"loss", "inner_loss"} and what the solve reports),
      `inner_loss` the last that the solve reports. Real data are not looked at: experts were trained on them.

    Example:
      >>> teacher = jd.images(image_shape=(8, 8, 1), num_classes=10, distill_epochs=20)
      >>> net = jd.learner("convnet", image_shape=(8, 8, 1), num_classes=10)
      >>> solve = jd.unrolled(teacher, jd.inner_loss(net), jd.sgd(num_steps=20))
      >>> objective = trajectory_matching(solve)

    References: Cazenavette et al. 2022, "Dataset Distillation by Matching Training Trajectories", equation 2.
    """

    def objective(
        meta: Meta, segment: Segment, real: Batch | None, probe: Any, key: Array
    ) -> tuple[Array, Metrics]:
        del real
        trained, info = solve(meta, segment.start, probe, key)
        missed = squared_norm(add_scaled(trained, -1.0, segment.target))
        loss = missed / squared_norm(add_scaled(segment.start, -1.0, segment.target))
        return loss, {"loss": loss, "inner_loss": info.losses[-1]} | info.report

    return objective
