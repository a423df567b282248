"""The cells of the study: what `experiments.distill` is told for each, by preset.

A cell is a teacher and a gradient; an ablation is a cell with one choice changed.
"""

from typing import Any, NamedTuple

Options = dict[str, Any]
TEACHERS = ("images", "generator")
GRADIENTS = (
    "unrolled",
    "unrolled_remat",
    "matching_by_class",
    "matching_all",
    "distribution_matching",
    "implicit_cg",
    "implicit_neumann",
    "implicit_identity",
)
METHODS: dict[str, Options] = {
    "unrolled": {"method": "dd", "gradient": "unrolled"},
    "unrolled_remat": {"method": "dd", "gradient": "unrolled", "remat": "step"},
    "matching_by_class": {"method": "dc"},
    "matching_all": {"method": "dc", "by_class": False},
    "distribution_matching": {"method": "dm"},
    "implicit_cg": {"method": "dd", "gradient": "implicit", "linear_solver": "cg"},
    "implicit_neumann": {"method": "dd", "gradient": "implicit", "linear_solver": "neumann"},
    "implicit_identity": {"method": "dd", "gradient": "implicit", "linear_solver": "identity"},
}
FAMILIES = {name: name.split("_")[0] for name in GRADIENTS}
"""What recipes are shared by: unrolled, matching, distribution, implicit."""


class Preset(NamedTuple):
    """One study."""

    shared: Options
    """Of every cell."""
    families: dict[str, Options]
    """By family of gradients."""
    teachers: dict[str, Options]
    """By teacher."""
    outer: dict[tuple[str, str], Options]
    """The outer optimiser, by teacher and family."""
    gradients: dict[str, Options]
    """Of one gradient alone."""
    rates: dict[tuple[str, str], float]
    """Outer learning rates of one teacher and gradient alone."""
    study: Options
    """Defaults of the study's own options."""
    ablations: dict[str, tuple[str, str, Options]]
    """Name to (teacher, gradient, what is changed)."""


class Cell(NamedTuple):
    """A row of the report, still to be run."""

    name: str
    teacher: str
    gradient: str
    change: str
    """What an ablation changes; empty for a cell of the grid."""
    options: Options
    """Of `experiments.distill`."""


def adam(rate: float, **more: Any) -> Options:
    return {
        "outer_optimizer": "adam",
        "outer_learning_rate": rate,
        "outer_b1": 0.9,
        "schedule": "constant",
        "clip": 1.0,
    } | more


def descent(rate: float, **more: Any) -> Options:
    """Gradient descent with momentum 0.5, as the papers have it."""
    return {
        "outer_optimizer": "sgd",
        "outer_learning_rate": rate,
        "outer_momentum": 0.5,
        "schedule": "constant",
        "clip": 0.0,
    } | more


