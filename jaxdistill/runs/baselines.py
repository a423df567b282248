"""Small training sets that are not learned, scored like the images of a run."""

from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill.baselines import average_real, k_means, nearest_neighbors, optimized_real, random_real
from jaxdistill.config.option import option, options
from jaxdistill.config.table import SearchOptions
from jaxdistill.core.checks import fail
from jaxdistill.core.keys import stream
from jaxdistill.core.types import Batch, Dataset
from jaxdistill.data import Splits, check_per_class
from jaxdistill.data.streaming import check_on_device
from jaxdistill.evaluation import (
    Evaluation,
    Protocol,
    Score,
    Subsets,
    Tuned,
    as_they_are,
    correct_on,
    everything,
    one_part_each,
    score,
    summarize_by_class,
    tuned,
    with_step_size,
)
from jaxdistill.runs.compare import random_images
from jaxdistill.runs.networks import evaluations
from jaxdistill.runs.plan import Plan
from jaxdistill.runs.protocols import (
    ORDERS,
    as_learned,
    equal_steps,
    in_other_order,
    other_order,
    protocol_of,
    seen,
)
from jaxdistill.runs.reference import reference
from jaxdistill.runs.run import Run
from jaxdistill.runtime import progress
from jaxdistill.runtime.export import dedupe

NEIGHBOR_SETS = 5
"""The number of sets of random (optimised) real images that nearest neighbours test."""
Row = dict[str, Any]


@options
class BaselineOptions(SearchOptions):
    """Options of the sets that images are compared with."""

    title: ClassVar[str] = "baselines"
    num_sets: int = option(50, "random sets; the best of them are the optimised real images", low=1)
    keep: float = option(0.2, "fraction of the random sets to keep", above=0, high=1)
    num_judges: int = option(20, "networks that score each set", low=1)
    num_scored: int = option(2000, "training images to score the sets on", low=1)
    neighbors: tuple[int, ...] = option((1, 3, 5), "candidates for k of nearest neighbours", some=True, low=1)
    norms: tuple[float, ...] = option((1.0, 2.0), "candidates for p of the norm", some=True, low=1)


def rows_of(
    run: Run, options: BaselineOptions, *, num_learners: int, seed: int
) -> tuple[list[Row], dict[str, Batch]]:
    """Scores of a run's images and of sets that are not learned, under one protocol.

    Every set trains the networks of the run as its images do: for the same steps, with as many images of each
    class in a step. For methods without inner steps the protocol of the paper is used. Validation chooses the
    step size of a baseline: either one for all steps or the learned schedule times a factor.

    Args:
      run: of any method.
      options: resolved.
      num_learners: networks per row.
      seed: root of all randomness.

    Returns:
      (a row per set: its name, the fields of a score, how networks were trained on it, nearest neighbours in
      it; the images of each set, or of the first if a row has several sets).

    Raises:
      UserError: as for `fits`.
    """
    classes, per_class = fits(run.plan, options.neighbors)
    images, labels, order = run.synthetic
    key = stream(jax.random.key(seed), "baselines")
    config = run.config.replace(
        num_eval_learners=num_learners,
        num_baseline_learners=num_learners,
        num_search_learners=options.num_search_learners,
    )
    distilled, baseline = evaluations(config, run.data, run.tested, run.state, key, run.bank)
    training = protocol_of(run)
    protocols, how = [training._replace(labels="probabilities")], training.name
    if training.name == "as_distilled":
        protocols, how = own_steps(run, class_by_class(classes)[order]), "as distilled"
    progress.say(f"distilled images: {distilled.num_learners} networks, {len(order)} steps ...")
    found = score(distilled, training, *seen(run, key, distilled.num_learners))
    rows = [_row("distilled", found, how) | neighbors([run.batch], run.data, options)]
    shuffle = other_order(run, training.name)
    if shuffle is not None:
        other = score(distilled, *in_other_order(run, shuffle))
        rows.append(_row(f"distilled, {ORDERS[shuffle]}", other, how))
    if run.bank is not None:
        rows.append(_row("nothing", unadapted(run, distilled), "-"))
    shown = {
        "distilled": run.batch._replace(y=jnp.eye(labels.shape[1])[classes])
    }  # learned labels may have moved

    def add(name: str, batch: Batch, subsets: Subsets, sets: list[Batch]) -> Tuned:
        progress.say(f"{name} images: step size searched on validation ...")
        # one network trained on one set in one order is one network, however often
        same = len(sets) == 1 and distilled.num_learners == 1
        evaluation = baseline._replace(num_learners=1) if same else baseline
        if name == "random real":
            best = reference(
                "random real images",
                evaluation,
                protocols,
                batch,
                subsets,
                data=run.data,
                step_sizes=options.step_sizes,
                fresh=options.fresh_baselines,
                shorter="a smaller --num_learners takes less",
            ).found
        else:
            best = tuned(evaluation, protocols, batch, subsets, step_sizes=options.step_sizes)
        line = _row(name, best.score, f"{best.protocol}: {best.step_size:.3g}")
        rows.append(line | {"validation": best.searched} | neighbors(sets, run.data, options))
        shown[name] = sets[0]
        return best

    train, size = run.data.train, len(images)
    keys = jax.random.split(stream(key, "shown"), NEIGHBOR_SETS)
    drawn = [random_real(train, each, per_class) for each in keys]
    best = add("random real", *random_images(run.data, per_class), drawn)
    (protocol,) = (each for each in protocols if each.name == best.protocol)
    progress.say(f"optimised real images: scoring {options.num_sets} sets ...")
    sets = optimized_real(
        train,
        stream(key, "optimised"),
        per_class,
        evaluation=baseline._replace(search_learners=options.num_judges),
        protocol=with_step_size(protocol, best.step_size),
        num_sets=options.num_sets,
        keep=options.keep,
        num_scored=options.num_scored,
    )
    kept = [jax.tree.map(lambda a, i=i: a[i : i + size], sets) for i in range(0, len(sets.y), size)]
    add("optimised real", sets, one_part_each(size, len(kept)), kept[:NEIGHBOR_SETS])
    for name, made in (("k-means", k_means), ("average real", average_real)):
        batch = made(train, stream(key, name), per_class)
        add(name, batch, everything(size), [batch])
    return rows, shown


