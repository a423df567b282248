"""Programs by name: outer steps of every method and gradient on noise in the shape of a data set.

`experiments.compile_for` compiles them for machines that are not there, `experiments.benchmark` runs them.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

import jaxdistill as jd
from jaxdistill.config import build
from jaxdistill.config.gradients import NAMED, of_method
from jaxdistill.config.resolve import resolve
from jaxdistill.config.table import Config
from jaxdistill.core.types import Learner, Method, Params
from jaxdistill.data import Splits
from jaxdistill.methods import METHODS
from jaxdistill.methods.recipe import Facts, recipe_of

CLASSES = 10
EXPERTS, SNAPSHOTS = 10, 51
"""The trained networks that trajectory matching gets, as `experiments.experts` makes them."""

CONVNET = {"learner": "convnet", "width": 128, "depth": 3, "norm": "instance"}
STEPS = (1, 10, 100, 1000)
MEMORY = (
    *("unrolled_fixed", "unrolled_step", "unrolled_sqrt", "truncated", "accumulated"),
    *("implicit_cg", "implicit_neumann", "implicit_gauss_newton_cg", "implicit_nystrom"),
)
"""Gradients of the comparison of memory; all with a fixed step size."""
PODS = {
    "4": (4, 1),
    "4/data": (2, 2),
    "16": (16, 1),
    "16/data": (8, 2),
    "256": (256, 1),
    "256/data": (64, 4),
}
SETS = ("methods", "gradients", "memory", "pods")
TINY = {"learner": "convnet", "width": 4, "depth": 1, "real_batch_size": 16, "num_learners": 2}
SMOKE = ("dd", "dd/implicit_cg", "dm")
"""The programs of a trial."""


class Program(NamedTuple):
    """An outer step."""

    kind: str
    """One of `SETS`."""
    options: Mapping[str, Any]
    """Of `jd.Config`; the data are as large as MNIST."""
    mesh: tuple[int, int] = (1, 1)
    """Chips along `learner`, chips along `data`."""
    steps: int | None = None
    """T, of the comparison of memory."""


class Problem(NamedTuple):
    """A program's parts."""

    config: Config
    """Every option."""
    learner: Learner
    method: Method
    follows_experts: bool
    """Whether it needs a bank of experts, see `trajectories`."""


def problem(program: Program, given: Splits) -> Problem:
    """The method that a program is an outer step of."""
    config = resolve(Config(**program.options), Facts.of(given.info))
    learner = build.learner(config, given.info)
    method = build.method(config, given, learner, jax.random.key(0))
    return Problem(config, learner, method, build.source(config).bank == "trajectories")


def data(side: int, count: int) -> Splits:
    """Noise in the shape of a data set: nothing that is compiled depends on the pixels."""
    x = np.random.default_rng(0).integers(0, 256, (count, side, side, 1), np.uint8)
    y = np.arange(count) % CLASSES
    return jd.splits(x, y, x[:1000], y[:1000])


def trajectories(learner: Learner) -> Params:
    """Shapes of experts' weights, [experts, snapshots, ...]."""
    one = jax.eval_shape(learner.init, jax.random.key(0))
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct((EXPERTS, SNAPSHOTS, *a.shape), a.dtype), one)


def programs(kinds: tuple[str, ...], platform: str) -> dict[str, Program]:
    """The programs of these sets for the chips of a platform, by name."""
    made = {"methods": _methods, "gradients": _gradients, "memory": _memory, "pods": _pods}
    return {name: each for kind in kinds for name, each in made[kind](platform).items()}


def _methods(platform: str) -> dict[str, Program]:
    """Every method with its paper's settings."""
    return {name: Program("methods", {"method": name}) for name in sorted(METHODS)}


def _gradients(platform: str) -> dict[str, Program]:
    """Every method that trains inner steps, with every other gradient."""
    return {
        f"{method}/{gradient}": Program("gradients", {"method": method, **options} | _plain(method, gradient))
        for method in sorted(METHODS)
        for gradient, options in of_method(method).items()
        if gradient != "unrolled"
    }


def _plain(method: str, gradient: str) -> dict[str, Any]:
    """Options that a gradient needs: `accumulated` takes SGD without momentum, and gtn learns a momentum."""
    momentum = gradient == "accumulated" and "momentum" in recipe_of(METHODS[method]).defaults.get(
        "learned", ()
    )
    return {"inner_momentum": 0.0, "learned": ("learning_rate",)} if momentum else {}


def _memory(platform: str) -> dict[str, Program]:
    """ConvNet-3 of width 128: T inner steps, images and K = 1; ten steps of K = 8 and of a generator."""
    found = {}
    for steps in STEPS if platform == "gpu" else (10, 1000):
        found |= {f"{name}/T{steps}": _step(name, steps) for name in MEMORY}
    if platform == "gpu":
        found |= {f"{name}/T10/K8": _step(name, 10, num_learners=8) for name in MEMORY}
        found |= {f"{name}/T10/generator": _step(name, 10, teacher="generator") for name in MEMORY}
    return found


def _step(gradient: str, steps: int, **options: Any) -> Program:
    shared = {"method": "dd", "num_learners": 1, "real_batch_size": 1024, "learned": (), **CONVNET, **options}
    named = NAMED[gradient]
    length = {"max_inner_steps": steps} if named["gradient"] == "implicit" else {"distill_epochs": steps}
    return Program("memory", {**shared, **named, **length}, steps=steps)


def _pods(platform: str) -> dict[str, Program]:
    """`dd` with a learner on every chip of a pod; with an axis for the real batch, too."""
    if platform != "tpu":
        return {}
    return {
        f"dd/pod{name}": Program("pods", {"method": "dd", "num_learners": shape[0]}, shape)
        for name, shape in PODS.items()
    }


def tiny(program: Program) -> Program:
    """The same with a tiny network, for a trial."""
    smaller = dict(TINY)
    if not recipe_of(METHODS[program.options["method"]]).networks:
        del smaller["num_learners"]
    return program._replace(options={**program.options, **smaller})
