"""Dataset Condensation: images with the gradients of real data, class by class.

| paper (Zhao et al. 2021) | here | file |
| --- | --- | --- |
| synthetic set S | `meta.teacher` | teachers/images.py |
| D(grad L^S, grad L^T), by layer and output unit | `layerwise` | objectives/gradient_matching.py |
| real images of class c | `real_batch_size`, `sample_per_class` | data/sampling.py |
| loop over networks, matches of each, epochs between | `persistent` | populations/persistent.py |
| S <- opt-alg(S), SGD 0.1, momentum 0.5 | `outer_sgd` | methods/outer.py |
| augmentation A(., omega), of DSA alone | `augmentation` | augment/, methods/dsa.py |

Deviations: one outer step here is one match, so 1,000 networks of `matches` each are 1,000 x `matches` steps;
real images of a class are drawn with replacement, from the training set without its validation split. An
output unit whose real and synthetic gradients are both zero costs 0 here, and a constant 1 in the authors'
code; derivatives are the same. All classes in one term (`by_class=False`) is an ablation of Medvedev &
D'yakonov 2022.
"""

from collections.abc import Callable
from functools import partial

import optax

from jaxdistill.augment import Augmentation
from jaxdistill.core.checks import at_least, fail
from jaxdistill.core.labels import check_probabilities
from jaxdistill.core.types import Array, Batch, Dataset, Learner, Method, Population, Teacher
from jaxdistill.data import sample_per_class
from jaxdistill.inner.optimizers import sgd
from jaxdistill.methods.bilevel import bilevel, num_inner_steps
from jaxdistill.methods.recipe import (
    MATCHING,
    SMALL_MATCHING,
    Recipe,
    Settings,
    images_per_class,
    settings_of,
)
from jaxdistill.methods.recipe import outer_optimizer as outer_optimizer_of
from jaxdistill.objectives.gradient_matching import gradient_matching
from jaxdistill.populations.persistent import match_schedule, persistent
from jaxdistill.teachers.batching import some_of_each_class


def dc(
    learner: Learner,
    teacher: Teacher,
    *,
    population: Population | None = None,
    outer_optimizer: optax.GradientTransformation | None = None,
    num_learners: int | None = None,
    real_batch_size: int | None = None,
    draw: Callable[[Dataset, Array], Batch] | None = None,
    distance: str = "layerwise",
    by_class: bool = True,
    augmentation: Augmentation | None = None,
    class_strategy: str = "auto",
    microbatch: int | None = None,
    synthetic_batch_size: int | None = None,
    strategy: str = "auto",
    learner_chunk: int | None = None,
    recipe: Recipe | None = None,
) -> Method:
    """Dataset Condensation with the settings of its recipe: the paper's, or those for small images.

    Args:
      learner: the network.
      teacher: what is learned; `images(...)` of one batch in the paper.
      population: `persistent` with the paper's schedule for this many images per class when None.
      outer_optimizer: SGD 0.1, momentum 0.5, in the paper.
      num_learners: K networks per outer step.
      real_batch_size: real images per outer step, of each class where they have a term each.
      draw: (data set, key) -> the real batch, [classes, n, ...] by class; drawn at random when None.
      augmentation: of real and synthetic images where they are matched (siamese), and of those that networks
        are trained on between matches (per image); none in the paper.
      distance, by_class, class_strategy, microbatch: see `jaxdistill.objectives.gradient_matching`.
      synthetic_batch_size: synthetic images of a class that are matched in an outer step, drawn from those of
        the class (with a term per class); all when None.
      strategy, learner_chunk: see `jaxdistill.inner.over_learners`.
      recipe: where what is left out comes from; `RECIPE` when None.

    Returns:
      The method. It learns no inner hyper-parameters.

    Raises:
      UserError: an option out of range, or fewer synthetic images than classes.

    Example:
      >>> net = jd.learner("convnet", image_shape=(28, 28, 1), num_classes=10)
      >>> method = dc(net, jd.images(image_shape=(28, 28, 1), num_classes=10))

    References: Zhao, Mopuri & Bilen 2021, "Dataset Condensation with Gradient Matching", algorithm 1.
    """
    check_probabilities("dc", teacher.labels)
    chosen = settings_of(
        recipe or RECIPE, teacher, num_learners=num_learners, real_batch_size=real_batch_size
    )
    at_least("dc", "real_batch_size", chosen["real_batch_size"], 1)
    matched = teacher
    if synthetic_batch_size is not None:
        if not by_class:
            raise fail("dc", "by_class with synthetic_batch_size", "all classes in one term")
        matched = some_of_each_class(teacher, synthetic_batch_size)
    objective = gradient_matching(
        learner,
        matched,
        distance=distance,
        by_class=by_class,
        augment=None if augmentation is None else augmentation.siamese,
        class_strategy=class_strategy,
        microbatch=microbatch,
    )
    if population is None:
        matches, epochs = match_schedule(images_per_class(teacher))
        population = persistent(
            learner,
            teacher,
            num_learners=chosen["num_learners"],
            matches=matches,
            epochs=epochs,
            augment=None if augmentation is None else augmentation.per_image,
            strategy=strategy,
        )
    if draw is None and by_class:
        draw = partial(sample_per_class, num_per_class=chosen["real_batch_size"])
    return bilevel(
        teacher=teacher,
        inner_optimizer=sgd(num_steps=num_inner_steps(teacher), learned=()),
        population=population,
        objective=objective,
        outer_optimizer=outer_optimizer or outer_optimizer_of(chosen),
        num_learners=chosen["num_learners"],
        real_batch_size=chosen["real_batch_size"],
        draw=draw,
        strategy=strategy,
        learner_chunk=learner_chunk,
    )


def by_matches(settings: Settings) -> Settings:
    """1,000 networks of several matches each are as many outer steps; the paper's rate is 0.01 for an MLP."""
    matches = settings.get("matches") or match_schedule(settings["images_per_class"])[0]
    rate = {"outer_learning_rate": 0.01} if settings.get("learner") == "mlp" else {}
    return {"num_outer_steps": settings["num_outer_steps"] * matches, **rate}


CONDENSATION: Settings = {
    **MATCHING,
    "population": "persistent",
    "outer_learning_rate": 0.1,
    "num_outer_steps": 1000,
}
"""What DC and DSA share; the outer steps are for networks that are matched once."""
RECIPE = Recipe(
    make=dc,
    title="Dataset Condensation",
    paper="Zhao, Mopuri & Bilen 2021",
    link="https://arxiv.org/abs/2006.05929",
    defaults={**CONDENSATION, "augment": ()},
    small=SMALL_MATCHING,
    adjust=by_matches,
    trains=False,
    protocol=lambda dataset: "dc_augmented" if dataset == "mnist" else "dc",
    by_class=True,
)
