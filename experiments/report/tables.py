"""The tables of a report: a line per cell, over its tries."""

import shlex
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from experiments.report.fields import BaselineRow, CellRow
from experiments.report.values import (
    COLUMNS,
    Scores,
    Value,
    fair_values,
    having,
    mean_of_others,
    pooled,
    tied,
    value_of,
    with_augmentation,
)

TEACHER_ORDER = ("images", "generator")
GRADIENT_ORDER = (
    *("unrolled", "unrolled_remat", "matching_by_class", "matching_all", "distribution_matching"),
    *("implicit_cg", "implicit_neumann", "implicit_identity", "closed_form", "convexified"),
)
"""The order of lines, as in the study's cells; other gradients come last."""
STORAGE = {"images": "images", "scalars": "scalars_stored", "bits": "bits_per_class"}
"""Column to field of a row: what synthetic data take."""
ARCHITECTURES = {"plain": "trained without augmentation", "augmented": "trained under augmentation"}
ByArchitecture = dict[str, dict[str, Value]]
"""By kind of training (`ARCHITECTURES`) and architecture: an accuracy."""


class Line(NamedTuple):
    """A cell, over its tries."""

    label: str
    """Its name, of no other line of a table."""
    teacher: str
    gradient: str
    change: str
    reading: str
    rows: list[CellRow]
    """The finished tries."""
    values: dict[str, Value]
    """By column."""
    architectures: ByArchitecture
    """The training network comes first."""
    notes: dict[str, str]
    """Diagnostics of inner training and of the linear solves."""
    flags: frozenset[str]
    """The options that were chosen."""
    protocols: dict[str, frozenset[str]]
    """By column of accuracies: how the networks were trained."""

    @property
    def picture(self) -> str | None:
        """The images of the first try, as a data URI."""
        return self.rows[0].get("picture") if self.rows else None


class BaselineLine(NamedTuple):
    """Real images in the place of a cell's."""

    label: str
    values: dict[str, Value]
    architectures: ByArchitecture


class Table(NamedTuple):
    """Lines that may be compared."""

    title: str
    reading: str
    lines: list[Line]
    baselines: list[BaselineLine]
    marks: dict[tuple[str, str], str]
    """(line's label, column) to `best` or `tie`; empty where lines differ in more than a contest allows."""

    @property
    def changed(self) -> bool:
        """Whether these are cells with one choice changed."""
        return any(line.change for line in self.lines)


class Key(NamedTuple):
    """Lines of one key are in one table."""

    changed: bool
    reading: str
    dataset: str
    learner: str
    images: int | None
    """None of ablations, and of a cell without a finished row."""

    def same_but_for_images(self, other: "Key") -> bool:
        """Whether another key is the same but for the number of images."""
        return self._replace(images=None) == other._replace(images=None)


def tables(rows: Sequence[CellRow], baselines: Sequence[BaselineRow]) -> list[Table]:
    """A table per data set, network, number of images and reading; one of the ablations per set and network.

    Args:
      rows: as `data.load` reads them; rows of one identity and reading are tries.
      baselines: as `data.load` reads them.

    Returns:
      Grids first, equal images before equal time.
    """
    cells: dict[tuple, list[CellRow]] = {}
    for row in rows:
        key = (bool(row["change"]), row["reading"], row["dataset"], row["learner"], row["identity"])
        cells.setdefault(key, []).append(row)
    grouped: dict[Key, list[Line]] = {}
    for (changed, reading, dataset, learner, _), own in cells.items():
        done = [row["images"] for row in own if row["status"] == "done"]
        key = Key(changed, reading, dataset, learner, done[0] if done and not changed else None)
        grouped.setdefault(key, []).append(_line(own, _beside(baselines, key)))
    _adopt_failures(grouped)
    order = sorted(grouped, key=lambda key: (key.changed, key.reading != "images", str(tuple(key))))
    return [_table(key, grouped, _beside(baselines, key)) for key in order]


def _beside(baselines: Sequence[BaselineRow], key: Key) -> list[BaselineRow]:
    """The baselines of a table's data set and network."""
    return [b for b in baselines if (b["dataset"], b["learner"]) == (key.dataset, key.learner)]


def _table(key: Key, grouped: Mapping[Key, list[Line]], baselines: Sequence[BaselineRow]) -> Table:
    in_order = sorted(
        grouped[key],
        key=lambda line: (_place(TEACHER_ORDER, line.teacher), _place(GRADIENT_ORDER, line.gradient)),
    )
    lines = _distinct(in_order)
    what = "one choice changed" if key.changed else f"equal {key.reading}"
    title = f"{key.dataset}, {key.learner}" + (f", {key.images} images" if key.images else "") + f": {what}"
    if not key.changed:
        return Table(title, key.reading, lines, _baseline_lines(baselines, key.images), _marks(lines))
    grid = [
        line
        for other, own in grouped.items()
        if other.same_but_for_images(key._replace(changed=False))
        for line in own
    ]
    return Table(title, key.reading, _with_bases(lines, grid), [], {})


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
    """The place of a name among the known names; unknown names come last."""
    return known.index(name) if name in known else len(known)


