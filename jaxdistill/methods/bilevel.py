"""The outer step that every method shares: K learners, one hypergradient, one Optax update."""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax

from jaxdistill.core.checks import at_least, fail
from jaxdistill.core.keys import at_step, stream
from jaxdistill.core.linalg import zeros_like
from jaxdistill.core.types import (
    Array,
    Batch,
    Data,
    Dataset,
    DistillState,
    Drawn,
    InnerOptimizer,
    Made,
    Meta,
    Method,
    Metrics,
    Objective,
    Params,
    Population,
    Probe,
    Solve,
    Stored,
    Teacher,
)
from jaxdistill.data import sample
from jaxdistill.inner.implicit import clipped_sum
from jaxdistill.inner.over_learners import over_data, over_learners
from jaxdistill.teachers.shapes import shapes_of
from jaxdistill.teachers.storage import as_read, stored_of


def num_inner_steps(teacher: Teacher) -> int:
    """T, the number of batches that the teacher makes; from its shapes alone."""
    return shapes_of(teacher).y[0]


def _made(teacher: Teacher, meta: Meta, key: Array) -> tuple[Meta, Callable[[Meta], Meta]]:
    """(the `Meta` that the learners get, a function from its gradient to the gradient of the learned one)."""
    make = teacher.make
    if make is None:
        return meta, lambda gradient: gradient
    made, back = jax.vjp(lambda phi: Made(make(phi, key)), meta.teacher)
    return meta._replace(teacher=made), lambda gradient: gradient._replace(teacher=back(gradient.teacher)[0])


def _reporting(probe: Probe | None) -> Probe:
    if probe is None:
        raise fail("bilevel", "a solve that reports, with warm_start", "none")
    return probe


def _next_start(told: Probe) -> Params:
    """The solution of a linear solve; zeros where it failed, which is no place to start from."""
    failed = told.report["failed_solves"] > 0
    return jax.tree.map(lambda v: jnp.where(failed, jnp.zeros_like(v), v), told.solution)


