"""Scores of small training sets; the step size of each baseline is searched on validation."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill.core.keys import stream
from jaxdistill.core.platform import compiled_quickly
from jaxdistill.core.types import Array, Batch, Dataset, Learner, Params
from jaxdistill.data import check_per_class
from jaxdistill.evaluation.evaluate import evaluator, search
from jaxdistill.evaluation.measures import correct_on
from jaxdistill.evaluation.protocol import STEP_SIZES, Protocol, candidates
from jaxdistill.evaluation.scores import Score, summarize, summarize_by_class

SEMANTICS = 1
"""Increase this when `tuned` gives other numbers for the same arguments; users' caches are then not read."""
Contexts = Callable[[Array, int], Params]
"""(key, K) -> K start parameters."""
Subsets = Callable[[Array, int], Array]
"""(key, K) -> [K, N] indices: the training images of each network."""


class Tuned(NamedTuple):
    """A score on test, with the protocol and step size that validation chose."""

    score: Score
    protocol: str
    step_size: float
    searched: dict[str, dict[float, float]]
    """Mean validation accuracy by protocol and step size."""


class Evaluation(NamedTuple):
    """The networks, splits and randomness that all rows of a table share."""

    learner: Learner
    """The network that is trained."""
    contexts: Contexts
    """Draws start parameters of the networks that are tested."""
    validation: Dataset
    """What step sizes and protocols are chosen on."""
    test: Dataset
    """The data that the chosen candidates are scored on; nothing is chosen on it."""
    key: Array
    """Scalar PRNG key; the search and the test have streams of their own."""
    num_learners: int = 20
    """K, networks that are tested."""
    search_learners: int = 5
    """Networks that each candidate of a search trains."""
    search_contexts: Contexts | None = None
    """Draws start parameters for a search; `contexts` when None. Of a pool: those not held out."""
    strategy: str = "auto"
    """How K networks become one program, see `jaxdistill.inner.over_learners.over_learners`."""
    learner_chunk: int | None = None
    """Networks per chunk of that program, see there."""


def score(evaluation: Evaluation, protocol: Protocol, images: Batch, subsets: Subsets) -> Score:
    """Test accuracy of K networks trained by a protocol, without a search.

    Args:
      evaluation: networks, splits, key and K.
      protocol: how they are trained, step sizes included.
      images: [M, ...], what they are trained on.
      subsets: which of them each network sees.
    """
    return _test(evaluation, _evaluator(evaluation, protocol), protocol, images, subsets)


def tuned(
    evaluation: Evaluation,
    protocols: Sequence[Protocol],
    images: Batch,
    subsets: Subsets,
    *,
    step_sizes: Sequence[float] = STEP_SIZES,
) -> Tuned:
    """Test accuracy of K networks under the protocol and step size that are best on validation.

    The search uses other networks and other draws than the test. A protocol's schedule keeps its shape:
    the candidate is its `step_size`. Where the best candidate is the largest or the smallest, the search
    continues beyond it, see `search`.

    Args:
      evaluation: networks, splits, key, K and how many networks the search uses.
      protocols: those to choose from, at least one.
      images: [M, ...], what networks are trained on.
      subsets: which of them each network sees.
      step_sizes: candidates, each tried under each protocol; `STEP_SIZES` stands for the step
        sizes of each protocol.

    Returns:
      The score on test, the choice, and the validation accuracy of every candidate.
    """
    key = stream(evaluation.key, "search")
    count = evaluation.search_learners
    params = (evaluation.search_contexts or evaluation.contexts)(stream(key, "learners"), count)
    rows = subsets(stream(key, "images"), count)
    searched, best = {}, []
    for protocol in protocols:
        run = _evaluator(evaluation, protocol)

        def on_validation(step_size: float, run=run, protocol=protocol) -> float:
            values = with_step_size(protocol, step_size).values
            found = run(params, images, rows, values, evaluation.validation, key)
            return summarize(found.accuracy, evaluation.validation.y.shape[1]).mean

        choice, scores = search(candidates(protocol, step_sizes), on_validation)
        searched[protocol.name] = scores
        best.append((scores[choice], choice, protocol, run))
    _, step_size, protocol, run = max(best, key=lambda item: item[0])
    protocol = with_step_size(protocol, step_size)
    return Tuned(_test(evaluation, run, protocol, images, subsets), protocol.name, float(step_size), searched)


def with_step_size(protocol: Protocol, step_size: float) -> Protocol:
    """The same protocol with its step sizes scaled so that `Protocol.step_size` is the given value."""
    rates = np.asarray(protocol.values["learning_rate"])
    scaled = jax.device_put(rates / protocol.step_size * step_size)
    return protocol._replace(values=protocol.values | {"learning_rate": scaled})


def everything(num_images: int) -> Subsets:
    """Trains every network on all N images."""

    def subsets(key: Array, num_networks: int) -> Array:
        return jax.device_put(np.tile(np.arange(num_images, dtype=np.int32), (num_networks, 1)))

    return subsets


def one_part_each(size: int, num_parts: int | None = None) -> Subsets:
    """Trains network k on the k-th part of `size` images; network `num_parts` gets the first part again."""

    def subsets(key: Array, num_networks: int) -> Array:
        del key
        parts = np.arange(num_networks, dtype=np.int32)[:, None]
        parts = (parts if num_parts is None else parts % num_parts) * size
        return jax.device_put(parts + np.arange(size, dtype=np.int32)[None])

    return subsets


def random_of_each_class(dataset: Dataset, images_per_class: int) -> Subsets:
    """Trains every network on its own random real images, n different images of every class.

    The compiled form of `jaxdistill.baselines.random_real`.

    Raises:
      UserError: n below 1, or above the size of the smallest class.
    """
    check_per_class(dataset, "random_of_each_class", images_per_class)
    label = jnp.argmax(dataset.y, axis=-1)
    starts = np.asarray(dataset.starts)
    picks = jax.device_put((starts[:, None] + np.arange(images_per_class, dtype=np.int32)[None]).reshape(-1))
    return lambda key, num_networks: _draw(label, picks, jax.random.split(key, num_networks))


@compiled_quickly
def _draw(label: Array, picks: Array, keys: Array) -> Array:
    def subset(key: Array) -> Array:
        shuffled = jnp.lexsort((jax.random.uniform(key, label.shape), label))  # within each class
        return shuffled[picks].astype(jnp.int32)

    return jax.lax.map(subset, keys)


def _test(
    evaluation: Evaluation, run: Callable, protocol: Protocol, images: Batch, subsets: Subsets
) -> Score:
    key = stream(evaluation.key, "test")
    params = evaluation.contexts(stream(key, "learners"), evaluation.num_learners)
    rows = subsets(stream(key, "images"), evaluation.num_learners)
    found = run(params, images, rows, protocol.values, evaluation.test, key)
    return summarize_by_class(found, evaluation.test.y)


def _evaluator(evaluation: Evaluation, protocol: Protocol) -> Callable:
    """One test for the search and for the end: they share a program where their shapes agree."""
    return evaluator(
        evaluation.learner,
        protocol,
        measure=correct_on,
        strategy=evaluation.strategy,
        learner_chunk=evaluation.learner_chunk,
    )
