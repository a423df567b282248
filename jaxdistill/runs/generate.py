"""Draws more images from the generator that a run learned."""

from typing import NamedTuple

import jax
import numpy as np

from jaxdistill.config import build
from jaxdistill.core.checks import check_seed, check_whole, fail
from jaxdistill.core.keys import stream
from jaxdistill.data import to_pixels
from jaxdistill.runs.run import Run


class Generated(NamedTuple):
    """Images of a generator."""

    pixels: np.ndarray
    """[N, H, W, C] float32, in the pixel units of the data set."""
    standardised: np.ndarray
    """[N, H, W, C] float32, as networks see them."""
    labels: np.ndarray
    """[N] int64, balanced over the classes."""


def generate(run: Run, num_images: int, *, seed: int = 0) -> Generated:
    """Draws images from the generator that a run learned, for new noise.

    Batches are as large as in the generator's training, since its normalisation looks at a whole
    batch.

    Args:
      run: of `teacher="generator"`, by any method.
      num_images: N.
      seed: of the noise, which has the distribution that the generator was made for.

    Returns:
      The images and their classes.

    Raises:
      UserError: a run that learned images and no generator, fewer than one image, or a seed that is no
        whole number from 0.

    Example:
      >>> small = {"generator_width": 4, "generator_hidden": 8, "num_outer_steps": 2, "progress": False}
      >>> run = jd.distill(dataset="digits", teacher="generator", batch_size=10, **small)
      >>> jd.generate(run, 15).pixels.shape
      (15, 8, 8, 1)
    """
    check_whole("generate", num_images=num_images)
    check_seed("generate", seed)
    if run.config.teacher != "generator":
        where = "" if run.path is None else f" in {run.path}"
        raise fail("generate", "a run with teacher=generator", f"teacher={run.config.teacher}{where}")
    info = run.data.info
    size = build.batch_size(run.config, info)
    fresh = run.config.replace(
        curriculum="none",
        batch_size=size,
        distill_steps=-(-num_images // size),
        distill_epochs=1,
        labels="probabilities",
        soft_labels=False,
        steps_at_once=1,
    )
    key = stream(jax.random.key(seed), "generate")
    network = {"network": run.state.output.teacher["network"]}
    with build.precision(run.config):
        teacher = build.teacher(fresh, run.data, key)
        made = jax.device_get(jax.jit(teacher.batches)(network, key))
    images = made.x.reshape(-1, *info.image_shape)[:num_images]
    labels = made.y.reshape(-1, info.num_classes)[:num_images].argmax(-1).astype(np.int64)
    return Generated(np.asarray(to_pixels(images, info)), images, labels)
