"""The numbers of a report: means over tries and networks, ties, DD-Ranking's scores."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.report.fields import BaselineRow, CellRow
from jaxdistill.evaluation import augmentation_robust_score, label_robust_score, published
from jaxdistill.evaluation.protocols import PUBLISHED

AUGMENTED = tuple(name for name in PUBLISHED if published(name, 1).augment is not None)
"""Protocols that augment; the others are plain."""
Scores = Sequence[Mapping[str, Any]]
"""Accuracies of networks: dicts with `every`, `architecture` and `protocol`."""


class Value(NamedTuple):
    """A number of a table."""

    mean: float
    std: float
    """Over tries x networks, or over tries; 0 for one."""
    count: int


class Column(NamedTuple):
    """A column of the main table."""

    name: str
    title: str
    unit: str
    higher: bool | None
    """Whether more is better; None if neither is."""
    factor: float = 1.0
    explained: str = ""


COLUMNS = (
    Column(
        "own",
        "training network",
        "%",
        True,
        100,
        "test accuracy after training without augmentation (dc, or rcig of that method)",
    ),
    Column(
        "augmented",
        "augmented",
        "%",
        True,
        100,
        "the same under augmentation (dc_augmented, or the method's own protocol)",
    ),
    Column("as_distilled", "as distilled", "%", True, 100, "trained by the steps it was distilled for"),
    Column(
        "others", "other networks", "%", True, 100, "mean of the other architectures, without augmentation"
    ),
    Column("memory", "memory", "MiB", False, 2.0**-20, "temporaries of the compiled outer steps"),
    Column("all", "in all", "MiB", False, 2.0**-20, "those, the real data, and all that is learned"),
    Column("step", "outer step", "ms", False, 1e3, "time of one"),
    Column("compile", "compile", "s", False, 1, "compilation of the outer steps"),
    Column("seconds", "total", "s", False, 1, "all outer steps"),
    Column("lrs", "LRS", "", True, 1, "label-robust score"),
    Column("ars", "ARS", "", True, 1, "augmentation-robust score"),
    Column("images", "images", "", None, 1, "synthetic images that networks are trained on"),
    Column("scalars", "scalars", "", None, 1, "numbers that are stored, learned labels and step sizes too"),
    Column("bits", "bits per class", "", None, 1, "bits of these, per class"),
)
ACCURACIES = ("own", "augmented", "as_distilled", "others")
"""The columns that are accuracies."""


def pooled(scores: Scores) -> Value | None:
    """Mean and standard deviation (biased) over every network of every try; None of nothing."""
    return value_of([value for score in scores for value in score["every"]])


def value_of(values: Sequence[float | None]) -> Value | None:
    """Mean and standard deviation (biased) of the values that are known; None where none is."""
    known = np.asarray([value for value in values if value is not None], float)
    return Value(float(known.mean()), float(known.std()), known.size) if known.size else None


def having(rows: Sequence[Mapping[str, Any]], **fields: Any) -> list[Mapping[str, Any]]:
    """The rows whose fields have these values."""
    return [row for row in rows if all(row.get(name) == value for name, value in fields.items())]


def with_augmentation(scores: Scores, augmented: bool) -> list[Mapping[str, Any]]:
    """The scores of networks that were trained with augmentation, or without."""
    return [score for score in scores if (score["protocol"] in AUGMENTED) == augmented]


def mean_of_others(groups: Sequence[Scores], own: str) -> Value | None:
    """Accuracy on the other architectures.

    Each network's accuracy is averaged over the architectures first, so that their differences do not widen
    the deviation.

    Args:
      groups: the scores of each try.
      own: the training architecture.
    """
    every: list[float] = []
    for scores in groups:
        others = [s["every"] for s in with_augmentation(scores, False) if s["architecture"] != own]
        every += [float(np.mean(values)) for values in zip(*others, strict=False)]
    return value_of(every)


def fair_values(
    done: Sequence[CellRow], own: str, baselines: Sequence[BaselineRow]
) -> dict[str, Value | None]:
    """DD-Ranking's scores on the training architecture, with the deviation over networks.

    The means of the baselines are taken as they are.

    Args:
      done: the finished rows of a cell.
      own: the training architecture.
      baselines: of the same data set and network.

    Returns:
      {"lrs", "ars"}; None where something that a score needs was not measured.
    """
    scores = having([score for row in done for score in row["accuracies"]], architecture=own)
    plain, augmented = (
        [value for score in having(scores, protocol=name) for value in score["every"]]
        for name in ("dc", "dc_augmented")
    )
    soft = [row["hard_labels"] for row in done if row["hard_labels"] is not None]
    hard = [value for score in soft for value in score["every"]] if soft else plain
    random = having(baselines, what="random real", architecture=own, images=done[0]["images"])
    plain_random, augmented_random = (
        pooled(having(random, protocol=name)[:1]) for name in ("dc", "dc_augmented")
    )
    full = pooled(having(baselines, what="full set", architecture=own)[:1])
    found: dict[str, Value | None] = {"lrs": None, "ars": None}
    if plain and hard and plain_random and full:

        def lrs(own_labels: float, hard_labels: float) -> float:
            return label_robust_score(
                full_data=full.mean,
                hard_labels=hard_labels,
                own_labels=own_labels,
                random_real=plain_random.mean,
            )

        found["lrs"] = _of_means(lrs, plain, hard)
    if plain and augmented and plain_random and augmented_random:

        def ars(plain: float, augmented: float) -> float:
            return augmentation_robust_score(
                augmented=augmented,
                random_augmented=augmented_random.mean,
                plain=plain,
                random_plain=plain_random.mean,
            )

        found["ars"] = _of_means(ars, plain, augmented)
    return found


def _of_means(score: Callable[[float, float], float], one: Sequence[float], other: Sequence[float]) -> Value:
    """The score of two means, and its deviation over networks."""
    every = [score(a, b) for a, b in zip(one, other, strict=False)]
    return Value(score(float(np.mean(one)), float(np.mean(other))), float(np.std(every)), len(every))


def tied(one: Value, other: Value) -> bool:
    """Whether two means differ by no more than one standard deviation, the larger of both."""
    return abs(one.mean - other.mean) <= max(one.std, other.std)


def percent(value: Value) -> str:
    """Mean and deviation of an accuracy."""
    return f"{100 * value.mean:.1f} ± {100 * value.std:.1f}"


def shown(column: Column, value: Value | None) -> str:
    """The text of a value in a column of the main table."""
    if value is None:
        return "-"
    if column.name in ACCURACIES:
        return percent(value)
    if column.name in ("lrs", "ars"):
        return f"{value.mean:.3f} ± {value.std:.3f}"
    mean = value.mean * column.factor
    return f"{mean:.3g}" if mean < 1000 else f"{mean:,.0f}"
