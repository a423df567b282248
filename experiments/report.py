"""The report of a study, or of any finished runs, as one page and as Markdown, made from rows alone.

Question: what do these runs show, side by side?

    python -m experiments.report --runs=runs/study_digits                    again, from a study's rows
    python -m experiments.report --runs=runs/a,runs/b --run_dir=runs/report  runs of experiments.distill

Takes folders of experiments.study, their rows.json, and finished runs of experiments.distill. Writes
report.html (one file, opens from disk), report.md with its pictures, and rows.json, in seconds. Numbers are
means over tries and networks; the best of a column is marked, and so is what ties with it: within one
standard deviation, the larger of both.
"""

import base64
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import jinja2

from experiments import cli
from experiments.options import Groups, Option, complete
from experiments.report_data import (
    Row,
    cautions,
    check_finished,
    decoded,
    load,
    short_commit,
    without_repeats,
)
from experiments.report_findings import findings
from experiments.report_rows import (
    ARCHITECTURES,
    COLUMNS,
    Column,
    Line,
    Table,
    Value,
    shown,
    tables,
)
from experiments.tables import as_markdown, writable
from jaxdistill.core.checks import fail
from jaxdistill.runtime import progress
from jaxdistill.runtime.atomic import atomic_write, write_json
from jaxdistill.runtime.report_pictures import Point, side_by_side, trade_off

GROUPS: Groups = {
    "report": {
        "runs": Option([], str, "folders of experiments.study, rows.json files, runs of experiments.distill"),
        "title": Option(None, str, "of the page (default: what the rows are)"),
    },
    "run": {"run_dir": Option(None, str, "where the report is written (default: the run, if it is one)")},
}
MARKS = {"best": " **(best)**", "tie": " (tie)"}
STARS = {"best": "*", "tie": "~"}
SHORT = {
    "own": "own net %",
    "as_distilled": "distilled %",
    "others": "others %",
    "memory": "MiB",
    "step": "ms",
}
"""What the columns of the printed table are called."""
COSTS = {"memory": "memory of the compiled outer steps, MiB", "seconds": "time of all outer steps, s"}
TEMPLATE = Path(__file__).with_name("report_template.html")


def run(**chosen: Any) -> dict[str, Any]:
    """Writes the report and prints its first table.

    Args:
      **chosen: any option of `GROUPS`.

    Returns:
      {"rows", "baselines", "cautions"}.

    Raises:
      UserError: runs that are none, or none that is finished.
    """
    config = complete(GROUPS, chosen)
    if not config["runs"]:
        raise fail("report", "--runs=RUN,RUN", "nothing")
    if len({Path(path).resolve() for path in config["runs"]}) < len(config["runs"]):
        raise fail("report", "each of runs once", ",".join(config["runs"]))
    if len(config["runs"]) > 1 and config["run_dir"] is None:
        raise fail("report", "--run_dir=FOLDER for a report of several runs", "none")
    first = Path(config["runs"][0])
    folder = config["run_dir"] or (first.parent if first.is_file() else first)
    found = write(folder, config["runs"], title=config["title"])
    show(found)
    progress.say(f"written: {Path(folder) / 'report.html'}")
    return found


