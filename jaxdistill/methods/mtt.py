"""Matching Training Trajectories: images that take a network where an expert went on real data.

| paper (Cazenavette et al. 2022) | here | file |
| --- | --- | --- |
| expert trajectories tau* | the bank; `experiments.experts` trains it | populations/experts.py |
| theta*_t, theta*_{t+M}, t < T+ | `Segment`; `expert_epochs`, `start_epochs` | populations/experts.py |
| N student updates, learned step size alpha | `inner_optimizer`, one for all steps | inner/optimizers.py |
| differentiable augmentation of each update | `augmented` | teachers/batching.py |
| minibatches of synthetic images | `minibatches` | teachers/batching.py |
| normalised squared distance | `trajectory_matching` | objectives/trajectory_matching.py |
| SGD 1000 for images, 1e-5 for alpha, momentum 0.5 | `outer_sgd` | methods/outer.py |

Deviations: the FINAL images are evaluated, not the best of many evaluations on test data; the augmentation
samples with `align_corners` false, as DSA does; images are whitened only with
`preprocess=zca`, see `jaxdistill.data.whitening`; a minibatch may take from two shuffles.
"""

from collections.abc import Callable
from functools import partial

import optax

from jaxdistill.augment import DSA, Augmentation
from jaxdistill.core.labels import check_probabilities
from jaxdistill.core.types import InnerOptimizer, Learner, Method, Population, Solve, Teacher
from jaxdistill.inner.losses import inner_loss
from jaxdistill.inner.unrolled import unrolled
from jaxdistill.methods.bilevel import bilevel, num_inner_steps
from jaxdistill.methods.recipe import MATCHING, SMALL_CONVNET, TRAINING, Recipe, settings_of
from jaxdistill.methods.recipe import inner_optimizer as inner_optimizer_of
from jaxdistill.methods.recipe import outer_optimizer as outer_optimizer_of
from jaxdistill.objectives.trajectory_matching import trajectory_matching
from jaxdistill.populations.experts import experts
from jaxdistill.teachers.batching import augmented, minibatches

REMAT = partial(unrolled, remat="step")


def mtt(
    learner: Learner,
    teacher: Teacher,
    *,
    inner_optimizer: InnerOptimizer | None = None,
    weight_decay: float | None = None,
    population: Population | None = None,
    outer_optimizer: optax.GradientTransformation | None = None,
    num_learners: int | None = None,
    augmentation: Augmentation | None = DSA,
    inner_batch_size: int | None = None,
    solve: Callable[..., Solve] = REMAT,
    strategy: str = "auto",
    learner_chunk: int | None = None,
) -> Method:
    """Matching Training Trajectories with the settings of its recipe; its `Data` need a bank of experts.

    Args:
      learner: the network that experts were trained of.
      teacher: what is learned; its T batches are the student's N steps. `images(distill_epochs=20)` that
        start from real ones in the paper.
      inner_optimizer: made for these steps; SGD with one learned step size, started at 0.01, in the
        paper.
      weight_decay: L2 of the student's loss.
      population: `experts` of the recipe's segments when None.
      outer_optimizer: SGD 1000, for the step size 1e-5, momentum 0.5, in the paper.
      num_learners: K segments per outer step.
      augmentation: its per-image half is applied to the student's batches; None for none.
      inner_batch_size: images of a student's step, drawn from all; when None, the teacher's batch.
      solve: how the student's training is differentiated: `unrolled`, or `accumulated` (TESLA).
      strategy, learner_chunk: see `jaxdistill.inner.over_learners`.

    Returns:
      The method; `hyperparameters` tells the learned step size.

    Raises:
      UserError: an option out of range; no bank, or one of short trajectories (when traced).

    Example:
      >>> net = jd.learner("convnet", image_shape=(28, 28, 1), num_classes=10)
      >>> method = mtt(net, jd.images(image_shape=(28, 28, 1), num_classes=10, distill_epochs=20))

    References: Cazenavette et al. 2022, "Dataset Distillation by Matching Training Trajectories", algorithm
    1.
    """
    check_probabilities("mtt", teacher.labels)
    chosen = settings_of(RECIPE, teacher, num_learners=num_learners, weight_decay=weight_decay)
    student = teacher
    if inner_batch_size is not None:
        student = minibatches(student, inner_batch_size)
    if augmentation is not None:
        student = augmented(student, augmentation.per_image)
    optimizer = inner_optimizer or inner_optimizer_of(chosen, num_inner_steps(teacher))
    trained = solve(student, inner_loss(learner, weight_decay=chosen["weight_decay"]), optimizer)
    segments = {name: chosen[name] for name in ("start_epochs", "expert_epochs")}
    return bilevel(
        teacher=teacher,
        inner_optimizer=optimizer,
        population=experts(**segments) if population is None else population,
        objective=trajectory_matching(trained),
        outer_optimizer=outer_optimizer or outer_optimizer_of(chosen),
        num_learners=chosen["num_learners"],
        real_batch_size=None,  # experts have seen the real data
        solve=trained._replace(probe=lambda segment: trained.probe(segment.start)),
        strategy=strategy,
        learner_chunk=learner_chunk,
    )


RECIPE = Recipe(
    make=mtt,
    title="Matching Training Trajectories",
    paper="Cazenavette et al. 2022",
    link="https://arxiv.org/abs/2203.11932",
    defaults={
        **MATCHING,
        **TRAINING,
        "start": "real",
        "distill_epochs": 20,
        "population": "experts",
        "start_epochs": 25,
        "expert_epochs": 3,
        "inner_learning_rate": 0.01,
        "per_step": False,
        "positive": "projected",
        "remat": "step",
        "outer_learning_rate": 1000.0,
        "hyper_learning_rate": 1e-5,
        "num_outer_steps": 5000,
    },
    small={
        **SMALL_CONVNET,
        "start_epochs": 10,
        "inner_learning_rate": 0.1,
        "outer_learning_rate": 100.0,
    },
    protocol="dsa",
    populations=("experts",),
)