def _adopt_failures(grouped: dict[Key, list[Line]]) -> None:
    """A line without a finished row knows no number of images: it joins the table of its kind."""
    for key in [key for key in grouped if key.images is None and not key.changed]:
        homes = (other for other in grouped if other.same_but_for_images(key) and other.images is not None)
        if (home := next(homes, None)) is not None:
            grouped[home] += grouped.pop(key)


def _with_bases(changed: list[Line], grid: list[Line]) -> list[Line]:
    """Ablations, each after the unchanged cell that it changes."""
    by_cell: dict[tuple[str, str], list[Line]] = {}
    for line in changed:
        by_cell.setdefault((line.teacher, line.gradient), []).append(line)
    found = []
    for cell, own in by_cell.items():
        found += [line for line in grid if (line.teacher, line.gradient) == cell][:1] + own
    return found


def _line(rows: list[CellRow], baselines: Sequence[BaselineRow]) -> Line:
    done = [row for row in rows if row["status"] == "done"]
    first = (done or rows)[0]
    own = first["learner"]
    scores = [score for row in done for score in row["accuracies"]]
    mine = having(scores, architecture=own)
    found = {
        "own": pooled(with_augmentation(mine, False)),
        "augmented": pooled(with_augmentation(mine, True)),
        "as_distilled": pooled([row["as_distilled"] for row in done if row["as_distilled"]]),
        "others": mean_of_others([row["accuracies"] for row in done], own),
        **{name: value_of([row.get(field) for row in done]) for name, field in STORAGE.items()},
        "memory": value_of([row["program_bytes"] for row in done]),
        "all": value_of([row.get("all_bytes") for row in done]),
        "step": value_of([row["seconds_per_step"] for row in done]),
        "compile": value_of([row["compile_seconds"] for row in done]),
        "seconds": value_of([row["seconds"] for row in done]),
        **(fair_values(done, own, baselines) if done else {}),
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
        protocols={
            column: frozenset(score["protocol"] for score in with_augmentation(found, augmented))
            for column, found, augmented in (
                ("own", mine, False),
                ("augmented", mine, True),
                ("others", [score for score in scores if score["architecture"] != own], False),
            )
        },
    )


def _with_images(row: CellRow) -> str:
    images = row.get("images")
    return row["change"] + (f" ({images} images)" if images else "")


def _by_architecture(scores: Scores) -> ByArchitecture:
    found: ByArchitecture = {kind: {} for kind in ARCHITECTURES}
    for name in dict.fromkeys(score["architecture"] for score in scores):
        for kind in ARCHITECTURES:
            value = pooled(with_augmentation(having(scores, architecture=name), kind == "augmented"))
            if value is not None:
                found[kind][name] = value
    return found


def _diagnostics(done: Sequence[CellRow]) -> dict[str, str]:
    """Means over tries of the diagnostics of implicit gradients."""
    done = [row for row in done if row["gradient"].startswith("implicit")]
    names = dict.fromkeys(name for row in done for name in row["diagnostics"])
    means = {name: value_of([row["diagnostics"].get(name) for row in done]) for name in names}
    return {name: f"{value.mean:.3g}" for name, value in means.items() if value is not None}


def _baseline_lines(baselines: Sequence[BaselineRow], images: int | None) -> list[BaselineLine]:
    """Random real images of the table's number, and the full set."""
    found = []
    for what in ("random real", "full set"):
        rows = [row for row in having(baselines, what=what) if row["images"] == images or what == "full set"]
        rows = [row for row in rows if row["every"]]
        if not rows:
            continue
        own = rows[0]["learner"]
        mine = having(rows, architecture=own)
        values = {
            mine[0].get("column") or "own": pooled(with_augmentation(mine, False)[:1]),
            "augmented": pooled(with_augmentation(mine, True)[:1]),
            "others": mean_of_others([rows], own),
        }
        known = {name: value for name, value in values.items() if value is not None}
        found.append(BaselineLine(what, known, _by_architecture(rows)))
    return found


def by_protocol(lines: Sequence[Line], column: str) -> dict[frozenset[str], list[Line]]:
    """The lines that may be compared in a column, by how their networks were trained."""
    found: dict[frozenset[str], list[Line]] = {}
    for line in lines:
        if column in line.values:
            found.setdefault(line.protocols.get(column, frozenset()), []).append(line)
    return found


def _marks(lines: Sequence[Line]) -> dict[tuple[str, str], str]:
    """The best of each column, and the lines that tie with it; none where protocols differ."""
    marks = {}
    for column in COLUMNS:
        have = [line for line in lines if column.name in line.values]
        if column.higher is None or len(have) < 2 or len(by_protocol(have, column.name)) > 1:
            continue
        sign = 1 if column.higher else -1
        best = max(have, key=lambda line: sign * line.values[column.name].mean)
        for line in have:
            if line is best:
                marks[line.label, column.name] = "best"
            elif tied(line.values[column.name], best.values[column.name]):
                marks[line.label, column.name] = "tie"
    return marks
