"""FRePo: images whose ridge regression on a network's features predicts real labels.

| paper (Zhou, Nezhadarya & Ba 2022) | here | file |
| --- | --- | --- |
| synthetic images X_s, labels Y_s, both learned | `meta.teacher`, `labels` | teachers/images.py |
| Y_s starts centred, times sqrt(C / 10) | `centred` | core/labels.py |
| K_ts (K_ss + lambda I)^-1 Y_s | `closed_form` | inner/closed_form.py |
| lambda = 1e-6 tr(K_ss) / n | `ridge`, `ridge_unit` | inner/closed_form.py |
| 1/2 sum of squares on 1,024 real images | `outer_loss`, `real_batch_size` | objectives/validation.py |
| label margin, at most 1 / C | `label_margin` | inner/losses.py |
| pool of 10 networks, one drawn per step | `pool_size`, `num_learners` | populations/ages.py |
| one step on X_s after use, Adam 3e-4, MSE | `age_steps`, `age_learning_rate` | populations/ages.py |
| a network is replaced after 100 steps | `max_age` | populations/ages.py |
| outer rate 3e-4, cosine to 10 % | `outer_learning_rate`, `schedule_end` | methods/outer.py |
| test: Adam 3e-4, MSE, augmentation | protocol `frepo` | evaluation/protocols.py |

Deviations: the outer rule is Adam, in the paper LAMB. The ConvNet has one width of 128 and an instance norm;
in the paper it has 128, 256 and 512 channels, a batch norm while distilling and none in the test. Real
batches are drawn with replacement, from the training set without its validation split. Networks of the pool
are new at the start, with the ages counted as in the paper.

Settings for small images: a ConvNet without norm, a larger outer rate, RCIG's ridge, fewer steps.
"""

import functools
from collections.abc import Callable
from typing import Any

from jaxdistill.core.types import Learner, Method, Solve, Teacher
from jaxdistill.inner.closed_form import closed_form
from jaxdistill.methods.dd import dd
from jaxdistill.methods.headed import headed
from jaxdistill.methods.recipe import PLAIN, TRAINING, Recipe, Settings


@functools.wraps(dd, assigned=(), updated=())  # its signature is that of `dd`
def frepo(learner: Learner, teacher: Teacher, **options: Any) -> Method:
    """Ridge regression on features of a pool of networks, with the settings of its recipe.

    Args:
      learner: the network; a `convnet` in the paper.
      teacher: what is learned; `images(labels="free")` that start from real ones in the paper.
      **options: those of `jaxdistill.methods.dd.dd`. Options that are left out come from the recipe; `solve`
        is `closed_form`, and `population` is `ages`, the pool.

    Returns:
      The method. It learns no inner hyper-parameters.

    Raises:
      UserError: an option out of range, or a network that `closed_form` does not take.

    Example:
      >>> net = jd.learner("convnet", image_shape=(28, 28, 1), num_classes=10)
      >>> method = frepo(net, jd.images(image_shape=(28, 28, 1), num_classes=10, labels="free"))

    References: Zhou, Nezhadarya & Ba 2022, "Dataset Distillation using Neural Feature Regression".
    """

    def solve(settings: Settings) -> Callable[..., Solve]:
        head = {name: settings[name] for name in ("ridge", "ridge_unit")}
        return functools.partial(closed_form, learner=learner, **head)

    return headed(learner, teacher, solve, options, recipe=RECIPE)


RECIPE = Recipe(
    make=frepo,
    title="Feature Regression (FRePo)",
    paper="Zhou et al. 2022",
    link="https://arxiv.org/abs/2206.00719",
    defaults={
        **PLAIN,
        **TRAINING,
        "teacher": "images",
        "start": "real",
        "labels": "free",
        "distill_epochs": 1,
        "learner": "convnet",
        "population": "ages",
        "gradient": "closed_form",
        "learned": (),
        "inner_learning_rate": 0.05,  # of another gradient; a closed form has no steps
        "ridge": 1e-6,
        "ridge_unit": "trace",
        "inner_loss": "squared",
        "outer_loss": "squared",
        "label_margin": 1.0,
        "outer_optimizer": "adam",  # LAMB in the paper
        "outer_b1": 0.9,
        "outer_learning_rate": 3e-4,
        "schedule": "cosine",
        "schedule_end": 0.1,
        "num_outer_steps": 500_000,
        "num_learners": 1,
        "real_batch_size": 1024,
    },
    small={
        "width": 32,
        "depth": 2,
        "norm": "none",
        "ridge": 5e-4,
        "ridge_unit": "images",
        "outer_learning_rate": 0.01,
        "num_outer_steps": 3000,
        "real_batch_size": 512,
    },
    protocol="frepo",
    augments=False,
)
