"""Training a pool of networks, on random images: a part of `experiments.benchmark`."""

import statistics
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from experiments.banks import starts, trained_by
from experiments.measure import Row, compiled, row, timed
from jaxdistill.data import from_arrays
from jaxdistill.evaluation import pretraining
from jaxdistill.learners import learner

STRATEGIES: dict[str, dict[str, Any]] = {
    "vmap": {"strategy": "vmap", "learner_chunk": None},
    "map, 4 at a time": {"strategy": "map", "learner_chunk": 4},
    "map": {"strategy": "map", "learner_chunk": None},
}
"""All at once, so many at once, and a compiled loop over networks."""


def pool(config: Mapping[str, Any]) -> Iterator[Row]:
    """A pool of LeNets for one epoch: all at once, a few at a time, one after another."""
    networks, size = (2, 20) if config["smoke"] else (8, 2048)
    pixels = np.random.default_rng(config["seed"]).standard_normal((size, 28, 28, 1), np.float32)
    data = from_arrays(pixels, np.arange(size) % 10, 10)
    network = learner("lenet", image_shape=(28, 28, 1), num_classes=10)
    protocol = pretraining(size, num_epochs=1, batch_size=128)
    keys = jax.random.split(jax.random.key(config["seed"]), networks)
    arguments = (starts(network)(keys), keys, data)
    programs = {
        name: compiled(trained_by(how, network, protocol), arguments) for name, how in STRATEGIES.items()
    }
    times = timed(programs, config["repeats"])
    loop = statistics.median(times["map"])
    for name, program in programs.items():
        seconds = statistics.median(times[name])
        more = {"images_per_second": round(networks * size / seconds), "ratio": round(seconds / loop, 3)}
        yield row("pool", name, times[name], program, learner="lenet", K=networks, **more)
