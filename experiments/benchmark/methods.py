"""Outer steps of every method and gradient, and the evaluation of many networks: parts of the benchmark."""

from collections.abc import Collection, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmark.options import Options
from experiments.measure import Row, compiled, outer_steps, ratio_of_medians, row, timed
from experiments.programs import SMOKE, data, problem, programs, tiny, trajectories
from jaxdistill.core.checks import fail
from jaxdistill.core.platform import present
from jaxdistill.core.types import Batch, Data, Learner, Params
from jaxdistill.evaluation import one_program
from jaxdistill.evaluation.protocols import epochs
from jaxdistill.learners import learner

STEPS = {"methods": 20, "gradients": 3}
"""Outer steps of one compiled program."""


def methods(options: Options, done: Collection[str] = ()) -> Iterator[Row]:
    """Every method with its paper's settings, on noise in the shape of MNIST."""
    yield from _rows("methods", options, done)


def gradients(options: Options, done: Collection[str] = ()) -> Iterator[Row]:
    """Every method with every gradient, tiny networks: are the numbers finite?"""
    yield from _rows("gradients", options, done)


def _rows(what: str, options: Options, done: Collection[str]) -> Iterator[Row]:
    """A row per program; one that fails stops no other.

    Raises:
      UserError: at the end, names the programs that failed.
    """
    kinds = ("methods",) if what == "methods" else ("methods", "gradients")
    found = programs(kinds, present())
    if options.smoke:
        found = {name: each for name, each in found.items() if name in SMOKE}
    if options.smoke or what == "gradients":
        found = {name: tiny(each) for name, each in found.items()}
    given, failed = data(28, 2000 if options.smoke else 60_000), {}
    for name in [name for name in found if name not in done]:
        try:
            made = problem(found[name], given)
            bank = _experts(made.learner) if made.follows_experts else None
            program = outer_steps(made.method, Data(given.train, bank), options.seed, STEPS[what])
            _, metrics, finite = program.call(*program.arguments)
            sound = bool(finite) and bool(np.isfinite(metrics["loss"]).all())
            times = timed({name: program}, options.repeats)[name]
        except Exception as error:
            failed[name] = f"{type(error).__name__} {error}".strip().splitlines()[0]
            continue
        if not sound:
            failed[name] = "NaN or infinite"
        yield row(what, name, times, program, K=made.config.num_learners, finite=sound)
    if failed:
        listed = "; ".join(f"{name}: {error}" for name, error in failed.items())
        raise fail(f"benchmark {what}", "programs that run, with finite numbers", listed)


def _experts(network: Learner) -> Params:
    """Weights that walk at random, in the place of experts."""
    key = jax.random.key(1)

    def walk(shape: jax.ShapeDtypeStruct) -> jax.Array:
        return jnp.cumsum(0.01 * jax.random.normal(key, shape.shape, shape.dtype), axis=1)

    return jax.tree.map(walk, trajectories(network))


def evaluation(options: Options) -> Iterator[Row]:
    """Networks trained on ten images and tested: all at once (vmap) and one after another (map)."""
    smoke = options.smoke
    count, passes, width = (2, 3, 4) if smoke else (20, 300, 128)
    given = data(28, 240 if smoke else 12_000)
    network = learner("convnet", image_shape=(28, 28, 1), num_classes=10, width=width)
    key = jax.random.key(options.seed)
    params = jax.jit(jax.vmap(network.init))(jax.random.split(key, count))
    rows = jnp.broadcast_to(jnp.arange(10, dtype=jnp.int32), (count, 10))
    images = Batch(given.test.x[:10], given.test.y[:10])
    protocol = epochs(10, num_epochs=passes, decay_at_half=True)
    arguments = (params, images, rows, protocol.values, given.train, key)
    made = {
        strategy: compiled(one_program(network, protocol, strategy=strategy), arguments)
        for strategy in ("map", "vmap")
    }
    times = timed(made, options.repeats)
    for strategy, program in made.items():
        more = {
            "learner": "convnet",
            "K": count,
            "T": passes,
            "ratio": ratio_of_medians(times, strategy, "map"),
        }
        yield row("evaluation", strategy, times[strategy], program, **more)
