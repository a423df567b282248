"""A network that makes the batch of every inner step: the teacher of Generative Teaching Networks."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdistill.core.checks import at_least, fail, lookup, one_of
from jaxdistill.core.keys import stream
from jaxdistill.core.linalg import widened
from jaxdistill.core.types import Array, Batch, Made, Params, Teacher
from jaxdistill.layers.initializers import draw_params, he
from jaxdistill.teachers.soft_labels import labels_of

NOISES = ("learned", "fixed", "fresh")
DISTRIBUTIONS = {"gaussian": jax.random.normal, "uniform": jax.random.uniform}


def generator(
    *,
    image_shape: tuple[int, int, int],
    num_classes: int,
    batch_size: int,
    distill_steps: int = 1,
    distill_epochs: int = 1,
    architecture: str = "upsampling",
    generator_width: int | None = None,
    generator_hidden: int = 1024,
    upsamplings: int = 2,
    weight_norm: bool | None = None,
    noise: str = "learned",
    noise_size: int | None = None,
    distribution: str | None = None,
    noise_key: Array | None = None,
    labels: str = "probabilities",
    soft_labels: bool = False,
    label_confidence: float = 0.9,
    steps_at_once: int | None = None,
) -> Teacher:
    """x_t = G_phi(z_t, y_t): S batches of B images from noise and labels, gone over `distill_epochs` times.

    Labels are `arange(S B) mod classes` in the order of the steps: balanced over the run, and within one per
    class in a batch. Batch normalisation inside G has the statistics of each inner step of its own. T = S *
    distill_epochs inner steps. All images of an outer step are made at once, for all its steps and learners.

    Args:
      image_shape: (H, W, C).
      num_classes: number of classes.
      batch_size: B, images of a batch.
      distill_steps: S, distinct batches.
      distill_epochs: passes over them (with fresh noise: S * distill_epochs distinct ones).
      architecture: a key of `ARCHITECTURES`; where an option below is None, its paper's.
      generator_width: filters of the inner convolution (`upsampling`; the layer before has twice as many),
        or k (`compact`).
      generator_hidden: units of the first dense layer (`upsampling`).
      upsamplings: doublings of the image size (`upsampling`); both sides are multiples of 2^upsamplings.
      weight_norm: whether weights are normalised (Salimans & Kingma 2016), throughout.
      noise: `learned` z_t, part of phi; `fixed`, drawn once; `fresh`, drawn at every outer step.
      noise_size: numbers of one z.
      distribution: of z, `gaussian` or `uniform` (0 to 1).
      noise_key: of fixed noise; key 0 when None.
      labels: `probabilities`, or `free` ones: learned, any numbers, for squared losses; centred at the start.
      soft_labels: whether probabilities are learned too, as softmax of logits; G is given the true class.
      label_confidence: with `soft_labels`, the probability of the true class at the start, in (1/classes, 1).
      steps_at_once: inner steps whose images are made at a time, the work inside G computed again in the
        backward pass: the memory of this many steps, not of all; all are made at once, and nothing twice,
          when None.

    Returns:
      A teacher with phi = {"network": weights, "z": [S, B, noise_size] where learned, "y": [S, B, classes]
      logits where soft, or free labels}. `by_class` gives [classes, S * B // classes, ...], None for fewer
      images than classes.

    Raises:
      UserError: an option out of range, an unknown name, an image side that the upsampling cannot reach.

    Example:
      >>> teacher = generator(
      ...     image_shape=(8, 8, 1), num_classes=10, batch_size=16, distill_steps=4, generator_width=8
      ... )
      >>> jax.jit(teacher.batches)(teacher.init(jax.random.key(0)), jax.random.key(1)).x.shape
      (4, 16, 8, 8, 1)

    References: Such et al. 2019, section 3 and appendix; Medvedev & D'yakonov 2022, section 4.
    """
    from jaxdistill.teachers.networks import ARCHITECTURES, network  # they take Flax

    paper = lookup("generator architecture", architecture, ARCHITECTURES)
    width = paper.width if generator_width is None else generator_width
    noise_size = paper.noise_size if noise_size is None else noise_size
    for name, value in (
        ("batch_size", batch_size),
        ("distill_steps", distill_steps),
        ("distill_epochs", distill_epochs),
        ("generator_width", width),
        ("generator_hidden", generator_hidden),
        ("upsamplings", upsamplings),
        ("noise_size", noise_size),
    ):
        at_least("generator", name, value, 1)
    one_of("generator noise", noise, NOISES)
    draw = lookup("generator distribution", distribution or paper.noise, DISTRIBUTIONS)
    if noise == "fresh":
        distill_steps, distill_epochs = distill_steps * distill_epochs, 1
    if steps_at_once is not None:
        at_least("generator", "steps_at_once", steps_at_once, 1)
        if distill_steps % steps_at_once:
            expected = f"steps_at_once a divisor of the {distill_steps} distinct batches"
            raise fail("generator", expected, steps_at_once)
    net = network(
        architecture,
        image_shape,
        width=width,
        hidden=generator_hidden,
        upsamplings=upsamplings,
        weight_norm=paper.weight_norm if weight_norm is None else weight_norm,
        scale=paper.scale,
    )
    count = distill_steps * batch_size
    classes = np.arange(count) % num_classes
    one_hot = np.eye(num_classes, dtype=np.float32)[classes]
    hard = jax.device_put(one_hot.reshape(distill_steps, batch_size, -1))
    first, labels_from = labels_of(
        "generator", hard, labels=labels, soft_labels=soft_labels, label_confidence=label_confidence
    )
    shape = (distill_steps, batch_size, noise_size)

    def init(key: Array) -> Params:
        inputs = jnp.zeros((1, noise_size + num_classes))
        shapes = jax.eval_shape(lambda key: net.init(key, inputs, steps=1), key)["params"]
        phi = {"network": draw_params(stream(key, "network"), shapes, he)}
        if noise == "learned":
            phi["z"] = draw(stream(key, "noise"), shape)
        return widened(phi if first is None else phi | {"y": first})

    def noise_of(phi: Params, key: Array) -> Array:
        if noise == "learned":
            return phi["z"]
        if noise == "fixed":
            key = jax.random.key(0) if noise_key is None else noise_key
        return draw(stream(key, "noise"), shape)

    def images(weights: Params, z: Array, y: Array) -> Array:
        """[S', B, noise_size], [S', B, classes] -> [S', B, H, W, C], statistics per step."""
        inputs = jnp.concatenate([z, y], axis=-1)
        x = net.apply({"params": weights}, inputs.reshape(-1, inputs.shape[-1]), steps=z.shape[0])
        return x.reshape(*z.shape[:2], *image_shape)  # pyright: ignore[reportAttributeAccessIssue]

    def make(phi: Params, key: Array) -> Batch:
        """The distinct batches, [S, B, ...]."""
        z = noise_of(phi, key)
        if steps_at_once is None:
            x = images(phi["network"], z, hard)
        else:
            some = jax.checkpoint(lambda zy: images(phi["network"], *zy), prevent_cse=False)
            parts = jax.tree.map(lambda a: a.reshape(-1, steps_at_once, *a.shape[1:]), (z, hard))
            x = lax.map(some, parts).reshape(*shape[:2], *image_shape)
        return Batch(x, labels_from(phi))

    def distinct(phi: Params, key: Array) -> Batch:
        return phi.value if isinstance(phi, Made) else make(phi, key)

    def batches(phi: Params, key: Array) -> Batch:
        every = distinct(phi, key)
        return jax.tree.map(lambda a: jnp.tile(a, (distill_epochs,) + (1,) * (a.ndim - 1)), every)

    per_class = count // num_classes
    rows = np.arange(per_class)[None] * num_classes + np.arange(num_classes)[:, None]

    def by_class(phi: Params, key: Array) -> Batch:
        return jax.tree.map(lambda a: a.reshape(count, *a.shape[2:])[rows], distinct(phi, key))

    return Teacher(
        init=init, batches=batches, by_class=by_class if per_class else None, make=make, labels=labels
    )
