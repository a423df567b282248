"""Generative Teaching Networks: a generator, its curriculum and the inner optimiser, learned together.

| paper (Such et al. 2019) | here | file |
| --- | --- | --- |
| generator G(z, y), weight normalisation | `meta.teacher["network"]` | teachers/generator.py, networks.py |
| curriculum: learned z_t in order | `meta.teacher["z"]` | teachers/generator.py, curricula.py |
| learned learning rates and momenta, by step | `meta.inner` | inner/optimizers.py |
| learner, new weights (and widths) every time | `population`, `random_shapes` | learners/gtn.py, shapes.py |
| inner loop on G's data, unrolled | `unrolled` | inner/unrolled.py |
| meta-loss on real data, at the end or on the way | `validate_every` | objectives/validation.py |

Deviations: momenta are kept in (0, 1) by a sigmoid where the paper learns their logarithm; real batches are
drawn with replacement; a clip and a bound on step sizes are options that the paper lacks.
"""

import functools
from typing import Any

from jaxdistill.core.types import Learner, Method, Teacher
from jaxdistill.methods.dd import dd
from jaxdistill.methods.recipe import PLAIN, TRAINING, Recipe


@functools.wraps(dd, assigned=(), updated=())  # its signature is that of `dd`
def gtn(learner: Learner, teacher: Teacher, **options: Any) -> Method:
    """Dataset Distillation of a generator, with the settings of Such et al. 2019 or those for small images.

    Args:
      learner: the network; `gtn` in the paper.
      teacher: what is learned; `generator(...)` of 32 batches of 128 images in the paper.
      **options: those of `jaxdistill.methods.dd.dd`. Options that are left out come from the recipe. In the
        paper: SGD with a learned step size (start 0.02) and a learned momentum (start 0.5) for each step;
        Adam 0.02, betas (0.9, 0.999), cosine to a tenth.

    Returns:
      The method.

    Raises:
      UserError: an option out of range, or an inner optimiser made for another number of steps (when traced).

    Example:
      >>> teacher = jd.generator(image_shape=(8, 8, 1), num_classes=10, batch_size=16, distill_steps=8)
      >>> method = gtn(jd.learner("gtn", image_shape=(8, 8, 1), num_classes=10, width=8), teacher)

    References: Such, Rawal, Lehman, Stanley & Clune 2019, "Generative Teaching Networks", algorithm 1.
    """
    return dd(learner, teacher, **{"recipe": RECIPE, **options})


RECIPE = Recipe(
    make=gtn,
    title="Generative Teaching Networks",
    paper="Such et al. 2019",
    link="https://arxiv.org/abs/1912.07768",
    defaults={
        **PLAIN,
        **TRAINING,
        "teacher": "generator",
        "batch_size": 128,
        "distill_steps": 32,
        "distill_epochs": 1,
        "learner": "gtn",
        "inner_learning_rate": 0.02,
        "inner_momentum": 0.5,
        "learned": ("learning_rate", "momentum"),
        "positive": "exp",
        "num_outer_steps": 2000,
        "outer_optimizer": "adam",
        "outer_learning_rate": 0.02,
        "outer_b1": 0.9,
        "schedule": "cosine",
        "schedule_end": 0.1,
        "real_batch_size": 128,
        "num_learners": 1,
    },
    small={
        "batch_size": 16,
        "generator_width": 16,
        "generator_hidden": 128,
        "learner": "mlp",
        "width": 64,
        "inner_learning_rate": 0.1,
        "outer_learning_rate": 0.01,
        "clip": 1.0,
        "num_outer_steps": 1500,
    },
    augments=False,
)
