"""Writes a report: the page, the Markdown, their pictures, the rows; and prints its tables."""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.pages import page, uri
from experiments.report.cautions import cautions
from experiments.report.content import (
    Content,
    heats,
    marked,
    name_of,
    time_taken,
    used_columns,
    what_was_run,
)
from experiments.report.data import check_finished, load, without_repeats
from experiments.report.findings import findings
from experiments.report.pictures import Point, decoded, side_by_side, trade_off
from experiments.report.tables import Line, Table, by_protocol, tables
from experiments.report.values import ACCURACIES, COLUMNS, shown
from experiments.tables import as_markdown, writable
from jaxdistill.runtime import progress
from jaxdistill.runtime.atomic import atomic_write, write_json

MARKS = {"best": " **(best)**", "tie": " (tie)"}
STARS = {"best": "*", "tie": "~"}
SHORT = {
    "own": "own net %",
    "as_distilled": "distilled %",
    "others": "others %",
    "memory": "MiB",
    "step": "ms",
}
"""The columns of the printed table, and what they are called there."""
RATE = "rate"
COSTS = {"memory": "memory of the compiled outer steps, MiB", "seconds": "time of all outer steps, s"}
PLOTS = (*COSTS, *(f"{RATE}_{score}" for score in ACCURACIES))
"""The pictures of a table, in their order; a rate stands below the first table of its data set."""
TEMPLATE = Path(__file__).with_name("template.html")
Draw = Callable[..., bytes]
"""(format, dark=...) -> a picture."""


def write(run_dir: str | Path, runs: Sequence[str | Path], *, title: str | None = None) -> dict[str, Any]:
    """Makes report.html, report.md, its pictures and rows.json from the rows of some runs.

    Args:
      run_dir: the folder that they are written into.
      runs: folders or files that the rows are read from.
      title: of the page.

    Returns:
      {"rows", "baselines", "cautions"}.

    Raises:
      UserError: folders that hold no run, or none that is finished; a folder that cannot be written to, or
        that holds another run.
    """
    rows, baselines = [], []
    for path in runs:
        more, real = load(path)
        rows += more
        baselines += real
    rows, repeated = without_repeats(rows)
    check_finished(rows, ", ".join(Path(path).name for path in runs))
    first = Path(runs[0]).resolve()
    own = first.parent if first.is_file() else first
    goes_with_it = len(runs) == 1 and Path(run_dir).resolve() == own
    folder = writable("report", run_dir, own=not goes_with_it)
    about = title or f"Dataset distillation: {', '.join(dict.fromkeys(row['dataset'] for row in rows))}"
    content = Content(about, tables(rows, baselines), rows, repeated + cautions(rows, baselines))
    plots, images = _plots(content.tables), _images(content.tables)
    files = {f"report_{name}.png": draw("png") for name, draw in plots.items()}
    files |= {f"report_{name}.png": made for name, made in images.items()}
    files["report.html"] = _html(content, plots).encode()
    files["report.md"] = markdown(content, plots.keys() | images.keys()).encode()
    for old in folder.glob("report_[0-9]*_*.png"):
        old.unlink()
    for name, made in files.items():
        _write(folder / name, made)
    write_json(folder / "rows.json", {"rows": rows, "baselines": baselines})
    return {"rows": rows, "baselines": baselines, "cautions": content.cautions}


def _write(path: Path, content: bytes) -> None:
    atomic_write(path, lambda file: file.write(content))


def _plots(found: Sequence[Table]) -> dict[str, Draw]:
    """By name, a function that draws accuracy against memory, or against time, of a grid."""
    made: dict[str, Draw] = {}
    for number, table in enumerate(found):
        if table.changed:
            continue
        known = {name for line in table.lines for name in line.values}
        score = next((name for name in ("own", "augmented", "as_distilled") if name in known), "own")
        for cost, label in COSTS.items():
            lines = [line for line in _of_one_protocol(table.lines, score) if cost in line.values]
            points = [_point(line, cost, score) for line in lines if line.values[cost].mean > 0]
            if len(points) >= 2:
                made[f"{number}_{cost}"] = _draw(points, label, table.title)
    return made | _rates(found)


def _of_one_protocol(lines: Sequence[Line], score: str) -> list[Line]:
    """The lines that have a score, of the protocol that most of them have."""
    return max(by_protocol(lines, score).values(), key=len, default=[])


def _rates(found: Sequence[Table]) -> dict[str, Draw]:
    """By name, a function that draws accuracy against bits per class, of all grids of a data set and network.

    Tables have cells of equally many images each; a rate is compared across them, under one protocol.
    """
    groups: dict[str, list[tuple[int, Line]]] = {}
    for number, table in enumerate(found):
        for line in table.lines if not table.changed else ():
            if line.rows:
                own = line.rows[0]
                groups.setdefault(f"{own['dataset']}, {own['learner']}", []).append((number, line))
    made: dict[str, Draw] = {}
    for title, numbered in groups.items():
        for score in ("own", "augmented", "as_distilled"):
            lines = [line for _, line in numbered if "bits" in line.values]
            lines = _of_one_protocol(lines, score)
            if len({line.values["bits"].mean for line in lines}) >= 2:
                points = [_point(line, "bits", score) for line in lines]
                name = f"{numbered[0][0]}_{RATE}_{score}"
                made[name] = _draw(points, "bits per class", f"{title}, {score}")
    return made


