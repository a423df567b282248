"""`gradient=auto`: the fastest gradient whose compiled program fits a memory budget."""

from collections.abc import Callable
from typing import Any

import jax

from jaxdistill.config.option import UNSET
from jaxdistill.config.owners import BY_GRADIENT
from jaxdistill.config.resolve import defaults, resolve
from jaxdistill.config.table import Config
from jaxdistill.core.checks import UserError, fail
from jaxdistill.core.sizes import format_bytes, parse_bytes
from jaxdistill.methods.recipe import Facts

OUT_OF_MEMORY = (jax.errors.JaxRuntimeError, MemoryError)
"""The error that JAX raises if a program does not fit the memory, when it is compiled or run."""
OF_AUTO = dict.fromkeys(BY_GRADIENT["auto"], UNSET)


def within_budget(
    chosen: Config, facts: Facts, needs: Callable[[Config], int], tell: Callable[[str], Any]
) -> Config:
    """The resolved config of the fastest gradient whose compiled program fits the memory budget.

    Tried in the order of their speed: unrolled, remat step, remat sqrt, which compute the same gradient of T
    inner steps; then, where `allow_implicit` says so, implicit, which differentiates another map. Nothing is
    run: the compiler says how much memory a program needs.

    Args:
      chosen: with `gradient=auto`, as the user chose it.
      facts: of the images.
      needs: resolved config -> bytes of its compiled program.
      tell: called with one line: what was chosen, and why.

    Raises:
      UserError: none fits; names the one that needs the least, and how much.
    """
    asked = chosen.chosen()
    text, allowed = asked["memory_budget"], asked.get("allow_implicit", False)
    budget = parse_bytes(text)
    candidates: dict[str, dict[str, Any]] = {
        "unrolled": {"gradient": "unrolled", "remat": "none"},
        "unrolled, remat step": {"gradient": "unrolled", "remat": "step"},
        "unrolled, remat sqrt": {"gradient": "unrolled", "remat": "sqrt"},
    }
    if allowed:
        values = defaults(chosen.replace(gradient="unrolled", **OF_AUTO), facts)
        steps = values["distill_steps"] * values["distill_epochs"]
        limit = asked.get("max_inner_steps", steps)
        candidates["implicit"] = {"gradient": "implicit", "distill_epochs": 1, "max_inner_steps": limit}
    tried: dict[str, int] = {}
    refused = "" if allowed else " Implicit gradients may need less: allow_implicit."
    for name, choice in candidates.items():
        others = {} if name == "implicit" else dict.fromkeys(BY_GRADIENT["implicit"], UNSET)
        try:
            candidate = resolve(chosen.replace(**OF_AUTO, **others | choice), facts)
            tried[name] = needs(candidate)
        except OUT_OF_MEMORY:
            continue
        except UserError as error:
            if name != "implicit":
                raise
            refused = f" Implicit gradients are not possible here: {error}"
            continue
        if tried[name] <= budget:
            reason = " (not the gradient of T unrolled steps)" if name == "implicit" else ""
            more = "".join(f"; {n} needs {format_bytes(s)}" for n, s in tried.items() if n != name)
            size = f"{format_bytes(tried[name])} of {format_bytes(budget)}"
            tell(f"gradient: {name}, the fastest that fits{reason}: it needs {size}{more}")
            return candidate
    if not tried:
        raise fail("memory_budget", "a gradient whose program fits this device", "none")
    least = min(tried, key=tried.__getitem__)
    raise fail(
        "memory_budget",
        f"at least {format_bytes(tried[least])}, what {least} needs",
        text,
        f"Lower num_learners, real_batch_size, learner_chunk or the inner steps.{refused}",
    )
