"""How training is differentiated, from a config: defaults by gradient, the solve, the choice by memory."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from experiments.measure import OUT_OF_MEMORY
from jaxdistill.core.checks import UserError, fail
from jaxdistill.core.types import Solve
from jaxdistill.inner.accumulated import accumulated
from jaxdistill.inner.implicit import implicit
from jaxdistill.inner.solvers import linear_solver, options_of
from jaxdistill.inner.unrolled import unrolled
from jaxdistill.runtime.memory import format_bytes, parse_bytes

Config = Mapping[str, Any]
GRADIENTS = ("unrolled", "truncated", "accumulated", "implicit", "auto")
FAILED_SOLVES = ("stop", "skip")
BY_GRADIENT: dict[str, tuple[Any, Any]] = {
    "distill_epochs": (10, 1),
    "inner_learning_rate": (0.05, 0.1),
    "inner_momentum": (0.0, 0.9),
    "learned": (["learning_rate"], []),
    "weight_decay": (0.0, 0.01),
}
"""Defaults of options that are None where nobody chose: (through training, implicit)."""
IMPLICIT_DEFAULTS = {"linear_solver": "cg", "damping": 0.1, "inner_tolerance": 1e-3, "max_inner_steps": 100}
SOLVER_OPTIONS = {
    "solver_tolerance": "tolerance",
    "solver_steps": "max_steps",
    "neumann_terms": "num_terms",
    "neumann_alpha": "alpha",
    "nystrom_rank": "rank",
    "identity_scale": "scale",
}
"""Options of linear solvers, and what their factories call them."""
FLOOR = 1e-5
"""A relative gradient norm that inner training reaches in float32."""
OWN: dict[str, dict[str, Any]] = {
    "unrolled": {"remat": "none", "validate_every": None},
    "truncated": {"backprop_last": None, "random_window": False},
    "accumulated": {},
    "implicit": dict.fromkeys([*IMPLICIT_DEFAULTS, *SOLVER_OPTIONS])
    | {"warm_start": False, "on_failed_solve": "stop"},
    "auto": {"memory_budget": None, "allow_implicit": False},
}
"""Options of one gradient alone, with what they are where nobody chose."""
FAULTS = {
    "failed_solves": "A linear solve ended with NaN or a residual above 1: raise damping or weight_decay, "
    "train further (max_inner_steps), try linear_solver=gauss_newton_cg, or set on_failed_solve=skip."
}


def resolve(config: Config) -> dict[str, Any]:
    """The config with every default that depends on the gradient filled in.

    With `gradient=auto` nothing is filled in: `within_budget` chooses first.

    Raises:
      UserError: an option of another gradient than the chosen one, which would do nothing; `auto` without a
        memory budget.
    """
    gradient, found = config["gradient"], dict(config)
    for owner, options in OWN.items():
        if owner == gradient or (gradient == "auto" and owner == "implicit" and config["allow_implicit"]):
            continue
        for name, default in options.items():
            if config[name] != default:
                remedy = f"Leave {name} out, or choose that gradient."
                raise fail("gradient", f"gradient={owner} with {name}", f"gradient={gradient}", remedy)
    if gradient == "auto":
        if config["memory_budget"] is None:
            raise fail("gradient auto", "memory_budget, such as 2GB", "none")
        parse_bytes(config["memory_budget"])
        return found
    for name, (through, at_minimum) in BY_GRADIENT.items():
        if found[name] is None:
            found[name] = at_minimum if gradient == "implicit" else through
    if gradient == "implicit":
        found |= {name: value for name, value in IMPLICIT_DEFAULTS.items() if found[name] is None}
        if found["distill_epochs"] != 1:
            expected = "distill_epochs 1 with implicit gradients, which train until inner_tolerance"
            raise fail("gradient", expected, found["distill_epochs"], "Set max_inner_steps in its place.")
        if found["max_inner_steps"] == 0 and found["inner_tolerance"] < FLOOR:
            expected = f"inner_tolerance >= {FLOOR:g} where no max_inner_steps ends inner training"
            raise fail("gradient", expected, found["inner_tolerance"], "float32 does not get below it.")
        if found["warm_start"] and not linear_solver(found["linear_solver"]).starts:
            expected = "a linear_solver that starts somewhere, with warm_start"
            raise fail("gradient", expected, found["linear_solver"])
    if gradient == "truncated" and config["backprop_last"] is None:
        found["backprop_last"] = max(1, found["distill_steps"] * found["distill_epochs"] // 2)
    return found


def check_used(where: str, config: Config, defaults: Config, solvers: Sequence[str]) -> None:
    """Raises where an option of linear solvers was chosen that none of `solvers` takes."""
    for name, own in SOLVER_OPTIONS.items():
        taken = any(own in options_of(solver) for solver in solvers)
        if name in config and config[name] != defaults[name] and not taken:
            raise fail(where, f"a linear solver that takes {name}", ", ".join(solvers) or "none")


def solve(config: Config) -> Callable[..., Solve]:
    """The inner training map's factory: (teacher, inner loss, optimiser, calibrate=...) -> Solve."""
    if config["gradient"] == "implicit":
        given = {SOLVER_OPTIONS[name]: config[name] for name in SOLVER_OPTIONS if config[name] is not None}
        return partial(
            implicit,
            linear_solver=linear_solver(config["linear_solver"], **given),
            damping=config["damping"],
            tolerance=config["inner_tolerance"],
            max_steps=config["max_inner_steps"] or None,
        )
    if config["gradient"] == "accumulated":
        return accumulated
    return partial(
        unrolled,
        remat=config["remat"],
        backprop_last=config["backprop_last"],
        random_window=config["random_window"],
    )


