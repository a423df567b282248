"""Trains and tests K networks at once, and searches a step size on validation."""

import itertools
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer

from jaxdistill.core.checks import fail
from jaxdistill.core.keys import at_step, stream
from jaxdistill.core.reporting import report
from jaxdistill.core.types import Array, Batch, Dataset, Learner, Params
from jaxdistill.data import sample
from jaxdistill.data.streaming import check_on_device
from jaxdistill.evaluation.in_turn import OF_THE_LOSS, TRAINING, in_turn, loss_of
from jaxdistill.evaluation.measures import Measure, accuracy_on
from jaxdistill.evaluation.protocol import Protocol
from jaxdistill.inner.over_learners import by_turns, gathered, over_data, over_learners
from jaxdistill.inner.train import train

Evaluator = Callable[[Params, Batch, Array, dict[str, Array], Dataset | Batch, Array], Any]
"""(params [K, ...], images [M, ...], subsets [K, N], values, test, key) -> [K, ...], see `evaluator`."""


def as_they_are(
    learner: Learner,
    params: Params,
    test: Dataset | Batch,
    real: Dataset,
    key: Array,
    *,
    measure: Measure = accuracy_on,
    batch_size: int = 256,
    strategy: str = "auto",
    learner_chunk: int | None = None,
) -> Any:
    """Tests K networks without further training.

    Args:
      learner: the network.
      params: [K, ...].
      test: the split.
      real: what a batch normalisation has its statistics of: one random batch.
      key: of that batch.
      measure: what a test is, see `evaluator`.
      batch_size: of that batch.
      strategy, learner_chunk: see `jaxdistill.inner.over_learners`.

    Returns:
      [K] accuracies, or [K, ...] of what `measure` gives.

    Raises:
      UserError: `real` has images on the host.
    """
    check_on_device(real, "as_they_are")
    return _as_they_are(learner, measure, batch_size, strategy, learner_chunk)(params, test, real, key)


@lru_cache(maxsize=32)
def _as_they_are(
    learner: Learner, measure: Measure, batch_size: int, strategy: str, learner_chunk: int | None
) -> Callable[[Params, Dataset | Batch, Dataset, Array], Any]:
    """Compiled; the same function for all splits and groups of networks."""

    @jax.jit
    def tested(params: Params, test: Dataset | Batch, real: Dataset, key: Array) -> Any:
        batch = sample(real, key, batch_size)
        mapped = over_learners(
            lambda one, x, test: measure(learner, learner.calibrate(one, x), test),
            strategy=strategy,
            chunk=learner_chunk,
        )
        return gathered(mapped(params, shared=(batch.x, test)))

    return tested


Step = tuple[Array, Array]
"""(indices [B] of a step's images, its key)."""


def training(
    learner: Learner, protocol: Protocol, images: Batch, subset: Array, key: Array
) -> tuple[Step, Callable[[Step], Batch], Callable[[Params, Step], Array]]:
    """The arguments of `jaxdistill.inner.train` for a protocol.

    Args:
      learner: the network.
      protocol: how it is trained.
      images: [M, ...].
      subset: [N] int32, which of them it is trained on.
      key: of the order and of the augmentation.

    Returns:
      (the T steps, what one of them is trained on, (params, step) -> loss, differentiable by params alone).
    """
    order = subset[protocol.order(stream(key, "order"))]
    keys = jax.vmap(partial(at_step, stream(key, "augment")))(jnp.arange(order.shape[0]))
    data_loss, labels_of = loss_of(learner, *(getattr(protocol, name) for name in OF_THE_LOSS))

    def batch_of(step: Step) -> Batch:
        rows, key = step
        batch = over_data(Batch(images.x[rows], labels_of(images.y[rows])))
        return batch if protocol.changes is None else protocol.changes(key, batch)

    def loss(params: Params, step: Step) -> Array:
        return data_loss(params, batch_of(step))

    return (order, keys), batch_of, loss


def evaluator(
    learner: Learner,
    protocol: Protocol,
    *,
    at: Sequence[int] | None = None,
    measure: Measure = accuracy_on,
    strategy: str = "auto",
    learner_chunk: int | None = None,
) -> Evaluator:
    """A compiled function that trains K networks by a protocol and tests them.

    On a CPU one network follows another (`jaxdistill.evaluation.in_turn`); elsewhere, on a mesh, with a
    `learner_chunk`, with `at` and where it is traced itself, all are one program.

    Step sizes are an argument, so that a search compiles once. The same learner and protocol, whatever its
    values, give the same function again, with what it has compiled: of the last 32, which is more than a
    study has architectures and protocols. Each keeps its programs in memory.

    Args:
      learner: the network.
      protocol: how it is trained. All but its values are hashed, as the learner is.
      measure: what a test is.
      at: also test after each of these numbers of steps, within the protocol's; not with a restart.
      strategy, learner_chunk: see `jaxdistill.inner.over_learners`.

    Returns:
      (params [K, ...], images Batch [M, ...], subsets [K, N] int32, values, test, key) -> [K] accuracies,
      with `at` [K, len(at)], or what `measure` gives in their place. Network k is trained on
      `images[subsets[k]]` with `values` for the optimiser's hyper-parameters. NaN for a network whose
      training diverged.

    Raises:
      UserError: `at` with a protocol that restarts, or none in it.
    """
    if at is not None and (protocol.restart or not at):
        raise fail("evaluator", "steps to test at, of a protocol without restart", f"{at}, {protocol.name}")
    steps = None if at is None else tuple(at)
    return _evaluator(learner, _hashed(protocol), steps, measure, strategy, learner_chunk)


