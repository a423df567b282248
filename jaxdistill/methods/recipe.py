"""What a method is, in one place: its factory, its paper's settings, how its images are evaluated.

A setting has the name of its option (`jaxdistill.config.table`). `--method=dd`, `jd.distill(method="dd")` and
`jd.dd(learner, teacher)` start from the same settings.
"""

from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import optax

from jaxdistill.core.checks import lookup
from jaxdistill.core.types import InnerOptimizer, Method, Teacher
from jaxdistill.inner.optimizers import INNER_OPTIMIZERS
from jaxdistill.methods.outer import OUTER_OPTIMIZERS, outer_schedule, parse_rates
from jaxdistill.teachers.shapes import shapes_by_class, shapes_of

Settings = Mapping[str, Any]
"""Values by the name of their option."""
NONE: Settings = MappingProxyType({})
SMALL = 16
"""Images whose sides have at most this many pixels are small: settings for 28x28 images do not fit them."""


class Facts(NamedTuple):
    """Shape and classes of the images that a method is for."""

    image_shape: tuple[int, int, int]
    num_classes: int

    @classmethod
    def of(cls, info: Any) -> "Facts":
        """The facts about a data set, from its `DatasetInfo`."""
        return cls(info.image_shape, info.num_classes)

    @property
    def small(self) -> bool:
        """Whether the images are small, see `SMALL`."""
        return max(self.image_shape[:2]) <= SMALL


def _same(settings: Settings) -> Settings:
    return NONE


class Recipe(NamedTuple):
    """A method and all that is needed to run it."""

    make: Callable[..., Method]
    """(learner, teacher, **options) -> Method; its keyword-only arguments are the options that it takes."""
    title: str
    """Its name in words: `Dataset Condensation`."""
    defaults: Settings = NONE
    """The paper's settings that differ from the defaults of the table."""
    small: Settings = NONE
    """The settings that replace them if images are small, see `Facts.small`."""
    adjust: Callable[[Settings], Settings] = _same
    """Derived settings: a function from all settings to the changed ones."""
    paper: str = ""
    """Authors and year."""
    link: str = ""
    trains: bool = True
    """Whether it trains inner steps on the synthetic data and differentiates them."""
    networks: bool = True
    """Whether its objective looks at networks."""
    protocol: str | Callable[[str], str] = "as_distilled"
    """How networks are trained on its images: a protocol's name, or (name of the data set) -> that name.

    Images that no inner steps were learned for cannot be trained on `as_distilled`; they are by `frepo`."""
    populations: Collection[str] = ()
    """The populations that it works with; empty for all that give networks."""
    needs_augmentation: bool = False
    """Whether it needs an augmentation: without one it would be another method."""
    augments: bool = True
    """Whether it augments images by default, if it can."""
    sees_labels: bool = True
    """Whether its loss depends on the labels of synthetic images, so that they can be learned."""
    free_labels: bool = False
    """Whether it takes free labels; methods with an `outer_loss` do."""
    by_class: bool = False
    """Whether `real_batch_size` counts the images of one class."""

    def protocol_for(self, dataset: str) -> str:
        """How networks are trained on its images of a data set."""
        return self.protocol if isinstance(self.protocol, str) else self.protocol(dataset)

    def settings(self, facts: Facts | None) -> Settings:
        """Its settings for images of that kind; the paper's if nothing is known of them."""
        return {**self.defaults, **(self.small if facts is not None and facts.small else NONE)}


def recipe_of(member: Any) -> Recipe:
    """The recipe of a member of `METHODS`; a bare factory becomes one without settings of its own."""
    return member if isinstance(member, Recipe) else Recipe(member, member.__name__)


def facts_of(teacher: Teacher) -> Facts:
    """Image shape and number of classes, from the shapes that a teacher makes."""
    made = shapes_of(teacher)
    height, width, channels = made.x[2:]
    return Facts((height, width, channels), made.y[-1])


