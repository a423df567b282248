"""From the chosen options to a complete config.

Defaults come in one order, each over the one before: the table, the method's recipe (for small images its
settings for those), the gradient, the settings of a script's class, what was chosen. Help texts and
`jd.distill` use the same function.
"""

from typing import Any, TypeVar

from jaxdistill.config.option import Options
from jaxdistill.config.owners import (
    BY_GRADIENT,
    HEAD_SOLVED,
    RIDGE,
    acts,
    brought,
    owner,
    ruled_out,
    taken,
)
from jaxdistill.config.table import LEARNER_OPTIONS, TeacherOptions
from jaxdistill.core.checks import fail
from jaxdistill.core.labels import check_probabilities
from jaxdistill.core.registry import find
from jaxdistill.evaluation.protocols import PUBLISHED
from jaxdistill.inner.solvers import linear_solver
from jaxdistill.learners import LEARNERS
from jaxdistill.methods import METHODS
from jaxdistill.methods.recipe import Facts, Recipe, recipe_of
from jaxdistill.populations import POPULATIONS
from jaxdistill.populations.source import source_of
from jaxdistill.teachers.storage import images_within

C = TypeVar("C", bound=Options)
Values = dict[str, Any]
AT_MINIMUM: Values = {
    "distill_epochs": 1,
    "inner_optimizer": "sgd",
    "inner_learning_rate": 0.1,
    "inner_momentum": 0.9,
    "learned": (),
    "weight_decay": 0.01,
}
"""Defaults of gradients that assume that training has ended."""
CLOSED_FORM: Values = {
    "distill_epochs": 1,
    "learned": (),
    "inner_loss": "squared",
    "outer_loss": "squared",
}
"""Defaults of a last layer in closed form, which has no training steps."""
CONVEXIFIED: Values = {
    **CLOSED_FORM,
    "ridge": 5e-4,
    "ridge_unit": "images",
    "inner_tolerance": 1e-2,
    "max_inner_steps": 5,
    "implicit_clip": True,
}
"""Defaults of a linearised network with such a head."""
HEADS = ("method", "teacher", "decoder", "learner", "population", "gradient")
"""The choices that decide the defaults of others."""
THROUGH = (*AT_MINIMUM, "remat")
"""A recipe's settings that implicit gradients ignore; all gradients but unrolled ignore `remat`."""
OF_STEPS = ("inner_optimizer", "positive", "per_step", "max_inner_learning_rate")
"""More options that gradients with a ridge regression ignore; other gradients ignore the ridge's options."""
TESTED = ("eval_norm", "eval_activation")
"""Options of the network that tests the images; a recipe's are for the recipe's own network."""
WITHOUT_NETWORKS: Values = {"population": "fresh", "num_learners": 1, "num_shapes": 0, "dtype": "float32"}
"""The required values of options on networks, for a distillation without networks."""
FLOOR = 1e-5
"""The smallest relative gradient norm that inner training reaches in float32."""
KNOWN: dict[str, Facts] = {
    "digits": Facts((8, 8, 1), 10),
    "mnist": Facts((28, 28, 1), 10),
    "fashion_mnist": Facts((28, 28, 1), 10),
    "kmnist": Facts((28, 28, 1), 10),
    "cifar10": Facts((32, 32, 3), 10),
    "cifar100": Facts((32, 32, 3), 100),
    "svhn_cropped": Facts((32, 32, 3), 10),
    "tiny_imagenet": Facts((64, 64, 3), 200),
    "usps": Facts((16, 16, 1), 10),
}
"""Image shape and number of classes of a named set, known before it is loaded."""


def facts_before_loading(options: Options) -> Facts | None:
    """Facts of the images that follow from the name of a data set and `image_size`; None if nothing
    follows."""
    chosen = options.chosen()
    name = chosen.get("dataset", type(options).options()["dataset"].default)
    known, side = KNOWN.get(name), chosen.get("image_size")
    if side is None:
        return known
    channels, classes = (known.image_shape[2], known.num_classes) if known else (1, 0)
    return Facts((side, side, channels), classes)


