"""RaT-BPTT: images learned by backpropagation through a window at a random place of a long training.

| paper (Feng, Vedantam & Kempe 2023) | here | file |
| --- | --- | --- |
| synthetic images u, each of norm 1 at the start | `meta.teacher`, `unit_noise` | teachers/images.py |
| N - T steps without a gradient, T with it | `backprop_last`, `random_window` | inner/unrolled.py |
| Adam 1e-3 as the inner optimiser | `inner_optimizer` | inner/optimizers.py |
| minibatches, equally many images of every class | `inner_batch_size` | teachers/batching.py |
| flip and rotation of synthetic and real images, one draw a batch | `augmentation.siamese` | augment/ |
| loss on a real batch of 5,000 | `validation` | objectives/validation.py |
| clip at twice the moving average of the norm | `relative_clip` | methods/outer.py |
| T = 60 of N = 200 (CIFAR-10) | three tenths of all inner steps | this file |
| test: Adam 1e-3 on augmented images | protocol `rat` | evaluation/protocols.py |

Deviations: Adam adds 1e-5 inside the root of the inner loop, without which its derivative at 0 is infinite.
A minibatch draws from shuffled images in turn, so that in a run of inner steps all are seen; without
`inner_batch_size` a step is on all images, as it is for ten images of a class and fewer in the authors' code.
Images are flipped only in sets whose mirror images are known to keep their class, and whitened only with
`preprocess=zca`. The test takes 1,000 steps: the authors test several lengths on test data and report the
best. Labels are fixed, as in the paper for sets of ten classes; `soft_labels` learns them by a softmax, where
the authors learn numbers above 0, and `labels=free` with squared losses learns any numbers. Boosting, the
paper's second half, is not here.

Settings for small images: a narrow ConvNet, shorter training and larger rates.
"""

import functools
from typing import Any

from jaxdistill.augment import dsa
from jaxdistill.core.types import Learner, Method, Teacher
from jaxdistill.data import MIRRORS
from jaxdistill.inner.unrolled import unrolled
from jaxdistill.methods.bilevel import num_inner_steps
from jaxdistill.methods.dd import dd
from jaxdistill.methods.recipe import PLAIN, SMALL_CONVNET, TRAINING, Recipe, Settings

ROTATION = dsa(["rotate"])
"""The augmentation of sets whose mirror images mean something else."""


@functools.wraps(dd, assigned=(), updated=())  # its signature is that of `dd`
def rat(learner: Learner, teacher: Teacher, **options: Any) -> Method:
    """Dataset Distillation through a random window of the inner steps, with the settings of its recipe.

    Args:
      learner: the network; a `convnet` in the paper.
      teacher: what is learned; `images(distill_epochs=200)` that start from `unit_noise` in the paper.
      **options: those of `jaxdistill.methods.dd.dd`. Options that are left out come from the recipe; `solve`
        is `unrolled` with a random window of three tenths of the steps, `augmentation` a rotation.

    Returns:
      The method. It learns no inner hyper-parameters.

    Raises:
      UserError: an option out of range, or an inner optimiser made for another number of steps (when traced).

    Example:
      >>> net = jd.learner("convnet", image_shape=(28, 28, 1), num_classes=10)
      >>> method = rat(net, jd.images(image_shape=(28, 28, 1), num_classes=10, distill_epochs=200))

    References: Feng, Vedantam & Kempe 2023, "Embarrassingly Simple Dataset Distillation", algorithm 1.
    """
    options = {"recipe": RECIPE, "augmentation": ROTATION, **options}
    if options.get("solve") is None:
        last = window(num_inner_steps(teacher))
        options["solve"] = functools.partial(unrolled, backprop_last=last, random_window=True)
    return dd(learner, teacher, **options)


def window(num_steps: int) -> int:
    """The number of differentiated steps, given the number of all steps."""
    return max(1, round(0.3 * num_steps))


def by_steps(settings: Settings) -> Settings:
    """The window follows from the number of steps, and flips from the data set."""
    found: dict[str, Any] = {}
    if settings["gradient"] == "truncated" and "distill_steps" in settings:  # a teacher has them otherwise
        found["backprop_last"] = window(settings["distill_steps"] * settings["distill_epochs"])
    if MIRRORS.get(settings.get("dataset", "")):
        found["augment"] = ("flip", "rotate")
    return found


RECIPE = Recipe(
    make=rat,
    title="Random Truncated Backpropagation (RaT-BPTT)",
    paper="Feng et al. 2023",
    link="https://arxiv.org/abs/2311.07025",
    defaults={
        **PLAIN,
        **TRAINING,
        "teacher": "images",
        "start": "unit_noise",
        "distill_epochs": 200,
        "augment": ("rotate",),
        "learner": "convnet",
        "gradient": "truncated",
        "random_window": True,
        "inner_optimizer": "adam",
        "inner_learning_rate": 1e-3,
        "learned": (),
        "outer_optimizer": "adam",
        "outer_b1": 0.9,
        "outer_learning_rate": 1e-3,
        "relative_clip": 2.0,
        "num_outer_steps": 600_000,
        "num_learners": 1,
        "real_batch_size": 5000,
    },
    small={
        **SMALL_CONVNET,
        "distill_epochs": 40,
        "inner_learning_rate": 0.01,
        "outer_learning_rate": 0.02,
        "schedule": "cosine",
        "num_outer_steps": 1000,
        "num_learners": 2,
        "real_batch_size": 256,
    },
    adjust=by_steps,
    protocol="rat",
)
