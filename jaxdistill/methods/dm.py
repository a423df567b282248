"""Distribution Matching: images whose mean features are those of real data, class by class.

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

from functools import partial

import optax

from jaxdistill.augment import DSA, Augmentation
from jaxdistill.core.checks import at_least
from jaxdistill.core.types import Learner, Method, Population, Teacher
from jaxdistill.data import sample_per_class
from jaxdistill.inner.optimizers import sgd
from jaxdistill.methods.bilevel import bilevel, num_inner_steps
from jaxdistill.methods.outer import outer_sgd
from jaxdistill.objectives.distribution_matching import distribution_matching
from jaxdistill.populations.fresh import fresh


def dm(
    learner: Learner,
    teacher: Teacher,
    *,
    population: Population | None = None,
    outer_optimizer: optax.GradientTransformation | None = None,
    num_learners: int = 1,
    real_batch_size: int = 256,
    augmentation: Augmentation | None = DSA,
    layers: str = "last",
    class_strategy: str = "auto",
    microbatch: int | None = None,
    strategy: str = "auto",
    learner_chunk: int | None = None,
) -> Method:
    """Distribution Matching with the paper's defaults.

    Args:
      learner: the network; never trained.
      teacher: what is learned; `images(...)` that start from real ones in the paper.
      population: `fresh(learner)` when None.
      outer_optimizer: SGD 1, momentum 0.5, when None (10 for 100 images per class and more in the paper).
      num_learners: K networks per outer step.
      real_batch_size: real images of a class per outer step.
      augmentation: its siamese half is applied to real and synthetic images; None for none.
      layers, class_strategy, microbatch: see `jaxdistill.objectives.distribution_matching`.
      strategy, learner_chunk: see `jaxdistill.inner.over_learners`.

    Returns:
      The method. It learns no inner hyper-parameters.

    Raises:
      UserError: an option out of range, or fewer synthetic images than classes.

    Example:
      >>> net = learner("convnet", image_shape=(28, 28, 1), num_classes=10)
      >>> method = dm(net, images(image_shape=(28, 28, 1), num_classes=10))

    References: Zhao & Bilen 2023, "Dataset Condensation with Distribution Matching", algorithm 1.
    """
    at_least("dm", "real_batch_size", real_batch_size, 1)
    objective = distribution_matching(
        learner,
        teacher.seen,
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
        outer_optimizer=outer_sgd(learning_rate=1.0) if outer_optimizer is None else outer_optimizer,
        num_learners=num_learners,
        real_batch_size=real_batch_size,
        draw=partial(sample_per_class, num_per_class=real_batch_size),
        strategy=strategy,
        learner_chunk=learner_chunk,
    )
