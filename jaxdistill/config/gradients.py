"""Gradients by name: ways to differentiate training, each with the options that make it.

`experiments.equal_time`, `experiments.memory_runtime` and `experiments.study` compare some of them.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from jaxdistill.config.option import Options
from jaxdistill.config.owners import HEAD_SOLVED, acts, taken
from jaxdistill.core.checks import fail
from jaxdistill.core.registry import find
from jaxdistill.inner.solvers import LINEAR_SOLVERS
from jaxdistill.methods import METHODS
from jaxdistill.methods.recipe import recipe_of

Named = Mapping[str, Any]
"""Options of `Config` that make a gradient."""
IMPLICIT: Mapping[str, Named] = MappingProxyType(
    {name: {"gradient": "implicit", "linear_solver": name} for name in LINEAR_SOLVERS}
)
"""Implicit gradients by their linear solver."""
NAMED: Mapping[str, Named] = MappingProxyType(
    {
        "unrolled": {"gradient": "unrolled"},
        "unrolled_fixed": {"gradient": "unrolled", "learned": ()},
        "unrolled_step": {"gradient": "unrolled", "remat": "step"},
        "unrolled_sqrt": {"gradient": "unrolled", "remat": "sqrt"},
        "truncated": {"gradient": "truncated"},
        "accumulated": {"gradient": "accumulated"},
        **{f"implicit_{name}": options for name, options in IMPLICIT.items()},
        "closed_form": {"gradient": "closed_form"},
        "convexified": {"gradient": "convexified", "linear_solver": "cg"},
    }
)
"""Backpropagation through all inner steps, with fixed step sizes, with less memory, or only through the last
steps; TESLA's accumulated gradient; the implicit function theorem with each linear solver; a ridge regression
as the last layer, of a network as it is or of a linearised one."""
HEADS = ("gradient", "linear_solver", "inner")


def of_method(method: str) -> dict[str, Named]:
    """The gradients of `NAMED` that a method can be distilled by.

    Args:
      method: its name.

    Returns:
      Name to options; empty for a method that trains no inner steps.
    """
    if not recipe_of(find(METHODS, method)).trains:
        return {}
    tests = "outer_loss" in taken("method", {"method": method})
    return {name: named for name, named in NAMED.items() if tests or named["gradient"] not in HEAD_SOLVED}


def taken_by(named: Named, options: Options) -> dict[str, Any]:
    """The chosen options and the settings of their class, except those that only other gradients take.

    Args:
      named: the options that make the gradient.
      options: chosen options, for several gradients.

    Returns:
      Option to value; `named` is not among them.

    Example:
      >>> taken_by(NAMED["unrolled"], jd.Config(damping=0.1, remat="step"))
      {'remat': 'step'}
    """
    chosen = options.chosen()
    chosen = {**options.settings(chosen, None), **chosen}
    return {name: value for name, value in chosen.items() if _takes(named, options, name)}


def check_used(where: str, what: str, options: Options, compared: Mapping[str, Named]) -> None:
    """Refuses a chosen option of gradients that none of the compared gradients takes.

    Args:
      where: the script that compares, for the error.
      what: the word for a compared gradient, for the error.
      options: the chosen options.
      compared: gradients by the name that the user knows.

    Raises:
      UserError: names the option and what is compared.
    """
    for name, value in options.chosen().items():
        option = type(options).options().get(name)
        if option is None or option.of not in HEADS or value == option.default:
            continue
        if not any(_takes(named, options, name) for named in compared.values()):
            raise fail(where, f"{what} that takes {name}", ", ".join(compared) or "none")


def _takes(named: Named, options: Options, name: str) -> bool:
    """Whether an option has an effect with a gradient; true of options that do not concern gradients."""
    table = type(options).options()
    option = table.get(name)
    if option is None or option.of not in HEADS:
        return True
    if option.of == "inner":
        return acts(option, named)
    method = options.chosen().get("method", table["method"].default) if "method" in table else None
    return acts(option, {**named, **({} if method is None else {"method": method})})
