"""From a config to the parts it names."""

import inspect
import warnings
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import optax

from experiments import gradients
from experiments.options import IMPLICIT, INNER, OUTER, POOL, TEACHER, TRAJECTORIES
from jaxdistill.augment import WITHOUT_FLIP, Augmentation, dsa
from jaxdistill.baselines.random_real import random_real
from jaxdistill.core.checks import Caution, above, fail, lookup
from jaxdistill.core.keys import stream
from jaxdistill.core.types import Array, InnerOptimizer, Learner, Method, Population, Teacher
from jaxdistill.data import MIRRORS, DatasetInfo, Splits, load
from jaxdistill.inner.optimizers import INNER_OPTIMIZERS
from jaxdistill.learners import learner as make_learner
from jaxdistill.learners import options_of
from jaxdistill.learners.shapes import SHAPES, random_shapes
from jaxdistill.methods import METHODS
from jaxdistill.methods.dc import images_per_class, schedule
from jaxdistill.methods.outer import outer_adam, outer_schedule, outer_sgd
from jaxdistill.populations import POPULATIONS
from jaxdistill.runtime import hosts
from jaxdistill.teachers import CURRICULA, TEACHERS, shuffled

Config = Mapping[str, Any]
LEARNER_OPTIONS = ("width", "depth", "norm", "activation", "pooling", "kernel", "initialization")
GENERAL = {n: o.default for n, o in TEACHER.items() if n not in ("teacher", "curriculum", "images_per_class")}
"""Options of the teachers that have them, with what they are where nobody chose."""


def splits(config: Config) -> Splits:
    """The data set, on the device; the same in every process of a run."""
    data = load(
        config["dataset"],
        data_dir=config["data_dir"],
        manual_dir=config["manual_dir"],
        image_size=config["image_size"],
    )
    if jax.process_count() > 1:
        leaves = jax.tree.leaves((data.train, data.validation, data.test))
        found = [zlib.crc32(np.asarray(leaf).tobytes()) for leaf in leaves]
        hosts.agree("images and labels", {"CRC-32": found})
    return data


def learner(config: Config, info: DatasetInfo) -> Learner:
    """The network; options left at None are the network's own."""
    chosen = {name: config[name] for name in LEARNER_OPTIONS if config.get(name) is not None}
    return make_learner(
        config["learner"], image_shape=info.image_shape, num_classes=info.num_classes, **chosen
    )


def shapes(config: Config, info: DatasetInfo) -> list[Learner]:
    """The networks that are distilled for: the chosen one, or some of random shape around it."""
    if not config["num_shapes"]:
        return [learner(config, info)]
    lookup("num_shapes learner", config["learner"], SHAPES)
    for name, needed in (("population", "fresh"), ("warm_start", False)):
        if config[name] != needed:
            raise fail("num_shapes", f"{name}={needed} with networks of several shapes", config[name])
    given = options_of(config["learner"]) | {
        n: config[n] for n in ("width", "depth") if config[n] is not None
    }
    kept = {name: given[name] for name in ("width", "depth") if name in given}
    drawn = random_shapes(config["learner"], kept, count=config["num_shapes"], seed=config["seed"])
    options = {name: config[name] for name in LEARNER_OPTIONS if config[name] is not None}
    return [
        make_learner(
            config["learner"], image_shape=info.image_shape, num_classes=info.num_classes, **options | shape
        )
        for shape in drawn
    ]


def check_step_sizes(config: Config) -> None:
    """Raises unless there are step sizes to search over, all of them positive."""
    if not config["step_sizes"]:
        raise fail("evaluation", "at least one of step_sizes", "none")
    for step_size in config["step_sizes"]:
        above("evaluation", "step_sizes", step_size, 0.0)


def num_inner_steps(config: Config) -> int:
    """T."""
    return config["distill_steps"] * config["distill_epochs"]


def teacher(config: Config, data: Splits, key: Array) -> Teacher:
    """What is learned.

    A teacher's factory is given what it takes of the config; an option of the group that it does not take
    has to be as it is where nobody chose.
    """
    info, curriculum = data.info, lookup("curriculum", config["curriculum"], CURRICULA)
    factory = lookup("teacher", config["teacher"], TEACHERS)
    taken = inspect.signature(factory).parameters
    for name in sorted(GENERAL.keys() - taken.keys()):
        if config[name] != GENERAL[name]:
            raise fail("teacher", f"{name} left out with teacher={config['teacher']}", config[name])
    if curriculum.noise != "learned" and "noise" not in taken:
        known = ", ".join(name for name, c in CURRICULA.items() if c.noise == "learned")
        expected = f"curriculum {known} with teacher={config['teacher']}, which has no noise"
        raise fail("teacher", expected, config["curriculum"])
    computed = {
        "image_shape": info.image_shape,
        "num_classes": info.num_classes,
        "start": start_images(config, data, key) if "start" in taken else None,
        "batch_size": batch_size(config, info) if "batch_size" in taken else None,
        "noise": curriculum.noise,
        "noise_key": stream(key, "noise"),
    }
    options = {name: config[name] for name in TEACHER if name in taken} | computed
    made = factory(**{name: value for name, value in options.items() if name in taken})
    return shuffled(made, curriculum.shuffle)


