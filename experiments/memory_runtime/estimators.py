"""One hypergradient, by every estimator, of the same problem: what `experiments.memory_runtime` compares."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from experiments.memory_runtime.options import ESTIMATORS, MATCHING, Options
from jaxdistill.config import build
from jaxdistill.config.gradients import taken_by
from jaxdistill.config.owners import HEAD_SOLVED
from jaxdistill.config.resolve import resolve
from jaxdistill.config.table import Config
from jaxdistill.core.keys import stream
from jaxdistill.core.types import (
    Array,
    Batch,
    InnerLoss,
    Learner,
    Meta,
    Metrics,
    Objective,
    Params,
    Solve,
    Teacher,
)
from jaxdistill.data import Splits, sample
from jaxdistill.inner.losses import inner_loss, without_temperature
from jaxdistill.inner.over_learners import over_learners
from jaxdistill.objectives.gradient_matching import gradient_matching
from jaxdistill.objectives.validation import validation

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


def problem(options: Options, data: Splits, num_learners: int) -> Problem:
    """The problem of resolved options, for K learners."""
    key = jax.random.key(options.seed)
    learner = build.learner(options, data.info)
    without_temperature("memory_runtime", options.inner_loss)
    loss = inner_loss(learner, loss=options.inner_loss, weight_decay=options.weight_decay)
    meta = Meta(teacher(options, data).init(stream(key, "teacher")), {})
    contexts = lax.map(learner.init, jax.random.split(stream(key, "learners"), num_learners))
    real = sample(data.train, stream(key, "real"), options.real_batch_size)
    return Problem(learner, loss, meta, contexts, real, stream(key, "solve"))


def distillation(options: Options, name: str, num_steps: int) -> Config:
    """The distillation whose hypergradient an estimator computes: T inner steps, nothing of them learned.

    Args:
      options: resolved.
      name: of the estimator; any but `gradient_matching`.
      num_steps: T. Implicit gradients train for exactly so many steps, whatever the tolerance. A ridge
        regression has no steps; the gradient by a linearised network is not clipped.
    """
    named = ESTIMATORS[name]
    names = (Config.options().keys() | options.own.keys()) - {"num_learners", "run_dir"}
    kept = {name: value for name, value in taken_by(named, options).items() if name in names}
    inner: dict[str, Any] = {"distill_epochs": num_steps, "learned": (), "per_step": False}
    if named["gradient"] in HEAD_SOLVED:
        inner = {"implicit_clip": False} if named["gradient"] == "convexified" else {}
    if named["gradient"] == "truncated":
        inner["backprop_last"] = min(options.backprop_last, num_steps)
    if named["gradient"] == "implicit":
        inner |= {"distill_epochs": 1, "inner_tolerance": 0.0, "max_inner_steps": num_steps}
    return resolve(Config(**kept | dict(named) | inner))


def teacher(options: Options, data: Splits, name: str = "unrolled", num_steps: int = 1) -> Teacher:
    """One batch of learned images, repeated for every inner step of an estimator."""
    key = stream(jax.random.key(options.seed), "teacher start")
    return build.teacher(distillation(options, name, num_steps), data, key)


def solve(name: str, options: Options, data: Splits, made: Problem, num_steps: int) -> Solve:
    """The inner training map of an estimator: T steps, unrolled ones on the batch repeated T times."""
    config = distillation(options, name, num_steps)
    inner = build.inner_optimizer(config, build.num_inner_steps(config))
    batches = teacher(options, data, name, num_steps)
    return build.solve(config, made.learner)(batches, made.loss, inner, calibrate=made.learner.calibrate)


def estimator(
    name: str, options: Options, data: Splits, made: Problem, num_steps: int
) -> Callable[[Meta, Params, Batch, Array], tuple[Params, Metrics]]:
    """The `hypergradient` of that name."""
    if name == MATCHING:
        objective = gradient_matching(
            made.learner, teacher(options, data), inner_loss=made.loss, by_class=False
        )
        return mean_gradient(objective, None, options)
    loss = distillation(options, name, num_steps).outer_loss
    return hypergradient(made.learner, solve(name, options, data, made, num_steps), options, loss=loss)


def hypergradient(
    learner: Learner, solve: Solve, options: Options, *, loss: str = "cross_entropy"
) -> Callable[[Meta, Params, Batch, Array], tuple[Params, Metrics]]:
    """(meta, contexts, real, key) -> (hypergradient by phi, reports), means over K; to be compiled."""
    objective = validation(learner, solve, loss=loss, microbatch=options.microbatch)
    return mean_gradient(objective, solve, options)


def mean_gradient(
    objective: Objective, solve: Solve | None, options: Options
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
            partial(of_one, meta, real), strategy=options.strategy, chunk=options.learner_chunk
        )
        return jax.tree.map(lambda a: jnp.mean(a, axis=0), mapped(contexts, keys))

    return of_all


def is_smooth(options: Options) -> bool:
    """Whether the inner loss has the second derivatives that an exact reference needs."""
    if options.learner == "linear":
        return True
    if options.norm == "batch":  # tested with the statistics of its last batch, which no formula here has
        return False
    smooth = options.activation in SMOOTH and options.pooling != "max"
    return smooth and options.learner in ("mlp", "convnet")


def transform(options: Options) -> optax.GradientTransformation:
    """The inner optimiser of one step."""
    inner = build.inner_optimizer(distillation(options, "unrolled", 1), 1)
    return inner.build({name: value[0] for name, value in inner.values(inner.init()).items()})
