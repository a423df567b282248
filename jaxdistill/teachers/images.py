"""Learned pixels: the teacher of Dataset Distillation and of the matching family."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill.core.checks import at_least, fail
from jaxdistill.core.linalg import widened
from jaxdistill.core.types import Array, Batch, Params, Teacher
from jaxdistill.teachers.soft_labels import labels_of


def images(
    *,
    image_shape: tuple[int, int, int],
    num_classes: int,
    images_per_class: int = 1,
    distill_steps: int = 1,
    distill_epochs: int = 1,
    start: Array | None = None,
    labels: str = "probabilities",
    soft_labels: bool = False,
    label_confidence: float = 0.9,
) -> Teacher:
    """Synthetic images as free parameters, in `distill_steps` batches, gone over `distill_epochs` times.

    Each batch holds the same number of images of every class, class by class; labels are fixed, or
    softmax of learned logits, or learned and free. T = distill_steps * distill_epochs inner steps.

    Args:
      image_shape: (H, W, C).
      num_classes: number of classes.
      images_per_class: of the whole set; a multiple of `distill_steps`.
      distill_steps: S, distinct batches.
      distill_epochs: passes over them.
      start: [classes, images_per_class, H, W, C] standardised images to start from (real ones, say);
        standard normal noise when None.
      labels: `probabilities`, or `free` ones: learned, any numbers, for squared losses; centred at the start.
      soft_labels: whether probabilities are learned too.
      label_confidence: with `soft_labels`, the probability of the true class at the start, in (1/classes, 1).

    Returns:
      A teacher with phi = {"x": [S, B, H, W, C]} and, with soft labels, "y": [S, B, classes] logits, or
      the labels themselves where they are free;
      B = classes * images_per_class / S. `by_class` gives [classes, images_per_class, ...].

    Raises:
      UserError: counts below 1, images_per_class not a multiple of distill_steps, a start of another shape.

    Example:
      >>> teacher = images(image_shape=(8, 8, 1), num_classes=10, distill_epochs=3)
      >>> teacher.batches(teacher.init(jax.random.key(0)), jax.random.key(1)).x.shape
      (3, 10, 8, 8, 1)

    References: Wang et al. 2018, section 3; Sucholutsky & Schonlau 2021 (soft labels).
    """
    for name, value in (
        ("images_per_class", images_per_class),
        ("distill_steps", distill_steps),
        ("distill_epochs", distill_epochs),
    ):
        at_least("images", name, value, 1)
    if images_per_class % distill_steps:
        raise fail(
            "images", f"images_per_class a multiple of distill_steps = {distill_steps}", images_per_class
        )
    per_step = images_per_class // distill_steps
    shape = (num_classes, images_per_class, *image_shape)
    if start is not None and start.shape != shape:
        raise fail("images", f"start of shape {shape}", start.shape)
    one_hot = np.eye(num_classes, dtype=jax.dtypes.canonicalize_dtype(float))
    hard = jax.device_put(np.tile(np.repeat(one_hot, per_step, axis=0), (distill_steps, 1, 1)))
    first, labels_from = labels_of(
        "images", hard, labels=labels, soft_labels=soft_labels, label_confidence=label_confidence
    )

    def init(key: Array) -> Params:
        if start is None:
            x = jax.random.normal(key, (distill_steps, num_classes * per_step, *image_shape))
        else:
            x = start.reshape(num_classes, distill_steps, per_step, *image_shape).swapaxes(0, 1)
            x = x.reshape(distill_steps, num_classes * per_step, *image_shape)
        return widened({"x": x} if first is None else {"x": x, "y": first})

    def distinct(phi: Params) -> Batch:
        return Batch(phi["x"], labels_from(phi))

    def batches(phi: Params, key: Array) -> Batch:
        del key
        return jax.tree.map(lambda a: jnp.tile(a, (distill_epochs,) + (1,) * (a.ndim - 1)), distinct(phi))

    def by_class(phi: Params, key: Array) -> Batch:
        del key

        def arrange(a: Array) -> Array:
            a = a.reshape(distill_steps, num_classes, per_step, *a.shape[2:]).swapaxes(0, 1)
            return a.reshape(num_classes, images_per_class, *a.shape[3:])

        return jax.tree.map(arrange, distinct(phi))

    return Teacher(init=init, batches=batches, by_class=by_class, labels=labels)