def start_images(config: Config, data: Splits, key: Array) -> Array | None:
    """What learned images start from: [classes, images_per_class, H, W, C], None for noise."""
    if config["start"] == "noise":
        return None
    info, per_class = data.info, config["images_per_class"]
    smallest = int(data.train.counts.min())
    if per_class > smallest:
        name = info.class_names[int(data.train.counts.argmin())]
        expected = f"images_per_class <= {smallest}, the training images of class {name}, with start=real"
        raise fail("teacher", expected, per_class, "Ask for fewer, or add --start=noise.")
    real = random_real(data.train, stream(key, "start"), per_class)
    return real.x.reshape(info.num_classes, per_class, *info.image_shape)


def batch_size(config: Config, info: DatasetInfo) -> int:
    """B of a generator: as chosen, or what gives as many images as learned ones would be."""
    if config["batch_size"] is not None:
        return config["batch_size"]
    images, steps = config["images_per_class"] * info.num_classes, config["distill_steps"]
    if images % steps:
        raise fail("teacher", f"{images} images in {steps} equal batches", "a rest", "Set batch_size.")
    return images // steps


def inner_optimizer(config: Config) -> InnerOptimizer:
    """The optimiser of the inner loop."""
    factory = lookup("inner_optimizer", config["inner_optimizer"], INNER_OPTIMIZERS)
    options = {"momentum": config["inner_momentum"]} if config["inner_optimizer"] == "sgd" else {}
    if not options and config["inner_momentum"]:
        raise fail(
            "inner_optimizer", f"inner_momentum 0 with {config['inner_optimizer']}", config["inner_momentum"]
        )
    return factory(
        num_steps=num_inner_steps(config),
        learning_rate=config["inner_learning_rate"],
        learned=tuple(config["learned"]),
        per_step=config["per_step"],
        positive=config["positive"],
        **options,
    )


def augmentation(config: Config, info: DatasetInfo) -> Augmentation | None:
    """As chosen, or DSA's operations, the flip where mirror images are of the same class; None for none."""
    mirrors = MIRRORS.get(info.name)
    names = config["augment"]
    if names is None:
        names = (*WITHOUT_FLIP, "flip") if mirrors else WITHOUT_FLIP
    if "flip" in names and mirrors is False:
        text = f"augment: flip makes mirror images, which are not of the classes of {info.name}."
        warnings.warn(text, Caution, stacklevel=2)
    return dsa(names, strength=config["augment_strength"]) if names else None


OF_PERSISTENT = {"matches": "matches", "match_epochs": "epochs", "match_learning_rate": "learning_rate"}
"""Options of networks that live on, and what their population calls them."""


def population(
    config: Config, learner: Learner, teacher: Teacher, augmented: Augmentation | None = None
) -> Population:
    """Where the learners come from: its factory is given what it takes of the config."""
    name = config["population"]
    factory = lookup("population", name, POPULATIONS)
    if name in ("fixed", "fixed_pretrained") and config["num_learners"] != 1:
        expected = "num_learners 1, since all of them are equal"
        raise fail(f"population {name}", expected, config["num_learners"], "Add --num_learners=1.")
    taken = inspect.signature(factory).parameters
    chosen = {part: config[option] for option, part in OF_PERSISTENT.items() if config[option] is not None}
    for option, part in OF_PERSISTENT.items():
        if part in chosen and part not in taken:
            raise fail("population", f"{option} left out with population={name}", config[option])
    matches, epochs = schedule(images_per_class(teacher))
    parts = {
        "learner": learner,
        "teacher": teacher,
        "num_learners": config["num_learners"],
        "matches": matches,
        "epochs": epochs,
        "augment": None if augmented is None else augmented.per_image,
        "strategy": config["strategy"],
        "start_epochs": config["start_epochs"],
        "expert_epochs": config["expert_epochs"],
    } | chosen
    return factory(**{name: value for name, value in parts.items() if name in taken})


def outer_optimizer(config: Config) -> optax.GradientTransformation:
    """What moves everything learned."""

    def rate(start: float) -> optax.Schedule:
        return outer_schedule(
            config["schedule"],
            learning_rate=start,
            num_steps=config["num_outer_steps"],
            end=config["schedule_end"],
        )

    hyper = config["hyper_learning_rate"]
    if config["outer_optimizer"] == "adam" and config["outer_momentum"] != OUTER["outer_momentum"].default:
        raise fail("outer_optimizer", "outer_momentum left out with adam", config["outer_momentum"])
    shared = {
        "learning_rate": rate(config["outer_learning_rate"]),
        "hyper_learning_rate": rate(hyper) if hyper else hyper,
        "clip": config["clip"] or None,
        "max_inner_learning_rate": config["max_inner_learning_rate"] or None,
        "positive": config["positive"],
    }
    if config["outer_optimizer"] == "sgd":
        return outer_sgd(**shared, momentum=config["outer_momentum"])
    return outer_adam(**shared, b1=config["outer_b1"])