GENERATOR_SIZES = (16, 32, 64, 128)
BY_TEACHER: dict[str, Options] = {
    "images": {"teacher": "images", "start": "real"},
    "generator": {"teacher": "generator", "architecture": "compact", "generator_width": 64},
}
BY_GRADIENT: dict[str, Options] = {
    "implicit_neumann": {"neumann_terms": 11, "max_inner_steps": 10},
    "implicit_identity": {"max_inner_steps": 10},
}
"""Ten inner steps, as in the paper; conjugate gradients do better near a minimum, where no solve fails."""
DIGITS = Preset(
    shared={
        "dataset": "digits",
        "learner": "convnet",
        "width": 16,
        "depth": 2,
        "images_per_class": 1,
        "distill_steps": 1,
        "num_learners": 1,
    },
    families={
        "unrolled": {
            "distill_epochs": 10,
            "inner_learning_rate": 0.1,
            "real_batch_size": 128,
            "num_outer_steps": 600,
        },
        "matching": {"population": "persistent", "real_batch_size": 64, "num_outer_steps": 300},
        "distribution": {"real_batch_size": 64, "num_outer_steps": 1500},
        "implicit": {
            "inner_learning_rate": 0.1,
            "inner_momentum": 0.9,
            "weight_decay": 0.01,
            "damping": 0.1,
            "max_inner_steps": 60,
            "real_batch_size": 128,
            "num_outer_steps": 600,
            "on_failed_solve": "skip",
        },
    },
    teachers=BY_TEACHER,
    outer={
        ("images", "unrolled"): adam(0.02),
        ("images", "matching"): descent(0.03),
        ("images", "distribution"): descent(1.0),
        ("images", "implicit"): adam(0.03),
        ("generator", "unrolled"): adam(0.01),
        ("generator", "matching"): adam(0.03),
        ("generator", "distribution"): adam(0.03),
        ("generator", "implicit"): adam(0.003) | {"num_outer_steps": 1200},
    },
    gradients=BY_GRADIENT,
    rates={
        ("images", "matching_all"): 0.3,
        ("images", "implicit_cg"): 0.3,
        ("generator", "matching_all"): 0.009,
        ("generator", "implicit_identity"): 0.0027,
    },
    study={
        "tries": 1,
        "time_limit": 10.0,
        "architectures": ["convnet:width=16:depth=2", "mlp"],
        "num_eval_learners": 10,
        "num_search_learners": 1,
        "step_sizes": [0.01, 0.03, 0.1],
        "num_augmented_epochs": 300,
        "full_data_epochs": 20,
    },
    ablations={
        **{
            f"k = {k}": ("generator", "matching_by_class", {"generator_width": k})
            for k in GENERATOR_SIZES
            if k != 64
        },
        "curriculum fixed": ("generator", "unrolled", {"curriculum": "fixed"}),
        "curriculum fresh": ("generator", "unrolled", {"curriculum": "none"}),
        "10 images per class": ("images", "matching_by_class", {"images_per_class": 10}),
        "50 images per class": ("images", "matching_by_class", {"images_per_class": 50}),
        "1 Neumann term": ("images", "implicit_neumann", {"neumann_terms": 1}),
        "50 Neumann terms": ("images", "implicit_neumann", {"neumann_terms": 50}),
        "Neumann alpha 0.01": ("images", "implicit_neumann", {"neumann_alpha": 0.01}),
        "Neumann alpha 0.001": ("images", "implicit_neumann", {"neumann_alpha": 0.001}),
        "5 inner steps": ("images", "unrolled", {"distill_epochs": 5}),
        "30 inner steps": ("images", "unrolled", {"distill_epochs": 30}),
        "at most 10 inner steps": ("images", "implicit_cg", {"max_inner_steps": 10}),
        "at most 30 inner steps": ("images", "implicit_cg", {"max_inner_steps": 30}),
        "at most 60 inner steps": ("generator", "implicit_neumann", {"max_inner_steps": 60}),
    },
)
MNIST = Preset(
    shared={
        "dataset": "mnist",
        "learner": "convnet",
        "images_per_class": 10,
        "distill_steps": 1,
        "num_learners": 1,
        "real_batch_size": 256,
    },
    families={
        "unrolled": {
            "distill_epochs": 10,
            "inner_learning_rate": 0.02,
            "inner_momentum": 0.5,
            "learned": [],
            "num_outer_steps": 1000,
        },
        "matching": {
            "population": "persistent",
            "matches": 10,
            "match_epochs": 10,
            "num_outer_steps": 1000,
        },
        "distribution": {"num_outer_steps": 5000},
        "implicit": {
            "inner_learning_rate": 0.1,
            "inner_momentum": 0.9,
            "weight_decay": 0.01,
            "damping": 0.5,
            "inner_tolerance": 0.01,
            "max_inner_steps": 60,
            "num_outer_steps": 1000,
            "on_failed_solve": "skip",
        },
    },
    teachers=BY_TEACHER,
    outer={
        ("images", "unrolled"): adam(0.05),
        ("images", "matching"): descent(0.1),
        ("images", "distribution"): descent(1.0),
        ("images", "implicit"): adam(0.02),
        ("generator", "unrolled"): adam(0.01, clip=10.0),
        ("generator", "matching"): adam(0.01, clip=10.0),
        ("generator", "distribution"): adam(0.01, clip=10.0),
        ("generator", "implicit"): adam(0.003, clip=4.0),
    },
    gradients=BY_GRADIENT,
    rates={},
    study={
        "tries": 3,
        "time_limit": 600.0,
        "architectures": ["convnet", "lenet", "alexnet", "vgg11", "mlp", "resnet18"],
        "num_eval_learners": 5,
        "num_search_learners": 1,
        "step_sizes": [0.003, 0.01, 0.03],
        "num_augmented_epochs": 1000,
        "full_data_epochs": 5,
    },
    ablations={
        **{
            f"k = {k}": ("generator", "matching_by_class", {"generator_width": k})
            for k in GENERATOR_SIZES
            if k != 64
        },
        "curriculum fixed": ("generator", "matching_by_class", {"curriculum": "fixed"}),
        "curriculum fresh": ("generator", "matching_by_class", {"curriculum": "none"}),
        "1 image per class": ("images", "matching_by_class", {"images_per_class": 1}),
        "50 images per class": ("images", "matching_by_class", {"images_per_class": 50}),
        "1 Neumann term": ("images", "implicit_neumann", {"neumann_terms": 1}),
        "50 Neumann terms": ("images", "implicit_neumann", {"neumann_terms": 50}),
        "Neumann alpha 0.01": ("images", "implicit_neumann", {"neumann_alpha": 0.01}),
        "Neumann alpha 0.001": ("images", "implicit_neumann", {"neumann_alpha": 0.001}),
        "5 inner steps": ("images", "unrolled", {"distill_epochs": 5}),
        "30 inner steps": ("images", "unrolled", {"distill_epochs": 30}),
    },
)
PRESETS = {"digits": DIGITS, "mnist": MNIST}
"""`mnist` follows Medvedev & D'yakonov 2022, tables 1 and 2, as far as some thousand outer steps learn
(theirs are hundreds of epochs of 196 batches). What differs, with theirs in brackets:

| family | the learner | images | a generator, k = 64 |
| --- | --- | --- | --- |
| unrolled | | Adam 0.05, clip 1 [SGD 10, 10] | |
| matching | SGD 0.01 [0.02, momentum 0.5] | | |
| distribution | untrained [not theirs: DM's] | SGD 1, momentum 0.5 | Adam 0.01 |
| implicit | SGD 0.1, momentum 0.9 [0.02, 0.5] | Adam 0.02, clip 1 [SGD 10, 10] | Adam 0.003 [0.01] |

Images start from real ones [U(0, 1)]: from noise SGD 10 learns nothing in a hundred steps. After ten steps
of 0.02 every solve by conjugate gradients failed, at width 16, so their learner trains for 60 steps [10];
all have weight decay 0.01 and damping 0.5. The Neumann sum of K + 1 = 11 terms has the factor alpha, one
over the estimated largest eigenvalue [0.01; 0.001 with a generator]."""


def cells(preset: Preset, teachers: list[str], gradients: list[str]) -> list[Cell]:
    """The grid, a row per teacher and gradient."""
    return [cell(preset, teacher, gradient) for teacher in teachers for gradient in gradients]


def cell(preset: Preset, teacher: str, gradient: str, change: str = "", more: Options | None = None) -> Cell:
    """One of the grid, or with something changed."""
    family = FAMILIES[gradient]
    options = {
        **preset.shared,
        **preset.families[family],
        **preset.teachers[teacher],
        **preset.outer[teacher, family],
        **METHODS[gradient],
        **preset.gradients.get(gradient, {}),
    }
    rate = preset.rates.get((teacher, gradient), options["outer_learning_rate"])
    options |= {"outer_learning_rate": rate} | (more or {})
    stem = f"{teacher}-{gradient}" + (f"-{change}" if change else "")
    name = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in stem)
    return Cell(name, teacher, gradient, change, options)


def ablations(preset: Preset) -> list[Cell]:
    """The grid's cells with one choice changed each."""
    return [
        cell(preset, teacher, gradient, change, more)
        for change, (teacher, gradient, more) in preset.ablations.items()
    ]
