"""Rows brought together: means over tries and networks, bests, ties."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.report_data import Row
from experiments.study_cells import GRADIENTS, TEACHERS
from jaxdistill.evaluation import augmentation_robust_score, label_robust_score

AUGMENTED = ("dc_augmented", "dsa")
"""Protocols that augment; others are plain."""


class Value(NamedTuple):
    """A number of a table."""

    mean: float
    std: float
    """Over tries x networks, or over tries; 0 for one."""
    count: int


class Column(NamedTuple):
    """Of the main table."""

    name: str
    title: str
    unit: str
    higher: bool
    """Whether more is better."""
    factor: float = 1.0
    explained: str = ""


COLUMNS = (
    Column(
        "own", "training network", "%", True, 100, "test accuracy after training without augmentation (dc)"
    ),
    Column("augmented", "augmented", "%", True, 100, "the same under augmentation (dc_augmented, or dsa)"),
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
)
ARCHITECTURES = {"plain": "trained without augmentation", "augmented": "trained under augmentation"}
SCORES = ("own", "augmented", "as_distilled", "others")
Scores = Sequence[Mapping[str, Any]]


class Line(NamedTuple):
    """A cell, over its tries."""

    label: str
    """Its name, of no other line of a table."""
    teacher: str
    gradient: str
    change: str
    reading: str
    rows: list[Row]
    """Finished ones."""
    values: dict[str, Value]
    architectures: dict[str, dict[str, Value]]
    """Without and with augmentation (`ARCHITECTURES`); the training network first."""
    notes: dict[str, str]
    """What inner training and the linear solves told."""
    flags: frozenset[str]
    """What was chosen."""

    @property
    def picture(self) -> str | None:
        """A data URI."""
        return self.rows[0].get("picture") if self.rows else None


class Table(NamedTuple):
    """Lines that may be compared."""

    title: str
    reading: str
    lines: list[Line]
    baselines: list[tuple[str, dict[str, Value], dict[str, dict[str, Value]]]]
    """(name, values, architectures), as of a line."""
    marks: dict[tuple[str, str], str]
    """(line's label, column) to `best` or `tie`; empty where lines differ in more than a contest allows."""

    @property
    def changed(self) -> bool:
        """Whether these are cells with one choice changed."""
        return any(line.change for line in self.lines)


def tables(rows: Sequence[Row], baselines: Sequence[Row]) -> list[Table]:
    """A table per data set, network, number of images and reading; one of the ablations per set and network.

    Args:
      rows: as `report_data.load` reads them; those of one identity and reading are tries.
      baselines: likewise.

    Returns:
      Grids first, at equal images before equal time.
    """
    cells: dict[tuple, list[Row]] = {}
    for row in rows:
        key = (bool(row["change"]), row["reading"], row["dataset"], row["learner"], row["identity"])
        cells.setdefault(key, []).append(row)
    grouped: dict[tuple, list[Line]] = {}
    for (changed, reading, dataset, learner, _), own in cells.items():
        done = [row["images"] for row in own if row["status"] == "done"]
        images = done[0] if done and not changed else None
        mine = [b for b in baselines if (b["dataset"], b["learner"]) == (dataset, learner)]
        grouped.setdefault((changed, reading, dataset, learner, images), []).append(_line(own, mine))
    _adopt_failures(grouped)
    made = []
    for key, own in sorted(
        grouped.items(), key=lambda item: (item[0][0], item[0][1] != "images", str(item[0]))
    ):
        changed, reading, dataset, learner, images = key
        own.sort(key=lambda line: (_place(TEACHERS, line.teacher), _place(GRADIENTS, line.gradient)))
        own = _distinct(own)
        what = "one choice changed" if changed else f"equal {reading}"
        title = f"{dataset}, {learner}" + (f", {images} images" if images else "") + f": {what}"
        mine = [b for b in baselines if (b["dataset"], b["learner"]) == (dataset, learner)]
        if changed:
            grid = [
                line for other, lines in grouped.items() if other[:4] == (False, *key[1:4]) for line in lines
            ]
            own = _with_bases(own, grid)
        real = [] if changed else _baseline_lines(mine, images)
        made.append(Table(title, reading, own, real, {} if changed else _marks(own)))
    return made


def _distinct(lines: Sequence[Line]) -> list[Line]:
    """Lines of one name, such as a cell of two studies, are told apart by the flags that differ."""
    named: dict[str, list[Line]] = {}
    for line in lines:
        named.setdefault(line.label, []).append(line)
    found = []
    for line in lines:
        same = named[line.label]
        if len(same) > 1:
            shared = frozenset.intersection(*(other.flags for other in same))
            own = [flag.removeprefix("--") for flag in sorted(line.flags - shared)]
            line = line._replace(label=f"{line.label} ({', '.join(own) or same.index(line) + 1})")
        found.append(line)
    return found


def _place(known: Sequence[str], name: str) -> int:
    return known.index(name) if name in known else len(known)


def _adopt_failures(grouped: dict[tuple, list[Line]]) -> None:
    """A line without a finished row knows no number of images: it joins the table of its kind."""
    for key in [key for key in grouped if key[4] is None and not key[0]]:
        home = next((other for other in grouped if other[:4] == key[:4] and other[4] is not None), None)
        if home is not None:
            grouped[home] += grouped.pop(key)


def _with_bases(changed: list[Line], grid: list[Line]) -> list[Line]:
    """Ablations, each after the unchanged cell that it is one of."""
    by_cell: dict[tuple[str, str], list[Line]] = {}
    for line in changed:
        by_cell.setdefault((line.teacher, line.gradient), []).append(line)
    found = []
    for cell, own in by_cell.items():
        found += [line for line in grid if (line.teacher, line.gradient) == cell][:1] + own
    return found


def pooled(scores: Scores) -> Value | None:
    """Mean and standard deviation (biased) over every network of every try; None of nothing."""
    every = [value for score in scores for value in score["every"]]
    return _value(every)


def _value(values: Sequence[float | None]) -> Value | None:
    known = np.asarray([value for value in values if value is not None], float)
    return Value(float(known.mean()), float(known.std()), known.size) if known.size else None


def _by(scores: Sequence[Mapping[str, Any]], **fields: Any) -> list[Mapping[str, Any]]:
    return [score for score in scores if all(score.get(name) == value for name, value in fields.items())]


def _kind(scores: Scores, augmented: bool) -> list[Mapping[str, Any]]:
    return [score for score in scores if (score["protocol"] in AUGMENTED) == augmented]


def _mean_of_others(rows: Scores, own: str) -> Value | None:
    """Network by network the mean over the other architectures, so that these do not widen the deviation."""
    every: list[float] = []
    for row in rows:
        others = [s["every"] for s in _kind(row["accuracies"], False) if s["architecture"] != own]
        every += [float(np.mean(values)) for values in zip(*others, strict=False)]
    return _value(every)


def _line(rows: list[Row], baselines: Sequence[Row]) -> Line:
    done = [row for row in rows if row["status"] == "done"]
    first = (done or rows)[0]
    own = first["learner"]
    scores = [score for row in done for score in row["accuracies"]]
    mine = _by(scores, architecture=own)
    found = {
        "own": pooled(_kind(mine, False)),
        "augmented": pooled(_kind(mine, True)),
        "as_distilled": pooled([row["as_distilled"] for row in done if row["as_distilled"]]),
        "others": _mean_of_others(done, own),
        "memory": _value([row["program_bytes"] for row in done]),
        "all": _value([row.get("all_bytes") for row in done]),
        "step": _value([row["seconds_per_step"] for row in done]),
        "compile": _value([row["compile_seconds"] for row in done]),
        "seconds": _value([row["seconds"] for row in done]),
        **(_fair(done, own, baselines) if done else {}),
    }
    label = f"{first['teacher']}, {first['gradient'].replace('_', ' ')}"
    return Line(
        label=label + (f", {first['change']}" if first["change"] else ""),
        teacher=first["teacher"],
        gradient=first["gradient"],
        change=first["change"] and _with_images(first),
        reading=first["reading"],
        rows=done,
        values={name: value for name, value in found.items() if value is not None},
        architectures=_by_architecture(scores),
        notes=_diagnostics(done),
        flags=frozenset(flag for flag in shlex.split(first["identity"]) if flag.startswith("--")),
    )


def _with_images(row: Row) -> str:
    images = row.get("images")
    return row["change"] + (f" ({images} images)" if images else "")


def _by_architecture(scores: Scores) -> dict[str, dict[str, Value]]:
    found: dict[str, dict[str, Value]] = {kind: {} for kind in ARCHITECTURES}
    for name in dict.fromkeys(score["architecture"] for score in scores):
        for kind in ARCHITECTURES:
            value = pooled(_kind(_by(scores, architecture=name), kind == "augmented"))
            if value is not None:
                found[kind][name] = value
    return found


def _diagnostics(done: Sequence[Row]) -> dict[str, str]:
    """Means over tries of what inner training and the linear solves of implicit gradients told."""
    done = [row for row in done if row["gradient"].startswith("implicit")]
    names = dict.fromkeys(name for row in done for name in row["diagnostics"])
    means = {name: _value([row["diagnostics"].get(name) for row in done]) for name in names}
    return {name: f"{value.mean:.3g}" for name, value in means.items() if value is not None}


def _fair(done: Sequence[Row], own: str, baselines: Sequence[Row]) -> dict[str, Value | None]:
    """DD-Ranking's scores on the training architecture: of the means, with the deviation over networks.

    The means of the baselines are taken as they are.
    """
    scores = _by([score for row in done for score in row["accuracies"]], architecture=own)
    plain, augmented = (
        [value for score in _by(scores, protocol=name) for value in score["every"]]
        for name in ("dc", "dc_augmented")
    )
    soft = [row["hard_labels"] for row in done if row["hard_labels"] is not None]
    hard = [value for score in soft for value in score["every"]] if soft else plain
    random = _by(baselines, what="random real", architecture=own, images=done[0]["images"])
    plain_random, augmented_random = (
        pooled(_by(random, protocol=name)[:1]) for name in ("dc", "dc_augmented")
    )
    full = pooled(_by(baselines, what="full set", architecture=own)[:1])
    found: dict[str, Value | None] = {"lrs": None, "ars": None}
    if plain and hard and plain_random and full:

        def lrs(own_labels: float, hard_labels: float) -> float:
            return label_robust_score(
                full_data=full.mean,
                hard_labels=hard_labels,
                own_labels=own_labels,
                random_real=plain_random.mean,
            )

        found["lrs"] = _scored(lrs, plain, hard)
    if plain and augmented and plain_random and augmented_random:

        def ars(plain: float, augmented: float) -> float:
            return augmentation_robust_score(
                augmented=augmented,
                random_augmented=augmented_random.mean,
                plain=plain,
                random_plain=plain_random.mean,
            )

        found["ars"] = _scored(ars, plain, augmented)
    return found


def _scored(score: Any, one: Sequence[float], other: Sequence[float]) -> Value:
    """The score of two means, and its deviation over networks."""
    every = [score(a, b) for a, b in zip(one, other, strict=False)]
    return Value(score(float(np.mean(one)), float(np.mean(other))), float(np.std(every)), len(every))


def _baseline_lines(baselines: Sequence[Row], images: int | None) -> list:
    """Random real images of the table's number, and the full set."""
    found = []
    for what in ("random real", "full set"):
        rows = [row for row in _by(baselines, what=what) if row["images"] == images or what == "full set"]
        rows = [row for row in rows if row["every"]]
        if not rows:
            continue
        own = rows[0]["learner"]
        mine = _by(rows, architecture=own)
        values = {
            mine[0].get("column") or "own": pooled(_kind(mine, False)[:1]),
            "augmented": pooled(_kind(mine, True)[:1]),
            "others": _mean_of_others([{"accuracies": rows}], own),
        }
        known = {name: value for name, value in values.items() if value is not None}
        found.append((what, known, _by_architecture(rows)))
    return found


def _marks(lines: Sequence[Line]) -> dict[tuple[str, str], str]:
    marks = {}
    for column in COLUMNS:
        have = [line for line in lines if column.name in line.values]
        if len(have) < 2:
            continue
        sign = 1 if column.higher else -1
        best = max(have, key=lambda line: sign * line.values[column.name].mean)
        for line in have:
            if line is best:
                marks[line.label, column.name] = "best"
            elif tied(line.values[column.name], best.values[column.name]):
                marks[line.label, column.name] = "tie"
    return marks


def tied(one: Value, other: Value) -> bool:
    """Whether two means differ by no more than one standard deviation, the larger of both."""
    return abs(one.mean - other.mean) <= max(one.std, other.std)


def percent(value: Value) -> str:
    """Mean and deviation of an accuracy."""
    return f"{100 * value.mean:.1f} ± {100 * value.std:.1f}"


def shown(column: Column, value: Value | None) -> str:
    """A cell of the main table."""
    if value is None:
        return "-"
    if column.name in SCORES:
        return percent(value)
    if column.name in ("lrs", "ars"):
        return f"{value.mean:.3f} ± {value.std:.3f}"
    mean = value.mean * column.factor
    return f"{mean:.3g}" if mean < 1000 else f"{mean:,.0f}"
