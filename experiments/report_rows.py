"""Rows of a study, or of any runs, brought together: means over tries and networks, bests, ties, findings."""

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.study_cells import GRADIENTS, TEACHERS
from jaxdistill.core.checks import UserError, fail
from jaxdistill.evaluation import augmentation_robust_score, label_robust_score
from jaxdistill.runtime.export import read_synthetic
from jaxdistill.runtime.report_pictures import picture

Row = dict[str, Any]


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
    Column("own", "training network", "%", True, 100, "test accuracy after training by dc"),
    Column("augmented", "augmented", "%", True, 100, "the same, under crop, scale and rotation"),
    Column("as_distilled", "as distilled", "%", True, 100, "trained by the steps it was distilled for"),
    Column("others", "other networks", "%", True, 100, "mean of the other architectures, by dc"),
    Column("memory", "memory", "MiB", False, 2.0**-20, "temporaries of the compiled outer steps"),
    Column("step", "outer step", "ms", False, 1e3, "time of one"),
    Column("compile", "compile", "s", False, 1, "compilation of the outer steps"),
    Column("seconds", "total", "s", False, 1, "all outer steps"),
    Column("lrs", "LRS", "", True, 1, "label-robust score"),
    Column("ars", "ARS", "", True, 1, "augmentation-robust score"),
)
ARCHITECTURES = {"plain": "trained without augmentation", "augmented": "trained under augmentation"}
SCORES = ("own", "augmented", "as_distilled", "others")


class Line(NamedTuple):
    """A cell, over its tries."""

    label: str
    teacher: str
    gradient: str
    change: str
    reading: str
    group: str
    """What it is compared within: data, network, number of images."""
    rows: list[Row]
    failed: list[Row]
    values: dict[str, Value]
    architectures: dict[str, dict[str, Value]]
    """Without and with augmentation (`ARCHITECTURES`); the training network first."""
    notes: dict[str, str]
    """What the solver said, and what else is worth a line."""

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


def read_rows(path: Path) -> list[Row]:
    """Of a study's folder: every row there is, in the order of their names."""
    return [_json(file) for file in sorted((path / "rows").glob("*.json"))]


def load(path: str | Path) -> tuple[list[Row], list[Row]]:
    """(rows, baselines) of a study's folder or its rows.json, or of a run of `experiments.distill`.

    Raises:
      UserError: it is none of these, or cannot be read.
    """
    place = Path(path)
    if place.is_file():
        content = _json(place)
        if not isinstance(content, dict) or {"rows", "baselines"} - content.keys():
            raise fail("report", "rows.json of a study, or a run directory", str(path))
        return content["rows"], content["baselines"]
    if (place / "rows").is_dir():
        baselines = place / "baselines.json"
        return read_rows(place), _json(baselines) if baselines.exists() else []
    if (place / "result.json").exists():
        return _of_run(place, _json(place / "result.json"))
    if (place / "rows.json").exists():
        return load(place / "rows.json")
    expected = "a folder of experiments.study, or a finished run of experiments.distill"
    raise fail("report", expected, f"{path} with neither rows nor result.json")


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise fail("report", f"a readable {file}", error, "Delete it to have it made again.") from error


