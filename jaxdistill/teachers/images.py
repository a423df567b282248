"""Learned pixels: the teacher of Dataset Distillation and of the matching family."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill.core.checks import at_least, fail, one_of
from jaxdistill.core.linalg import widened
from jaxdistill.core.types import Array, Batch, Made, Params, Stored, Teacher
from jaxdistill.teachers.decoders.decoder import Decoder, Latents
from jaxdistill.teachers.decoders.pixels import pixels
from jaxdistill.teachers.soft_labels import labels_of
from jaxdistill.teachers.storage import STORED_AS, as_stored, counted, restored, stored_images


def unit_noise(key: Array, shape: tuple[int, ...]) -> Array:
    """Gaussian noise [..., H, W, C], every image of which has norm 1: a start of `images`.

    References: Feng, Vedantam & Kempe 2023, "Embarrassingly Simple Dataset Distillation".
    """
    noise = jax.random.normal(key, shape)
    return noise / jnp.sqrt(jnp.sum(jnp.square(noise), axis=(-3, -2, -1), keepdims=True))


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
    decoder: Decoder | None = None,
    stored_as: str = "float32",
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
      decoder: what is stored in the place of images, of `jaxdistill.teachers.decoders`; the images when None.
      stored_as: numbers are stored as `float32`, `float16` or `uint8` (see `storage.as_stored`). Images are
        learned as float32; what is exported and evaluated is what is stored.

    Returns:
      A teacher with phi = {"x": [S, B, H, W, C]} and, with soft labels, "y": [S, B, classes] logits, or the
      labels themselves where they are free; B = classes * images_per_class / S. `by_class` gives
      [classes, images_per_class, ...]. With a decoder, phi has its "latents" in the place of "x", and images
      are decoded once per outer step.

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

    learned = first is not None
    one_of("images stored_as", stored_as, STORED_AS)
    plain = decoder is None or decoder.name == "none"
    form = decoder if decoder is not None else pixels(image_shape=image_shape)
    count = num_classes * images_per_class

    def in_batches(x: Array) -> Array:
        """[classes * images_per_class, ...], class by class -> [S, B, ...]."""
        x = x.reshape(num_classes, distill_steps, per_step, *x.shape[1:]).swapaxes(0, 1)
        return x.reshape(distill_steps, num_classes * per_step, *x.shape[3:])

    def in_classes(a: Array) -> Array:
        """[S, B, ...] -> [classes, images_per_class, ...]."""
        a = a.reshape(distill_steps, num_classes, per_step, *a.shape[2:]).swapaxes(0, 1)
        return a.reshape(num_classes, images_per_class, *a.shape[3:])

    def init(key: Array) -> Params:
        flat = None if start is None else start.reshape(count, *image_shape)
        if not plain:
            flat = None if flat is None else jax.lax.optimization_barrier(flat)  # XLA would fold its decoding
            found = {"latents": form.init(key, count, flat)}
        elif flat is None:
            found = {"x": jax.random.normal(key, (distill_steps, num_classes * per_step, *image_shape))}
        else:
            found = {"x": in_batches(flat)}
        return widened(found | ({"y": first} if learned else {}))

    def make(phi: Params, key: Array) -> Batch:
        del key
        x = phi["x"] if plain else in_batches(form.decode(phi["latents"]))
        return Batch(x, labels_from(phi))

    def distinct(phi: Params, key: Array) -> Batch:
        return phi.value if isinstance(phi, Made) else make(phi, key)

    def batches(phi: Params, key: Array) -> Batch:
        every = distinct(phi, key)
        return jax.tree.map(lambda a: jnp.tile(a, (distill_epochs,) + (1,) * (a.ndim - 1)), every)

    def by_class(phi: Params, key: Array) -> Batch:
        return jax.tree.map(in_classes, distinct(phi, key))

    @jax.jit
    def flat_classes(a: Array) -> Array:
        return in_classes(a).reshape(count, *a.shape[2:])

    def stored(phi: Params) -> Stored:
        latents: Latents = {"pixels": flat_classes(phi["x"])} if plain else phi["latents"]
        own = {"labels": flat_classes(phi["y"])} if learned else {}
        arrays = stored_images(form, latents, stored_as) | as_stored(own, stored_as)
        return counted(arrays, form.bits)

    def read(stored: Stored) -> Made:
        arrays = restored(stored.arrays)
        x = in_batches((form.read or form.decode)(arrays))
        return Made(Batch(x, labels_from({"y": in_batches(arrays["labels"])} if learned else {})))

    return Teacher(
        init=init,
        batches=batches,
        by_class=by_class,
        make=None if plain else make,
        stored=stored,
        read=None if stored_as == "float32" and form.read is None else read,
        labels=labels,
    )