def write(run_dir: str | Path, runs: Sequence[str | Path], *, title: str | None = None) -> dict[str, Any]:
    """Makes report.html, report.md, its pictures and rows.json from the rows of some runs.

    Args:
      run_dir: where they are written.
      runs: what the rows are read from.
      title: of the page.

    Returns:
      {"rows", "baselines", "cautions"}.

    Raises:
      UserError: runs that are none, none of which is finished, or a folder that cannot be written to or is
        another run.
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
    found = tables(rows, baselines)
    about = title or f"Dataset distillation: {', '.join(dict.fromkeys(row['dataset'] for row in rows))}"
    content = {
        "title": about,
        "tables": found,
        "rows": rows,
        "cautions": repeated + cautions(rows, baselines),
    }
    pictures, images = _pictures(found), _images(found)
    files = {f"report_{name}.png": light("png") for name, (light, _) in pictures.items()}
    files |= {f"report_{name}.png": made for name, made in images.items()}
    files["report.html"] = _html(content, pictures).encode()
    files["report.md"] = _markdown(content, pictures | images).encode()
    for old in folder.glob("report_[0-9]*_*.png"):
        old.unlink()
    for name, made in files.items():
        _write(folder / name, made)
    write_json(folder / "rows.json", {"rows": rows, "baselines": baselines})
    return {"rows": rows, "baselines": baselines, "cautions": content["cautions"]}


def _write(path: Path, content: bytes) -> None:
    atomic_write(path, lambda file: file.write(content))


def _pictures(found: Sequence[Table]) -> dict[str, Any]:
    """Name to what draws it, light and dark: accuracy against memory and time, for every grid."""
    made = {}
    for number, table in enumerate(found):
        if table.changed:
            continue
        known = {name for line in table.lines for name in line.values}
        score = next((name for name in ("own", "augmented", "as_distilled") if name in known), "own")
        for cost, label in COSTS.items():
            points = [
                Point(
                    line.gradient.replace("_", " "),
                    line.teacher,
                    line.values[cost].mean * (2.0**-20 if cost == "memory" else 1),
                    line.values[score].mean,
                    line.values[score].std,
                )
                for line in table.lines
                if {cost, score} <= line.values.keys() and line.values[cost].mean > 0
            ]
            if len(points) < 2:
                continue

            def draw(format: str, dark: bool = False, points=points, label=label, title=table.title) -> bytes:
                return trade_off(points, cost=label, title=title, dark=dark, format=format)

            made[f"{number}_{cost}"] = (draw, lambda format, draw=draw: draw(format, dark=True))
    return made


def _images(found: Sequence[Table]) -> dict[str, bytes]:
    """Name to the images of all cells of a table, side by side."""
    made = {}
    for number, table in enumerate(found):
        pictures = [(line.label, decoded(line.picture)) for line in table.lines if line.picture]
        if pictures:
            made[f"{number}_images"] = side_by_side(pictures)
    return made


def _html(content: Mapping[str, Any], pictures: Mapping[str, Any]) -> str:
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))

    def uri(picture: bytes) -> str:
        return f"data:image/svg+xml;base64,{base64.b64encode(picture).decode()}"

    return template.render(
        **content,
        columns=COLUMNS,
        used=used_columns,
        shown=shown,
        heats=_heats,
        name_of=name_of,
        findings=findings,
        ran=_ran(content["rows"]),
        took=_took(content["rows"]),
        today=date.today().isoformat(),
        plots={name: (uri(light("svg")), uri(dark("svg"))) for name, (light, dark) in pictures.items()},
    )


def name_of(line: Line) -> str:
    """What a line is called in a table; an ablation says how many images it has."""
    return f"{line.teacher}, {line.gradient.replace('_', ' ')}, {line.change}" if line.change else line.label


def used_columns(table: Table) -> list[Column]:
    """The columns that say something."""
    return [column for column in COLUMNS if any(column.name in line.values for line in table.lines)]


def _heats(table: Table) -> list[dict[str, Any]]:
    """Accuracy by architecture: {"title", "names", "rows": [(label, [(text, share of the range)])]} each."""
    return [made for kind in ARCHITECTURES if (made := _heat(table, kind)) is not None]


def _heat(table: Table, kind: str) -> dict[str, Any] | None:
    lines = [(line.label, line.architectures[kind]) for line in table.lines if line.rows]
    names = list(dict.fromkeys(name for _, values in lines for name in values))
    if len(names) < 2 or table.changed:
        return None
    lines += [(name, values[kind]) for name, _, values in table.baselines if len(values[kind]) > 1]
    every = [value.mean for _, values in lines for value in values.values()]
    low, high = min(every), max(every)

    def cell(value: Value | None) -> tuple[str, float | None]:
        if value is None:
            return "-", None
        return f"{100 * value.mean:.1f}", (value.mean - low) / max(high - low, 1e-9)

    rows = [(label, [cell(values.get(name)) for name in names]) for label, values in lines if values]
    return {"title": ARCHITECTURES[kind], "names": names, "rows": rows}


def _ran(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """What was run where: a line per row."""
    return [
        {
            "cell": ", ".join(
                p for p in (row["teacher"], row["gradient"].replace("_", " "), row["change"]) if p
            ),
            "reading": row["reading"],
            "seed": row["seed"],
            "device": row["environment"].get("device"),
            "jax": row["environment"].get("jax"),
            "commit": short_commit(row["environment"].get("commit")),
            "outer_steps": row.get("outer_steps", "-"),
            "command": row["command"],
        }
        for row in rows
    ]


def _took(rows: Sequence[Row]) -> str | None:
    """The time that making finished rows took, of those that say so."""
    known = [row["wall_seconds"] for row in rows if row["status"] == "done" and row.get("wall_seconds")]
    if not known:
        return None
    whole = progress.duration(sum(known))
    return f"Making {len(known)} of {len(rows)} rows, scored, took {whole}, what was stopped left out."


def _markdown(content: Mapping[str, Any], pictures: Mapping[str, Any]) -> str:
    parts = [f"# {content['title']}", ""]
    parts += [f"- {caution}" for caution in content["cautions"]] + [""]
    for number, table in enumerate(content["tables"]):
        used = used_columns(table)
        head = ["cell", *(f"{c.title}{f', {c.unit}' if c.unit else ''}" for c in used)]
        body = [[name_of(line), *(_marked(table, line, column) for column in used)] for line in table.lines]
        body += [[name, *(shown(c, values.get(c.name)) for c in used)] for name, values, _ in table.baselines]
        parts += ["", f"## {table.title}", "", as_markdown(head, body)]
        parts += [f"- {sentence}" for sentence in findings(table)] + [""]
        parts += [
            f"![{table.title}, {cost}](report_{number}_{cost}.png)"
            for cost in COSTS
            if f"{number}_{cost}" in pictures
        ]
        for heat in _heats(table):
            cells = [[label, *(text for text, _ in row)] for label, row in heat["rows"]]
            parts += ["", f"Test accuracy (%) by architecture, {heat['title']}:", ""]
            parts.append(as_markdown(["cell", *heat["names"]], cells))
        if f"{number}_images" in pictures:
            parts += ["", f"![distilled images, a column per class](report_{number}_images.png)"]
        solver = [(line.label, line.notes) for line in table.lines if line.notes]
        if solver:
            names = list(dict.fromkeys(name for _, notes in solver for name in notes))
            cells = [[label, *(notes.get(name, "-") for name in names)] for label, notes in solver]
            parts += ["", "At the last outer steps:", "", as_markdown(["cell", *names], cells)]
    parts += ["", "## What was run", ""]
    took = _took(content["rows"])
    parts += [took, ""] if took else []
    parts += [
        as_markdown(
            ["cell", "equal", "seed", "outer steps", "device", "jax", "commit", "command"],
            [
                [
                    r["cell"],
                    r["reading"],
                    r["seed"],
                    r["outer_steps"],
                    r["device"],
                    r["jax"],
                    r["commit"],
                    f"`{r['command']}`",
                ]
                for r in _ran(content["rows"])
            ],
        ),
        "Columns: " + "; ".join(f"{c.title}: {c.explained}" for c in COLUMNS) + ".",
        "",
        "Ties are within one standard deviation of the best, the larger of both. Costs of one try have no",
        "deviation: small differences of times say nothing.",
    ]
    return "\n".join(parts) + "\n"


def _marked(table: Table, line: Line, column: Column, marks: Mapping[str, str] = MARKS) -> str:
    if not line.rows:
        return "failed" if column.name == "own" else "-"
    mark = table.marks.get((line.label, column.name))
    return shown(column, line.values.get(column.name)) + (marks[mark] if mark else "")


def show(found: Mapping[str, Any]) -> None:
    """Prints accuracy, memory and time of every line, and what a reader has to know."""
    for table in tables(found["rows"], found["baselines"]):
        used = [column for column in used_columns(table) if column.name in SHORT]
        if not {"own", "as_distilled"} & {column.name for column in used}:
            used = [column for column in used_columns(table) if column.name in {**SHORT, "augmented": ""}]
        names = [f"  {line.change}" if line.change else line.label for line in table.lines]
        cells = [
            [name, *(_marked(table, line, column, STARS) for column in used)]
            for name, line in zip(names, table.lines, strict=True)
        ]
        cells += [
            [name, *(shown(c, values.get(c.name)) for c in used)] for name, values, _ in table.baselines
        ]
        progress.table(
            f"\n{table.title}", ["cell", *(SHORT.get(column.name, "augmented %") for column in used)], cells
        )
    if took := _took(found["rows"]):
        progress.say(took)
    progress.say("* best of its column; ~ ties with it: within one standard deviation, the larger of both")
    for caution in found["cautions"]:
        progress.say(f"note: {caution}")


if __name__ == "__main__":
    cli.main(run, GROUPS, __doc__)