def resolve(config: C, facts: Facts | None = None) -> C:
    """The config with every option filled in, and checked as far as options alone can be.

    Args:
      config: the chosen options.
      facts: of the images; None takes the paper's settings.

    Returns:
      The config; every option of its class has a value.

    Raises:
      UserError: an option without effect beside the others, or values that do not go together.
    """
    values = defaults(config, facts)
    _check_acting(config, values)
    if "method" in values:
        _check_together(values)
    return _filled(config, values)


def filled(config: C, facts: Facts | None = None) -> C:
    """The config with every option filled in, each checked alone: for classes that lack a method's options.

    Args:
      config: the chosen options.
      facts: of the images; None takes the paper's settings.
    """
    return _filled(config, defaults(config, facts))


def _filled(config: C, values: Values) -> C:
    listed: Values = {name: values[name] for name in type(config).options()}
    found = brought(type(config), values).items()
    own = {n: values.get(n, o.default) for n, o in found if acts(o, values)}
    return type(config)(**listed | own | dict(config.own))


def defaults(config: Options, facts: Facts | None = None) -> Values:
    """Every option's value: chosen by the user or a default; nothing is checked."""
    chosen = config.chosen()
    chosen = {**type(config).settings(chosen, facts), **chosen}
    values = {name: option.default for name, option in type(config).options().items()}
    settings: Values = {}
    if "method" in values:
        recipe = recipe_of(find(METHODS, chosen.get("method", values["method"])))
        settings = _settings(recipe, facts, chosen, values)
        own = brought(type(config), {**settings, **chosen})
        values |= {name: value for name, value in settings.items() if name in values or name in own}
        values |= chosen
        values |= _within_budget(values, chosen, facts)
        if source_of(find(POPULATIONS, values["population"])).only_one:
            values |= {"num_learners": 1}
        values |= {n: v for n, v in recipe.adjust({**settings, **values}).items() if n in values}
        if not recipe.trains:
            values |= {"distill_epochs": 1}
    gradient = {**values, **chosen}.get("gradient")
    if gradient == "implicit":
        values |= {name: value for name, value in AT_MINIMUM.items() if name in values}
    if gradient in HEAD_SOLVED:
        found = CLOSED_FORM if gradient == "closed_form" else CONVEXIFIED
        kept = settings if settings.get("gradient") == gradient else {}  # the recipe is one of that gradient
        values |= {name: value for name, value in found.items() if name in values and name not in kept}
    if gradient == "truncated" and values.get("backprop_last") is None:
        steps = {**values, **chosen}
        values |= {"backprop_last": max(1, steps["distill_steps"] * steps["distill_epochs"] // 2)}
    return values | chosen


def _within_budget(values: Values, chosen: Values, facts: Facts | None) -> Values:
    """The number of images that fit a budget, if there is one; nothing if nothing is known of the images."""
    if values.get("budget") is None:
        return {}
    if facts is None or not acts(TeacherOptions.options()["budget"], values):
        return {}
    names = taken("decoder", values)
    count = images_within(
        values["budget"],
        values["decoder"],
        facts.image_shape,
        facts.num_classes,
        stored_as=values["stored_as"],
        learned_labels=values["soft_labels"] or values["labels"] == "free",
        **{name: value for name, value in chosen.items() if name in names},
    )
    steps = values["distill_steps"]
    if count < steps:
        expected = f"distill_steps <= {count}, the images of a class that fit {values['budget']}"
        raise fail("budget", expected, f"distill_steps {steps}")
    if chosen.get("images_per_class", 1) > count:
        expected = f"images_per_class <= {count}, which fit {values['budget']}, or no images_per_class"
        raise fail("budget", expected, chosen["images_per_class"])
    return {"images_per_class": chosen.get("images_per_class", count // steps * steps)}


def _settings(recipe: Recipe, facts: Facts | None, chosen: Values, table: Values) -> Values:
    """The recipe's settings; settings of its teacher and network only if the user chose no others."""
    settings = dict(recipe.settings(facts))
    for head, names in (("teacher", TeacherOptions.options()), ("learner", (*LEARNER_OPTIONS, *TESTED))):
        if chosen.get(head, settings.get(head, table[head])) != settings.get(head, table[head]):
            settings = {n: v for n, v in settings.items() if n not in names and n != head}
    if any(chosen.get(name) is not None for name in ("width", "depth")):
        settings.pop("widths", None)  # equal ones were chosen
    gradient = chosen.get("gradient", settings.get("gradient", table.get("gradient", "unrolled")))
    if gradient in HEAD_SOLVED:
        left_out = (*THROUGH, *OF_STEPS, *({"implicit_clip"} - {*BY_GRADIENT[gradient]}))
    else:
        left_out = THROUGH if gradient == "implicit" else () if gradient == "unrolled" else ("remat",)
        left_out = (*left_out, *RIDGE, "implicit_clip")
    if gradient == "accumulated":
        left_out = (*left_out, "inner_optimizer")  # SGD, which is the table's
    if gradient != "truncated":
        left_out = (*left_out, *BY_GRADIENT["truncated"])
    return {name: value for name, value in settings.items() if name not in left_out}


def acting(config: Options) -> list[str]:
    """The names of the options of a resolved config that have an effect."""
    values = config.values()
    return [n for n, option in type(config).options().items() if acts(option, values)] + list(config.own)


def _check_acting(config: Options, values: Values) -> None:
    """Raises if an option was chosen that has no effect."""
    chosen = config.chosen()
    table = type(config).options() | brought(type(config), chosen)
    idle = {n: v for n, v in chosen.items() if v != table[n].default and not acts(table[n], values)}
    if not idle:
        return
    for name, value in idle.items():
        option = table[name]
        if value == _unchosen(config, name):
            continue
        head, member = owner(option, values)
        if head == "learner" and member in LEARNERS:
            continue  # the network's own factory lists what it takes
        if head == "gradient":
            remedy = f"Leave {name} out, or choose a gradient that takes it."
        else:
            inner = option.of in ("inner", "gradient", "linear_solver") and head == "method"
            trains = "method" in values and recipe_of(METHODS[values["method"]]).trains
            remedy = "It trains no inner steps." if inner and not trains else ""
        raise fail(head, f"no {name} with {head}={member}", _shown(value), remedy)


def check_effects(config: Options, facts: Facts | None = None) -> None:
    """Raises if an option was chosen that the value of another one rules out; for new runs alone.

    Args:
      config: the chosen options.
      facts: of the images; None takes the paper's settings.
    """
    values, table = defaults(config, facts), type(config).options()
    for name, value in config.chosen().items():
        reason = ruled_out(name, values)
        if reason is not None and value not in (table[name].default, _unchosen(config, name), 0, False):
            raise fail("options", f"no {name} with {reason}, where it has no effect", _shown(value))


def _unchosen(config: Options, name: str) -> Any:
    """The value that an option has if only the heads are chosen."""
    heads = {n: v for n, v in config.chosen().items() if n in HEADS and n != name}
    values = defaults(type(config)(**heads))
    return values[name] if name in values else brought(type(config), config.chosen())[name].default


def _shown(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _check_together(values: Values) -> None:
    """Raises if values contradict each other."""
    recipe = recipe_of(METHODS[values["method"]])
    source = source_of(find(POPULATIONS, values["population"]))
    wrong = recipe.populations and values["population"] not in recipe.populations
    if wrong or (source.segments and not recipe.populations):
        got = f"population={values['population']} with method={values['method']}"
        raise fail("population", "experts with method=mtt and another population with other methods", got)
    if source.only_one and values["num_learners"] != 1:
        expected = "num_learners 1, since all of them are equal"
        raise fail(
            f"population {values['population']}", expected, values["num_learners"], "Add --num_learners=1."
        )
    check_protocol(values.get("protocol"), values["method"], values["gradient"])
    if "outer_loss" not in taken("method", values) and not recipe.free_labels:
        check_probabilities("teacher", values["labels"], f" with method={values['method']}")
    if not recipe.networks:
        for name, only in WITHOUT_NETWORKS.items():
            if values[name] != only:
                expected = f"{name}={only} with method={values['method']}, which distills without networks"
                raise fail("method", expected, values[name])
    if not recipe.trains:
        if values["distill_epochs"] != 1:
            expected = f"no distill_epochs with method={values['method']}"
            raise fail("method", expected, values["distill_epochs"], "It trains no inner steps.")
        return
    if values["gradient"] in HEAD_SOLVED:
        _check_head(values)
    _check_inner_loop(values)
    if values["gradient"] == "auto" and values["memory_budget"] is None:
        raise fail("gradient auto", "memory_budget, such as 2GB", "none")
    if values["gradient"] in ("implicit", "convexified"):
        _check_solves(values)


def has_steps(method: str, gradient: str) -> bool:
    """Whether a method trains networks on the synthetic images step by step, and differentiates the steps."""
    return recipe_of(find(METHODS, method)).trains and gradient not in HEAD_SOLVED


def check_protocol(protocol: str | None, method: str, gradient: str) -> None:
    """Raises if a method without inner steps is to be evaluated by its inner steps."""
    if protocol == "as_distilled" and not has_steps(method, gradient):
        known = ", ".join(PUBLISHED)
        trains = recipe_of(find(METHODS, method)).trains
        which = f"gradient={gradient}" if trains else f"method={method}"
        raise fail("evaluation", f"one of {known} with {which}, which trains no inner steps", protocol)


def _check_inner_loop(values: Values) -> None:
    if values["inner_optimizer"] != "sgd" and values["inner_momentum"]:
        expected = f"inner_momentum 0 with {values['inner_optimizer']}"
        raise fail("inner_optimizer", expected, values["inner_momentum"])
    bound = values["max_inner_learning_rate"]
    if "learning_rate" in values["learned"] and 0 < bound < values["inner_learning_rate"]:
        raise fail(
            "method",
            f"inner_learning_rate <= max_inner_learning_rate = {bound:g}",
            values["inner_learning_rate"],
            "Raise the bound, or set it to 0 for none.",
        )


def _check_head(values: Values) -> None:
    gradient = values["gradient"]
    if "outer_loss" not in taken("method", values):
        expected = f"a method that tests trained networks on real images, with gradient={gradient}"
        raise fail("gradient", expected, f"method={values['method']}", "Use method=dd, gtn, frepo or rcig.")
    if values["distill_epochs"] != 1:
        expected = f"distill_epochs 1 with gradient={gradient}, which sees each image once"
        raise fail("gradient", expected, values["distill_epochs"])
    if gradient == "convexified" and not values["ridge"] > 0:
        expected = "ridge > 0 with gradient=convexified, whose problem is singular otherwise"
        raise fail("gradient", expected, values["ridge"])
    if gradient == "convexified" and linear_solver(values["linear_solver"]).uses_gauss_newton:
        expected = "a linear_solver of the Hessian with gradient=convexified, which has no other"
        raise fail("gradient", expected, values["linear_solver"], "Use linear_solver=cg or nystrom.")
    if gradient == "convexified" and (values["linear_solver"], values["ridge_unit"]) == ("nystrom", "trace"):
        expected = "ridge_unit=images with linear_solver=nystrom, which needs the ridge before the images"
        raise fail("gradient", expected, "trace", "Or use linear_solver=cg.")


def _check_solves(values: Values) -> None:
    if values["distill_epochs"] != 1:
        expected = "distill_epochs 1 with implicit gradients, which train until inner_tolerance"
        raise fail("gradient", expected, values["distill_epochs"], "Set max_inner_steps instead.")
    if values["max_inner_steps"] == 0 and values["inner_tolerance"] < FLOOR:
        expected = f"inner_tolerance >= {FLOOR:g} with max_inner_steps=0, which is no limit"
        raise fail("gradient", expected, values["inner_tolerance"], "float32 does not get below it.")
    if values["warm_start"] and not linear_solver(values["linear_solver"]).starts:
        expected = "a linear_solver that can start from the last solution, with warm_start"
        raise fail("gradient", expected, values["linear_solver"])