def images_per_class(teacher: Teacher) -> int:
    """Synthetic images of a class, from the shapes that a teacher makes."""
    steps, batch, classes = shapes_of(teacher).y
    return max(1, steps * batch // classes)


def images_in(teacher: Teacher) -> int:
    """Different synthetic images, of a teacher that tells them by class; of another, those of all batches."""
    first, second, _ = (shapes_by_class(teacher) or shapes_of(teacher)).y
    return first * second


def settings_of(recipe: Recipe, teacher: Teacher, **chosen: Any) -> dict[str, Any]:
    """The settings of a method for what a teacher makes.

    Args:
      recipe: of the method.
      teacher: what is learned; its shapes tell the image size and the number of images.
      **chosen: settings by name; None stands for the default.

    Returns:
      All settings of the recipe; the chosen ones replace the others.
    """
    given = {name: value for name, value in chosen.items() if value is not None}
    found = {**recipe.settings(facts_of(teacher)), "images_per_class": images_per_class(teacher)} | given
    return {**found, **recipe.adjust(found), **given}


def inner_optimizer(settings: Settings, num_steps: int) -> InnerOptimizer:
    """The optimiser of the inner loop that the settings name, for T steps."""
    name = settings["inner_optimizer"]
    momentum = {"momentum": settings["inner_momentum"]} if name == "sgd" else {}
    return INNER_OPTIMIZERS[name](
        num_steps=num_steps,
        learning_rate=settings["inner_learning_rate"],
        learned=tuple(settings["learned"]),
        per_step=settings["per_step"],
        positive=settings["positive"],
        **momentum,
    )


def outer_optimizer(settings: Settings) -> optax.GradientTransformation:
    """The optimiser of everything learned that the settings name."""

    def rate(start: float) -> optax.Schedule:
        return outer_schedule(
            settings["schedule"],
            learning_rate=start,
            num_steps=settings["num_outer_steps"],
            end=settings["schedule_end"],
        )

    hyper = settings["hyper_learning_rate"]
    shared: dict[str, Any] = {
        "learning_rate": rate(settings["outer_learning_rate"]),
        "hyper_learning_rate": rate(hyper) if hyper else hyper,
        "learning_rates": {n: rate(v) for n, v in parse_rates(settings["outer_learning_rates"]).items()},
        "clip": settings["clip"] or None,
        "relative_clip": settings["relative_clip"] or None,
        "max_inner_learning_rate": settings["max_inner_learning_rate"] or None,
        "positive": settings["positive"],
    }
    make, takes = lookup("outer_optimizer", settings["outer_optimizer"], OUTER_OPTIMIZERS)
    return make(**shared, **{argument: settings[option] for option, argument in takes.items()})


TRAINING: Settings = MappingProxyType(
    {
        "inner_optimizer": "sgd",
        "inner_momentum": 0.0,
        "learned": ("learning_rate",),
        "per_step": True,
        "positive": "softplus",
        "weight_decay": 0.0,
        "inner_loss": "cross_entropy",
        "outer_loss": "cross_entropy",
        "label_margin": 0.0,
    }
)
"""An inner loop of plain gradient descent with learned step sizes, and its losses."""
PLAIN: Settings = MappingProxyType(
    {
        "schedule": "constant",
        "schedule_end": 0.0,
        "outer_ema": 0.0,
        "clip": 0.0,
        "relative_clip": 0.0,
        "hyper_learning_rate": None,
        "outer_learning_rates": (),
        "max_inner_learning_rate": 0.0,
        "positive": "softplus",
    }
)
"""An outer loop with a constant learning rate, without a clip and without bounds."""
MATCHING: Settings = MappingProxyType(
    {
        **PLAIN,
        "teacher": "images",
        "distill_epochs": 1,
        "learner": "convnet",
        "num_learners": 1,
        "real_batch_size": 256,
        "outer_optimizer": "sgd",
        "outer_momentum": 0.5,
    }
)
"""The settings that the matching papers share."""
SMALL_CONVNET: Settings = MappingProxyType({"width": 16, "depth": 2})
"""The ConvNet of the matching methods on small images; the papers' has three blocks of 128 channels."""
SMALL_MATCHING: Settings = MappingProxyType({**SMALL_CONVNET, "real_batch_size": 64})
"""Settings of the methods that match real images class by class; small sets have few images of a class."""
