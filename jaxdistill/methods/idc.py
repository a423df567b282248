"""IDC: small images, enlarged, whose gradients are those of real data for networks that train on real data.

| paper (Kim et al. 2022) | here | file |
| --- | --- | --- |
| multi-formation f of S, factor 2 | `multiformation` | teachers/decoders/multiformation.py |
| D(grad l(A(f(S)_c)), grad l(A(T_c))), squared error | `kernels_l2` | objectives/gradient_matching.py |
| kernels of convolutions alone | `kernels_l2`, `kernels_l1` | objectives/gradient_matching.py |
| networks train on T between matches, SGD 0.01, momentum 0.9 | `ages`, `age_data` | populations/ages.py |
| 100 matches of a network, 500 images between two, 64 a step | `max_age`, `age_steps` | populations/ages.py |
| CutMix of their images | `age_cutmix` | augment/mixing.py |
| 64 real images of a class, 128 synthetic at most | `real_batch_size`, `synthetic_batch_size` | methods/ |
| S <- S - lr grad, momentum 0.5 | `outer_sgd` | methods/outer.py |
| test: SGD, CutMix, DSA, 1,000 epochs | protocol `idc` | evaluation/protocols.py |

`images_per_class` counts enlarged images: four take the room of one, the paper's one image per class. The
learning rate of the paper is of pixels in [0, 1], here of standardised ones (a deviation of 0.25 is assumed),
and grows with the stored images.

Deviations: one outer step moves the images of all classes, in the authors' code of one after another; pixels
are not clamped to [0, 1]. Networks train on the real images that were matched before, 640 of ten classes, not
on others. The augmentation draws one operation of all those of DSA, where the authors always change colours
and cut out, and draw one of the others. One distance serves all data sets: for MNIST and Fashion-MNIST the
authors take `kernels_l1` and a smaller rate. The final images are tested, not the best of several tests.

Settings for small images: a narrow ConvNet, a larger rate, fewer steps, and no decoder: an image of 8x8
pixels in a quarter of its room has 4x4, and four of those train a network no better than one of 8x8.
"""

import functools
from typing import Any

import jax

from jaxdistill.augment import DSA
from jaxdistill.core.types import Learner, Method, Teacher
from jaxdistill.methods.dc import dc
from jaxdistill.methods.recipe import MATCHING, SMALL_MATCHING, Recipe, Settings, settings_of
from jaxdistill.populations.ages import ages

POOL = ("pool_size", "max_age", "age_steps", "age_optimizer", "age_learning_rate", "age_data")
POOL = (*POOL, "age_weight_decay", "age_cutmix")
"""The settings of the population."""
MATCHES = 100
"""Outer steps of a network."""
MOST = 128
"""Synthetic images of a class that are matched in an outer step."""


@functools.wraps(dc, assigned=(), updated=())  # its signature is that of `dc`
def idc(learner: Learner, teacher: Teacher, **options: Any) -> Method:
    """Gradient matching on networks that train on real data, with the settings of its recipe.

    Args:
      learner: the network; a `convnet` in the paper.
      teacher: what is learned; `images(...)` with the decoder `multiformation`, that start from real ones in
        the paper.
      **options: those of `jaxdistill.methods.dc.dc`. Options that are left out come from the recipe;
        `population` is `ages` on real data, `augmentation` DSA's without the flip.

    Returns:
      The method. It learns no inner hyper-parameters.

    Raises:
      UserError: an option out of range, or fewer synthetic images than classes.

    Example:
      >>> small = jd.DECODERS["multiformation"](image_shape=(28, 28, 1))
      >>> teacher = jd.images(image_shape=(28, 28, 1), num_classes=10, images_per_class=4, decoder=small)
      >>> method = idc(jd.learner("convnet", image_shape=(28, 28, 1), num_classes=10), teacher)

    References: Kim et al. 2022, "Dataset Condensation via Efficient Synthetic-Data Parameterization",
    algorithm 1.
    """
    options = {"recipe": RECIPE, "augmentation": DSA, **options}
    plain = "x" in jax.eval_shape(teacher.init, jax.random.key(0))  # images, and no latents of a decoder
    own = {"decoder": "none" if plain else None, "num_learners": options.get("num_learners")}
    chosen = settings_of(options["recipe"], teacher, **own)
    options = {"distance": chosen["distance"], **options}
    options = {"synthetic_batch_size": chosen.get("synthetic_batch_size"), **options}
    if options.get("population") is None:
        per_image = None if options["augmentation"] is None else options["augmentation"].per_image
        options["population"] = ages(
            learner,
            teacher,
            num_learners=chosen["num_learners"],
            augment=per_image,
            strategy=options.get("strategy", "auto"),
            **{name: chosen[name] for name in POOL},
        )
    return dc(learner, teacher, **options)


def by_room(settings: Settings) -> Settings:
    """Networks for every learner, replaced after 100 matches; and what follows from the number of images."""
    count, stored = settings["images_per_class"], float(settings["images_per_class"])
    if settings["decoder"] == "multiformation":
        stored /= settings.get("factor", 2) ** 2
    found = {
        "pool_size": max(settings["pool_size"], settings["num_learners"]),
        "max_age": MATCHES * max(1, settings["age_steps"]),
        "outer_learning_rate": settings["outer_learning_rate"] * stored,
    }
    return {**found, **({"synthetic_batch_size": MOST} if count > MOST else {})}


RECIPE = Recipe(
    make=idc,
    title="Efficient Synthetic-Data Parameterization (IDC)",
    paper="Kim et al. 2022",
    link="https://arxiv.org/abs/2205.14959",
    defaults={
        **MATCHING,
        "start": "real",
        "decoder": "multiformation",
        "images_per_class": 4,
        "population": "ages",
        "pool_size": 1,
        "max_age": 100 * 8,
        "age_steps": 8,
        "age_optimizer": "momentum",
        "age_learning_rate": 0.01,
        "age_data": "real",
        "age_weight_decay": 5e-4,
        "age_cutmix": 0.5,
        "distance": "kernels_l2",
        "real_batch_size": 64,
        "outer_learning_rate": 0.008,  # for one stored image of a class
        "num_outer_steps": 200_000,
    },
    small={
        **SMALL_MATCHING,
        "decoder": "none",
        "images_per_class": 1,
        "outer_learning_rate": 0.03,
        "num_outer_steps": 1000,
    },
    adjust=by_room,
    trains=False,
    protocol=lambda dataset: "idc_unmixed" if dataset == "mnist" else "idc",
    by_class=True,
)
