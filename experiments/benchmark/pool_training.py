"""Training a pool of networks, on random images: a part of `experiments.benchmark`."""

import statistics
from collections.abc import Iterator

import jax

from experiments.benchmark.options import Options
from experiments.benchmark.problems import CLASSES, SHAPES, random_images
from experiments.measure import Row, compiled, row, timed
from jaxdistill.config.table import MapOptions
from jaxdistill.evaluation import pretraining
from jaxdistill.learners import learner
from jaxdistill.runs.bank_training import starts, trained_by

STRATEGIES = {
    "vmap": MapOptions(strategy="vmap", learner_chunk=None),
    "map, 4 at a time": MapOptions(strategy="map", learner_chunk=4),
    "map": MapOptions(strategy="map", learner_chunk=None),
}
"""All at once, so many at once, and a compiled loop over networks."""


def pool(options: Options) -> Iterator[Row]:
    """A pool of LeNets for one epoch: all at once, a few at a time, one after another."""
    networks, size = (2, 20) if options.smoke else (8, 2048)
    data = random_images(SHAPES["lenet"], size, options.seed).train
    network = learner("lenet", image_shape=SHAPES["lenet"], num_classes=CLASSES)
    protocol = pretraining(size, num_epochs=1, batch_size=128)
    keys = jax.random.split(jax.random.key(options.seed), networks)
    arguments = (starts(network)(keys), keys, data)
    programs = {
        name: compiled(trained_by(how, network, protocol), arguments) for name, how in STRATEGIES.items()
    }
    times = timed(programs, options.repeats)
    loop = statistics.median(times["map"])
    for name, program in programs.items():
        seconds = statistics.median(times[name])
        more = {"images_per_second": round(networks * size / seconds), "ratio": round(seconds / loop, 3)}
        yield row("pool", name, times[name], program, learner="lenet", K=networks, **more)
