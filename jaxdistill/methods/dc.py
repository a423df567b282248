"""Dataset Condensation: images whose gradients are those of real data, class by class.

| paper (Zhao et al. 2021) | here | file |
| --- | --- | --- |
| synthetic set S | `meta.teacher` | teachers/images.py |
| D(grad L^S, grad L^T), by layer and output unit | `layerwise` | objectives/gradient_matching.py |
| real images of class c | `real_batch_size`, `sample_per_class` | data/sampling.py |
| loop over networks, matches of each, epochs between | `persistent` | populations/persistent.py |
| S <- opt-alg(S), SGD 0.1, momentum 0.5 | `outer_sgd` | methods/outer.py |
| augmentation A(., omega), of DSA alone | `augmentation` | augment/, methods/dsa.py |

Deviations: one outer step here is one match, so 1,000 networks of `matches` each are 1,000 x `matches` steps;
real images of a class are drawn with replacement, from the training set without its validation split. All
classes in one term (`by_class=False`) is an ablation of Medvedev & D'yakonov 2022.
"""

from functools import partial
from typing import Any

import jax
import optax

from jaxdistill.augment import Augmentation
from jaxdistill.core.checks import at_least
from jaxdistill.core.types import Learner, Method, Population, Teacher
from jaxdistill.data import sample_per_class
from jaxdistill.inner.optimizers import sgd
from jaxdistill.methods.bilevel import bilevel, num_inner_steps
from jaxdistill.methods.outer import outer_sgd
from jaxdistill.objectives.gradient_matching import gradient_matching
from jaxdistill.populations.persistent import persistent

SCHEDULES = {1: (1, 1), 10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10)}
"""By images per class: (matches of one network, epochs of training between them)."""


def dc(
    learner: Learner,
    teacher: Teacher,
    *,
    population: Population | None = None,
    outer_optimizer: optax.GradientTransformation | None = None,
    num_learners: int = 1,
    real_batch_size: int = 256,
    distance: str = "layerwise",
    by_class: bool = True,
    augmentation: Augmentation | None = None,
    class_strategy: str = "auto",
    microbatch: int | None = None,
    strategy: str = "auto",
    learner_chunk: int | None = None,
) -> Method:
    """Dataset Condensation with the paper's defaults.

    Args:
      learner: the network.
      teacher: what is learned; `images(...)` of one batch in the paper.
      population: `persistent` with the paper's numbers for so many images per class (or the next fewer that
        it has) when None.
      outer_optimizer: SGD 0.1, momentum 0.5, when None.
      num_learners: K networks per outer step.
      real_batch_size: real images per outer step, of each class where they have a term each.
      augmentation: of real and synthetic images where they are matched (siamese), and of those that networks
        are trained on between matches (per image); none in the paper.
      distance, by_class, class_strategy, microbatch: see `jaxdistill.objectives.gradient_matching`.
      strategy, learner_chunk: see `jaxdistill.inner.over_learners`.

    Returns:
      The method. It learns no inner hyper-parameters.

    Raises:
      UserError: an option out of range, or fewer synthetic images than classes.

    Example:
      >>> net = learner("convnet", image_shape=(28, 28, 1), num_classes=10)
      >>> method = dc(net, images(image_shape=(28, 28, 1), num_classes=10))

    References: Zhao, Mopuri & Bilen 2021, "Dataset Condensation with Gradient Matching", algorithm 1.
    """
    at_least("dc", "real_batch_size", real_batch_size, 1)
    objective = gradient_matching(
        learner,
        teacher.seen,
        distance=distance,
        by_class=by_class,
        augment=None if augmentation is None else augmentation.siamese,
        class_strategy=class_strategy,
        microbatch=microbatch,
    )
    if population is None:
        matches, epochs = schedule(images_per_class(teacher))
        population = persistent(
            learner,
            teacher,
            num_learners=num_learners,
            matches=matches,
            epochs=epochs,
            augment=None if augmentation is None else augmentation.per_image,
            strategy=strategy,
        )
    return bilevel(
        teacher=teacher,
        inner_optimizer=sgd(num_steps=num_inner_steps(teacher), learned=()),
        population=population,
        objective=objective,
        outer_optimizer=outer_sgd(learning_rate=0.1) if outer_optimizer is None else outer_optimizer,
        num_learners=num_learners,
        real_batch_size=real_batch_size,
        draw=partial(sample_per_class, num_per_class=real_batch_size) if by_class else None,
        strategy=strategy,
        learner_chunk=learner_chunk,
    )


def schedule(count: int) -> tuple[int, int]:
    """(matches of one network, epochs between them) for so many images per class."""
    return SCHEDULES[max(known for known in SCHEDULES if known <= count)]


def images_per_class(teacher: Teacher) -> int:
    """Synthetic images of a class, from the shapes alone."""
    key = jax.random.key(0)
    made: Any = jax.eval_shape(lambda: teacher.batches(teacher.init(key), key))
    steps, batch, classes = made.y.shape
    return max(1, steps * batch // classes)
