"""Writes a league: JSON, CSV, Markdown, a figure and a page; prints its table."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.league.rows import FULL
from experiments.league.setting import League
from experiments.league.table import DIRTY, SAYS
from experiments.pages import page, uri
from experiments.tables import as_csv, as_markdown
from jaxdistill.runtime import progress
from jaxdistill.runtime.atomic import atomic_write, write_json
from jaxdistill.runtime.figures import COLOURS, FAINT, RULE

TEMPLATE = Path(__file__).with_name("template.html")
MARKS = {"best": " ★", "tie": " ≈"}
EXPLAINED = {
    "labels": "hard: the class of each image; soft: the labels that were learned",
    "accuracy, %": "test accuracy of new networks that are trained on the set, mean ± standard deviation; "
    "★ the best, ≈ ties with it: within one standard deviation, the larger of both",
    "augmented, %": "the same under augmentation",
    "LRS": "label-robust score of DD-Ranking, in [0, 1]: against random real images with the same loss, and "
    "against the full set with hard labels",
    "ARS": "augmentation-robust score of DD-Ranking, in [0, 1]: advantage over random real images with and "
    "without augmentation",
    "images": "images that networks are trained on",
    "scalars": "numbers that are stored",
    "bits/class": "bits that are stored per class",
    "steps": "outer steps of the chosen candidate",
    "s": "seconds of its outer steps, without compilation; of a baseline, of making the set",
    "searched, s": "seconds of the outer steps of all candidates",
    "before, s": "seconds of training experts before that",
    "MiB": "memory of the compiled outer steps: temporaries",
    "all MiB": "with arguments and results",
    "chosen": "the candidate that validation chose: the method, and the factor of its outer learning rate or "
    "what it changes",
    "commit": f"that made the row; {DIRTY}: with changed files",
}
"""Column to what it says."""


def write(folder: Path, result: Mapping[str, Any], league: League) -> None:
    """Writes league.json, league.csv, league.md, league.png and league.html."""
    columns, cells = wide(result["lines"], league)
    plot = drawn(result["lines"], league)
    pictures = [
        (row["entry"], row["picture"])
        for row in result["rows"]
        if row["status"] == "done" and row.get("picture")
    ]
    kept = [{name: value for name, value in row.items() if name != "picture"} for row in result["rows"]]
    write_json(folder / "league.json", {**result, "rows": kept})
    texts = {
        "league.csv": as_csv(result["lines"]),
        "league.md": _markdown(result, columns, cells, league),
        "league.html": _html(result, columns, cells, plot, pictures, league),
    }
    for name, text in texts.items():
        atomic_write(folder / name, lambda file, text=text: file.write(text.encode()))
    atomic_write(folder / "league.png", lambda file: file.write(plot))


def wide(lines: Sequence[Mapping[str, Any]], league: League) -> tuple[list[str], list[list[str]]]:
    """(columns, cells) of the whole table."""
    others = [*league.learners][1:]
    columns = ["set", "labels", "accuracy, %", *(f"{name}, %" for name in others), "augmented, %", "LRS"]
    columns += ["ARS", "images", "scalars", "bits/class", "steps", "s", "searched, s", "before, s", "MiB"]
    columns += ["all MiB", "chosen", "commit"]
    cells = []
    for line in lines:
        name = line["entry"] + (f" {DIRTY}" if line["dirty"] else "")
        if "mean" not in line:
            failed = f"none: {line['note']}"
            cells.append([name, "-", failed, *["-"] * (len(columns) - 4), line["commit"]])
            continue
        mark = MARKS.get(line.get("place", ""), "")
        made = [name, line["labels"], percent(line, "") + mark, *(percent(line, f"{n}_") for n in others)]
        made += [percent(line, "augmented_"), *(_score(line.get(n)) for n in ("lrs", "ars"))]
        made += [_whole(line.get(n)) for n in ("images_trained_on", "scalars_stored", "bits_per_class")]
        made += [_whole(line.get("outer_steps"))]
        made += [_short(line.get(n)) for n in ("seconds", "searched_seconds", "preparation_seconds")]
        made += [_short(line.get(n), 2**20) for n in ("program_bytes", "all_bytes")]
        cells.append([*made, line.get("chosen") or "-", line["commit"]])
    return columns, cells


def percent(line: Mapping[str, Any], prefix: str) -> str:
    """Mean and deviation of an accuracy; - where there is none."""
    if line.get(f"{prefix}mean") is None:
        return "-"
    return f"{100 * line[f'{prefix}mean']:.1f} ± {100 * line[f'{prefix}std']:.1f}"


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _whole(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _short(value: float | None, unit: float = 1) -> str:
    return "-" if value is None else f"{value / unit:.3g}"


def recipe(league: League) -> str:
    """How sets were made and tested, in a sentence each."""
    options = league.options
    epochs = f", {options.num_epochs} epochs" if options.num_epochs else ""
    more = f", {options.num_augmented_epochs} epochs" if options.num_augmented_epochs else ""
    factors = ", ".join(f"{factor:g}" for factor in options.factors)
    return (
        f"Every set of {league.data.info.name} is within {options.budget}. Every method has "
        f"{options.seconds_per_method:g} s of outer steps for all its candidates (outer learning rate x "
        f"{factors}) and distills for {league.own}. {options.num_eval_learners} new networks are trained on "
        f"a set by the protocol {options.protocol}{epochs}, augmented by "
        f"{options.augmented_protocol}{more}. {SAYS}"
    )


def _markdown(result: Mapping[str, Any], columns: list[str], cells: list[list[str]], league: League) -> str:
    parts = [f"# League: {league.title}", "", recipe(league), ""]
    parts += [f"- {caution}" for caution in result["cautions"]]
    parts += ["", as_markdown(columns, cells), "![test accuracy of every set](league.png)", ""]
    parts += [f"- {name}: {text}" for name, text in EXPLAINED.items()]
    commands = [row for row in result["rows"] if row.get("command")]
    parts += ["", "What was run (the chosen candidates):", ""]
    parts += [f"- {row['entry']}: `{row['command']}`" for row in commands]
    return "\n".join(parts) + "\n"


def _html(
    result: Mapping[str, Any],
    columns: list[str],
    cells: list[list[str]],
    plot: bytes,
    pictures: list[tuple[str, str]],
    league: League,
) -> str:
    return page(
        TEMPLATE,
        title=f"League: {league.title}",
        recipe=recipe(league),
        columns=columns,
        lines=list(zip(result["lines"], cells, strict=True)),
        explained=EXPLAINED,
        cautions=result["cautions"],
        plot=uri(plot, "png"),
        pictures=pictures,
        rows=[row for row in result["rows"] if row.get("command")],
    )


def drawn(lines: Sequence[Mapping[str, Any]], league: League) -> bytes:
    """Accuracy of every set with its deviation, the best on top; a dashed line for the full set."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [line for line in lines if "mean" in line and line["kind"] != FULL][::-1]
    figure = Figure(figsize=(6.4, 0.8 + 0.26 * max(1, len(shown))), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    kinds = {"hard labels": COLOURS[0], "soft labels": COLOURS[1], "not learned": FAINT}
    seen = set()
    for place, line in enumerate(shown):
        kind = f"{line['labels']} labels" if line["kind"] == "method" else "not learned"
        label = None if kind in seen else kind
        seen.add(kind)
        mean, std = 100 * line["mean"], 100 * line["std"]
        axis.errorbar(mean, place, xerr=std, color=kinds[kind], marker="o", ms=5, elinewidth=1, label=label)
    names = [f"{line['entry']}{', soft' if line['labels'] == 'soft' else ''}" for line in shown]
    axis.set_yticks(range(len(shown)), names, fontsize=8.5)
    for line in lines:
        if line["kind"] == FULL and "mean" in line:
            axis.axvline(100 * line["mean"], color=FAINT, lw=1, ls="--", label=FULL)
    axis.set_xlabel("test accuracy, %", fontsize=9, color=FAINT)
    axis.set_title(league.title, loc="left", fontsize=10, parse_math=False)
    axis.grid(axis="x", color=RULE, lw=0.7)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(length=0)
    if shown:
        figure.legend(loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=140, metadata={"Software": None})
    return out.getvalue()


def show(result: Mapping[str, Any], league: League) -> None:
    """Prints the table, short enough for 80 columns, and what a reader has to know."""
    cells = [
        [
            line["entry"] + (f" {DIRTY}" if line["dirty"] else ""),
            line["labels"],
            *(_percent(line.get(name)) for name in ("mean", "std", "others_mean")),
            *(_score(line.get(name)) for name in ("lrs", "ars")),
            _whole(line.get("images_trained_on")),
            _short(line.get("seconds")),
            _short(line.get("program_bytes"), 2**20),
        ]
        for line in result["lines"]
    ]
    columns = ["set", "labels", "%", "±", "others", "LRS", "ARS", "images", "s", "MiB"]
    progress.table(f"\nTest accuracy (%) on {league.title}", columns, cells)
    progress.say(SAYS)
    for caution in result["cautions"]:
        progress.say(caution)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"
