"""One hypergradient, by every estimator, of the same problem: what `memory_runtime` compares."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from experiments import build, gradients
from jaxdistill.core.keys import stream
from jaxdistill.core.types import (
    Array,
    Batch,
    InnerLoss,
    InnerOptimizer,
    Learner,
    Meta,
    Metrics,
    Objective,
    Params,
    Solve,
    Teacher,
)
from jaxdistill.data import Splits, sample
from jaxdistill.inner.accumulated import accumulated
from jaxdistill.inner.implicit import implicit
from jaxdistill.inner.losses import inner_loss
from jaxdistill.inner.over_learners import over_learners
from jaxdistill.inner.solvers import LINEAR_SOLVERS, linear_solver, options_of
from jaxdistill.inner.unrolled import unrolled
from jaxdistill.objectives.gradient_matching import gradient_matching
from jaxdistill.objectives.validation import validation

Config = Mapping[str, Any]
UNROLLED = ("unrolled", "unrolled_step", "unrolled_sqrt", "truncated")
MATCHING = "gradient_matching"
ACCUMULATED = "accumulated"
ESTIMATORS = (*UNROLLED, ACCUMULATED, *(f"implicit_{name}" for name in LINEAR_SOLVERS), MATCHING)
"""By backpropagation: all steps kept, remat step, remat sqrt, through the last steps alone; with the weights
detached between steps (without momentum). Then by the implicit function theorem, with each linear solver.
Gradient matching, of all classes at once, lowers another loss, trains no inner steps, and is there for its
memory and time."""
SMOOTH = ("tanh", "sigmoid", "softplus", "gelu")


class Problem(NamedTuple):
    """What every estimator differentiates: the same images, networks and real batch."""

    learner: Learner
    loss: InnerLoss
    meta: Meta
    contexts: Params
    """[K, ...], the start parameters."""
    real: Batch
    key: Array

    @property
    def arguments(self) -> tuple[Meta, Params, Batch, Array]:
        return self.meta, self.contexts, self.real, self.key


def problem(config: Config, data: Splits, num_learners: int) -> Problem:
    """The problem of a config, for K learners."""
    key = jax.random.key(config["seed"])
    learner = build.learner(config, data.info)
    loss = inner_loss(learner, weight_decay=config["weight_decay"])
    meta = Meta(teacher(config, data, 1).init(stream(key, "teacher")), {})
    contexts = lax.map(learner.init, jax.random.split(stream(key, "learners"), num_learners))
    real = sample(data.train, stream(key, "real"), config["real_batch_size"])
    return Problem(learner, loss, meta, contexts, real, stream(key, "solve"))


def teacher(config: Config, data: Splits, num_steps: int) -> Teacher:
    """One batch of learned images, gone over `num_steps` times."""
    key = stream(jax.random.key(config["seed"]), "teacher start")
    batches = {"distill_steps": 1, "distill_epochs": num_steps, "soft_labels": False}
    return build.teacher({**config, **batches}, data, key)


def optimizer(config: Config, num_steps: int) -> InnerOptimizer:
    """The inner optimiser, nothing learned."""
    shared = {"distill_steps": 1, "distill_epochs": num_steps, "learned": [], "per_step": False}
    return build.inner_optimizer({**config, **shared})


def solve(name: str, config: Config, data: Splits, made: Problem, num_steps: int) -> Solve:
    """The inner training map of an estimator: T steps, unrolled ones on the batch repeated T times."""
    loss, calibrate = made.loss, made.learner.calibrate
    if name == ACCUMULATED:
        made_by, inner = teacher(config, data, num_steps), optimizer(config, num_steps)
        return accumulated(made_by, loss, inner, calibrate=calibrate)
    if name in UNROLLED:
        last = min(config["backprop_last"], num_steps) if name == "truncated" else None
        remat = name.removeprefix("unrolled_") if name in ("unrolled_step", "unrolled_sqrt") else "none"
        inner = optimizer(config, num_steps)
        batches = teacher(config, data, num_steps)
        return unrolled(batches, loss, inner, calibrate=calibrate, remat=remat, backprop_last=last)
    solver = name.removeprefix("implicit_")
    given = {
        own: config[option]
        for option, own in gradients.SOLVER_OPTIONS.items()
        if own in options_of(solver) and config[option] is not None
    }
    return implicit(
        teacher(config, data, 1),
        loss,
        optimizer(config, 1),
        calibrate=calibrate,
        linear_solver=linear_solver(solver, **given),
        damping=config["damping"],
        tolerance=0.0,
        max_steps=num_steps,
    )


def estimator(
    name: str, config: Config, data: Splits, made: Problem, num_steps: int
) -> Callable[[Meta, Params, Batch, Array], tuple[Params, Metrics]]:
    """The `hypergradient` of that name."""
    if name == MATCHING:
        objective = gradient_matching(
            made.learner, teacher(config, data, 1), inner_loss=made.loss, by_class=False
        )
        return mean_gradient(objective, None, config)
    return hypergradient(made.learner, solve(name, config, data, made, num_steps), config)


def hypergradient(
    learner: Learner, solve: Solve, config: Config
) -> Callable[[Meta, Params, Batch, Array], tuple[Params, Metrics]]:
    """(meta, contexts, real, key) -> (hypergradient by phi, reports), means over K; to be compiled."""
    return mean_gradient(validation(learner, solve, microbatch=config["microbatch"]), solve, config)


def mean_gradient(
    objective: Objective, solve: Solve | None, config: Config
) -> Callable[[Meta, Params, Batch, Array], tuple[Params, Metrics]]:
    """The gradient of an objective by phi; `solve` where its backward pass reports."""

    def of_one(meta: Meta, real: Batch, params: Params, key: Array) -> tuple[Params, Metrics]:
        probe = None if solve is None else solve.probe(params)
        differentiate = jax.value_and_grad(objective, argnums=(0, 3), has_aux=True)
        (_, metrics), (gradient, told) = differentiate(meta, params, real, probe, key)
        return gradient.teacher, metrics if told is None else metrics | told.report

    def of_all(meta: Meta, contexts: Params, real: Batch, key: Array) -> tuple[Params, Metrics]:
        keys = jax.random.split(key, jax.tree.leaves(contexts)[0].shape[0])
        mapped = over_learners(
            partial(of_one, meta, real), strategy=config["strategy"], chunk=config["learner_chunk"]
        )
        return jax.tree.map(lambda a: jnp.mean(a, axis=0), mapped(contexts, keys))

    return of_all


def is_smooth(config: Config) -> bool:
    """Whether the inner loss has the second derivatives that an exact reference needs."""
    if config["learner"] == "linear":
        return True
    pooling = config.get("pooling") or "average"
    if (
        config.get("norm") == "batch"
    ):  # tested with the statistics of its last batch, which no formula here has
        return False
    return config["activation"] in SMOOTH and config["learner"] in ("mlp", "convnet") and pooling != "max"


def transform(config: Config) -> optax.GradientTransformation:
    """The inner optimiser of one step."""
    inner = optimizer(config, 1)
    return inner.build({name: value[0] for name, value in inner.values(inner.init()).items()})
