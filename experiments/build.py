"""From a config to the parts it names."""

import warnings
from collections.abc import Mapping
from typing import Any

from experiments import gradients
from jaxdistill.baselines.random_real import random_real
from jaxdistill.core.checks import Caution, above, fail, lookup, one_of
from jaxdistill.core.keys import stream
from jaxdistill.core.types import Array, InnerOptimizer, Learner, Method, Population, Teacher
from jaxdistill.data import DatasetInfo, Splits, load
from jaxdistill.inner.optimizers import INNER_OPTIMIZERS
from jaxdistill.learners import learner as make_learner
from jaxdistill.methods import METHODS
from jaxdistill.methods.outer import outer_adam, outer_schedule
from jaxdistill.populations import POPULATIONS
from jaxdistill.teachers import TEACHERS

Config = Mapping[str, Any]
LEARNER_OPTIONS = ("width", "depth", "norm", "activation", "pooling", "initialization")
STARTS = ("noise", "real")


def splits(config: Config) -> Splits:
    """The data set, on the device."""
    return load(
        config["dataset"],
        data_dir=config["data_dir"],
        manual_dir=config["manual_dir"],
        image_size=config["image_size"],
    )


def learner(config: Config, info: DatasetInfo) -> Learner:
    """The network; options left at None are the network's own."""
    chosen = {name: config[name] for name in LEARNER_OPTIONS if config.get(name) is not None}
    return make_learner(
        config["learner"], image_shape=info.image_shape, num_classes=info.num_classes, **chosen
    )


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
    """What is learned."""
    info, per_class = data.info, config["images_per_class"]
    start = None
    if one_of("teacher start", config["start"], STARTS) == "real":
        smallest = int(data.train.counts.min())
        if per_class > smallest:
            name = info.class_names[int(data.train.counts.argmin())]
            expected = f"images_per_class <= {smallest}, the training images of class {name}, with start=real"
            raise fail("teacher", expected, per_class, "Ask for fewer, or add --start=noise.")
        real = random_real(data.train, stream(key, "start"), per_class)
        start = real.x.reshape(info.num_classes, per_class, *info.image_shape)
    return lookup("teacher", config["teacher"], TEACHERS)(
        image_shape=info.image_shape,
        num_classes=info.num_classes,
        images_per_class=per_class,
        distill_steps=config["distill_steps"],
        distill_epochs=config["distill_epochs"],
        start=start,
        soft_labels=config["soft_labels"],
    )


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
        **options,
    )


def population(config: Config, learner: Learner) -> Population:
    """Where the learners come from."""
    if config["population"] == "fixed" and config["num_learners"] != 1:
        raise fail(
            "population fixed",
            "num_learners 1, since all of them are equal",
            config["num_learners"],
            "Add --num_learners=1.",
        )
    return lookup("population", config["population"], POPULATIONS)(learner)


def method(config: Config, data: Splits, learner: Learner, key: Array) -> Method:
    """The method, whole."""
    bound = config["max_inner_learning_rate"]
    if "learning_rate" in config["learned"] and 0 < bound < config["inner_learning_rate"]:
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
    rate = outer_schedule(
        config["schedule"], learning_rate=config["outer_learning_rate"], num_steps=config["num_outer_steps"]
    )
    outer = outer_adam(
        learning_rate=rate,
        clip=config["clip"] or None,
        max_inner_learning_rate=bound or None,
    )
    return lookup("method", config["method"], METHODS)(
        learner,
        teacher(config, data, key),
        inner_optimizer=inner_optimizer(config),
        weight_decay=config["weight_decay"],
        population=population(config, learner),
        outer_optimizer=outer,
        num_learners=config["num_learners"],
        real_batch_size=config["real_batch_size"],
        solve=gradients.solve(config),
        strategy=config["strategy"],
        learner_chunk=config["learner_chunk"],
        microbatch=config["microbatch"],
        warm_start=config["warm_start"],
        skip_failed_solves=config["on_failed_solve"] == "skip",
    )
