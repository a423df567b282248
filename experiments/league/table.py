"""The table of a league: a line for every row and kind of labels, in the order of accuracy."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.league.rows import FULL
from experiments.league.scores import find
from experiments.league.setting import League
from experiments.records import REMEDY, SAVED
from experiments.report.cautions import mixed_versions, short_commit
from jaxdistill.core.checks import fail
from jaxdistill.evaluation import augmentation_robust_score, label_robust_score

Line = dict[str, Any]
SAYS = (
    "Candidates and step sizes are chosen on validation, every set is tested once, and it is that of the "
    "final iterate."
)
DIRTY = "†"
"""Marks a row that a checkout with changed files made."""
FIELDS = ("entry", "kind", "title", "environment", "status", "note")
OF_DONE = ("scores", "images_trained_on", "seconds", "commits")
"""The fields of every row, and those of a finished one besides."""
COSTS = ("images_trained_on", "scalars_stored", "bits_per_class", "outer_steps", "seconds")
COSTS += ("searched_seconds", "preparation_seconds", "program_bytes", "all_bytes", "sha256", "chosen")


def checked(row: Mapping[str, Any], file: Path) -> None:
    """Raises unless a row has the fields that the table reads; names the file.

    Raises:
      UserError: a damaged row.
    """
    needed = (*FIELDS, *(OF_DONE if row.get("status") == "done" else ()))
    missing = [name for name in needed if name not in row]
    scores = row.get("scores", [])
    if not missing and not all(
        isinstance(s, dict) and {"labels", "architecture", "protocol", "mean", "std", "every"} <= s.keys()
        for s in scores
    ):
        missing = ["scores"]
    if missing:
        raise fail(SAVED, f"a row of experiments.league with {missing[0]} in {file}", "another", REMEDY)


def table(rows: Sequence[Mapping[str, Any]], league: League) -> dict[str, Any]:
    """The lines of a table, the best test accuracy first, and what a reader has to know.

    Returns:
      {"lines", "cautions"}.
    """
    done = [row for row in rows if row["status"] == "done"]
    real = {row["entry"]: row["scores"] for row in done}
    lines = [line for row in done if row["kind"] != FULL for line in _lines(row, real, league)]
    lines.sort(key=lambda line: -line["mean"])
    lines += [line for row in done if row["kind"] == FULL for line in _lines(row, real, league)]
    _mark(lines)
    failed = [row for row in rows if row["status"] != "done"]
    lines += [_about(row) | {"labels": "-", "note": row["note"]} for row in failed]
    return {"lines": lines, "cautions": cautions(rows, league.options.seconds_per_method)}


def _lines(row: Mapping[str, Any], real: Mapping[str, Any], league: League) -> list[Line]:
    """A line for each kind of labels of a row."""
    options, found = league.options, []
    labels = dict.fromkeys(score["labels"] for score in row["scores"] if score["labels"] != "squared")
    for kind in labels:
        own = find(row["scores"], labels=kind, architecture=league.own, protocol=options.protocol)
        if own is None:
            continue
        line = _about(row) | {"labels": kind, "mean": own["mean"], "std": own["std"]}
        line |= {"num_learners": len(own["every"]), "loss": own["loss"], "step_size": own.get("step_size")}
        others = []
        for name in [*league.learners][1:]:
            score = find(row["scores"], labels=kind, architecture=name, protocol=options.protocol)
            if score is not None:
                line |= {f"{name}_mean": score["mean"], f"{name}_std": score["std"]}
                others.append(score["mean"])
        line["others_mean"] = float(np.mean(others)) if others else None
        augmented = find(
            row["scores"], labels=kind, architecture=league.own, protocol=options.augmented_protocol
        )
        if augmented is not None:
            line |= {"augmented_mean": augmented["mean"], "augmented_std": augmented["std"]}
        if row["kind"] != FULL:
            line |= _fair(row["scores"], own, augmented, real, league)
        line |= {name: row.get(name) for name in COSTS}
        found.append(line | {"note": ""})
    return found


def _fair(
    scores: Any, own: Mapping[str, Any], augmented: Mapping[str, Any] | None, real: Any, league: League
) -> dict[str, float | None]:
    """DD-Ranking's scores of a line; None where something that they need was not measured.

    Random real images are trained on by the same loss as the line's set.
    """
    options, random = league.options, real.get("random real", ())
    same = [s for s in random if s["architecture"] == league.own and s["loss"] == own["loss"]]
    plain = find(same, protocol=options.protocol)
    shaken = find(same, protocol=options.augmented_protocol)
    full = find(real.get(FULL, ()), architecture=league.own)
    hard = find(scores, labels="hard", architecture=league.own, protocol=options.protocol)
    found: dict[str, float | None] = {"lrs": None, "ars": None}
    if plain and full and hard:
        found["lrs"] = label_robust_score(
            full_data=full["mean"],
            hard_labels=hard["mean"],
            own_labels=own["mean"],
            random_real=plain["mean"],
        )
    if plain and shaken and augmented:
        found["ars"] = augmentation_robust_score(
            augmented=augmented["mean"],
            random_augmented=shaken["mean"],
            plain=own["mean"],
            random_plain=plain["mean"],
        )
    return found


def _about(row: Mapping[str, Any]) -> Line:
    commits = row.get("commits") or [str(row["environment"].get("commit"))]
    dirty = any(str(each).endswith("-dirty") for each in commits)
    return {
        "entry": row["entry"],
        "kind": row["kind"],
        "commit": " ".join(short_commit(each) for each in commits),
        "dirty": dirty,
        "version": row["environment"].get("jaxdistill"),
    }


def _mark(lines: Sequence[Line]) -> None:
    """Marks the best set and its ties: sets within the larger of both standard deviations of it."""
    sets = [line for line in lines if line["kind"] != FULL]
    for line in sets:
        apart = sets[0]["mean"] - line["mean"]
        tied = apart <= max(sets[0]["std"], line["std"])
        line["place"] = "best" if line is sets[0] else "tie" if tied else ""


def cautions(rows: Sequence[Mapping[str, Any]], seconds: float) -> list[str]:
    """A sentence about everything that makes rows hard to compare.

    Args:
      rows: of the league.
      seconds: of outer steps that each method should have.
    """
    found = mixed_versions([(row["entry"], row["environment"]) for row in rows])
    dirty = [row["entry"] for row in rows if _about(row)["dirty"]]
    if dirty:
        found.append(f"Made by a checkout with changed files ({DIRTY}): {', '.join(dirty)}.")
    for row in rows:
        if len(row.get("commits") or ()) > 1:
            parts = ", ".join(short_commit(commit) for commit in row["commits"])
            found.append(f"The row of {row['entry']} was made in parts, by the commits {parts}.")
    taken = {row["entry"]: row["searched_seconds"] for row in rows if row.get("searched_seconds")}
    off = [f"{name} {took:.3g}" for name, took in taken.items() if abs(took / seconds - 1) > 0.1]
    if off:
        found.append(
            f"Outer steps took over a tenth more or less than {seconds:g} s: {', '.join(off)} s. The load "
            "of the machine changed after they were timed, a candidate failed, or one chunk takes longer."
        )
    found += [f"No row of {row['entry']}: {row['note']}" for row in rows if row["status"] != "done"]
    return found
