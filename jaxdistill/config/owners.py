"""Which options have an effect, given the chosen method, teacher, network, population and gradient.

A member of a registry (a teacher, network, population, method, linear solver) takes the options that its
factory has as keyword-only arguments. An argument that the table does not list is an option of this member
alone.
"""

import dataclasses
import functools
import inspect
import re
import typing
from collections.abc import Callable, Mapping
from typing import Any

from jaxdistill.config.option import Option, Options, kind_of
from jaxdistill.config.table import OWN_NETWORK
from jaxdistill.core.registry import Registry, find, options_of
from jaxdistill.inner.solvers import LINEAR_SOLVERS
from jaxdistill.learners import LEARNERS
from jaxdistill.methods import METHODS
from jaxdistill.methods.outer import OUTER_OPTIMIZERS
from jaxdistill.methods.recipe import recipe_of
from jaxdistill.populations import POPULATIONS
from jaxdistill.populations.source import source_of
from jaxdistill.teachers import TEACHERS
from jaxdistill.teachers.decoders import DECODERS

HEADS: dict[str, tuple[Registry[Any], Callable[[Any], Callable[..., Any]]]] = {
    "method": (METHODS, lambda member: recipe_of(member).make),
    "teacher": (TEACHERS, lambda member: member),
    "decoder": (DECODERS, lambda member: member),
    "learner": (LEARNERS, lambda member: member),
    "population": (POPULATIONS, lambda member: source_of(member).make),
    "linear_solver": (LINEAR_SOLVERS, lambda member: member),
}
"""Options whose values bring options of their own: (where the members are, member -> its factory)."""
SOLVED = ("linear_solver", "inner_tolerance", "max_inner_steps", "warm_start", "on_failed_solve")
IMPLICIT = (*SOLVED, "damping")
RIDGE = ("ridge", "ridge_unit")
BY_GRADIENT: dict[str, tuple[str, ...]] = {
    "unrolled": ("remat", "validate_every"),
    "truncated": ("backprop_last", "random_window"),
    "accumulated": (),
    "implicit": IMPLICIT,
    "closed_form": RIDGE,
    "convexified": (*RIDGE, *SOLVED, "implicit_clip"),
    "auto": ("memory_budget", "allow_implicit"),
}
"""The options that not all gradients take."""
HEAD_SOLVED = ("closed_form", "convexified")
"""The gradients whose last layer is a ridge regression: no inner steps are taken."""
WITHOUT_STEPS = ("gradient", "hyper_learning_rate")
"""The options of the inner loop that they have; the latter is the rate of a learned temperature."""
OF_METHOD_TOO = {"validate_every": "validate_every", "warm_start": "warm_start"}
OF_METHOD_TOO |= {"on_failed_solve": "skip_failed_solves"}
"""Options of a gradient that the method's factory has to take too, and its name for them."""
COMPUTED = ("noise", *OF_METHOD_TOO.values())
"""Arguments of members that follow from other options."""


NEEDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "label_confidence": ("soft_labels", lambda learned: not learned),
    **dict.fromkeys(("per_step", "hyper_learning_rate"), ("learned", lambda names: not names)),
    **dict.fromkeys(
        ("positive", "max_inner_learning_rate"), ("learned", lambda names: "learning_rate" not in names)
    ),
    "schedule_end": ("schedule", lambda name: name != "cosine"),
    "augment_strength": ("augment", lambda names: names == ()),
    "fit": ("image_size", lambda side: side is None),
    "match_learning_rate": ("match_epochs", lambda epochs: epochs == 0),
    "class_strategy": ("by_class", lambda chosen: not chosen),
    **dict.fromkeys(("generator_hidden", "upsamplings"), ("architecture", lambda name: name != "upsampling")),
}
"""Options that have no effect if another option has such a value."""


def taken(head: str, values: Mapping[str, Any]) -> set[str]:
    """The keyword-only arguments of the chosen member of a registry."""
    name = values[head]
    if head == "learner" and name == OWN_NETWORK:
        return set()
    table, factory = HEADS[head]
    return set(options_of(factory(find(table, name))))


def acts(option: Option, values: Mapping[str, Any]) -> bool:
    """Whether an option has an effect, given all choices; a missing choice excludes nothing."""
    head = option.of
    if head is None:
        return True
    method = recipe_of(find(METHODS, values["method"])) if "method" in values else None
    gradient = values.get("gradient", "implicit")
    implicit = gradient == "implicit" or (gradient == "auto" and values["allow_implicit"])
    if head in ("inner", "gradient", "linear_solver") and method is not None and not method.trains:
        return False
    if head == "inner":
        return gradient not in HEAD_SOLVED or option.name in WITHOUT_STEPS
    if head == "outer_optimizer":
        return option.name in OUTER_OPTIMIZERS[values[head]][1]
    if head in ("pool", "trajectories"):
        return "population" not in values or source_of(find(POPULATIONS, values["population"])).bank == head
    if head == "linear_solver":
        solves = implicit or gradient == "convexified"
        return solves and ("linear_solver" not in values or option.taken_as in taken("linear_solver", values))
    if head == "gradient":
        if "gradient" not in values:
            return True
        own = BY_GRADIENT.get(gradient, ()) + (IMPLICIT if implicit else ())
        also = OF_METHOD_TOO.get(option.name)
        return option.name in own and (also is None or also in taken("method", values))
    return head not in values or option.taken_as in taken(head, values)