def bilevel(
    *,
    teacher: Teacher,
    inner_optimizer: InnerOptimizer,
    population: Population,
    objective: Objective,
    outer_optimizer: optax.GradientTransformation,
    num_learners: int,
    real_batch_size: int | None,
    draw: Callable[[Dataset, Array], Batch] | None = None,
    strategy: str = "auto",
    learner_chunk: int | None = None,
    solve: Solve | None = None,
    warm_start: bool = False,
    learner_init: Callable[[Array], Params] | None = None,
    skip_failed_solves: bool = False,
) -> Method:
    """meta <- meta - outer_optimizer(mean over K learners of grad_meta objective).

    Args:
      teacher: what is learned; the one that the objective was built with. What its `make` makes is made once
        per outer step, and handed to the K learners as `Made`.
      inner_optimizer: its raw hyper-parameters are the other half of what is learned.
      population: where the K learners of a step come from.
      objective: the loss of one learner; it holds the solve.
      outer_optimizer: acts on the whole `Meta`; use `optax.multi_transform` for different halves.
      num_learners: K, >= 1.
      real_batch_size: real images per outer step, shared by the K learners, drawn with replacement.
        None where `draw` is given, or for an objective that sees no real data: it is given None.
      draw: (data set, key) -> the real batch of an outer step, in the place of `sample` of `real_batch_size`
        images. The batch has any shape that the objective takes (by class, say), and may leave the arguments
        aside: `lambda data, key: batch` gives exactly this batch.
      strategy: how the K axis is computed, see `jaxdistill.inner.over_learners`.
      learner_chunk: learners at a time.
      solve: the objective's, where its backward pass reports (`jaxdistill.inner.implicit`) or its part of the
        hypergradient is clipped.
      warm_start: the k-th linear solve starts from the solution of the k-th learner of the step before.
      learner_init: key -> the weights of a learner; `warm_start` takes their shapes from it where the
        population draws from a bank, which it has not seen yet.
      skip_failed_solves: a step in which a linear solve failed changes nothing that is learned.

    Returns:
      The method. Its metrics are the objective's and the solve's, averaged over K; `gradient_norm`, the
      global norm of the hypergradient before the outer optimiser; where solves are reported, `worst_residual`
      of the K; where they are clipped, `implicit_kept`, the mean factor. `update` adds `skipped` to them
      with `skip_failed_solves`, 1 for a step that was.

    Raises:
      UserError: counts below 1; `warm_start` or `skip_failed_solves` where no solve reports (when traced).
    """
    at_least("bilevel", "num_learners", num_learners, 1)
    if real_batch_size is not None:
        at_least("bilevel", "real_batch_size", real_batch_size, 1)
        draw = draw or partial(sample, batch_size=real_batch_size)

    clipped = solve is not None and solve.clipped

    def init(key: Array) -> DistillState:
        meta = Meta(teacher=teacher.init(stream(key, "teacher")), inner=inner_optimizer.init())
        state = DistillState(
            meta=meta,
            opt_state=outer_optimizer.init(meta),
            population=population.init(stream(key, "population")),
            solver=(),
            step=jnp.zeros((), jnp.int32),
        )
        return state._replace(solver=first_solutions(state)) if warm_start else state

    def first_solutions(state: DistillState) -> Params:
        def solutions(key: Array) -> Params:
            if learner_init is None:
                every = population.context(state.population, None, key, num_learners)
            else:
                every = jax.vmap(learner_init)(jax.random.split(key, num_learners))
            probe = (lambda context: None) if solve is None else solve.probe
            return jax.vmap(lambda context: _reporting(probe(context)).solution)(every)

        shapes = jax.eval_shape(solutions, jax.random.key(0))
        return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

    def real_of(data: Data, key: Array) -> Batch | None:
        """The real batch of the outer step with that key."""
        return None if draw is None else over_data(_real_batch(draw, data.real, key))

    def differentiated(
        state: DistillState, data: Data, real: Batch | None, key: Array
    ) -> tuple[Meta, Metrics, Params]:
        """(hypergradient, metrics, where the next linear solves start); `key` is that of the outer step."""
        contexts = population.context(state.population, data.bank, stream(key, "learners"), num_learners)

        meta, pull = _made(teacher, state.meta, stream(key, "made"))

        def hypergradient(
            context: Params, solution: Params, key: Array, meta: Meta, real: Any
        ) -> tuple[Metrics, Meta, Params]:
            probe = None if solve is None else solve.probe(context)
            if warm_start:
                probe = _reporting(probe)._replace(solution=solution)
            if clipped:
                probe = _reporting(probe)._replace(implicit=zeros_like(meta))
            differentiate = jax.value_and_grad(objective, argnums=(0, 3), has_aux=True)
            (_, metrics), (gradient, told) = differentiate(meta, context, real, probe, key)
            if told is None:
                return metrics, gradient, ()
            metrics |= told.report
            if clipped:
                gradient, kept = clipped_sum(gradient, told.implicit)
                metrics |= {"implicit_kept": kept}
            return metrics, gradient, _next_start(told) if warm_start else ()

        keys = jax.random.split(stream(key, "solve"), num_learners)
        mapped = over_learners(hypergradient, strategy=strategy, chunk=learner_chunk)
        every, gradients, solutions = mapped(contexts, state.solver, keys, shared=(meta, real))
        metrics, gradient = jax.tree.map(lambda a: jnp.mean(a, axis=0), (every, gradients))
        gradient = pull(gradient)
        metrics |= {"gradient_norm": optax.tree.norm(gradient)}
        if "residual" in metrics:
            metrics |= {"worst_residual": jnp.max(every["residual"])}
        return gradient, metrics, solutions

    def gradient(state: DistillState, data: Data, key: Array) -> tuple[Meta, Metrics]:
        key = at_step(key, state.step)
        return differentiated(state, data, real_of(data, key), key)[:2]

    def update(state: DistillState, data: Data, key: Array) -> tuple[DistillState, Metrics]:
        key = at_step(key, state.step)
        real = real_of(data, key)
        gradient, metrics, solutions = differentiated(state, data, real, key)
        updates, opt_state = outer_optimizer.update(gradient, state.opt_state, state.meta)
        meta = cast(Meta, optax.apply_updates(state.meta, updates))
        new = state._replace(meta=meta, opt_state=opt_state, solver=solutions)
        if skip_failed_solves:
            if "failed_solves" not in metrics:
                raise fail("bilevel", "a solve that reports, with skip_failed_solves", "none")
            skipped = metrics["failed_solves"] > 0
            kept = jax.tree.map(
                lambda old, new: jnp.where(skipped, old, new),
                (state.meta, state.opt_state),
                (meta, opt_state),
            )
            new = new._replace(meta=kept[0], opt_state=kept[1])
            metrics |= {"skipped": skipped.astype(jnp.float32)}
        new = new._replace(
            population=population.advance(state.population, new.meta, real, stream(key, "advance")),
            step=state.step + 1,
        )
        return new, metrics

    def synthesize(state: DistillState, key: Array) -> Batch:
        return teacher.batches(as_read(teacher, state.meta.teacher), key)

    def stored(state: DistillState) -> Stored:
        found = stored_of(teacher, state.meta.teacher)
        sizes = stored_of(None, state.meta.inner)
        return found._replace(scalars=found.scalars + sizes.scalars, bits=found.bits + sizes.bits)

    return Method(
        init=init,
        update=update,
        gradient=gradient,
        synthesize=synthesize,
        hyperparameters=lambda state: inner_optimizer.values(state.meta.inner),
        stored=stored,
        draw=None if draw is None else lambda data, key, step: _real_batch(draw, data, at_step(key, step)),
    )


def _real_batch(draw: Callable[[Dataset, Array], Batch], real: Dataset | Drawn, key: Array) -> Batch:
    """The real batch of the outer step with that key."""
    return real.batch if isinstance(real, Drawn) else draw(real, stream(key, "real"))
