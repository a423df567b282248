"""Differentiable Siamese Augmentation: Dataset Condensation under augmentation.

| paper (Zhao & Bilen 2021) | here | file |
| --- | --- | --- |
| A(., omega), one draw for real and synthetic images of a class | `augmentation.siamese` | augment/ |
| augmented training of networks between matches | `augmentation.per_image` | populations/persistent.py |
| D, the schedules and optimisers of DC | `dc` | methods/dc.py |

Deviations: those of `jaxdistill.methods.dc`; no flips unless `augmentation` has them (digits).
"""

import optax

from jaxdistill.augment import DSA, Augmentation
from jaxdistill.core.types import Learner, Method, Population, Teacher
from jaxdistill.methods.dc import dc


def dsa(
    learner: Learner,
    teacher: Teacher,
    *,
    population: Population | None = None,
    outer_optimizer: optax.GradientTransformation | None = None,
    num_learners: int = 1,
    real_batch_size: int = 256,
    distance: str = "layerwise",
    by_class: bool = True,
    augmentation: Augmentation = DSA,
    class_strategy: str = "auto",
    microbatch: int | None = None,
    strategy: str = "auto",
    learner_chunk: int | None = None,
) -> Method:
    """Dataset Condensation with siamese augmentation, with the paper's defaults.

    Args:
      learner: the network.
      teacher: what is learned; `images(...)` of one batch that start from real ones in the paper.
      population: as in `dc`, trained on augmented images, when None.
      outer_optimizer: SGD 0.1, momentum 0.5, when None.
      num_learners: K networks per outer step.
      real_batch_size: real images per outer step, of each class where they have a term each.
      augmentation: see `jaxdistill.augment.dsa`.
      distance, by_class, class_strategy, microbatch: see `jaxdistill.objectives.gradient_matching`.
      strategy, learner_chunk: see `jaxdistill.inner.over_learners`.

    Returns:
      The method. It learns no inner hyper-parameters.

    Raises:
      UserError: an option out of range, or fewer synthetic images than classes.

    Example:
      >>> net = learner("convnet", image_shape=(28, 28, 1), num_classes=10)
      >>> method = dsa(net, images(image_shape=(28, 28, 1), num_classes=10))

    References: Zhao & Bilen 2021, "Dataset Condensation with Differentiable Siamese Augmentation".
    """
    return dc(
        learner,
        teacher,
        population=population,
        outer_optimizer=outer_optimizer,
        num_learners=num_learners,
        real_batch_size=real_batch_size,
        distance=distance,
        by_class=by_class,
        augmentation=augmentation,
        class_strategy=class_strategy,
        microbatch=microbatch,
        strategy=strategy,
        learner_chunk=learner_chunk,
    )
