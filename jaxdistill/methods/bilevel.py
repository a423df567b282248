"""The outer step that every method shares: K learners, one hypergradient, one Optax update."""

from typing import cast

import jax
import jax.numpy as jnp
import optax

from jaxdistill.core.checks import at_least
from jaxdistill.core.keys import at_step, stream
from jaxdistill.core.types import (
    Array,
    Batch,
    Data,
    DistillState,
    InnerOptimizer,
    Meta,
    Method,
    Metrics,
    Objective,
    Params,
    Population,
    Teacher,
)
from jaxdistill.data import sample
from jaxdistill.inner.over_learners import over_learners


def num_inner_steps(teacher: Teacher) -> int:
    """T, the number of batches that the teacher makes; from its shapes alone."""
    key = jax.random.key(0)
    return jax.eval_shape(lambda: teacher.batches(teacher.init(key), key)).y.shape[0]


def bilevel(
    *,
    teacher: Teacher,
    inner_optimizer: InnerOptimizer,
    population: Population,
    objective: Objective,
    outer_optimizer: optax.GradientTransformation,
    num_learners: int,
    real_batch_size: int,
    strategy: str = "auto",
    learner_chunk: int | None = None,
) -> Method:
    """meta <- meta - outer_optimizer(mean over K learners of grad_meta objective).

    Args:
      teacher: what is learned.
      inner_optimizer: its raw hyper-parameters are the other half of what is learned.
      population: where the K learners of a step come from.
      objective: the loss of one learner; it holds the solve.
      outer_optimizer: acts on the whole `Meta`; use `optax.multi_transform` for different halves.
      num_learners: K, >= 1.
      real_batch_size: real images per outer step, shared by the K learners, drawn with replacement.
      strategy: how the K axis is computed, see `jaxdistill.inner.over_learners`.
      learner_chunk: learners at a time.

    Returns:
      The method. Its metrics are the objective's, averaged over K, and `gradient_norm`, the global
      norm of the hypergradient before the outer optimiser.
    """
    at_least("bilevel", "num_learners", num_learners, 1)
    at_least("bilevel", "real_batch_size", real_batch_size, 1)

    def init(key: Array) -> DistillState:
        meta = Meta(teacher=teacher.init(stream(key, "teacher")), inner=inner_optimizer.init())
        return DistillState(
            meta=meta,
            opt_state=outer_optimizer.init(meta),
            population=population.init(stream(key, "population")),
            solver=(),
            step=jnp.zeros((), jnp.int32),
        )

    def update(state: DistillState, data: Data, key: Array) -> tuple[DistillState, Metrics]:
        key = at_step(key, state.step)
        real = sample(data.real, stream(key, "real"), real_batch_size)
        contexts = population.context(state.population, data.bank, stream(key, "learners"), num_learners)

        def hypergradient(context: Params, key: Array) -> tuple[Metrics, Meta]:
            differentiate = jax.value_and_grad(objective, has_aux=True)
            (_, metrics), gradient = differentiate(state.meta, context, real, None, key)
            return metrics, gradient

        keys = jax.random.split(stream(key, "solve"), num_learners)
        mapped = over_learners(hypergradient, strategy=strategy, chunk=learner_chunk)
        metrics, gradient = jax.tree.map(lambda a: jnp.mean(a, axis=0), mapped(contexts, keys))
        updates, opt_state = outer_optimizer.update(gradient, state.opt_state, state.meta)
        meta = cast(Meta, optax.apply_updates(state.meta, updates))
        metrics = metrics | {"gradient_norm": optax.tree.norm(gradient)}
        new = state._replace(
            meta=meta,
            opt_state=opt_state,
            population=population.advance(state.population, meta, stream(key, "advance")),
            step=state.step + 1,
        )
        return new, metrics

    def synthesize(state: DistillState, key: Array) -> Batch:
        return teacher.batches(state.meta.teacher, key)

    return Method(
        init=init,
        update=update,
        synthesize=synthesize,
        hyperparameters=lambda state: inner_optimizer.values(state.meta.inner),
    )
