"""Real images that happen to train well: the best of many random sets."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill.baselines.random_real import random_real
from jaxdistill.core.checks import above, at_least, fail
from jaxdistill.core.keys import stream
from jaxdistill.core.types import Array, Batch, Dataset
from jaxdistill.data import take
from jaxdistill.evaluation import Evaluation, Protocol, evaluator, everything, summarize


def optimized_real(
    dataset: Dataset,
    key: Array,
    images_per_class: int,
    *,
    evaluation: Evaluation,
    protocol: Protocol,
    num_sets: int = 50,
    keep: float = 0.2,
    num_scored: int = 2000,
) -> Batch:
    """The best fifth of random sets of real images, scored on training images.

    Args:
      dataset: the training set; each set is `random_real` of it.
      key: typed PRNG key.
      images_per_class: n, 1 ... the size of the smallest class.
      evaluation: the networks that score, the `search_learners` that search for every set; its splits are not
        looked at.
      protocol: how they are trained on a set.
      num_sets: S, sets to choose from.
      keep: share of them that is kept, in (0, 1]; at least one is.
      num_scored: the most training images, drawn once, that every set is scored on.

    Returns:
      Batch [kept * classes * n, H, W, C], set by set, the best first.

    Raises:
      UserError: a number out of range, or n above the size of a class.

    References: Wang et al. 2018, section 4 (optimized real images: the best 20%, 20 networks each).
    """
    at_least("optimized_real", "num_sets", num_sets, 1)
    at_least("optimized_real", "num_scored", num_scored, 1)
    above("optimized_real", "keep", keep, 0.0)
    if keep > 1:
        raise fail("optimized_real", "keep <= 1", keep)
    sets = [
        random_real(dataset, each, images_per_class)
        for each in jax.random.split(stream(key, "sets"), num_sets)
    ]
    count, size = dataset.y.shape[0], sets[0].y.shape[0]
    scored = take(dataset, jnp.sort(jax.random.permutation(stream(key, "scored"), count)[:num_scored]))
    run = evaluator(
        evaluation.learner, protocol, strategy=evaluation.strategy, learner_chunk=evaluation.learner_chunk
    )
    networks = evaluation.search_learners
    params = (evaluation.search_contexts or evaluation.contexts)(stream(key, "networks"), networks)
    rows = everything(size)(key, networks)
    scores = [
        summarize(run(params, each, rows, protocol.values, scored, key), dataset.y.shape[1]).mean
        for each in sets
    ]
    best = np.argsort(-np.asarray(scores), kind="stable")[: max(1, round(keep * num_sets))]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *(sets[i] for i in best))