def one_program(
    learner: Learner,
    protocol: Protocol,
    *,
    strategy: str = "auto",
    learner_chunk: int | None = None,
) -> Any:
    """As `evaluator`, but always one function of `jax.jit`, which can be lowered and timed as a whole."""
    return _program(learner, _hashed(protocol), None, accuracy_on, strategy, learner_chunk)


def _hashed(protocol: Protocol) -> tuple[tuple[str, Any], ...]:
    """A protocol's fields without its values, which are an argument and cannot be hashed."""
    return tuple((name, value) for name, value in protocol._asdict().items() if name != "values")


@lru_cache(maxsize=32)
def _evaluator(
    learner: Learner,
    fields: tuple[tuple[str, Any], ...],
    at: tuple[int, ...] | None,
    measure: Measure,
    strategy: str,
    learner_chunk: int | None,
) -> Evaluator:
    """As `evaluator`, of a protocol's fields without its values."""
    whole = _program(learner, fields, at, measure, strategy, learner_chunk)
    one_by_one = in_turn(learner, Protocol(values={}, **dict(fields)), measure)

    def evaluate(
        params: Params,
        images: Batch,
        subsets: Array,
        values: dict[str, Array],
        test: Dataset | Batch,
        key: Array,
    ) -> Any:
        arguments = (params, images, subsets, values, test, key)
        traced = any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(arguments))
        if at is None and not traced and by_turns(strategy, learner_chunk):
            return one_by_one(*arguments)
        found = jax.block_until_ready(whole(*arguments))
        if not traced:
            total = subsets.shape[0] * jax.eval_shape(dict(fields)["order"], key).shape[0]
            report(TRAINING, total, total)
        return found

    return evaluate


@lru_cache(maxsize=32)
def _program(
    learner: Learner,
    fields: tuple[tuple[str, Any], ...],
    at: tuple[int, ...] | None,
    measure: Measure,
    strategy: str,
    learner_chunk: int | None,
) -> Any:
    """One compiled program of all networks. A mesh around is in JAX's own cache key."""
    protocol = Protocol(values={}, **dict(fields))

    def one(
        params: Params,
        subset: Array,
        key: Array,
        images: Batch,
        values: dict[str, Array],
        test: Dataset | Batch,
    ) -> Array:
        (order, keys), batch_of, loss = training(learner, protocol, images, subset, key)
        num_steps = order.shape[0]
        if at is not None and not 1 <= min(at) <= max(at) <= num_steps:
            raise fail("evaluator", f"steps to test at in 1 ... {num_steps}", list(at))
        values = {name: jnp.broadcast_to(value, (num_steps,)) for name, value in values.items()}
        if at is not None:
            kept, _ = train(loss, params, (order, keys), protocol.optimizer, values, keep_every=1)
            ends = jnp.asarray(at) - 1

            def tested(end: Array) -> Array:
                weights = jax.tree.map(lambda a: a[end], kept)
                batch = batch_of((order[end], keys[end]))
                return measure(learner, learner.calibrate(weights, batch.x), test)

            return lax.map(tested, ends)
        bounds = [0, protocol.restart, num_steps] if protocol.restart else [0, num_steps]
        for low, high in itertools.pairwise(bounds):
            part = jax.tree.map(lambda a, low=low, high=high: a[low:high], ((order, keys), values))
            params, _ = train(loss, params, part[0], protocol.optimizer, part[1])
        trained = learner.calibrate(params, batch_of((order[-1], keys[-1])).x)
        return measure(learner, trained, test)

    @jax.jit
    def evaluate(
        params: Params,
        images: Batch,
        subsets: Array,
        values: dict[str, Array],
        test: Dataset | Batch,
        key: Array,
    ) -> Array:
        keys = jax.random.split(key, subsets.shape[0])
        mapped = over_learners(one, strategy=strategy, chunk=learner_chunk)
        return gathered(mapped(params, subsets, keys, shared=(images, values, test)))

    return evaluate


def search(candidates: Sequence[float], score: Callable[[float], float]) -> tuple[float, dict[float, float]]:
    """The candidate with the highest score (the first of equal candidates), and every score.

    If the best of several candidates is the largest (smallest), three times (a third of) it is tried too, at
    most twice: a baseline whose best lies outside the grid would be starved.

    Args:
      candidates: step sizes, at least one.
      score: mean VALIDATION accuracy of a candidate; the test set never selects anything.
    """
    scores = {candidate: score(candidate) for candidate in candidates}
    best = max(scores, key=scores.__getitem__)
    for _ in range(2 if len(scores) > 1 else 0):
        if best not in (min(scores), max(scores)):
            break
        beyond = best * 3 if best == max(scores) else best / 3
        scores[beyond] = score(beyond)
        best = max(scores, key=scores.__getitem__)
    return best, scores
