"""Gradients of a batch by images at a time: a part of `experiments.benchmark`."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from experiments.benchmark.options import Options
from experiments.measure import Row, compiled, ratio_of_medians, row, timed
from jaxdistill.core.types import Array, Batch, Meta, Params
from jaxdistill.inner.losses import inner_loss
from jaxdistill.inner.microbatch import images_at_a_time, mean_of_parts
from jaxdistill.learners import learner

NETWORKS: dict[str, dict[str, Any]] = {
    "convnet 128": {"name": "convnet", "width": 128},
    "convnet 32": {"name": "convnet", "width": 32},
    "lenet": {"name": "lenet"},
    "mlp": {"name": "mlp"},
}


def microbatches(options: Options) -> Iterator[Row]:
    """Gradient of a batch of images, so many at a time; `(chosen)` is what matching takes; ratio to all."""
    size = 8 if options.smoke else 256
    keys = jax.random.split(jax.random.key(options.seed), 2)
    batch = Batch(jax.random.normal(keys[0], (size, 28, 28, 1)), jax.nn.one_hot(jnp.arange(size) % 10, 10))
    for title, settings in NETWORKS.items():
        network = learner(**settings, image_shape=(28, 28, 1), num_classes=10)
        params = network.init(keys[1])
        loss = functools.partial(inner_loss(network), Meta((), {}))
        chosen = images_at_a_time(network, loss, params, batch)
        sizes = sorted({chosen, *(size // 2**power for power in range(0, 7, 2))} - {0}, reverse=True)
        programs = {n: compiled(gradient(loss, n), (params, batch)) for n in sizes}
        times = timed({str(n): program for n, program in programs.items()}, options.repeats)
        for n, program in programs.items():
            more = {"learner": title, "ratio": ratio_of_medians(times, str(n), str(size))}
            told = f"{n} (chosen)" if n == chosen else str(n)
            yield row("microbatch", told, times[str(n)], program, **more)


def gradient(loss: Callable[[Params, Batch], Array], microbatch: int) -> Any:
    """(params, Batch) -> gradient of the loss, so many images at a time, compiled when called."""

    @jax.jit
    def whole(params: Params, batch: Batch) -> Params:
        return mean_of_parts(lambda part: jax.grad(loss)(params, part), microbatch, batch)

    return whole
