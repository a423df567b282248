"""What a reader of a report has to know: mixed versions, small cells, failures, times that are off."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.report.fields import BaselineRow, CellRow
from experiments.report.values import having, with_augmentation

VERSIONS = ("jaxdistill", "commit", "jax", "jaxlib", "flax", "optax", "python", "device")
"""The parts of an environment that rows are compared by."""


def cautions(rows: Sequence[CellRow], baselines: Sequence[BaselineRow] = ()) -> list[str]:
    """A sentence about everything that makes rows hard to compare.

    Args:
      rows: of the report.
      baselines: of the report.
    """
    named = [(_name(row), row["environment"]) for row in rows]
    named += [(f"{row['what']} images", row["environment"]) for row in baselines if "environment" in row]
    found = mixed_versions(named) + mixed_protocols(rows)
    small = [row for row in rows if not row["full_size"]]
    if small:
        many = "All" if len(small) == len(rows) else f"{len(small)} of {len(rows)}"
        found.append(
            f"{many} rows are smaller than the preset (network, images, outer steps, time or evaluation)."
        )
    off = [row for row in rows if _off(row)]
    if off:
        least, most = (end(row["seconds"] for row in off) for end in (min, max))
        found.append(
            f"{len(off)} rows at equal time are more than a tenth off it, {least:.3g} to {most:.3g} s: the "
            "machine's load changed after their steps were timed, or their steps take longer as they go on."
        )
    for row in rows:
        if row["status"] != "done":
            found.append(f"Failed: {_name(row)} (seed {row['seed']}): {row['note']}")
    for row in baselines:
        if row.get("note"):
            found.append(f"Failed: {row['what']} images, {row['architecture']}: {row['note']}")
    return found


def mixed_protocols(rows: Sequence[CellRow]) -> list[str]:
    """A sentence about each column of accuracies whose networks were trained by different protocols."""
    found = []
    for augmented, column in ((False, "training network"), (True, "augmented")):
        kinds: dict[tuple[str, str], dict[str, list[str]]] = {}
        for row in rows:
            mine = having(row.get("accuracies") or (), architecture=row["learner"])
            for score in with_augmentation(mine, augmented):
                named = kinds.setdefault((row["dataset"], row["learner"]), {})
                named.setdefault(score["protocol"], []).append(_name(row))
        for (dataset, learner), named in kinds.items():
            if len(named) > 1:
                named = {kind: list(dict.fromkeys(names)) for kind, names in named.items()}
                parts = "; ".join(f"{kind}: {_some(names)}" for kind, names in named.items())
                found.append(
                    f"Rows of mixed protocols on {dataset}, {learner}, column {column!r}: {parts}. Where "
                    "they differ no line is marked; a picture shows the protocol of most lines."
                )
    return found


def mixed_versions(rows: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """A sentence about each version, commit or device that rows differ in.

    Args:
      rows: (name, environment as `jaxdistill.runtime.profile.environment` gives it) of each.
    """
    found = []
    for field in VERSIONS:
        kinds: dict[Any, list[str]] = {}
        for name, environment in rows:
            kinds.setdefault(environment.get(field), []).append(name)
        if len(kinds) > 1:
            shown = short_commit if field == "commit" else str
            parts = "; ".join(f"{shown(kind)}: {_some(names)}" for kind, names in kinds.items())
            found.append(f"Rows of mixed versions, {field}: {parts}.")
    return found


def short_commit(commit: str | None) -> str:
    """Twelve digits of a commit, and the mark that files were changed."""
    name, mark, rest = (commit or "unknown").partition("-")
    return name[:12] + mark + rest


def _off(row: Mapping[str, Any]) -> bool:
    """Whether a row took more than a tenth more or less than its time."""
    limit = row.get("time_limit")
    return row["status"] == "done" and limit is not None and abs(row["seconds"] / limit - 1) > 0.1


def _name(row: Mapping[str, Any]) -> str:
    cell = ", ".join(part for part in (row["teacher"], row["gradient"], row["change"]) if part)
    return f"{cell}, equal {row['reading']}, try {row['try'] + 1}"


def _some(names: Sequence[str]) -> str:
    return "; ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
