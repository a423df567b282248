"""The cells of the study: the options of `experiments.distill` for each, by preset.

A cell is a teacher and a gradient; an ablation is a cell with one choice changed.
`python -m experiments.study --list` prints all of them with all their options.
"""

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from jaxdistill.config.gradients import NAMED
from jaxdistill.methods.recipe import NONE, Settings

TEACHERS: dict[str, Settings] = {
    "images": {"teacher": "images", "start": "real"},
    "generator": {"teacher": "generator", "architecture": "compact", "generator_width": 64},
}
"""The rows of the grid."""
GRADIENTS: dict[str, Settings] = {
    "unrolled": {"method": "dd", **NAMED["unrolled"]},
    "unrolled_remat": {"method": "dd", **NAMED["unrolled_step"]},
    "matching_by_class": {"method": "dc"},
    "matching_all": {"method": "dc", "by_class": False},
    "distribution_matching": {"method": "dm"},
    "implicit_cg": {"method": "dd", **NAMED["implicit_cg"]},
    "implicit_neumann": {"method": "dd", **NAMED["implicit_neumann"]},
    "implicit_identity": {"method": "dd", **NAMED["implicit_identity"]},
    "closed_form": {"method": "dd", **NAMED["closed_form"]},
    "convexified": {"method": "dd", **NAMED["convexified"]},
}
"""The columns of the grid."""


class Cell(NamedTuple):
    """One distillation of a study."""

    teacher: str
    gradient: str
    options: Settings
    """All options of `experiments.distill`, but for the seed."""
    change: str = ""
    """What an ablation changes, in words; empty for a cell of the grid."""
    changes: Settings = NONE
    """The options that an ablation changes."""

    @property
    def name(self) -> str:
        """Its name, as a file can have it."""
        stem = f"{self.teacher}-{self.gradient}" + (f"-{self.change}" if self.change else "")
        return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in stem)


class Sizes(NamedTuple):
    """How large a study is: defaults of the options that each preset has its own of."""

    images_per_class: int
    tries: int
    time_limit: float
    """Seconds of every cell at equal time."""
    architectures: tuple[str, ...]
    num_eval_learners: int
    num_search_learners: int
    step_sizes: tuple[float, ...]
    num_augmented_epochs: int
    full_data_epochs: int


class Preset(NamedTuple):
    """A study of one data set."""

    grid: Sequence[Cell]
    ablations: Sequence[Cell]
    sizes: Sizes

    @property
    def dataset(self) -> str:
        """The data set of all cells."""
        return self.grid[0].options["dataset"]

    @property
    def learner(self) -> str:
        """The network of all cells, as one text: `convnet:width=16:depth=2`."""
        options = self.grid[0].options
        own = [f"{name}={options[name]}" for name in ("width", "depth") if name in options]
        return ":".join([options["learner"], *own])

    def cells(self, teachers: Collection[str], gradients: Collection[str]) -> list[Cell]:
        """The cells of the grid with these teachers and gradients, in the order in which they are given."""
        named = {(cell.teacher, cell.gradient): cell for cell in self.grid}
        return [named[teacher, gradient] for teacher in teachers for gradient in gradients]


def cell(teacher: str, gradient: str, common: Settings, outer: Settings, more: Settings = NONE) -> Cell:
    """A cell of a grid.

    Args:
      teacher: one of `TEACHERS`.
      gradient: one of `GRADIENTS`.
      common: data, network and training.
      outer: the outer optimiser.
      more: what this gradient alone has.
    """
    return Cell(teacher, gradient, {**common, **TEACHERS[teacher], **outer, **GRADIENTS[gradient], **more})


def changed(grid: Sequence[Cell], teacher: str, gradient: str, change: str, **changes: Any) -> Cell:
    """A cell of a grid with one choice changed, which `change` says in words."""
    (base,) = (each for each in grid if (each.teacher, each.gradient) == (teacher, gradient))
    return base._replace(change=change, changes=changes, options={**base.options, **changes})


def of_gradients(grid: Sequence[Cell]) -> list[Cell]:
    """Other lengths of the Neumann series and of training, of learned images."""
    return [
        changed(grid, "images", "implicit_neumann", "1 Neumann term", neumann_terms=1),
        changed(grid, "images", "implicit_neumann", "50 Neumann terms", neumann_terms=50),
        changed(grid, "images", "implicit_neumann", "Neumann alpha 0.01", neumann_alpha=0.01),
        changed(grid, "images", "implicit_neumann", "Neumann alpha 0.001", neumann_alpha=0.001),
        changed(grid, "images", "unrolled", "5 inner steps", distill_epochs=5),
        changed(grid, "images", "unrolled", "30 inner steps", distill_epochs=30),
    ]


def adam(rate: float, *, clip: float = 1.0, **more: Any) -> Settings:
    """Adam at a constant rate."""
    return {
        "outer_optimizer": "adam",
        "outer_learning_rate": rate,
        "outer_b1": 0.9,
        "schedule": "constant",
        "clip": clip,
        **more,
    }