def _point(line: Line, cost: str, score: str) -> Point:
    unit = 2.0**-20 if cost == "memory" else 1
    accuracy = line.values[score]
    name = line.gradient.replace("_", " ")
    return Point(name, line.teacher, line.values[cost].mean * unit, accuracy.mean, accuracy.std)


def _draw(points: Sequence[Point], label: str, title: str) -> Draw:
    def draw(format: str, *, dark: bool = False) -> bytes:
        return trade_off(points, cost=label, title=title, dark=dark, format=format)

    return draw


def _images(found: Sequence[Table]) -> dict[str, bytes]:
    """By name, the images of all cells of a table, side by side."""
    made = {}
    for number, table in enumerate(found):
        pictures = [(line.label, decoded(line.picture)) for line in table.lines if line.picture]
        if pictures:
            made[f"{number}_images"] = side_by_side(pictures)
    return made


def _html(content: Content, plots: Mapping[str, Draw]) -> str:
    return page(
        TEMPLATE,
        **content._asdict(),
        columns=COLUMNS,
        used=used_columns,
        shown=shown,
        heats=heats,
        name_of=name_of,
        findings=findings,
        ran=what_was_run(content.rows),
        took=time_taken(content.rows),
        costs=PLOTS,
        plots={
            name: (uri(draw("svg"), "svg+xml"), uri(draw("svg", dark=True), "svg+xml"))
            for name, draw in plots.items()
        },
    )


def markdown(content: Content, pictures: Collection[str]) -> str:
    """The report as Markdown.

    Args:
      content: of the report.
      pictures: the names of the pictures beside it: `0_memory` is report_0_memory.png.
    """
    parts = [f"# {content.title}", ""]
    parts += [f"- {caution}" for caution in content.cautions] + [""]
    for number, table in enumerate(content.tables):
        parts += ["", f"## {table.title}", "", _table(table)]
        parts += [f"- {sentence}" for sentence in findings(table)] + [""]
        parts += [
            f"![{table.title}, {cost}](report_{number}_{cost}.png)"
            for cost in PLOTS
            if f"{number}_{cost}" in pictures
        ]
        for heat in heats(table):
            cells = [[label, *(text for text, _ in line)] for label, line in heat.lines]
            parts += ["", f"Test accuracy (%) by architecture, {heat.title}:", ""]
            parts.append(as_markdown(["cell", *heat.names], cells))
        if f"{number}_images" in pictures:
            parts += ["", f"![distilled images, a column per class](report_{number}_images.png)"]
        noted = [(line.label, line.notes) for line in table.lines if line.notes]
        if noted:
            names = list(dict.fromkeys(name for _, notes in noted for name in notes))
            cells = [[label, *(notes.get(name, "-") for name in names)] for label, notes in noted]
            parts += ["", "At the last outer steps:", "", as_markdown(["cell", *names], cells)]
    parts += ["", "## What was run", ""]
    took = time_taken(content.rows)
    parts += [took, ""] if took else []
    ran = [[*about.values()] for about in what_was_run(content.rows)]
    parts += [
        as_markdown(
            ["cell", "equal", "seed", "outer steps", "device", "jax", "commit", "command"],
            [[*others, f"`{command}`"] for *others, command in ran],
        ),
        "Columns: " + "; ".join(f"{c.title}: {c.explained}" for c in COLUMNS) + ".",
        "",
        "Ties are within one standard deviation of the best, the larger of both. Costs of one try have no",
        "deviation: small differences of times say nothing.",
    ]
    return "\n".join(parts) + "\n"


def _table(table: Table) -> str:
    """The main table as Markdown."""
    used = used_columns(table)
    head = ["cell", *(f"{c.title}{f', {c.unit}' if c.unit else ''}" for c in used)]
    body = [[name_of(line), *(marked(table, line, column, MARKS) for column in used)] for line in table.lines]
    body += [[real.label, *(shown(c, real.values.get(c.name)) for c in used)] for real in table.baselines]
    return as_markdown(head, body)


def show(found: Mapping[str, Any]) -> None:
    """Prints accuracy, memory and time of every line, and what a reader has to know.

    Args:
      found: what `write` returned.
    """
    for table in tables(found["rows"], found["baselines"]):
        used = [column for column in used_columns(table) if column.name in SHORT]
        if not {"own", "as_distilled"} & {column.name for column in used}:
            used = [column for column in used_columns(table) if column.name in {**SHORT, "augmented": ""}]
        names = [f"  {line.change}" if line.change else line.label for line in table.lines]
        cells = [
            [name, *(marked(table, line, column, STARS) for column in used)]
            for name, line in zip(names, table.lines, strict=True)
        ]
        cells += [
            [real.label, *(shown(c, real.values.get(c.name)) for c in used)] for real in table.baselines
        ]
        progress.table(
            f"\n{table.title}", ["cell", *(SHORT.get(column.name, "augmented %") for column in used)], cells
        )
    if took := time_taken(found["rows"]):
        progress.say(took)
    progress.say("* best of its column; ~ ties with it: within one standard deviation, the larger of both")
    for caution in found["cautions"]:
        progress.say(f"note: {caution}")
