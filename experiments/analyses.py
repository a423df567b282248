"""How accuracy depends on the number of steps, of epochs over them, of images, and on a fixed step size.

Question: what do more steps, more passes or more images buy, and how far does a step size that is not learned
get? Wang et al. 2018, section 4.2.

    python -m experiments.analyses                                  digits, 10 minutes on 2 cores
    python -m experiments.analyses --analyses=rates --rates=0.05,0.1,0.2,0.5

steps   distinct batches of one image per class, --steps, one epoch
epochs  passes over one image per class, --epochs
images  images per class of one batch, --images, for --distill_epochs passes
rates   step size of all inner steps, not learned, --rates, the same passes over one image per class

Every point is a run of experiments.distill in a folder of its own below the run directory: run the same
command again to resume what was stopped. If a point fails, its row says why. The points of `rates` share one
compiled program. Random real images stand beside each, as many and for as many steps or by the `dc` protocol,
and images that were distilled in order are also tested with the order drawn at random. Expected, digits: 10
steps 92%, with the batches shuffled 75%; 1 and 20 epochs 45% and 92%; fixed step sizes 0.1 and 1 77% and 89%.
Writes analyses.csv, analyses.json, analyses.md and a figure per analysis.
"""

import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, ClassVar

from experiments import cli
from experiments.tables import writable, write_tables
from jaxdistill.config.option import option, options
from jaxdistill.config.resolve import filled
from jaxdistill.config.table import Config
from jaxdistill.core.checks import fail
from jaxdistill.runs import compare
from jaxdistill.runs.budget import OUT_OF_MEMORY
from jaxdistill.runs.plan import planned
from jaxdistill.runs.result import run_to_result
from jaxdistill.runtime import profile, progress
from jaxdistill.runtime.divergence import Diverged

POINTS: dict[str, tuple[str, Callable[[Any], dict[str, Any]]]] = {
    "steps": ("distinct steps", lambda n: {"distill_steps": n, "images_per_class": n, "distill_epochs": 1}),
    "epochs": ("epochs", lambda n: {"distill_steps": 1, "images_per_class": 1, "distill_epochs": n}),
    "images": ("images per class", lambda n: {"distill_steps": 1, "images_per_class": n}),
    "rates": (
        "fixed step size",
        lambda rate: {
            "distill_steps": 1,
            "images_per_class": 1,
            "inner_learning_rate": rate,
            "learned": ["learning_rate"],
            "hyper_learning_rate": 0.0,  # in the state, not in the program
            "max_inner_learning_rate": 0.0,
        },
    ),
}
"""Analysis to (label of the axis, value on the axis -> options of its run)."""
SMOKE = {"num_outer_steps": 20, "num_eval_learners": 2, "num_baseline_learners": 2, "step_sizes": [0.1]}
SMOKE |= {name: [1, 2] for name in ("steps", "epochs", "images")} | {"rates": [0.1, 0.3], "width": 8}
Row = dict[str, Any]


@options
class Options(Config):
    title: ClassVar[str] = "analyses"
    left_out: ClassVar[tuple[str, ...]] = ("data_memory",)
    analyses: tuple[str, ...] = option(tuple(POINTS), "the analyses to run", some=True, known=tuple(POINTS))
    steps: tuple[int, ...] = option((1, 2, 5, 10), "numbers of distinct batches to compare", some=True, low=1)
    epochs: tuple[int, ...] = option((1, 2, 5, 10, 20), "numbers of epochs to compare", some=True, low=1)
    images: tuple[int, ...] = option((1, 2, 5, 10), "images per class to compare", some=True, low=1)
    rates: tuple[float, ...] = option(
        (0.01, 0.03, 0.1, 0.3, 1.0), "fixed step sizes to compare", some=True, above=0
    )
    run_dir: str = option(
        "runs/analyses", "folder to write everything into; a run that is already there is resumed"
    )
    smoke: bool = option(False, "a short trial: two values per analysis, few steps")

    @classmethod
    def settings(cls, chosen: Mapping[str, Any], facts: Any) -> dict[str, Any]:
        """Short runs, since there are many, without the full training set."""
        return {
            "num_outer_steps": 500,
            "num_baseline_learners": 10,
            "num_search_learners": 2,
            "full_data_epochs": 0,
        }


