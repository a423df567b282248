"""Outer steps of the matching methods at their papers' size: a part of `experiments.benchmark`."""

import math
import statistics
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.measure import OUT_OF_MEMORY, Row, compiled, outer_steps, row, timed
from jaxdistill.core.types import Data, Learner, Method
from jaxdistill.data import from_arrays
from jaxdistill.learners import learner
from jaxdistill.methods.dc import dc, schedule
from jaxdistill.methods.dm import dm
from jaxdistill.methods.dsa import dsa
from jaxdistill.teachers import images

LARGEST = 12 * 2**30
"""Bytes of a program beyond which it is not run."""
STEPS: dict[str, tuple[Callable[..., Method], int, float, float]] = {
    "dc 1": (dc, 1, 3, 9),
    "dc 10": (dc, 10, 3, 9),
    "dsa 10": (dsa, 10, 3, 9),
    "dm 10": (dm, 10, 1, 2),
}
"""Method, images per class, and how many forward passes the work on a real and on a synthetic image is: a
gradient is three, the gradient of one nine; features one, their gradient by the image one more."""


def matching(config: Mapping[str, Any]) -> Iterator[Row]:
    """Method and images per class; classes one by one (map) or at once (vmap); ratio to a matrix product."""
    smoke, classes = config["smoke"], 10
    width, real = (4, 2) if smoke else (128, 256)
    network = learner("convnet", image_shape=(28, 28, 1), num_classes=classes, width=width)
    pixels = np.random.default_rng(config["seed"]).standard_normal((512, 28, 28, 1), np.float32)
    data = Data(from_arrays(pixels, np.arange(512) % classes, classes), None)
    forward = forward_flops(network)
    size = 64 if smoke else 4096
    square = jax.random.normal(jax.random.key(0), (size, size))
    product = compiled(jax.jit(jnp.matmul), (square, square))
    for name, (method, per_class, by_real, by_synthetic) in STEPS.items():
        programs = {"matrix product": product}
        for strategy in ("map", "vmap"):
            teacher = images(image_shape=(28, 28, 1), num_classes=classes, images_per_class=per_class)
            made = method(network, teacher, real_batch_size=real, class_strategy=strategy)
            try:
                program = outer_steps(made, data, config["seed"], 1)
            except OUT_OF_MEMORY:
                continue
            if program.temp_bytes <= LARGEST:
                programs[strategy] = program
            else:
                yield row("matching", f"{name}, {strategy}: too large to run", (), program)
        times = timed(programs, config["repeats"])
        best = 2 * size**3 / statistics.median(times["matrix product"])
        work = forward * classes * (by_real * real + (by_synthetic + trained(method, per_class)) * per_class)
        for strategy in [name for name in programs if name != "matrix product"]:
            rate = work / statistics.median(times[strategy])
            more = {
                "gflops": round(rate / 1e9, 2),
                "ratio": round(rate / best, 3),
            }
            yield row("matching", f"{name}, {strategy}", times[strategy], programs[strategy], **more)


def trained(method: Callable[..., Method], per_class: int) -> int:
    """Forward passes of each synthetic image in the training between two matches of a network."""
    matches, epochs = schedule(per_class)
    return 3 * epochs if method is not dm and matches > 1 else 0


def forward_flops(network: Learner) -> int:
    """Floating point operations of the products of one forward pass of ConvNet-3 on one 28x28 image."""
    params = jax.eval_shape(network.init, jax.random.key(0))["params"]
    sides = {"conv1": 32, "conv2": 16, "conv3": 8}  # after the padding of 3 to 32 pixels, and two poolings
    return sum(
        2 * math.prod(layer["kernel"].shape) * sides.get(name, 1) ** 2
        for name, layer in params.items()
        if "kernel" in layer
    )