def fits(plan: Plan, neighbors: Sequence[int] = (1,)) -> tuple[np.ndarray, int]:
    """Raises unless a distillation can be compared with real images, equally many of every class.

    Args:
      plan: the distillation.
      neighbors: candidates for k; those of the default that exceed the images are left out without an error.

    Returns:
      (the class that every distilled image started with, [N]; how many images each class has). Learned labels
      may have moved to another class since.

    Raises:
      UserError: training images on the host, classes with different numbers of images, more of them than real
        images, or more neighbours than images.
    """
    check_on_device(plan.data.train, "baselines")
    state = plan.method.init(plan.key)
    _, labels, _ = dedupe(plan.method.synthesize(state, stream(plan.key, "export")))
    classes = labels.argmax(axis=1)
    counts = np.bincount(classes, minlength=plan.data.info.num_classes)
    if not (counts == counts[0]).all():
        expected = "the same number of images in every class"
        raise fail("baselines", expected, counts.tolist())
    check_per_class(plan.data.train, "baselines", int(counts[0]))
    default = BaselineOptions.options()["neighbors"].default
    if max(neighbors) > len(classes) and tuple(neighbors) != default:
        raise fail("baselines", f"neighbors <= {len(classes)}, the images", list(neighbors))
    return classes, int(counts[0])


def own_steps(run: Run, order: np.ndarray) -> list[Protocol]:
    """The steps of a run on other images: with one step size for all, and with its own schedule to scale.

    Args:
      run: of a method that trains inner steps.
      order: [T, B], which of the other images each step is on.
    """
    constant = equal_steps(run, lambda key: jnp.asarray(order, jnp.int32))
    scaled = as_learned(run, order)._replace(name="scaled schedule", labels="probabilities")
    return [constant._replace(name="one step size"), scaled]


def class_by_class(classes: np.ndarray) -> np.ndarray:
    """Where each image would be in a set that is sorted by class."""
    return np.argsort(np.argsort(classes, kind="stable"), kind="stable")


def unadapted(run: Run, evaluation: Evaluation) -> Score:
    """The networks that test the distilled images, before training."""
    key = stream(evaluation.key, "test")
    params = evaluation.contexts(stream(key, "learners"), evaluation.num_learners)
    found = as_they_are(
        run.tested,
        params,
        run.data.test,
        run.data.train,
        stream(key, "calibrate"),
        measure=correct_on,
        strategy=evaluation.strategy,
        learner_chunk=evaluation.learner_chunk,
    )
    return summarize_by_class(found, run.data.test.y)


def neighbors(sets: Sequence[Batch], data: Splits, options: BaselineOptions) -> Row:
    """Accuracy of nearest neighbours in each set; k and p are the best in the first set, on validation."""
    candidates = [(k, p) for k in options.neighbors for p in options.norms if k <= len(sets[0].y)]

    def accuracy(images: Batch, choice: tuple[int, float], split: Dataset) -> float:
        return nearest_neighbors(images, split, k=choice[0], p=choice[1])

    best = max(candidates, key=lambda choice: accuracy(sets[0], choice, data.validation))
    found = [accuracy(each, best, data.test) for each in sets]
    numbers = {"neighbors_mean": float(np.mean(found)), "neighbors_std": float(np.std(found))}
    return numbers | {"neighbors_sets": len(found), "neighbors_k": best[0], "neighbors_p": best[1]}


def _row(name: str, found: Score, trained_by: str) -> Row:
    return {"set": name, **found.as_row(), "trained_by": trained_by}