def descent(rate: float) -> Settings:
    """Gradient descent with momentum 0.5 at a constant rate, as the papers have it."""
    return {
        "outer_optimizer": "sgd",
        "outer_learning_rate": rate,
        "outer_momentum": 0.5,
        "schedule": "constant",
        "clip": 0.0,
    }


TEN_STEPS: Settings = {"max_inner_steps": 10}
"""Ten inner steps, as in the paper; conjugate gradients do better near a minimum, where no solve fails."""
NEUMANN: Settings = {"neumann_terms": 11, **TEN_STEPS}
HEAD: Settings = {"population": "ages", "ridge": 5e-4, "ridge_unit": "images"}
"""A pool of networks as in FRePo and RCIG, and RCIG's ridge."""
TANGENT: Settings = {"norm": "none"}
"""The derivative of instance normalisation is unbounded where an image is flat: RCIG's networks have none."""
WIDTHS = (16, 32, 128)
"""Widths of the generator in ablations; the grid's is 64."""


def digits() -> Preset:
    """8x8 digits, 13 minutes on 2 CPU cores; outer learning rates by `experiments.study.search`."""
    shared = {
        "dataset": "digits",
        "learner": "convnet",
        "width": 16,
        "depth": 2,
        "images_per_class": 1,
        "distill_steps": 1,
        "num_learners": 1,
    }
    unrolled = {
        **shared,
        "distill_epochs": 10,
        "inner_learning_rate": 0.1,
        "real_batch_size": 128,
        "num_outer_steps": 600,
    }
    matching = {**shared, "population": "persistent", "real_batch_size": 64, "num_outer_steps": 300}
    distribution = {**shared, "real_batch_size": 64, "num_outer_steps": 1500}
    implicit = {
        **shared,
        "inner_learning_rate": 0.1,
        "inner_momentum": 0.9,
        "weight_decay": 0.01,
        "damping": 0.1,
        "max_inner_steps": 60,
        "real_batch_size": 128,
        "num_outer_steps": 600,
        "on_failed_solve": "skip",
    }
    head = {**shared, **HEAD, "real_batch_size": 128, "num_outer_steps": 600}
    tangent = {**head, **TANGENT}
    grid = [
        cell("images", "unrolled", unrolled, adam(0.02)),
        cell("images", "unrolled_remat", unrolled, adam(0.02)),
        cell("images", "matching_by_class", matching, descent(0.03)),
        cell("images", "matching_all", matching, descent(0.3)),
        cell("images", "distribution_matching", distribution, descent(1.0)),
        cell("images", "implicit_cg", implicit, adam(0.3)),
        cell("images", "implicit_neumann", implicit, adam(0.03), NEUMANN),
        cell("images", "implicit_identity", implicit, adam(0.03), TEN_STEPS),
        cell("images", "closed_form", head, adam(0.01)),
        cell("images", "convexified", tangent, adam(0.03)),
        cell("generator", "unrolled", unrolled, adam(0.01)),
        cell("generator", "unrolled_remat", unrolled, adam(0.01)),
        cell("generator", "matching_by_class", matching, adam(0.03)),
        cell("generator", "matching_all", matching, adam(0.009)),
        cell("generator", "distribution_matching", distribution, adam(0.03)),
        cell("generator", "implicit_cg", implicit, adam(0.003, num_outer_steps=1200)),
        cell("generator", "implicit_neumann", implicit, adam(0.003, num_outer_steps=1200), NEUMANN),
        cell("generator", "implicit_identity", implicit, adam(0.0027, num_outer_steps=1200), TEN_STEPS),
        cell("generator", "closed_form", head, adam(0.0009)),
        cell("generator", "convexified", tangent, adam(0.081)),
    ]
    ablations = [
        *(changed(grid, "generator", "matching_by_class", f"k = {k}", generator_width=k) for k in WIDTHS),
        changed(grid, "generator", "unrolled", "curriculum fixed", curriculum="fixed"),
        changed(grid, "generator", "unrolled", "curriculum fresh", curriculum="none"),
        changed(grid, "images", "matching_by_class", "10 images per class", images_per_class=10),
        changed(grid, "images", "matching_by_class", "50 images per class", images_per_class=50),
        *of_gradients(grid),
        changed(grid, "images", "implicit_cg", "at most 10 inner steps", max_inner_steps=10),
        changed(grid, "images", "implicit_cg", "at most 30 inner steps", max_inner_steps=30),
        changed(grid, "generator", "implicit_neumann", "at most 60 inner steps", max_inner_steps=60),
    ]
    sizes = Sizes(
        images_per_class=1,
        tries=1,
        time_limit=10.0,
        architectures=("convnet:width=16:depth=2", "mlp"),
        num_eval_learners=10,
        num_search_learners=1,
        step_sizes=(0.01, 0.03, 0.1),
        num_augmented_epochs=300,
        full_data_epochs=20,
    )
    return Preset(grid, ablations, sizes)


