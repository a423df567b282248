"""What the study and its search share: options, and everything that is known before anything is distilled."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from experiments.study.cells import GRADIENTS, PRESETS, TEACHERS, Cell, Preset
from jaxdistill.config.option import option, options
from jaxdistill.config.resolve import defaults, facts_before_loading
from jaxdistill.config.table import (
    LEARNER_OPTIONS,
    PLACES,
    Config,
    DataOptions,
    DeviceOptions,
    MapOptions,
    Places,
    SeedOptions,
)
from jaxdistill.core.checks import fail
from jaxdistill.core.platform import choices
from jaxdistill.core.types import Learner
from jaxdistill.data import Splits, check_per_class
from jaxdistill.learners import options_of
from jaxdistill.learners.spec import name_and_options, parse_learner
from jaxdistill.runs.plan import splits
from jaxdistill.runtime import mesh

DEFAULTS = PRESETS["digits"].sizes
OWN = "; each preset has its own"


@options
class Options(Places, MapOptions, SeedOptions, DeviceOptions):
    title: ClassVar[str] = "study"
    preset: str = option("digits", "data, network, settings of every cell", known=PRESETS)
    teachers: tuple[str, ...] = option(tuple(TEACHERS), "rows of the grid", known=TEACHERS)
    gradients: tuple[str, ...] = option(tuple(GRADIENTS), "columns of the grid", known=GRADIENTS)
    ablations: bool = option(False, "also the preset's cells with one choice changed")
    equal_time: bool = option(True, "also every cell for the same wall time")
    time_limit: float = option(
        DEFAULTS.time_limit, f"seconds of every cell at equal time, without compilation{OWN}", above=0
    )
    tries: int = option(
        DEFAULTS.tries, f"distillations of every cell, each with another seed{OWN} number", low=1
    )
    learner: str | None = option(
        None, "the network to distill for, such as convnet:width=32 (default: the preset's)"
    )
    images_per_class: int = option(
        DEFAULTS.images_per_class, f"images per class in every cell of the grid{OWN} number", low=1
    )
    steps_scale: float = option(1.0, "outer steps of every cell, relative to the preset's", above=0, high=100)
    smoke: bool = option(False, "a short trial: two cells, few steps and networks")
    list: bool = option(False, "print every cell with its options, and end")
    architectures: tuple[str, ...] = option(
        DEFAULTS.architectures,
        f"other networks that test the images, with options after a colon: mlp,lenet{OWN}",
    )
    num_eval_learners: int = option(
        DEFAULTS.num_eval_learners, f"networks of each architecture{OWN} number", low=1
    )
    num_search_learners: int = option(
        DEFAULTS.num_search_learners,
        f"networks per candidate when a step size is searched{OWN} number",
        low=1,
    )
    step_sizes: tuple[float, ...] = option(DEFAULTS.step_sizes, f"step sizes to try{OWN}", above=0)
    fresh_baselines: bool = option(
        False, "train on real images again instead of reading accuracies from the user's cache"
    )
    num_epochs: int | None = option(None, "epochs of training by dc (default: 300)", low=1)
    num_augmented_epochs: int = option(
        DEFAULTS.num_augmented_epochs, f"epochs of training by dc_augmented{OWN} number", low=1
    )
    full_data_epochs: int = option(
        DEFAULTS.full_data_epochs, f"epochs of training on the full set{OWN} number", low=1
    )
    checkpoint_every: int = option(500, "outer steps between checkpoints", low=1)
    run_dir: str | None = option(
        None,
        "folder to write the study into; a study that is already there is resumed (default: "
        "runs/study_PRESET)",
    )

    @classmethod
    def settings(cls, chosen: Mapping[str, Any], facts: Any) -> dict[str, Any]:
        """The sizes of the preset."""
        sizes = PRESETS[chosen.get("preset", "digits")].sizes._asdict()
        return {name: value for name, value in sizes.items() if name in cls.options()}


SMOKE: dict[str, Any] = {
    "gradients": ("unrolled", "matching_all"),
    "teachers": ("images",),
    "learner": "mlp:width=16:depth=1",
    "architectures": ("linear",),
    "steps_scale": 0.07,
    "time_limit": 0.5,
    "num_eval_learners": 2,
    "step_sizes": (0.03,),
    "num_epochs": 10,
    "num_augmented_epochs": 10,
    "full_data_epochs": 1,
}


class Study(NamedTuple):
    """What all rows share."""

    options: Options
    """Resolved."""
    preset: Preset
    data: Splits
    learners: dict[str, Learner]
    """The networks that images are tested on, by their text; images are distilled for the first."""

    @property
    def own(self) -> str:
        """The network that images are distilled for, as text."""
        return next(iter(self.learners))

    @property
    def cells(self) -> Sequence[Cell]:
        """The chosen part of the grid."""
        return self.preset.cells(self.options.teachers, self.options.gradients)


def prepared(options: Options, stem: str) -> Study:
    """What is known before anything is distilled, all of it checked.

    Args:
      options: resolved.
      stem: the script, for errors.

    Raises:
      UserError: whatever is wrong with the choices.
    """
    preset, given = PRESETS[options.preset], options.chosen()
    for name in ("teachers", "gradients", "step_sizes"):
        if not given[name]:
            raise fail(stem, f"at least one of {name}", "none")
    for cell in preset.cells(options.teachers, options.gradients):
        mesh.layout(options.mesh, cell.options["num_learners"], cell.options["real_batch_size"])
    data = splits(options.pick(DataOptions, dataset=preset.dataset))
    if "images" in options.teachers:
        check_per_class(data.train, stem, options.images_per_class)
    names = [options.learner or preset.learner, *given.get("architectures", ())]
    return Study(options, preset, data, {text: parse_learner(text, data.info) for text in names})


def pinned(options: Options) -> dict[str, Any]:
    """The options that a study is made of, as its folder keeps them."""
    return {n: v for n, v in options.chosen().items() if n not in (*PLACES, "list")}


def places(options: Options) -> dict[str, Any]:
    """Where data sets lie, and the devices: every cell has them besides its own options."""
    return {name: getattr(options, name) for name in (*Places.options(), *DeviceOptions.options())}


def cell_options(options: Options, cell: Cell, attempt: int = 0) -> dict[str, Any]:
    """The options of a cell at equal images: with the study's seed, sizes, scale of steps and network."""
    found: dict[str, Any] = {**cell.options, "images_per_class": options.images_per_class, **cell.changes}
    found["seed"] = options.seed + attempt
    found["num_outer_steps"] = in_chunks(options.steps_scale * cell.options["num_outer_steps"])
    if options.learner is None:
        return found
    name, own = name_and_options(options.learner)
    found = {n: v for n, v in found.items() if n not in LEARNER_OPTIONS} | {"learner": name} | own
    return found | _of_network(name, Config(**found))


def _of_network(name: str, config: Config) -> dict[str, Any]:
    """The network's own settings where the method would bring others: all cells are for one network."""
    brings, chosen = defaults(config, facts_before_loading(config)), config.chosen()
    return {
        option: value
        for option, value in options_of(name).items()
        if option in LEARNER_OPTIONS and option not in chosen and brings[option] not in (None, value)
    }


def in_chunks(steps: float) -> int:
    """Whole compiled chunks of outer steps, at least one."""
    length = choices().chunk_length
    return max(1, round(steps / length)) * length
