"""Checks that stop a run: values that are not finite, faults that metrics count, too many skipped steps."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxdistill.core.checks import UserError, fail
from jaxdistill.core.types import Metrics

MOST_SKIPPED = 50
"""A run stops after this many consecutive skipped steps; a shorter run stops if all its steps are skipped."""

OF_NAN = ("failed_solves", "singular_kernels")
"""Faults that numbers which are not finite bring with them, too."""


class Diverged(UserError):
    """A run with a NaN or with failed linear solves: bad numbers, not bad input."""


def check(
    metrics: Metrics,
    finite: bool,
    *,
    step: int,
    skipped: int,
    most: int,
    faults: Mapping[str, str],
    remedy: str,
) -> int:
    """Raises if a chunk of outer steps shows that a run cannot continue.

    Args:
      metrics: of the chunk, [length] each.
      finite: whether everything that is learned is finite after it.
      step: outer steps before it.
      skipped: how many steps in a row were skipped before it.
      most: a run stops after this many skipped steps in a row, see `MOST_SKIPPED`.
      faults: metrics that stop the run where they are above zero, and the remedy for each.
      remedy: what to lower if values are not finite, in the caller's words.

    Returns:
      How many steps in a row are skipped by the end of the chunk.

    Raises:
      Diverged: names the step and the quantity.
    """
    _check_faults(metrics, step, faults)
    skipped = _check_skipped(metrics, skipped, step, most)
    _check_finite(metrics, finite, step, remedy)
    return skipped


def kept_steps(metrics: Metrics) -> np.ndarray:
    """[length] bool: the steps that the method did not skip."""
    length = np.size(next(iter(metrics.values())))
    return np.asarray(metrics.get("skipped", np.zeros(length))) == 0


def skipped_before(rows: Sequence[Mapping[str, Any]], step: int) -> int:
    """How many steps in a row, up to `step`, were skipped: chunks that were skipped as a whole."""
    kept = [row["step"] for row in rows if row.get("skipped") != 1.0]
    return step - max(kept, default=0) if rows else 0


def _check_faults(metrics: Metrics, step: int, faults: Mapping[str, str]) -> None:
    for name, remedy in faults.items():
        bad = np.flatnonzero(np.asarray(metrics[name]) > 0) if name in metrics else np.zeros(0, int)
        if not bad.size or (name in OF_NAN and not np.isfinite(metrics["loss"][bad[0]])):
            continue  # a loss that is not finite is the cause, and told as such
        told = {n: float(metrics[n][bad[0]]) for n in (name, "worst_residual") if n in metrics}
        values = ", ".join(f"{n} = {value:.3g}" for n, value in told.items())
        found = f"{values} at outer step {step + bad[0] + 1}"
        raise Diverged(str(fail("distill", f"{name} = 0", found, remedy)))


def _check_skipped(metrics: Metrics, before: int, step: int, most: int) -> int:
    """The number of consecutive skipped steps at the end of this chunk; raises if there are too many."""
    run = before
    for number, kept in enumerate(kept_steps(metrics), start=step + 1):
        run = 0 if kept else run + 1
        if run >= most:
            found = f"{run} by outer step {number}"
            remedy = "Raise damping or weight_decay, or lower inner_learning_rate."
            raise Diverged(str(fail("distill", f"fewer than {most} skipped steps in a row", found, remedy)))
    return run


def _check_finite(metrics: Metrics, finite: bool, step: int, remedy: str) -> None:
    kept = kept_steps(metrics)
    bad = {name: np.flatnonzero(~np.isfinite(np.asarray(value)) & kept) for name, value in metrics.items()}
    bad = {name: int(where[0]) for name, where in bad.items() if where.size}
    if bad:
        first = min(bad.values())
        names = ", ".join(name for name, where in bad.items() if where == first)
        found = f"{names} = NaN or infinite at outer step {step + first + 1}"
    elif not finite:
        found = f"NaN or infinite in what is learned by outer step {step + len(next(iter(metrics.values())))}"
    else:
        return
    raise Diverged(str(fail("distill", "finite numbers", found, remedy)))