def ruled_out(name: str, values: Mapping[str, Any]) -> str | None:
    """The other option's value that makes a chosen option have no effect, as `option=value`; None if none.

    An option that the value of another rules out is refused when it is chosen, and stays in the identity of
    a run: there it has the default.
    """

    def having(other: str, is_so: Callable[[Any], bool]) -> str | None:
        if other not in values or not is_so(values[other]):
            return None
        value = values[other]
        return f"{other}={(','.join(map(str, value)) or 'none') if isinstance(value, tuple) else value}"

    if name == "hyper_learning_rate" and "platt" in (values.get("inner_loss"), values.get("outer_loss")):
        return None  # the step size of the learned temperature
    if name == "augment_strength" and "method" in values and values.get("augment") is None:
        return having("method", lambda method: not recipe_of(find(METHODS, method)).augments)
    if name in NEEDS:
        return having(*NEEDS[name])
    if name == "label_margin" and values.get("labels") != "free":
        return having("soft_labels", lambda learned: not learned)
    if name == "inner_loss" and "population" in values and name not in taken("population", values):
        return having("gradient", lambda gradient: gradient in HEAD_SOLVED)
    if name == "soft_labels" and "method" in values:
        return having("method", lambda method: not recipe_of(find(METHODS, method)).sees_labels)
    return None


def owner(option: Option, values: Mapping[str, Any]) -> tuple[str, Any]:
    """(the choice, its value) that makes an option have no effect, for an error."""
    head = option.of
    method = recipe_of(find(METHODS, values["method"])) if "method" in values else None
    untrained = method is not None and not method.trains
    if untrained and head in ("inner", "gradient", "linear_solver"):
        return "method", values["method"]
    if head == "inner" and values.get("gradient") in HEAD_SOLVED:
        return "gradient", values["gradient"]
    if head in ("inner", "method"):
        return "method", values["method"]
    if head in ("pool", "trajectories"):
        return "population", values["population"]
    implicit = values.get("gradient") in ("implicit", "convexified")
    if head in ("gradient", "linear_solver") and not (head == "linear_solver" and implicit):
        also = OF_METHOD_TOO.get(option.name)
        own = option.name in BY_GRADIENT[values["gradient"]]
        return ("method", values["method"]) if own and also else ("gradient", values["gradient"])
    return str(head), values[str(head)]


def brought(cls: type[Options], chosen: Mapping[str, Any]) -> dict[str, Option]:
    """The options that the chosen members bring and that the class does not list.

    Args:
      cls: a class of options.
      chosen: what was chosen, by name; defaults stand for the rest.

    Returns:
      An option for every keyword-only argument of the members' factories whose type an option can have. The
      method's paper gives its default, or else the factory.
    """
    listed, found = cls.options(), {}
    known = {option.taken_as for option in listed.values()} | {*listed, *cls.left_out, *COMPUTED}
    for head, (table, factory) in HEADS.items():
        if head not in listed or not listed[head].known:  # an option of that name that chooses no member
            continue
        for name in _members(head, listed[head].default, chosen):
            if name in table:
                own = _options_from(factory(table[name]), head)
                found |= {n: option for n, option in own.items() if n not in known}
    method = chosen.get("method", "")
    settings = recipe_of(METHODS[method]).defaults if method in METHODS else {}
    return {n: dataclasses.replace(o, default=settings.get(n, o.default)) for n, o in found.items()}


def _members(head: str, default: Any, chosen: Mapping[str, Any]) -> list[Any]:
    """The chosen member, or all members that the method's settings may choose."""
    if head in chosen:
        return [chosen[head]]
    method = chosen.get("method", "")
    if method not in METHODS:
        return [default]
    recipe = recipe_of(METHODS[method])
    return list(dict.fromkeys(each.get(head, default) for each in (recipe.defaults, recipe.small)))


@functools.lru_cache(maxsize=64)
def _options_from(factory: Callable[..., Any], head: str) -> dict[str, Option]:
    """An option for each keyword-only argument that a command line can give."""
    hints = typing.get_type_hints(inspect.unwrap(factory))
    found = {}
    for name, default in options_of(factory).items():
        kind, many, optional = kind_of(hints.get(name, object))
        if kind in (bool, int, float, str) and default is not inspect.Parameter.empty:
            text = _explained(inspect.getdoc(factory) or "", name)
            found[name] = Option(name, default, text, kind, many, optional, of=head)
    return found


def _explained(doc: str, name: str) -> str:
    """The text of a docstring about an argument; without one, the name of the argument."""
    match = re.search(rf"^\s*(?:[\w*, ]+, )?{name}(?:, [\w*, ]+)?: (.+?)$", doc, flags=re.MULTILINE)
    return match[1].rstrip(".") if match else name.replace("_", " ")
