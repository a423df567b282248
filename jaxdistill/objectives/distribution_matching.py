"""Matching of distributions: synthetic images whose mean features are those of real ones."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxdistill.core.checks import fail, one_of
from jaxdistill.core.keys import stream
from jaxdistill.core.types import Array, Batch, Learner, Meta, Metrics, Objective, Params, Teacher
from jaxdistill.inner.over_learners import STRATEGIES, over_learners


def distribution_matching(
    learner: Learner,
    teacher: Teacher,
    *,
    augment: Callable[[Array, Array], Array] | None = None,
    class_strategy: str = "auto",
) -> Objective:
    """L(phi) = sum over classes of |mean embed(real_c) - mean embed(synthetic_c(phi))|^2.

    The embedding is a network's, untrained as a rule; that of real images is a constant.

    Args:
      learner: the network; its features before the classifier are matched.
      teacher: what is learned, the half that learners see (`teacher.seen`).
      augment: (key, images) -> images, applied to both sides of a class with the same key (siamese).
      class_strategy: how the classes are computed, see `jaxdistill.inner.over_learners`.

    Returns:
      (meta, params, real Batch [classes, n, ...], probe, key) -> (loss, {"loss"}).

    Raises:
      UserError: an unknown strategy, or fewer synthetic images than classes.

    Example:
      >>> teacher = images(image_shape=(8, 8, 1), num_classes=10)
      >>> net = learner("convnet", image_shape=(8, 8, 1), num_classes=10)
      >>> objective = distribution_matching(net, teacher)

    References: Zhao & Bilen 2023, "Dataset Condensation with Distribution Matching", equation 5.
    """
    one_of("distribution_matching class_strategy", class_strategy, STRATEGIES)
    by_class = teacher.by_class
    if by_class is None:
        expected = "at least one synthetic image of every class"
        raise fail("distribution_matching", expected, "fewer images than classes", "Raise batch_size.")

    def objective(meta: Meta, params: Params, real: Batch, probe: Any, key: Array) -> tuple[Array, Metrics]:
        del probe

        def of_class(real: Array, synthetic: Array, key: Array) -> Array:
            if augment is not None:
                real, synthetic = augment(key, real), augment(key, synthetic)
            target, ours = (jnp.mean(learner.embed(params, x), axis=0) for x in (real, synthetic))
            return jnp.sum(jnp.square(lax.stop_gradient(target) - ours))

        synthetic = by_class(meta.teacher, stream(key, "teacher"))
        keys = jax.random.split(stream(key, "augment"), synthetic.y.shape[0])
        every = over_learners(of_class, strategy=class_strategy)(real.x, synthetic.x, keys)
        loss = jnp.sum(every)
        return loss, {"loss": loss}

    return objective
