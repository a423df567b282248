"""RCIG: images for networks in first order, whose heads are ridge regressions.

| paper (Loo et al. 2023) | here | file |
| --- | --- | --- |
| synthetic images, labels, both learned | `meta.teacher`, `labels` | teachers/images.py |
| f_lin = h(theta_0) W + (d f / d theta) t | `linearized` | learners/linearized.py |
| W = (K + lambda I)^-1 of the rest, lambda = 5e-4 n | `ridge`, `ridge_unit` | inner/closed_form.py |
| convex loss in t, L2 lambda, W solved for | `convexified` | inner/convexified.py |
| implicit part, at most as long as the direct one | `implicit_clip` | inner/implicit.py |
| cross-entropy with a learned temperature | `outer_loss` | objectives/validation.py |
| label margin, at most 1 / (2 C) | `label_margin` | inner/losses.py |
| pool of 30 networks, one drawn per step | `pool_size`, `num_learners` | populations/ages.py |
| 1 to 15 steps after use, Adam 5e-5, MSE | `max_age_steps`, `age_learning_rate` | populations/ages.py |
| a network is replaced after 100 steps | `max_age` | populations/ages.py |
| AdaBelief 3e-3, temperature 0.03 | `outer_optimizer`, `hyper_learning_rate` | methods/outer.py |
| average of the iterates, 0.99 | `outer_ema` | methods/average.py |
| softplus of sharpness 60; test with ReLU | `activation`, `eval_activation` | layers/modules.py |
| widths 128, 256, 512, no norm | `widths`, `norm` | learners/convnet.py |
| test: Adam 1e-4, warm-up, cosine, MSE | protocol `rcig` | evaluation/protocols.py |

Deviations: t and the inverse of the Hessian are solved for by conjugate gradients to a tolerance, with the
residuals reported (`inner_gradient`, `residual`); the paper takes 20 steps of Adam for each, their step sizes
tuned before the run and adapted in it. The linearised network has no bias in its last layer. The average
starts from the first images and is not corrected for that. Networks of the pool are new at the start, with
ages that are counted from different numbers. Real batches are drawn with replacement, from the training set
without its validation split. Images are not mirrored, and tests are without augmentation.
Labels start times sqrt(C / 10), as in FRePo; the paper has no such factor.

Settings for small images: a smaller ConvNet, fewer steps, a larger outer rate.
"""

import functools
from collections.abc import Callable
from typing import Any

from jaxdistill.core.types import Learner, Method, Solve, Teacher
from jaxdistill.inner.convexified import convexified
from jaxdistill.methods.dd import dd
from jaxdistill.methods.headed import headed
from jaxdistill.methods.recipe import PLAIN, TRAINING, Recipe, Settings

POOL = ("pool_size", "max_age_steps", "age_learning_rate")
"""The settings of the population that differ from its defaults."""


@functools.wraps(dd, assigned=(), updated=())  # its signature is that of `dd`
def rcig(learner: Learner, teacher: Teacher, **options: Any) -> Method:
    """Images for networks of a pool in first order, with the settings of its recipe.

    Args:
      learner: the network; a `convnet` without norm in the paper.
      teacher: what is learned; `images(labels="free")` that start from real ones in the paper.
      **options: those of `jaxdistill.methods.dd.dd`. Options that are left out come from the recipe; `solve`
        is `convexified`, and `population` is `ages`, the pool.

    Returns:
      The method. It learns a temperature, and no other inner hyper-parameters.

    Raises:
      UserError: an option out of range, or a network that `convexified` does not take.

    Example:
      >>> net = jd.learner("convnet", image_shape=(8, 8, 1), num_classes=10, norm="none")
      >>> method = rcig(net, jd.images(image_shape=(8, 8, 1), num_classes=10, labels="free"))

    References: Loo, Hasani, Lechner & Rus 2023, "Dataset Distillation with Convexified Implicit Gradients".
    """

    def solve(settings: Settings) -> Callable[..., Solve]:
        head = {name: settings[name] for name in ("ridge", "ridge_unit")}
        return functools.partial(convexified, learner=learner, **head, clip=settings["implicit_clip"])

    return headed(learner, teacher, solve, options, recipe=RECIPE, pool=POOL)


RECIPE = Recipe(
    make=rcig,
    title="Convexified Implicit Gradients (RCIG)",
    paper="Loo et al. 2023",
    link="https://arxiv.org/abs/2302.06755",
    defaults={
        **PLAIN,
        **TRAINING,
        "teacher": "images",
        "start": "real",
        "labels": "free",
        "distill_epochs": 1,
        "learner": "convnet",
        "widths": (128, 256, 512),
        "norm": "none",
        "activation": "softplus60",
        "eval_activation": "relu",
        "population": "ages",
        "pool_size": 30,
        "max_age_steps": 15,
        "age_learning_rate": 5e-5,
        "gradient": "convexified",
        "learned": (),
        "inner_learning_rate": 0.05,  # of another gradient; this one has no steps
        "ridge": 5e-4,
        "ridge_unit": "images",
        "implicit_clip": True,
        "inner_loss": "squared",
        "outer_loss": "platt",
        "label_margin": 0.5,
        "outer_optimizer": "adabelief",
        "outer_b1": 0.9,
        "outer_learning_rate": 3e-3,
        "hyper_learning_rate": 0.03,
        "outer_ema": 0.99,
        "num_outer_steps": 10_000,
        "num_learners": 1,
        "real_batch_size": 1024,
    },
    small={
        "widths": None,
        "width": 64,
        "depth": 2,
        "outer_learning_rate": 0.01,
        "num_outer_steps": 500,
        "real_batch_size": 256,
    },
    protocol="rcig",
    augments=False,
)
