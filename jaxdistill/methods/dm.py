"""Distribution Matching: images with the mean features of real data, class by class.

| paper (Zhao & Bilen 2023) | here | file |
| --- | --- | --- |
| synthetic set S | `meta.teacher` | teachers/images.py |
| sum over classes of the squared distance of mean embeddings | `distribution_matching` | objectives/ |
| embedding networks, random and untrained, one per iteration | `fresh` | populations/fresh.py |
| SGD 1, momentum 0.5 | `outer_sgd` | methods/outer.py |
| siamese augmentation A(., omega) | `augmentation` | augment/ |

Deviations: real images of a class are drawn with replacement, from the training set without its validation
split; no flips unless `augmentation` has them. `layers="all"` is an option that the paper lacks.
"""

from collections.abc import Callable
from functools import partial

import optax

from jaxdistill.augment import DSA, Augmentation
from jaxdistill.core.checks import at_least
from jaxdistill.core.labels import check_probabilities
from jaxdistill.core.types import Array, Batch, Dataset, Learner, Method, Population, Teacher
from jaxdistill.data import sample_per_class
from jaxdistill.inner.optimizers import sgd
from jaxdistill.methods.bilevel import bilevel, num_inner_steps
from jaxdistill.methods.recipe import MATCHING, SMALL_MATCHING, Recipe, Settings, settings_of
from jaxdistill.methods.recipe import outer_optimizer as outer_optimizer_of
from jaxdistill.objectives.distribution_matching import distribution_matching
from jaxdistill.populations.fresh import fresh
from jaxdistill.teachers.batching import some_of_each_class


def dm(
    learner: Learner,
    teacher: Teacher,
    *,
    population: Population | None = None,
    outer_optimizer: optax.GradientTransformation | None = None,
    num_learners: int | None = None,
    real_batch_size: int | None = None,
    draw: Callable[[Dataset, Array], Batch] | None = None,
    augmentation: Augmentation | None = DSA,
    layers: str = "last",
    class_strategy: str = "auto",
    microbatch: int | None = None,
    synthetic_batch_size: int | None = None,
    strategy: str = "auto",
    learner_chunk: int | None = None,
) -> Method:
    """Distribution Matching with the settings of its recipe: the paper's, or those for small images.

    Args:
      learner: the network; never trained.
      teacher: what is learned; `images(...)` that start from real ones in the paper.
      population: `fresh(learner)` when None.
      outer_optimizer: SGD 1, momentum 0.5, in the paper; 10 for 100 images per class and more.
      num_learners: K networks per outer step.
      real_batch_size: real images of a class per outer step.
      draw: (data set, key) -> the real batch [classes, n, ...]; drawn at random when None.
      augmentation: its siamese half is applied to real and synthetic images; None for none.
      layers, class_strategy, microbatch: see `jaxdistill.objectives.distribution_matching`.
      synthetic_batch_size: synthetic images of a class that are matched in an outer step, drawn from those of
        the class; all when None.
      strategy, learner_chunk: see `jaxdistill.inner.over_learners`.

    Returns:
      The method. It learns no inner hyper-parameters.

    Raises:
      UserError: an option out of range, or fewer synthetic images than classes.

    Example:
      >>> net = jd.learner("convnet", image_shape=(28, 28, 1), num_classes=10)
      >>> method = dm(net, jd.images(image_shape=(28, 28, 1), num_classes=10))

    References: Zhao & Bilen 2023, "Dataset Condensation with Distribution Matching", algorithm 1.
    """
    check_probabilities("dm", teacher.labels)
    chosen = settings_of(RECIPE, teacher, num_learners=num_learners, real_batch_size=real_batch_size)
    at_least("dm", "real_batch_size", chosen["real_batch_size"], 1)
    matched = teacher
    if synthetic_batch_size is not None:
        matched = some_of_each_class(teacher, synthetic_batch_size)
    objective = distribution_matching(
        learner,
        matched,
        layers=layers,
        augment=None if augmentation is None else augmentation.siamese,
        class_strategy=class_strategy,
        microbatch=microbatch,
    )
    return bilevel(
        teacher=teacher,
        inner_optimizer=sgd(num_steps=num_inner_steps(teacher), learned=()),
        population=fresh(learner) if population is None else population,
        objective=objective,
        outer_optimizer=outer_optimizer or outer_optimizer_of(chosen),
        num_learners=chosen["num_learners"],
        real_batch_size=chosen["real_batch_size"],
        draw=draw or partial(sample_per_class, num_per_class=chosen["real_batch_size"]),
        strategy=strategy,
        learner_chunk=learner_chunk,
    )


def by_count(settings: Settings) -> Settings:
    """The paper's learning rate is 10 for 100 images per class and more."""
    return {"outer_learning_rate": 10.0} if settings["images_per_class"] >= 100 else {}


RECIPE = Recipe(
    make=dm,
    title="Distribution Matching",
    paper="Zhao & Bilen 2023",
    link="https://arxiv.org/abs/2110.04181",
    defaults={**MATCHING, "start": "real", "outer_learning_rate": 1.0, "num_outer_steps": 20_000},
    small={**SMALL_MATCHING, "num_outer_steps": 5000},
    adjust=by_count,
    sees_labels=False,
    trains=False,
    protocol="dsa",
    by_class=True,
)