def _of_run(path: Path, result: Mapping[str, Any]) -> tuple[list[Row], list[Row]]:
    """A run of `experiments.distill` as a row of a study."""
    config = result.get("config", {})
    if "test_accuracies" not in result or "method" not in config:
        raise fail("report", "a run of experiments.distill", f"another experiment's in {path}")
    synthetic = read_synthetic(path / "synthetic.npz")
    score = {"every": result["test_accuracies"], "step_size": result["test_accuracy_step_size"]}
    own = result["protocol"] == "as_distilled"
    accuracies = [] if own else [{"architecture": config["learner"], "protocol": result["protocol"], **score}]
    gradient = config["gradient"] if own or config["method"] == "mtt" else config["method"]
    row: Row = {
        "name": path.name,
        "teacher": config["teacher"],
        "gradient": f"{gradient} ({path.name})",
        "change": "",
        "reading": "images",
        "try": 0,
        "seed": config["seed"],
        "learner": config["learner"],
        "dataset": config["dataset"],
        "preset": "",
        "full_size": True,
        "command": f"python -m experiments.distill, config in {path.name}/config.json",
        "environment": result["environment"],
        "status": "done",
        "note": "",
        "images": len(synthetic.labels),
        "as_distilled": score if own else None,
        "accuracies": accuracies,
        "hard_labels": None,
        "seconds_per_step": result["seconds"] / max(1, result["outer_steps"]),
        "diagnostics": {},
        "picture": encoded(synthetic.pixels, synthetic.labels, synthetic.metadata.get("scale")),
        **{name: result.get(name) for name in ("outer_steps", "seconds", "compile_seconds", "program_bytes")},
    }
    baselines = []
    for what, prefix in (("random real", "random_real"), ("full set", "full_data")):
        if result.get(f"{prefix}_mean") is not None:
            about = {"what": what, "images": row["images"], "architecture": config["learner"]}
            protocol = result["protocol"] if what == "random real" else "full set"
            every = result[f"{prefix}_accuracies"]
            baselines.append({**about, "protocol": protocol, "dataset": config["dataset"], "every": every})
    return [row], baselines


def encoded(pixels: np.ndarray, labels: np.ndarray, scale: float | None) -> str | None:
    """A picture of the images, as a data URI; None where they are neither grey nor of three colours."""
    if pixels.shape[-1] not in (1, 3):
        return None
    made = picture(pixels, labels.argmax(axis=-1), scale=scale)
    return f"data:image/png;base64,{base64.b64encode(made).decode()}"


def tables(rows: Sequence[Row], baselines: Sequence[Row]) -> list[Table]:
    """Rows brought together: a table per reading and per what can be compared; ablations in their own."""
    lines: dict[tuple, list[Row]] = {}
    for row in rows:
        key = (row["reading"], bool(row["change"]), row["dataset"], row["learner"], *_cell(row))
        lines.setdefault(key, []).append(row)
    grouped: dict[tuple, list[Line]] = {}
    for (reading, changed, dataset, learner, *_), own in lines.items():
        done = [row for row in own if row["status"] == "done"]
        images = None if changed else (done[0]["images"] if done else None)
        grouped.setdefault((reading, changed, dataset, learner, images), []).append(_line(own, baselines))
    _adopt_failures(grouped)
    for own in grouped.values():
        own.sort(key=lambda line: (_place(TEACHERS, line.teacher), _place(GRADIENTS, line.gradient)))
    made = []
    for (reading, changed, dataset, learner, images), own in sorted(
        grouped.items(), key=lambda item: (item[0][1], item[0][0] != "images", str(item[0][2:]))
    ):
        what = "one choice changed" if changed else f"equal {reading}"
        title = f"{dataset}, {learner}" + (f", {images} images" if images else "") + f": {what}"
        if changed:
            own = _with_bases(own, [line for line in made_lines(made) if line.reading == reading])
        real = [] if changed else _baseline_lines(baselines, images, dataset)
        made.append(Table(title, reading, own, real, {} if changed else _marks(own)))
    return made


def _place(known: Sequence[str], name: str) -> int:
    return known.index(name) if name in known else len(known)


def made_lines(made: Sequence[Table]) -> list[Line]:
    """All lines of some tables."""
    return [line for table in made for line in table.lines]


def _cell(row: Row) -> tuple[str, str, str]:
    return row["teacher"], row["gradient"], row["change"]


def _adopt_failures(grouped: dict[tuple, list[Line]]) -> None:
    """A line without a finished row knows no number of images: it joins the table of its kind."""
    for key in [key for key in grouped if key[4] is None and not key[1]]:
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


def pooled(scores: Sequence[Mapping[str, Any]]) -> Value | None:
    """Mean and standard deviation (biased) over every network of every try."""
    every = np.asarray([value for score in scores for value in score["every"]], float)
    return Value(float(every.mean()), float(every.std()), every.size) if every.size else None


def _over_tries(values: Sequence[float | None]) -> Value | None:
    known = np.asarray([value for value in values if value is not None], float)
    return Value(float(known.mean()), float(known.std()), known.size) if known.size else None


def _by(scores: Sequence[Mapping[str, Any]], **fields: Any) -> list[Mapping[str, Any]]:
    return [score for score in scores if all(score.get(name) == value for name, value in fields.items())]


