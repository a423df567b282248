"""Distillations of random pixels: what the parts of the benchmark time."""

from typing import Any

import numpy as np

from experiments.measure import Program, outer_steps
from jaxdistill.config.table import Config
from jaxdistill.data import DatasetInfo, Splits, from_arrays
from jaxdistill.runs.plan import Plan, planned

SHAPES = {"mlp": (8, 8, 1), "lenet": (28, 28, 1), "convnet": (28, 28, 1)}
CLASSES = 10
PLAIN: dict[str, Any] = {"schedule": "constant", "clip": 0.0, "max_inner_learning_rate": 0.0}
"""An outer loop that does no more than the paper's, whatever the size of the images."""


def random_images(shape: tuple[int, int, int], size: int, seed: int) -> Splits:
    """Random pixels, already standardised, in as many classes as digits; every split has all of them."""
    pixels = np.random.default_rng(seed).standard_normal((size, *shape), np.float32)
    arrays = from_arrays(pixels, np.arange(size) % CLASSES, CLASSES)
    info = DatasetInfo("random", shape, CLASSES, tuple("0123456789"), 1.0, (0.0,), (1.0,))
    return Splits(arrays, arrays, arrays, info)


def distillation(chosen: Config, shape: tuple[int, int, int], *, size: int) -> Plan:
    """The distillation of random images of that shape."""
    return planned(chosen, data=random_images(shape, size, chosen.seed))


def problem(
    name: str, seed: int, *, num_steps: int, num_learners: int = 1, real_batch_size: int = 256, **options: Any
) -> Plan:
    """Dataset Distillation of ten images, one per class, on random pixels.

    Args:
      name: of the network.
      seed: of the pixels and of the run.
      num_steps: T.
      num_learners: K; one is always the same network.
      real_batch_size: real images per outer step.
      **options: others of `Config`.
    """
    chosen = Config(
        method="dd",
        learner=name,
        initialization="xavier",
        population="fixed" if num_learners == 1 else "fresh",
        distill_epochs=num_steps,
        inner_learning_rate=0.02,
        num_learners=num_learners,
        real_batch_size=real_batch_size,
        seed=seed,
    )
    chosen = chosen.replace(**PLAIN | options)
    return distillation(chosen, SHAPES[name], size=max(2 * real_batch_size, CLASSES))


def program_of(plan: Plan, length: int) -> Program:
    """So many outer steps of a plan, compiled."""
    return outer_steps(plan.method, plan.arguments, plan.config.seed, length)