def within_budget(
    config: Config, needs: Callable[[dict[str, Any]], int], tell: Callable[[str], Any]
) -> dict[str, Any]:
    """The config of the fastest gradient whose compiled program fits the memory budget.

    Tried in the order of their speed: unrolled, remat step, remat sqrt, which compute the same gradient of T
    inner steps; then, where `allow_implicit` says so, implicit, which differentiates another map. Nothing is
    run: the compiler says how much memory a program needs.

    Args:
      config: with `gradient=auto`, as the user chose it.
      needs: resolved config -> bytes of its compiled program.
      tell: called with one line: what was chosen, and why.

    Returns:
      The resolved config, `gradient` and `remat` those that were chosen.

    Raises:
      UserError: none fits; names the one that needs the least, and how much.
    """
    budget = parse_bytes(config["memory_budget"])
    steps = config["distill_steps"] * (config["distill_epochs"] or BY_GRADIENT["distill_epochs"][0])
    limit = steps if config["max_inner_steps"] is None else config["max_inner_steps"]
    kept = {name: config[name] for name in OWN["auto"]}
    candidates: dict[str, dict[str, Any]] = {
        "unrolled": {"gradient": "unrolled", "remat": "none"},
        "unrolled, remat step": {"gradient": "unrolled", "remat": "step"},
        "unrolled, remat sqrt": {"gradient": "unrolled", "remat": "sqrt"},
    }
    if config["allow_implicit"]:
        candidates["implicit"] = {"gradient": "implicit", "distill_epochs": 1, "max_inner_steps": limit}
    tried: dict[str, int] = {}
    refused = "" if config["allow_implicit"] else " Implicit gradients may need less: allow_implicit."
    for name, choice in candidates.items():
        others = OWN["auto"] | ({} if name == "implicit" else OWN["implicit"])
        try:
            candidate = resolve({**config, **others, **choice})
            tried[name] = needs(candidate)
        except OUT_OF_MEMORY:
            continue
        except UserError as error:
            if name != "implicit":
                raise
            refused = f" Implicit gradients are not possible here: {error}"
            continue
        if tried[name] <= budget:
            reason = ", another map than T unrolled steps" if name == "implicit" else ""
            more = "".join(f"; {n} needs {format_bytes(s)}" for n, s in tried.items() if n != name)
            size = f"{format_bytes(tried[name])} of {format_bytes(budget)}"
            tell(f"gradient: {name}, the fastest that fits{reason}: it needs {size}{more}")
            return candidate | kept
    if not tried:
        raise fail("memory_budget", "a gradient that the compiler finds memory for", "none")
    least = min(tried, key=tried.__getitem__)
    raise fail(
        "memory_budget",
        f"at least {format_bytes(tried[least])}, what {least} needs",
        config["memory_budget"],
        f"Lower num_learners, real_batch_size, learner_chunk or the inner steps.{refused}",
    )
