"""Outer steps of the matching methods at their papers' size: a part of `experiments.benchmark`."""

import math
import statistics
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp

from experiments.benchmark.options import Options
from experiments.benchmark.problems import CLASSES, SHAPES, distillation, program_of
from experiments.measure import Row, compiled, row, timed
from jaxdistill.config.table import Config
from jaxdistill.core.types import Learner
from jaxdistill.learners import learner
from jaxdistill.populations.persistent import match_schedule
from jaxdistill.runs.budget import OUT_OF_MEMORY

LARGEST = 12 * 2**30
"""Bytes of a program beyond which it is not run."""


class Step(NamedTuple):
    """An outer step that is timed."""

    method: str
    per_class: int
    """Synthetic images of a class."""
    by_real: float
    """Forward passes that the work on a real image is: a gradient is three, features are one."""
    by_synthetic: float
    """And on a synthetic one: the gradient of a gradient is nine, that of features by the image two."""


STEPS = {
    "dc 1": Step("dc", 1, 3, 9),
    "dc 10": Step("dc", 10, 3, 9),
    "dsa 10": Step("dsa", 10, 3, 9),
    "dm 10": Step("dm", 10, 1, 2),
}


def matching(options: Options) -> Iterator[Row]:
    """Method and images per class; classes one by one (map) or at once (vmap); ratio to a matrix product."""
    smoke, shape = options.smoke, SHAPES["convnet"]
    width, real = (4, 2) if smoke else (128, 256)
    network = learner("convnet", image_shape=shape, num_classes=CLASSES, width=width)
    forward = forward_flops(network)
    size = 64 if smoke else 4096
    square = jax.random.normal(jax.random.key(0), (size, size))
    product = compiled(jax.jit(jnp.matmul), (square, square))
    for name, step in STEPS.items():
        chosen = Config(
            method=step.method,
            images_per_class=step.per_class,
            start="noise",
            learner="convnet",
            width=width,
            real_batch_size=real,
            seed=options.seed,
        )
        programs = {"matrix product": product}
        for strategy in ("map", "vmap"):
            try:
                plan = distillation(chosen.replace(class_strategy=strategy), shape, size=CLASSES * real)
                program = program_of(plan, 1)
            except OUT_OF_MEMORY:
                continue
            if program.temp_bytes <= LARGEST:
                programs[strategy] = program
            else:
                yield row("matching", f"{name}, {strategy}: too large to run", (), program)
        times = timed(programs, options.repeats)
        best = 2 * size**3 / statistics.median(times["matrix product"])
        for strategy in [name for name in programs if name != "matrix product"]:
            rate = forward * passes(step, real) / statistics.median(times[strategy])
            more = {
                "gflops": round(rate / 1e9, 2),
                "ratio": round(rate / best, 3),
            }
            yield row("matching", f"{name}, {strategy}", times[strategy], programs[strategy], **more)


def passes(step: Step, real_batch_size: int) -> float:
    """Forward passes of one image that the work of an outer step is."""
    synthetic = (step.by_synthetic + 3 * epochs_between(step)) * step.per_class
    return CLASSES * (step.by_real * real_batch_size + synthetic)


def epochs_between(step: Step) -> int:
    """Epochs of training on the synthetic images between two matches of a network; 0: a new one each time."""
    matches, epochs = match_schedule(step.per_class)
    return epochs if step.method != "dm" and matches > 1 else 0


def forward_flops(network: Learner) -> int:
    """Floating point operations of the products of one forward pass of ConvNet-3 on one 28x28 image."""
    params = jax.eval_shape(network.init, jax.random.key(0))["params"]
    sides = {"conv1": 32, "conv2": 16, "conv3": 8}  # after the padding of 3 to 32 pixels, and two poolings
    return sum(
        2 * math.prod(layer["kernel"].shape) * sides.get(name, 1) ** 2
        for name, layer in params.items()
        if "kernel" in layer
    )