def _line(rows: list[Row], baselines: Sequence[Row]) -> Line:
    done = [row for row in rows if row["status"] == "done"]
    first = (done or rows)[0]
    scores = [score for row in done for score in row["accuracies"]]
    own = first["learner"]
    plain = [score for score in scores if score["protocol"] != "dc_augmented"]
    others = [score for score in plain if score["architecture"] != own]
    found = {
        "own": pooled(_by(plain, architecture=own)),
        "augmented": pooled(_by(scores, architecture=own, protocol="dc_augmented")),
        "as_distilled": pooled([row["as_distilled"] for row in done if row["as_distilled"]]),
        "others": pooled(others),
        "memory": _over_tries([row.get("program_bytes") for row in done]),
        "step": _over_tries([row["seconds_per_step"] for row in done]),
        "compile": _over_tries([row.get("compile_seconds") for row in done]),
        "seconds": _over_tries([row["seconds"] for row in done]),
        **(_fair(done, own, first.get("images"), baselines) if done else {}),
    }
    label = f"{first['teacher']}, {first['gradient'].replace('_', ' ')}"
    return Line(
        label=label + (f", {first['change']}" if first["change"] else ""),
        teacher=first["teacher"],
        gradient=first["gradient"],
        change=first["change"],
        reading=first["reading"],
        group=f"{first['dataset']}, {own}",
        rows=done,
        failed=[row for row in rows if row["status"] != "done"],
        values={name: value for name, value in found.items() if value is not None},
        architectures=_by_architecture(scores),
        notes=_diagnostics(done),
    )


def _by_architecture(scores: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Value]]:
    found: dict[str, dict[str, Value]] = {kind: {} for kind in ARCHITECTURES}
    for name in dict.fromkeys(score["architecture"] for score in scores):
        for kind in ARCHITECTURES:
            own = _by(scores, architecture=name)
            value = pooled([s for s in own if (s["protocol"] == "dc_augmented") == (kind == "augmented")])
            if value is not None:
                found[kind][name] = value
    return found


def _diagnostics(done: Sequence[Row]) -> dict[str, str]:
    """Means over tries of what inner training and the linear solves of implicit gradients told."""
    done = [row for row in done if row["gradient"].startswith("implicit")]
    names = dict.fromkeys(name for row in done for name in row["diagnostics"])
    means = {n: np.mean([row["diagnostics"][n] for row in done if n in row["diagnostics"]]) for n in names}
    return {name: f"{value:.3g}" for name, value in means.items()}


def _fair(
    done: Sequence[Row], own: str, images: int | None, baselines: Sequence[Row]
) -> dict[str, Value | None]:
    """DD-Ranking's scores, from means over tries and networks of the training architecture."""
    scores = [score for row in done for score in row["accuracies"]]
    plain = pooled(_by(scores, architecture=own, protocol="dc"))
    augmented = pooled(_by(scores, architecture=own, protocol="dc_augmented"))
    hard = pooled([row["hard_labels"] for row in done if row["hard_labels"]]) or plain
    random = [row for row in _by(baselines, what="random real", architecture=own) if row["images"] == images]
    plain_random, augmented_random = (pooled(_by(random, protocol=name)) for name in ("dc", "dc_augmented"))
    full = pooled(_by(baselines, what="full set", architecture=own)[:1])
    found: dict[str, Value | None] = {"lrs": None, "ars": None}
    if plain and hard and plain_random and full:
        lrs = label_robust_score(
            full_data=full.mean,
            hard_labels=hard.mean,
            own_labels=plain.mean,
            random_real=plain_random.mean,
        )
        found["lrs"] = Value(lrs, 0.0, len(done))
    if plain and augmented and plain_random and augmented_random:
        ars = augmentation_robust_score(
            augmented=augmented.mean,
            random_augmented=augmented_random.mean,
            plain=plain.mean,
            random_plain=plain_random.mean,
        )
        found["ars"] = Value(ars, 0.0, len(done))
    return found


