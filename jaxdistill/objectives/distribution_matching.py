"""Matching of distributions: synthetic images with the mean features of real images."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxdistill.core.checks import at_least, fail, one_of
from jaxdistill.core.keys import stream
from jaxdistill.core.types import Array, Augment, Batch, Learner, Meta, Metrics, Objective, Params, Teacher
from jaxdistill.inner.microbatch import images_at_a_time, mean_of_parts
from jaxdistill.inner.over_learners import STRATEGIES, over_learners

LAYERS = ("all", "last")


def distribution_matching(
    learner: Learner,
    teacher: Teacher,
    *,
    layers: str = "last",
    augment: Augment | None = None,
    class_strategy: str = "auto",
    microbatch: int | None = None,
) -> Objective:
    """L(phi) = sum over classes of |mean embed(real_c) - mean embed(synthetic_c(phi))|^2.

    A network, usually untrained, embeds the images; the embedding of real images is a constant.

    Args:
      learner: the network; its features before the classifier are matched.
      layers: `last`, as published; `all`: the features after every block, the term of a layer of F_l features
        times F / F_l, which is ours: shallow layers have more of them.
      teacher: what is learned.
      augment: applied to the real and the synthetic images of a class with the same key, which makes one draw
        whatever the images (siamese: `jaxdistill.augment.dsa`).
      class_strategy: how the classes are computed, see `jaxdistill.inner.over_learners`.
      microbatch: real images of a class at a time; `jaxdistill.inner.microbatch.images_at_a_time` when None.

    Returns:
      (meta, params, real Batch [classes, n, ...], probe, key) -> (loss, {"loss"}).

    Raises:
      UserError: an unknown strategy or choice of layers, fewer synthetic images than classes, or all layers
        of a learner that tells the last alone.

    Example:
      >>> teacher = jd.images(image_shape=(8, 8, 1), num_classes=10)
      >>> net = jd.learner("convnet", image_shape=(8, 8, 1), num_classes=10)
      >>> objective = distribution_matching(net, teacher)

    References: Zhao & Bilen 2023, "Dataset Condensation with Distribution Matching", equation 5.
    """
    one_of("distribution_matching class_strategy", class_strategy, STRATEGIES)
    one_of("distribution_matching layers", layers, LAYERS)
    if microbatch is not None:
        at_least("distribution_matching", "microbatch", microbatch, 1)
    every = learner.embed_all
    if layers == "all" and every is None:
        raise fail("distribution_matching", "layers=last with a learner without embed_all", layers)
    by_class = teacher.by_class
    if by_class is None:
        expected = "at least one synthetic image of every class"
        raise fail("distribution_matching", expected, "fewer images than classes", "Raise batch_size.")

    def features(params: Params, x: Array) -> list[Array]:
        return every(params, x) if layers == "all" and every is not None else [learner.embed(params, x)]

    def objective(meta: Meta, params: Params, real: Batch, probe: Any, key: Array) -> tuple[Array, Metrics]:
        del probe

        def embedding(params: Params, images: Batch) -> list[Array]:
            return [jnp.mean(f, axis=0) for f in features(params, images.x)]

        def of_class(real: Batch, synthetic: Batch, key: Array) -> Array:
            if augment is not None:
                real, synthetic = (batch._replace(x=augment(key, batch.x)) for batch in (real, synthetic))
            size = microbatch or images_at_a_time(learner, embedding, params, real)
            target = mean_of_parts(partial(embedding, params), size, real)
            ours = embedding(params, synthetic)
            apart = [
                jnp.mean(jnp.square(a - b)) for a, b in zip(lax.stop_gradient(target), ours, strict=True)
            ]
            return ours[-1].size * jnp.sum(jnp.stack(apart))

        synthetic = by_class(meta.teacher, stream(key, "teacher"))
        keys = jax.random.split(stream(key, "augment"), synthetic.y.shape[0])
        loss = jnp.sum(over_learners(of_class, strategy=class_strategy)(real, synthetic, keys))
        return loss, {"loss": loss}

    return objective