def run(options: Options) -> dict[str, Any]:
    """Runs every point, prints a table per analysis, writes the files.

    Returns:
      {"rows": one per point and series, "config", "environment"}.

    Raises:
      UserError: bad input, before anything is distilled; no point that finished.
    """
    given, chosen = options, options.with_smoke(SMOKE)
    options = filled(chosen)
    reason = f"with analyses={','.join(options.analyses)}"
    cli.refuse_idle("analyses", given, {n: "" if n in options.analyses else reason for n in POINTS})
    if options.teacher != "images":
        raise fail("analyses", "teacher=images", options.teacher)
    if options.gradient == "implicit":
        raise fail("analyses", "a gradient of a fixed number of inner steps", "implicit")
    points = [(name, value) for name in options.analyses for value in sorted(set(getattr(options, name)))]
    runs = {point: chosen.pick(Config, **POINTS[point[0]][1](point[1])) for point in points}
    plans = [planned(each).identity for each in runs.values()]  # bad input raises before any run starts
    shared = {n: v for n, v in plans[0].items() if all(n in plan and plan[n] == v for plan in plans)}
    folder = writable("analyses", options.run_dir)
    kept = earlier(folder, options.analyses, shared)
    rows, times = [], progress.Rows(len(runs), "a smaller num_outer_steps, or fewer points, take less")
    for (name, value), each in runs.items():
        progress.say(f"\n{POINTS[name][0]}: {value:g}")
        point = folder / "points" / f"{name}-{value!r}"
        ended = (point / "result.json").exists()
        rows += rows_of(name, value, each.replace(run_dir=point))
        times.done(made=not ended)
    if all(row["mean"] is None for row in rows):
        raise fail("analyses", "at least one point that finishes", "none", rows[0]["error"])
    rows = sorted(kept + rows, key=lambda row: list(POINTS).index(row["analysis"]))
    result = {"rows": rows, "config": shared, "environment": profile.environment()}
    write_tables(folder, "analyses", result, table(rows), leave_out=["every"])
    draw(folder, options.analyses, result)
    show(result)
    progress.say(f"written to {folder}")
    return result


def earlier(folder: Path, analyses: Collection[str], shared: Mapping[str, Any]) -> list[Row]:
    """Rows in the folder of analyses that are not run now.

    Raises:
      UserError: the rows were made with other options.
    """
    file = folder / "analyses.json"
    if not file.exists():
        return []
    try:
        saved = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise fail("analyses", f"a readable {file}", error, "Delete it.") from error
    if not isinstance(saved, dict) or not {"rows", "config"} <= saved.keys():
        raise fail("analyses", f"rows and config in {file}", "a file without them", "Delete it.")
    rows = [row for row in saved["rows"] if row["analysis"] not in analyses]
    both = saved["config"].keys() & shared.keys() if rows else ()
    other = [name for name in sorted(both) if saved["config"][name] != shared[name]]
    varied = {name for _, options in POINTS.values() for name in options(1)}
    other = [name for name in other if name not in varied]
    if other:
        expected = f"the options of the analyses that are in {folder}"
        raise fail("analyses", expected, f"another {', '.join(other)}", "Choose another run_dir.")
    return rows


def rows_of(name: str, value: float, config: Config) -> list[Row]:
    """A point: distilled images, tested in the other order too, and random real ones."""
    point = {"analysis": name, "value": value}
    try:
        found = run_to_result(config)
        compare.show(found)
    except (Diverged, *OUT_OF_MEMORY) as error:
        text = " ".join(str(error).split())[:300]
        progress.say(f"failed: {text}")
        return [point | {"series": "distilled", "mean": None, "std": None, "error": text}]
    series = {"distilled": "test_accuracy", f"distilled, {found.get('other_order')}": "other_order"}
    series["random real"] = "random_real"
    rows = []
    for label, prefix in series.items():
        if found[f"{prefix}_mean"] is not None:
            every = found["test_accuracies" if prefix == "test_accuracy" else f"{prefix}_accuracies"]
            numbers = {part: found[f"{prefix}_{part}"] for part in ("mean", "std", "num_diverged")}
            numbers |= {"num_learners": len(every), "every": every}
            rows.append(point | {"series": label} | numbers)
    times = {part: found[part] for part in ("seconds", "compile_seconds", "outer_steps")}
    rows[0] |= times | {"num_images": found["config"]["images_per_class"]}
    return rows


def draw(folder: Path, analyses: Collection[str], result: Mapping[str, Any]) -> None:
    """A figure for each analysis with a finished point."""
    from jaxdistill.runtime import figures  # imports matplotlib

    for name in analyses:
        own = [row for row in result["rows"] if row["analysis"] == name and row["mean"] is not None]
        if own:
            figures.lines(
                folder / f"analyses_{name}.png",
                own,
                x="value",
                x_label=POINTS[name][0],
                panels={"test accuracy, %": ("mean", "std")},
                base=10 if name == "rates" else 2,
                title=f"{result['config']['dataset']}: accuracy by {POINTS[name][0]}",
            )


def table(rows: list[Row]) -> tuple[list[str], list[list[str]]]:
    """(columns, cells): a line per point and series."""
    lines = []
    for row in rows:
        told = row.get("error", "")
        if row["mean"] is not None:
            lost = f" ({row['num_diverged']} diverged)" if row["num_diverged"] else ""
            told = f"{100 * row['mean']:.1f} ± {100 * row['std']:.1f}{lost}"
        lines.append([row["analysis"], f"{row['value']:g}", row["series"], told])
    return ["analysis", "value", "trained on", "test accuracy, %"], lines


def show(result: Mapping[str, Any]) -> None:
    """Prints the table."""
    about = result["config"]
    progress.table(f"\n{about['learner']} on {about['dataset']}", *table(result["rows"]))


if __name__ == "__main__":
    cli.main(run, Options, __doc__)