def mnist() -> Preset:
    """Medvedev & D'yakonov 2022, tables 1 and 2, as far as some thousand outer steps learn.

    Theirs are hundreds of epochs of 196 batches. The other differences, with their values in brackets:

    | cells | the learner | images | a generator, k = 64 |
    | --- | --- | --- | --- |
    | unrolled | | Adam 0.05, clip 1 [SGD 10, 10] | |
    | matching | SGD 0.01 [0.02, momentum 0.5] | | |
    | distribution | untrained [not theirs: DM's] | SGD 1, momentum 0.5 | Adam 0.01 |
    | implicit | SGD 0.1, momentum 0.9 [0.02, 0.5] | Adam 0.02, clip 1 [SGD 10, 10] | Adam 0.003 [0.01] |

    Images start from real ones [U(0, 1)]: from noise SGD 10 learns nothing in a hundred steps. At width 16
    every solve by conjugate gradients fails after ten steps of 0.02, so the learner of these cells trains for
    60 steps [10]. All implicit cells have weight decay 0.01 and damping 0.5. The Neumann sum of K + 1 = 11
    terms has the factor alpha, one over the estimated largest eigenvalue [0.01; 0.001 with a generator].
    """
    shared = {
        "dataset": "mnist",
        "learner": "convnet",
        "images_per_class": 10,
        "distill_steps": 1,
        "num_learners": 1,
        "real_batch_size": 256,
    }
    unrolled = {
        **shared,
        "distill_epochs": 10,
        "inner_learning_rate": 0.02,
        "inner_momentum": 0.5,
        "learned": (),
        "num_outer_steps": 1000,
    }
    matching = {
        **shared,
        "population": "persistent",
        "matches": 10,
        "match_epochs": 10,
        "num_outer_steps": 1000,
    }
    distribution = {**shared, "num_outer_steps": 5000}
    implicit = {
        **shared,
        "inner_learning_rate": 0.1,
        "inner_momentum": 0.9,
        "weight_decay": 0.01,
        "damping": 0.5,
        "inner_tolerance": 0.01,
        "max_inner_steps": 60,
        "num_outer_steps": 1000,
        "on_failed_solve": "skip",
    }
    head = {**shared, **HEAD, "num_outer_steps": 1000}
    tangent = {**head, **TANGENT}
    grid = [
        cell("images", "unrolled", unrolled, adam(0.05)),
        cell("images", "unrolled_remat", unrolled, adam(0.05)),
        cell("images", "matching_by_class", matching, descent(0.1)),
        cell("images", "matching_all", matching, descent(0.1)),
        cell("images", "distribution_matching", distribution, descent(1.0)),
        cell("images", "implicit_cg", implicit, adam(0.02)),
        cell("images", "implicit_neumann", implicit, adam(0.02), NEUMANN),
        cell("images", "implicit_identity", implicit, adam(0.02), TEN_STEPS),
        cell("images", "closed_form", head, adam(0.01)),
        cell("images", "convexified", tangent, adam(0.01)),
        cell("generator", "unrolled", unrolled, adam(0.01, clip=10.0)),
        cell("generator", "unrolled_remat", unrolled, adam(0.01, clip=10.0)),
        cell("generator", "matching_by_class", matching, adam(0.01, clip=10.0)),
        cell("generator", "matching_all", matching, adam(0.01, clip=10.0)),
        cell("generator", "distribution_matching", distribution, adam(0.01, clip=10.0)),
        cell("generator", "implicit_cg", implicit, adam(0.003, clip=4.0)),
        cell("generator", "implicit_neumann", implicit, adam(0.003, clip=4.0), NEUMANN),
        cell("generator", "implicit_identity", implicit, adam(0.003, clip=4.0), TEN_STEPS),
        cell("generator", "closed_form", head, adam(0.003, clip=4.0)),
        cell("generator", "convexified", tangent, adam(0.003, clip=4.0)),
    ]
    ablations = [
        *(changed(grid, "generator", "matching_by_class", f"k = {k}", generator_width=k) for k in WIDTHS),
        changed(grid, "generator", "matching_by_class", "curriculum fixed", curriculum="fixed"),
        changed(grid, "generator", "matching_by_class", "curriculum fresh", curriculum="none"),
        changed(grid, "images", "matching_by_class", "1 image per class", images_per_class=1),
        changed(grid, "images", "matching_by_class", "50 images per class", images_per_class=50),
        *of_gradients(grid),
    ]
    sizes = Sizes(
        images_per_class=10,
        tries=3,
        time_limit=600.0,
        architectures=("convnet", "lenet", "alexnet", "vgg11", "mlp", "resnet18"),
        num_eval_learners=5,
        num_search_learners=1,
        step_sizes=(0.003, 0.01, 0.03),
        num_augmented_epochs=1000,
        full_data_epochs=5,
    )
    return Preset(grid, ablations, sizes)


PRESETS = {"digits": digits(), "mnist": mnist()}
