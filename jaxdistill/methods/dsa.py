"""Differentiable Siamese Augmentation: Dataset Condensation under augmentation.

| paper (Zhao & Bilen 2021) | here | file |
| --- | --- | --- |
| A(., omega), one draw for real and synthetic images of a class | `augmentation.siamese` | augment/ |
| augmented training of networks between matches | `augmentation.per_image` | populations/persistent.py |
| D, the schedules and optimisers of DC | `dc` | methods/dc.py |

Deviations: those of `jaxdistill.methods.dc`; no flips unless `augmentation` has them (digits).
"""

import functools
from typing import Any

from jaxdistill.augment import DSA
from jaxdistill.core.types import Learner, Method, Teacher
from jaxdistill.methods.dc import CONDENSATION, by_matches, dc
from jaxdistill.methods.recipe import SMALL_MATCHING, Recipe


@functools.wraps(dc, assigned=(), updated=())  # its signature is that of `dc`
def dsa(learner: Learner, teacher: Teacher, **options: Any) -> Method:
    """Dataset Condensation with siamese augmentation: `dc` with an augmentation, from real images.

    Args:
      learner: the network.
      teacher: what is learned; `images(...)` of one batch that start from real ones in the paper.
      **options: those of `jaxdistill.methods.dc.dc`; `augmentation` is DSA's without the flip when it is left
        out.

    Returns:
      The method. It learns no inner hyper-parameters.

    Raises:
      UserError: an option out of range, or fewer synthetic images than classes.

    Example:
      >>> net = jd.learner("convnet", image_shape=(28, 28, 1), num_classes=10)
      >>> method = dsa(net, jd.images(image_shape=(28, 28, 1), num_classes=10))

    References: Zhao & Bilen 2021, "Dataset Condensation with Differentiable Siamese Augmentation".
    """
    return dc(learner, teacher, **{"augmentation": DSA, "recipe": RECIPE, **options})


RECIPE = Recipe(
    make=dsa,
    title="Differentiable Siamese Augmentation",
    paper="Zhao & Bilen 2021",
    link="https://arxiv.org/abs/2102.08259",
    defaults={**CONDENSATION, "start": "real"},
    small=SMALL_MATCHING,
    adjust=by_matches,
    trains=False,
    protocol="dsa",
    needs_augmentation=True,
    by_class=True,
)
