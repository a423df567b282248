"""Matching of gradients: synthetic images that pull a network's weights where real ones do."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxdistill.core.checks import at_least, fail, lookup, one_of
from jaxdistill.core.keys import stream
from jaxdistill.core.linalg import add_scaled, cosine, squared_norm
from jaxdistill.core.types import (
    Array,
    Augment,
    Batch,
    InnerLoss,
    Learner,
    Meta,
    Metrics,
    Objective,
    Params,
    Teacher,
)
from jaxdistill.inner.losses import inner_loss as plain_loss
from jaxdistill.inner.microbatch import in_parts
from jaxdistill.inner.over_learners import STRATEGIES, over_learners

EPSILON = 1e-6


def layerwise(real: Params, synthetic: Params) -> Array:
    """sum over layers and output units of 1 - cos(real, synthetic): the distance of Zhao et al. 2021.

    A kernel [..., in, out] is one vector per output unit; parameters of one axis (biases, norms) are left
    out. A unit whose gradients are both zero costs 0, where the authors' code has a constant 1 of the same
    derivative, zero; where one alone is zero it costs 1 in both.
    """
    total = jnp.zeros(())
    for a, b in zip(jax.tree.leaves(real), jax.tree.leaves(synthetic), strict=True):
        if a.ndim > 1:
            total += jnp.sum(_unit_distances(a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1])))
    return total


def squared(real: Params, synthetic: Params) -> Array:
    """sum over all parameters of the squared difference."""
    return squared_norm(add_scaled(real, -1.0, synthetic))


def global_cosine(real: Params, synthetic: Params) -> Array:
    """1 - cos of the two gradients as one vector each; 0 where both are zero, 1 where one is."""
    flat = [
        jnp.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves(tree)])[:, None]
        for tree in (real, synthetic)
    ]
    return jnp.sum(_unit_distances(*flat))


def kernels_l2(real: Params, synthetic: Params) -> Array:
    """sum over the kernels of convolutions of the squared difference: one of those of Kim et al. 2022.

    Without convolutions over all kernels; biases, norms and, beside convolutions, dense layers are left out.
    """
    return squared(*map(_kernels, (real, synthetic)))


def kernels_l1(real: Params, synthetic: Params) -> Array:
    """sum over the kernels of convolutions of the absolute difference; otherwise as `kernels_l2`."""
    apart = jax.tree.map(lambda a, b: jnp.sum(jnp.abs(a - b)), *map(_kernels, (real, synthetic)))
    return jnp.sum(jnp.stack(apart))


def _kernels(gradient: Params) -> list[Array]:
    """The gradients of convolutions, or of all layers in a network without convolutions."""
    leaves = jax.tree.leaves(gradient)
    return [a for a in leaves if a.ndim > 2] or [a for a in leaves if a.ndim > 1]


DISTANCES: dict[str, Callable[[Params, Params], Array]] = {
    "cosine": global_cosine,
    "kernels_l1": kernels_l1,
    "kernels_l2": kernels_l2,
    "l2": squared,
    "layerwise": layerwise,
}
"""(real gradients, synthetic gradients) -> scalar."""


def _unit_distances(a: Array, b: Array) -> Array:
    """1 - cos of the columns of two [n, units] arrays, finite with finite gradients where they are zero."""
    sizes = [jnp.sum(jnp.square(each), axis=0) for each in (a, b)]
    lengths = [jnp.where(size > 0, jnp.sqrt(jnp.where(size > 0, size, 1.0)), 0.0) for size in sizes]
    distance = 1 - jnp.sum(a * b, axis=0) / (lengths[0] * lengths[1] + EPSILON)
    return jnp.where((sizes[0] > 0) | (sizes[1] > 0), distance, 0.0)


def gradient_matching(
    learner: Learner,
    teacher: Teacher,
    *,
    inner_loss: InnerLoss | None = None,
    distance: str = "layerwise",
    by_class: bool = True,
    augment: Augment | None = None,
    class_strategy: str = "auto",
    microbatch: int | None = None,
) -> Objective:
    """L(phi) = sum over classes of D(grad L(real_c, theta), grad L(synthetic_c(phi), theta)).

    The network's weights theta are where the gradients are taken, and are not trained here; the real
    gradients are constants.

    Args:
      learner: the network.
      teacher: what is learned.
      inner_loss: whose gradients are matched, a mean over images and terms of the weights; the cross-entropy
        when None.
      distance: D, a key of `DISTANCES`.
      by_class: a term per class (the real batch is [classes, n, ...], `sample_per_class`); all images of all
        batches at once, against a real batch [n, ...], otherwise.
      augment: applied to the real and the synthetic images of a class with the same key, which makes one draw
        whatever the images (siamese: `jaxdistill.augment.dsa`).
      class_strategy: how the classes are computed, see `jaxdistill.inner.over_learners`.
      microbatch: real images of a term at a time; `jaxdistill.inner.microbatch.images_at_a_time` when None.

    Returns:
      (meta, params, real Batch, probe, key) -> (loss, {"loss", "cosine"}), `cosine` of the two gradients as
      one vector each, mean over classes.

    Raises:
      UserError: an unknown distance or strategy; fewer synthetic images than classes, where each has a term.

    Example:
      >>> teacher = jd.images(image_shape=(8, 8, 1), num_classes=10)
      >>> net = jd.learner("convnet", image_shape=(8, 8, 1), num_classes=10)
      >>> objective = gradient_matching(net, teacher)

    References: Zhao, Mopuri & Bilen 2021, equations 9 and 10; Zhao & Bilen 2021 (siamese augmentation).
    """
    measure = lookup("gradient_matching distance", distance, DISTANCES)
    one_of("gradient_matching class_strategy", class_strategy, STRATEGIES)
    if microbatch is not None:
        at_least("gradient_matching", "microbatch", microbatch, 1)
    arranged = teacher.by_class
    if by_class and arranged is None:
        expected = "at least one synthetic image of every class, with a term per class"
        raise fail("gradient_matching", expected, "fewer images than classes", "Raise batch_size.")
    loss_of = plain_loss(learner) if inner_loss is None else inner_loss

    def objective(meta: Meta, params: Params, real: Batch, probe: Any, key: Array) -> tuple[Array, Metrics]:
        del probe
        constant = lax.stop_gradient(meta)  # real gradients are, and `in_parts` asks for it

        def of_class(real: Batch, synthetic: Batch, key: Array) -> tuple[Array, Array]:
            if augment is not None:
                real, synthetic = (batch._replace(x=augment(key, batch.x)) for batch in (real, synthetic))
            real_loss = in_parts(learner, partial(loss_of, constant), microbatch=microbatch)
            target = lax.stop_gradient(jax.grad(real_loss)(params, real))
            ours = jax.grad(partial(loss_of, meta))(params, synthetic)
            return measure(target, ours), lax.stop_gradient(cosine(target, ours))

        draw = stream(key, "teacher")
        if by_class and arranged is not None:
            synthetic = arranged(meta.teacher, draw)
        else:
            batches = teacher.batches(meta.teacher, draw)
            synthetic = jax.tree.map(lambda a: a.reshape(1, -1, *a.shape[2:]), batches)
            real = jax.tree.map(lambda a: a[None], real)
        keys = jax.random.split(stream(key, "augment"), synthetic.y.shape[0])
        every, cosines = over_learners(of_class, strategy=class_strategy)(real, synthetic, keys)
        loss = jnp.sum(every)
        return loss, {"loss": loss, "cosine": jnp.mean(cosines)}

    return objective
