"""Makes the parts that a resolved config names."""

import functools
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import numpy as np

from jaxdistill.augment import WITHOUT_FLIP, Augmentation, dsa
from jaxdistill.baselines.random_real import random_real
from jaxdistill.config import resolve
from jaxdistill.config.option import Options
from jaxdistill.config.owners import HEAD_SOLVED, taken
from jaxdistill.config.resolve import acting
from jaxdistill.config.table import LEARNER_OPTIONS, Config, DeviceOptions, InnerOptions, NetworkOptions
from jaxdistill.core import platform
from jaxdistill.core.checks import Caution, fail, lookup
from jaxdistill.core.keys import stream
from jaxdistill.core.registry import find, make
from jaxdistill.core.types import Array, InnerOptimizer, Learner, Method, Population, Solve, Teacher
from jaxdistill.data import MIRRORS, DatasetInfo, Splits
from jaxdistill.inner.accumulated import accumulated
from jaxdistill.inner.closed_form import closed_form
from jaxdistill.inner.convexified import convexified
from jaxdistill.inner.implicit import implicit
from jaxdistill.inner.kernel_ridge import check_different
from jaxdistill.inner.solvers import LinearSolver, linear_solver
from jaxdistill.inner.unrolled import unrolled
from jaxdistill.learners import learner as make_learner
from jaxdistill.learners import options_of as options_of_learner
from jaxdistill.learners.linearized import linearized
from jaxdistill.learners.mixed_precision import mixed_precision
from jaxdistill.learners.shapes import SHAPES, random_shapes
from jaxdistill.methods import METHODS
from jaxdistill.methods import recipe as recipes
from jaxdistill.methods.average import averaged
from jaxdistill.methods.recipe import Recipe, images_per_class, recipe_of
from jaxdistill.populations import POPULATIONS
from jaxdistill.populations.persistent import match_schedule
from jaxdistill.populations.source import Source, source_of
from jaxdistill.teachers import CURRICULA, TEACHERS, shuffled
from jaxdistill.teachers.decoders import DECODERS, Decoder
from jaxdistill.teachers.images import unit_noise

REAL_PER_CLASS = 50
"""The maximum number of real images of each class that initialise a decoder."""

EVALUATED = ("norm", "activation")
"""The options of a network that may differ in evaluation."""


def precision(options: Options) -> AbstractContextManager:
    """A context manager that sets the precision of matrix products and convolutions (default: `float32`)."""
    default = DeviceOptions.options()["precision"].default
    return platform.precision(options.chosen().get("precision", default))


def recipe(config: Config) -> Recipe:
    """The method's recipe."""
    return recipe_of(find(METHODS, config.method))


def source(config: Config) -> Source:
    """The source of the networks."""
    return source_of(find(POPULATIONS, config.population))


def network_options(config: NetworkOptions) -> dict[str, Any]:
    """The chosen options of the network; the others keep the network's own defaults."""
    names = (*LEARNER_OPTIONS, *(taken("learner", {"learner": config.learner}) & config.own.keys()))
    given = config.values()
    return {name: given[name] for name in names if given[name] is not None}


def learner(config: NetworkOptions, info: DatasetInfo) -> Learner:
    """The network."""
    return make_learner(
        config.learner,
        image_shape=info.image_shape,
        num_classes=info.num_classes,
        **network_options(config),
    )


def tested(config: Config, network: Learner, info: DatasetInfo) -> Learner:
    """The network that tests images: the network of the distillation with `eval_norm` and `eval_activation`.

    Raises:
      UserError: another network than the one whose weights a population has.
    """
    chosen = {name: getattr(config, f"eval_{name}") for name in EVALUATED}
    changes = {name: value for name, value in chosen.items() if value is not None}
    if not changes:
        return network
    has_weights = source(config)
    if has_weights.only_one or has_weights.bank == "pool":
        expected = f"no eval_{next(iter(changes))} with networks whose weights are given"
        raise fail("evaluation", expected, f"population={config.population}")
    return make_learner(
        config.learner,
        image_shape=info.image_shape,
        num_classes=info.num_classes,
        **network_options(config) | changes,
    )


def shapes(config: Config, info: DatasetInfo) -> list[Learner]:
    """Networks of random shape around the chosen one, `num_shapes` of them."""
    lookup("num_shapes learner", config.learner, SHAPES)
    for name, needed in (("population", "fresh"), ("warm_start", False)):
        if getattr(config, name) != needed:
            raise fail(
                "num_shapes", f"{name}={needed} with networks of several shapes", getattr(config, name)
            )
    chosen = network_options(config)
    if chosen.get("widths"):
        raise fail("num_shapes", "no widths with networks of several shapes", chosen["widths"])
    given = options_of_learner(config.learner) | chosen
    kept = {name: given[name] for name in ("width", "depth") if name in given}
    drawn = random_shapes(config.learner, kept, count=config.num_shapes, seed=config.seed)
    make_one = partial(
        make_learner, config.learner, image_shape=info.image_shape, num_classes=info.num_classes
    )
    return [make_one(**chosen | shape) for shape in drawn]