def _baseline_lines(baselines: Sequence[Row], images: int | None, dataset: str) -> list:
    """Random real images of the table's number, and the full set."""
    found = []
    mine = [row for row in baselines if row.get("dataset", dataset) == dataset]
    for what in ("random real", "full set"):
        rows = [
            row for row in mine if row["what"] == what and (row["images"] == images or what == "full set")
        ]
        if not rows:
            continue
        own = rows[0]["architecture"]
        plain = [row for row in rows if row["protocol"] != "dc_augmented"]
        values = {
            "own": pooled(_by(plain, architecture=own)[:1]),
            "augmented": pooled(_by(rows, architecture=own, protocol="dc_augmented")[:1]),
            "others": pooled([row for row in plain if row["architecture"] != own]),
        }
        known = {name: value for name, value in values.items() if value is not None}
        found.append((what, known, _by_architecture(rows)))
    return found


def _marks(lines: Sequence[Line]) -> dict[tuple[str, str], str]:
    """The best of every column, and what ties with it: within the larger of both standard deviations."""
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


def findings(table: Table) -> list[str]:
    """What the study asks, as far as this table answers it: one sentence each."""
    by_cell = {(line.teacher, line.gradient): line for line in table.lines if line.rows}
    found = []
    for (teacher, _), line in by_cell.items():
        base = by_cell.get((teacher, "unrolled"))
        if (
            base is None
            or line is base
            or not {"own", "memory", "step"} <= line.values.keys() & base.values.keys()
        ):
            continue
        memory, step = (line.values[n].mean / base.values[n].mean for n in ("memory", "step"))
        found.append(
            f"{line.label}: {_against(line.values['own'], base.values['own'])} unrolled, "
            f"{memory:.2g} times its memory, {step:.2g} times its time per outer step."
        )
    for (teacher, gradient), line in by_cell.items():
        other = by_cell.get(("images", gradient))
        if teacher == "generator" and other and "others" in line.values.keys() & other.values.keys():
            name = gradient.replace("_", " ")
            found.append(
                f"Other networks, {name}: generator "
                f"{_against(line.values['others'], other.values['others'])} learned images."
            )
    return found


def _against(one: Value, other: Value) -> str:
    word = "ties with" if tied(one, other) else ("ahead of" if one.mean > other.mean else "behind")
    return f"{_percent(one)} {word} {_percent(other)} of"


def _percent(value: Value) -> str:
    return f"{100 * value.mean:.1f} ± {100 * value.std:.1f}"


def shown(column: Column, value: Value | None) -> str:
    """A cell of the main table."""
    if value is None:
        return "-"
    if column.name in SCORES:
        return _percent(value)
    mean = value.mean * column.factor
    if column.name in ("lrs", "ars"):
        return f"{mean:.3f}"
    return f"{mean:.3g}" if mean < 1000 else f"{mean:,.0f}"


def cautions(rows: Sequence[Row]) -> list[str]:
    """What a reader has to know of these rows: mixed versions, cells smaller than the preset's."""
    found = []
    for name in ("jaxdistill", "commit", "jax", "device"):
        kinds: dict[Any, list[str]] = {}
        for row in rows:
            kinds.setdefault(row["environment"].get(name), []).append(
                f"{row['reading']}-{row['name']}-{row['try']}"
            )
        if len(kinds) > 1:
            parts = "; ".join(f"{kind}: {_some(names)}" for kind, names in kinds.items())
            found.append(f"Rows of mixed versions, {name}: {parts}.")
    small = [row for row in rows if not row["full_size"]]
    if small:
        many = "All" if len(small) == len(rows) else f"{len(small)} of {len(rows)}"
        found.append(f"{many} rows are smaller than the preset (width or number of outer steps).")
    for row in rows:
        if row["status"] != "done":
            cell = ", ".join(part for part in _cell(row) if part)
            found.append(f"Failed: {cell} (equal {row['reading']}, seed {row['seed']}): {row['note']}")
    return found


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def check_finished(rows: Sequence[Row], where: str) -> None:
    """Raises where there is nothing to report."""
    if any(row["status"] == "done" for row in rows):
        return
    why = "; ".join(dict.fromkeys(row["note"] for row in rows))
    got = f"none of {len(rows)}" + (f" ({why})" if why else "")
    raise UserError(f"report: expected at least one finished cell in {where}, got {got}.")
