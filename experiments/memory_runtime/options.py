"""The options of `experiments.memory_runtime`."""

from collections.abc import Mapping
from typing import Any, ClassVar

from jaxdistill.config.gradients import NAMED, Named
from jaxdistill.config.option import option, options
from jaxdistill.config.owners import BY_GRADIENT, HEAD_SOLVED
from jaxdistill.config.table import (
    DataOptions,
    ImplicitOptions,
    InnerOptions,
    MapOptions,
    NetworkOptions,
    SeedOptions,
    TeacherOptions,
)

UNROLLED = ("unrolled", "unrolled_step", "unrolled_sqrt", "truncated")
MATCHING = "gradient_matching"
ESTIMATORS: dict[str, Named] = {
    **{name: named for name, named in NAMED.items() if name != "unrolled_fixed"},
    MATCHING: {"gradient": MATCHING},
}
"""By backpropagation: with all steps stored, remat step, remat sqrt, through the last steps alone, or with
the weights detached between steps (without momentum). By the implicit function theorem, with each linear
solver. By a ridge regression as the last layer, of the network as it is (`closed_form`) or linearised
(`convexified`). By gradient matching, of all classes at once."""
WITHOUT_STEPS = (MATCHING, *HEAD_SOLVED)
"""Estimators without inner steps: the same for every T. Their hypergradient belongs to another loss, so only
their memory and time are compared."""
MEASURES = ("program", "process", "time", "error")
DEFAULT = (*UNROLLED, "implicit_cg", "implicit_neumann", "implicit_identity", MATCHING, *HEAD_SOLVED)
SETTINGS = {
    "inner_learning_rate": 3.0,
    "inner_momentum": 0.9,
    "weight_decay": 0.01,
    "damping": 0.001,
    "solver_tolerance": 0.01,
    "ridge": 5e-4,
    "ridge_unit": "images",
}
MLP = {"width": 32, "depth": 1, "activation": "tanh"}
"""The default MLP: smooth, so that there is an exact hypergradient to compare with."""
SMOKE = {"inner_steps": (1, 2), "estimators": ("unrolled", "implicit_cg"), "repeats": 2}


@options
class Options(
    DataOptions, TeacherOptions, NetworkOptions, InnerOptions, ImplicitOptions, MapOptions, SeedOptions
):
    title: ClassVar[str] = "comparison"
    left_out = (
        *("distill_steps", "distill_epochs", "labels", "soft_labels", "label_confidence"),
        *("learned", "per_step", "gradient", "random_window", "linear_solver"),
        *("inner_tolerance", "max_inner_steps", "warm_start", "on_failed_solve", "implicit_clip"),
        *BY_GRADIENT["unrolled"],
        *BY_GRADIENT["auto"],
    )
    estimators: tuple[str, ...] = option(
        DEFAULT, "the hypergradients to compare", known=tuple(ESTIMATORS), some=True
    )
    inner_steps: tuple[int, ...] = option((1, 10, 100, 1000), "T, inner steps", low=1, some=True)
    num_learners: tuple[int, ...] = option((1,), "K, learners", low=1, some=True)
    measure: tuple[str, ...] = option(
        MEASURES, "what to measure; program only compiles", known=MEASURES, some=True
    )
    backprop_last: int = option(
        5, "truncated: number of last inner steps to backpropagate through", low=1, of="gradient"
    )
    real_batch_size: int = option(256, "real images of the outer loss", low=1)
    microbatch: int | None = option(
        None, "real images computed at the same time (default: all; on a CPU 64)", low=1
    )
    reference_steps: int = option(1000, "inner steps of the reference if the network is not smooth", low=1)
    repeats: int = option(7, "rounds of timing, after a warm-up round", low=1)
    process_time_limit: float = option(600.0, "time limit of the process of a row, in seconds", low=1)
    run_dir: str = option(
        "runs/memory_runtime", "folder to write everything into; a comparison already there is resumed"
    )
    smoke: bool = option(False, "a short trial: T = 1, 2 and two estimators")

    @classmethod
    def settings(cls, chosen: Mapping[str, Any], facts: Any) -> Mapping[str, Any]:
        """A problem in which implicit gradients reach the exact one."""
        return SETTINGS | (MLP if chosen.get("learner", "mlp") == "mlp" else {})