def num_inner_steps(config: Config) -> int:
    """T."""
    return config.distill_steps * config.distill_epochs


def teacher(config: Any, data: Splits, key: Array) -> Teacher:
    """The teacher: learned images or a generator.

    Args:
      config: a resolved config with the options of a teacher.
      data: its data set; images may start from real ones.
      key: for the random parts of a new teacher.

    Raises:
      UserError: options that do not go together or do not fit the data.
    """
    info, curriculum = data.info, lookup("curriculum", config.curriculum, CURRICULA)
    names = taken("teacher", {"teacher": config.teacher})
    if curriculum.noise != "learned" and "noise" not in names:
        known = ", ".join(name for name, c in CURRICULA.items() if c.noise == "learned")
        expected = f"curriculum {known} with teacher={config.teacher}, which has no noise"
        raise fail("teacher", expected, config.curriculum)
    options = config.values()
    if "start" in names:
        options["start"] = start_images(config, data, key)
    if "decoder" in names:
        options["decoder"] = decoder(config, data, key)
    if "batch_size" in names:
        options["batch_size"] = batch_size(config, info)
    options |= {
        "image_shape": info.image_shape,
        "num_classes": info.num_classes,
        "noise": curriculum.noise,
        "noise_key": stream(key, "noise"),
    }
    made = make(TEACHERS, config.teacher, **{n: v for n, v in options.items() if n in names})
    return shuffled(made, curriculum.shuffle)


def decoder(config: Any, data: Splits, key: Array) -> Decoder:
    """The decoder of learned images, with its chosen options."""
    names = taken("decoder", {"decoder": config.decoder})
    options = {name: value for name, value in config.own.items() if name in names}
    if "real" in names:
        per_class = min(REAL_PER_CLASS, int(np.asarray(data.train.counts).min()))
        options["real"] = random_real(data.train, stream(key, "decoder"), per_class).x
    return make(DECODERS, config.decoder, image_shape=data.info.image_shape, **options)


def start_images(config: Any, data: Splits, key: Array) -> Array | None:
    """The images to start from: [classes, images_per_class, H, W, C]; None for noise."""
    if config.start == "noise":
        return None
    info, per_class = data.info, config.images_per_class
    if config.start == "unit_noise":
        return unit_noise(stream(key, "start"), (info.num_classes, per_class, *info.image_shape))
    smallest = int(np.asarray(data.train.counts).min())
    if per_class > smallest:
        name = info.class_names[int(data.train.counts.argmin())]
        expected = f"images_per_class <= {smallest}, the training images of class {name}, with start=real"
        raise fail("teacher", expected, per_class, "Ask for fewer, or add --start=noise.")
    real = random_real(data.train, stream(key, "start"), per_class)
    if getattr(config, "gradient", None) in HEAD_SOLVED:
        kind = f"start images with gradient={config.gradient}"
        remedy = "change seed, or add --start=noise."
        check_different("teacher", np.asarray(real.x), kind=kind, remedy=remedy)
    return real.x.reshape(info.num_classes, per_class, *info.image_shape)


def batch_size(config: Any, info: DatasetInfo) -> int:
    """B of a generator; by default it makes as many images as there would be learned images."""
    if config.batch_size is not None:
        return config.batch_size
    images, steps = config.images_per_class * info.num_classes, config.distill_steps
    if images % steps:
        raise fail(
            "teacher",
            f"{images} images in {steps} equal batches",
            f"{images % steps} left over",
            "Set batch_size.",
        )
    return images // steps


def inner_optimizer(config: InnerOptions, num_steps: int) -> InnerOptimizer:
    """The optimiser of T inner steps."""
    return recipes.inner_optimizer(config.values(), num_steps)


def operations(info: DatasetInfo) -> tuple[str, ...]:
    """What Differentiable Siamese Augmentation does in a set: flip only if mirror images keep their class."""
    return (*WITHOUT_FLIP, "flip") if MIRRORS.get(info.name) else WITHOUT_FLIP


def published_augmentation(info: DatasetInfo) -> Augmentation:
    """The augmentation of the papers' protocols on a set, whatever its images were distilled with."""
    return _augmentation(operations(info), 1.0)


def augmentation(config: Any, info: DatasetInfo) -> Augmentation | None:
    """The chosen operations, or all (flip only if mirror images keep their class); None if there are none."""
    names = operations(info) if config.augment is None else config.augment
    if "flip" in names and MIRRORS.get(info.name) is False:
        text = f"augment: flip mirrors images, and mirror images of {info.name} do not keep their class."
        warnings.warn(text, Caution, stacklevel=2)
    return _augmentation(tuple(names), config.augment_strength) if names else None


@functools.lru_cache(maxsize=32)
def _augmentation(names: tuple[str, ...], strength: float) -> Augmentation:
    """The same object for the same operations, so that compiled programs are reused."""
    return dsa(names, strength=strength)