def trains(config: Config) -> bool:
    """Whether the method has an inner solution; matching has none."""
    return _takes(lookup("method", config["method"], METHODS), "solve")


OF_METHODS = {
    "distance": "distance",
    "by_class": "by_class",
    "feature_layers": "layers",
    "augment": "augmentation",
    "augment_strength": "augmentation",
    "class_strategy": "class_strategy",
    "inner_batch_size": "inner_batch_size",
    "microbatch": "microbatch",
    "on_failed_solve": "skip_failed_solves",
    "validate_every": "validate_every",
    "warm_start": "warm_start",
}
"""Options of some methods alone, and what these take for them."""
OF_MTT = ("experts", "start_epochs", "expert_epochs")


def _takes(factory: Callable[..., Any], name: str) -> bool:
    return name in inspect.signature(factory).parameters


def with_inner_loop(config: Config) -> dict[str, Any]:
    """The config, one pass over the data for a method without an inner loop.

    Raises:
      UserError: an option of the inner loop for a method that has none, or of matching for one that has.
    """
    factory = lookup("method", config["method"], METHODS)
    known = INNER | IMPLICIT | OUTER | TRAJECTORIES
    others = {name: known[name].default for name, part in OF_METHODS.items() if not _takes(factory, part)}
    others |= {name: known[name].default for name in OF_MTT if config["method"] != "mtt"}
    if not trains(config):
        others |= {name: option.default for name, option in (INNER | IMPLICIT).items()}
        config = {**config, "distill_epochs": config["distill_epochs"] or 1}
        others |= {"distill_epochs": 1}
    for name in POOL:
        if config[name] is not None and not config["population"].endswith("pretrained"):
            raise fail("population", f"{name} left out with population={config['population']}", config[name])
    if (config["population"] == "experts") != (config["method"] == "mtt"):
        got = f"population={config['population']} with method={config['method']}"
        raise fail("population", "experts with method=mtt, and with no other", got)
    for name, default in others.items():
        if config[name] != default:
            inner = name in INNER or name in IMPLICIT or name == "distill_epochs"
            remedy = "It trains no inner steps." if inner and not trains(config) else ""
            raise fail("method", f"{name} left out with method={config['method']}", config[name], remedy)
    return dict(config)


def method(config: Config, data: Splits, learner: Learner, key: Array) -> Method:
    """The method, whole."""
    bound = config["max_inner_learning_rate"]
    if trains(config) and "learning_rate" in config["learned"] and 0 < bound < config["inner_learning_rate"]:
        raise fail(
            "method",
            f"inner_learning_rate <= max_inner_learning_rate = {bound:g}",
            config["inner_learning_rate"],
            "Raise the bound; 0 is none.",
        )
    if config["warm_start"] and config["population"] == "fresh":
        warnings.warn(
            "warm_start: with population=fresh a linear solve starts from the solution of another network.",
            Caution,
            stacklevel=2,
        )
    factory, taught = lookup("method", config["method"], METHODS), teacher(config, data, key)
    augmented = augmentation(config, data.info) if _takes(factory, "augmentation") else None
    if augmented is None and config["method"] == "dsa":
        raise fail("method", "at least one operation to augment with, with method=dsa", "none", "Or take dc.")
    smallest = int(data.train.counts.min())
    if not trains(config) and config["real_batch_size"] > smallest:
        drawn = f"{config['real_batch_size']} are drawn with replacement"
        warnings.warn(f"real_batch_size: a class has {smallest} images; {drawn}.", Caution, stacklevel=2)
    parts = {
        "weight_decay": config["weight_decay"],
        "microbatch": config["microbatch"],
        "warm_start": config["warm_start"],
        "skip_failed_solves": config["on_failed_solve"] == "skip",
        "validate_every": config["validate_every"],
        "distance": config["distance"],
        "by_class": config["by_class"],
        "layers": config["feature_layers"],
        "augmentation": augmented,
        "class_strategy": config["class_strategy"],
        "inner_batch_size": config["inner_batch_size"],
        "real_batch_size": config["real_batch_size"],
    }
    if trains(config):
        parts |= {"inner_optimizer": inner_optimizer(config), "solve": gradients.solve(config)}
    return factory(
        learner,
        taught,
        population=population(config, learner, taught, augmented),
        outer_optimizer=outer_optimizer(config),
        num_learners=config["num_learners"],
        strategy=config["strategy"],
        learner_chunk=config["learner_chunk"],
        **{name: value for name, value in parts.items() if _takes(factory, name)},
    )
