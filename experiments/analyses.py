"""How accuracy depends on the number of steps, of epochs over them, of images, and on a fixed step size.

Question: what do more steps, more passes or more images buy, and how far does a step size that is not learned
get? Wang et al. 2018, section 4.2.

    python -m experiments.analyses                                  digits, 10 minutes on 2 cores
    python -m experiments.analyses --analyses=rates --rates=0.05,0.1,0.2,0.5

steps   distinct batches of one image per class, --steps, one epoch
epochs  passes over one image per class, --epochs
images  images per class of one batch, --images, for --distill_epochs passes
rates   step size of all inner steps, not learned, --rates, the same passes over one image per class

Every point is a run of experiments.distill in a folder of its own below the run directory: the same command
goes on with what was stopped, and a point that fails is a row that says why. The points of `rates` share one
compiled program. Random real images stand beside each, as many and for as many steps or by the `dc` protocol,
and images that were distilled in order are also tested with the order drawn at random. Expected, digits: 10
steps 92%, with the batches shuffled 75%; 1 and 20 epochs 45% and 92%; fixed step sizes 0.1 and 1 77% and 89%.
Writes analyses.csv, analyses.json, analyses.md and a figure per analysis.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments import cli, distill
from experiments.measure import OUT_OF_MEMORY
from experiments.options import Groups, Option, complete, with_defaults
from experiments.report_data import read_json
from experiments.tables import writable, write_tables
from jaxdistill.core.checks import above, at_least, fail
from jaxdistill.runtime import figures, profile, progress
from jaxdistill.runtime.loop import Diverged

POINTS: dict[str, tuple[str, Any]] = {
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
"""What is on the axis, and a value to the options of its run."""
VALUES = {
    "steps": Option([1, 2, 5, 10], int, "points of the analysis steps"),
    "epochs": Option([1, 2, 5, 10, 20], int, "points of epochs"),
    "images": Option([1, 2, 5, 10], int, "points of images"),
    "rates": Option([0.01, 0.03, 0.1, 0.3, 1.0], float, "points of rates"),
}
QUICK = {"num_outer_steps": 500, "num_baseline_learners": 10, "num_search_learners": 2, "full_data_epochs": 0}
SMOKE = {"num_outer_steps": 20, "num_eval_learners": 2, "num_baseline_learners": 2, "step_sizes": [0.1]}
SMOKE |= {name: [1, 2] for name in ("steps", "epochs", "images")} | {"rates": [0.1, 0.3], "width": 8}


GROUPS: Groups = {
    "analyses": {
        "analyses": Option(list(POINTS), str, "those to run", POINTS),
        **VALUES,
        "smoke": Option(False, bool, "two points each, short: does it run?"),
    }
} | {name: with_defaults(group, **QUICK) for name, group in distill.GROUPS.items() if name != "hosts"}
GROUPS["run"] = with_defaults(GROUPS["run"], run_dir="runs/analyses")
Row = dict[str, Any]


def run(**chosen: Any) -> dict[str, Any]:
    """Runs every point, prints a table per analysis, writes the files.

    Args:
      **chosen: any option of `GROUPS`.

    Returns:
      {"rows": one per point and series, "config", "environment"}.

    Raises:
      UserError: bad input, before anything is distilled; no point that ended.
    """
    chosen = (SMOKE if chosen.get("smoke") else {}) | chosen
    config = complete(GROUPS, chosen)
    if not config["analyses"]:
        raise fail("analyses", f"at least one of {', '.join(POINTS)}", "none")
    for name in config["analyses"]:
        if not config[name]:
            raise fail("analyses", f"at least one value of {name}", "none")
        for value in config[name]:
            above("analyses", name, value, 0.0) if name == "rates" else at_least("analyses", name, value, 1)
    folder = Path(config["run_dir"])
    if config["teacher"] != "images":
        raise fail("analyses", "teacher=images", config["teacher"])
    if config["gradient"] == "implicit":
        raise fail("analyses", "a gradient through the steps that are counted", "implicit")
    options = {n: v for n, v in (QUICK | chosen).items() if n in distill.OPTIONS}
    points = [(name, value) for name in config["analyses"] for value in sorted(set(config[name]))]
    runs = {point: options | POINTS[point[0]][1](point[1]) for point in points}
    plans = [distill.planned(each).choices for each in runs.values()]  # what cannot be made starts nothing
    shared = {n: v for n, v in plans[0].items() if all(plan[n] == v for plan in plans)}
    writable("analyses", folder)
    kept = earlier(folder, config, shared)
    rows = []
    for (name, value), each in runs.items():
        progress.say(f"\n{POINTS[name][0]}: {value:g}")
        place = folder / "points" / f"{name}-{value!r}"
        rows += rows_of(name, value, each | {"run_dir": str(place)})
    if all(row["mean"] is None for row in rows):
        raise fail("analyses", "a point that ends", "none", rows[0]["error"])
    rows = sorted(kept + rows, key=lambda row: list(POINTS).index(row["analysis"]))
    result = {
        "rows": rows,
        "config": json.loads(json.dumps(shared)),
        "environment": profile.environment(),
    }
    write_tables(folder, "analyses", result, table(rows), leave_out=["every"])
    for name in config["analyses"]:
        own = [row for row in rows if row["analysis"] == name and row["mean"] is not None]
        if own:
            figures.lines(
                folder / f"analyses_{name}.png",
                own,
                x="value",
                x_label=POINTS[name][0],
                panels={"test accuracy, %": ("mean", "std")},
                base=10 if name == "rates" else 2,
                title=f"{shared['dataset']}: accuracy by {POINTS[name][0]}",
            )
    show(result)
    progress.say(f"written to {folder}")
    return result


def earlier(folder: Path, config: Mapping[str, Any], shared: Mapping[str, Any]) -> list[Row]:
    """Rows in the folder of analyses that are not run now.

    Raises:
      UserError: they are those of other options.
    """
    file = folder / "analyses.json"
    if not file.exists():
        return []
    saved = read_json(file)
    if not isinstance(saved, dict) or not {"rows", "config"} <= saved.keys():
        raise fail("analyses", f"rows and config in {file}", "another file", "Delete it.")
    rows = [row for row in saved["rows"] if row["analysis"] not in config["analyses"]]
    both = saved["config"].keys() & shared.keys() if rows else ()
    other = [name for name in sorted(both) if saved["config"][name] != json.loads(json.dumps(shared[name]))]
    varied = {name for _, options in POINTS.values() for name in options(1)}
    other = [name for name in other if name not in varied]
    if other:
        expected = f"the options of the analyses that are in {folder}"
        raise fail("analyses", expected, f"another {', '.join(other)}", "Choose another run_dir.")
    return rows


def rows_of(name: str, value: float, options: Mapping[str, Any]) -> list[Row]:
    """A point: distilled images, tested in the other order too, and random real ones."""
    point = {"analysis": name, "value": value}
    try:
        found = distill.run(**options)
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
    config = result["config"]
    progress.table(f"\n{config['learner']} on {config['dataset']}", *table(result["rows"]))


if __name__ == "__main__":
    cli.main(run, GROUPS, __doc__)