def population(
    config: Config, network: Learner, made: Teacher, augmented: Augmentation | None = None
) -> Population:
    """The population of the learners."""
    matches, epochs = match_schedule(images_per_class(made))
    chosen = {"matches": config.matches, "epochs": config.match_epochs}
    chosen |= {"learning_rate": config.match_learning_rate}
    parts = {
        "learner": network,
        "teacher": made,
        "num_learners": config.num_learners,
        "matches": matches,
        "epochs": epochs,
        "augment": None if augmented is None else augmented.per_image,
        "strategy": config.strategy,
        "start_epochs": config.start_epochs,
        "expert_epochs": config.expert_epochs,
        "inner_loss": config.inner_loss,
        **config.own,
    } | {name: value for name, value in chosen.items() if value is not None}
    factory = source(config).make
    return factory(**_given(factory, parts))


def _given(factory: Callable[..., Any], parts: dict[str, Any]) -> dict[str, Any]:
    """The parts that a factory has arguments for, by position or by name."""
    import inspect

    known = inspect.signature(factory).parameters
    return {name: value for name, value in parts.items() if name in known}


def has_steps(config: Config) -> bool:
    """Whether networks are trained on the synthetic images step by step, and the steps differentiated."""
    return resolve.has_steps(config.method, config.gradient)


def solve(config: Any, network: Learner) -> Callable[..., Solve]:
    """The inner training map's factory: (teacher, inner loss, optimiser, calibrate=...) -> Solve."""
    if config.gradient == "closed_form":
        return partial(closed_form, learner=network, ridge=config.ridge, ridge_unit=config.ridge_unit)
    if config.gradient in ("implicit", "convexified"):
        options = {
            "linear_solver": solver(config),
            "tolerance": config.inner_tolerance,
            "max_steps": config.max_inner_steps or None,
        }
        if config.gradient == "implicit":
            return partial(implicit, **options, damping=config.damping)
        head = {"ridge": config.ridge, "ridge_unit": config.ridge_unit}
        return partial(convexified, learner=network, **head, **options, clip=config.implicit_clip)
    if config.gradient == "accumulated":
        return accumulated
    if config.gradient != "truncated":
        return partial(unrolled, remat=config.remat)
    return partial(unrolled, backprop_last=config.backprop_last, random_window=config.random_window)


def solver(config: Any, name: str | None = None) -> LinearSolver:
    """The linear solver of that name (the config's when None), with its chosen options."""
    name = str(name or config.linear_solver)
    names = taken("linear_solver", {"linear_solver": name})
    table, values = type(config).options(), config.values()
    given = {(table[n].taken_as if n in table else n): value for n, value in values.items()}
    return linear_solver(name, **{n: v for n, v in given.items() if n in names and v is not None})


def draws_by_class(config: Config) -> bool:
    """Whether a real batch has `real_batch_size` images of every class, not of all of them together."""
    by_class = "by_class" not in taken("method", {"method": config.method}) or config.by_class
    return recipe(config).by_class and by_class


def method(config: Config, data: Splits, network: Learner, key: Array) -> Method:
    """The complete method.

    Args:
      config: resolved.
      data: its data set.
      network: the learner, whose activations get the dtype of the config.
      key: for the random parts of a new teacher.

    Raises:
      UserError: options that do not fit the data.
    """
    made, how = teacher(config, data, key), recipe(config)
    network = mixed_precision(network, config.dtype)
    if config.linearized:
        if source(config).bank is not None or source(config).only_one:
            expected = "population=fresh, persistent or ages with linearized"
            raise fail("learner", expected, f"population={config.population}")
        network = linearized(network)
    names = taken("method", {"method": config.method})
    if config.warm_start and config.population in ("fresh", "ages", "pretrained"):
        text = (
            f"warm_start: with population={config.population} a linear solve starts from the solution of "
            "another network."
        )
        warnings.warn(text, Caution, stacklevel=2)
    augments = "augmentation" in names and (how.augments or config.augment is not None)
    augmented = augmentation(config, data.info) if augments else None
    if augmented is None and how.needs_augmentation:
        expected = f"at least one operation in augment, with method={config.method}"
        raise fail("method", expected, "none", "Without augmentation use method=dc.")
    smallest = int(np.asarray(data.train.counts).min())
    if draws_by_class(config) and config.real_batch_size > smallest:
        drawn = f"{config.real_batch_size} are drawn with replacement"
        text = f"real_batch_size: a class has {smallest} images; {drawn}."
        warnings.warn(text, Caution, stacklevel=2)
    table, values = type(config).options(), config.values()
    options = {table[n].taken_as if n in table else n: values[n] for n in acting(config)}
    options = {name: value for name, value in options.items() if name in names}
    parts: dict[str, Any] = {"outer_optimizer": recipes.outer_optimizer(values)}
    if how.networks:
        parts |= {"population": population(config, network, made, augmented)}
    if how.trains:
        parts |= {
            "inner_optimizer": inner_optimizer(config, num_inner_steps(config)),
            "solve": solve(config, network),
        }
    if "augmentation" in names:
        parts |= {"augmentation": augmented}
    if "skip_failed_solves" in names:
        parts |= {"skip_failed_solves": config.on_failed_solve == "skip"}
    complete = how.make(network, made, **options | parts)
    if config.outer_ema and "outer_ema" not in names:
        return averaged(complete, config.outer_ema)
    return complete
