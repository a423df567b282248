"""Which outer learning rate each cell of the study should have: searched on validation, the test set unseen.

Question: is a cell of the study behind because of its gradient, or because of the step size it was given?

    python -m experiments.study_search                                     digits, every cell
    python -m experiments.study_search --gradients=implicit_cg --factors=0.1,1,10

Every cell of `experiments.study` is distilled for its preset's outer steps with the preset's outer learning
rate times every one of `--factors`, and on beyond the largest or the smallest where that is the best. Fresh
networks of the training architecture are trained on the images by the `dc` protocol. Its step size is
searched on validation; so are the accuracies of the table, by other networks, and never on test images. The
same command goes on with what was stopped. Writes study_search.json, study_search.csv and study_search.md.
Expected, digits: no cell gains more than two standard deviations over its preset's rate.
"""

import shlex
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from experiments import build, cli, distill, study
from experiments.measure import OUT_OF_MEMORY
from experiments.networks import of_new_networks
from experiments.options import Groups, Option, complete
from experiments.report_data import Row, read_json
from experiments.study_cells import PRESETS, Cell, cells
from experiments.tables import Table, write_tables
from jaxdistill.core.checks import UserError, above, fail, lookup
from jaxdistill.core.types import Batch
from jaxdistill.data import Splits
from jaxdistill.evaluation import everything, published, search, tuned
from jaxdistill.runtime import profile, progress
from jaxdistill.runtime.rundir import Held, RunDir, open_run

LEFT_OUT = {
    "study": ("ablations", "equal_time", "time_limit", "tries", "smoke"),
    "evaluation": ("architectures", "num_augmented_epochs", "full_data_epochs"),
}
GROUPS: Groups = {
    name: {n: option for n, option in group.items() if n not in LEFT_OUT.get(name, ())}
    for name, group in study.GROUPS.items()
}
GROUPS["study"] |= {
    "factors": Option([0.3, 1.0, 3.0], float, "candidates, relative to the preset's outer learning rate"),
    "smoke": Option(False, bool, "one cell, few steps and networks: does it run?"),
}
GROUPS["run"] = GROUPS["run"] | {
    "run_dir": Option(None, str, "where everything is written; what is there goes on (runs/search_PRESET)")
}
SMOKE = {name: value for name, value in study.SMOKE.items() if any(name in g for g in GROUPS.values())}
SMOKE |= {"gradients": ["matching_all"]}


def run(**chosen: Any) -> dict[str, Any]:
    """Distills and scores every candidate that is missing, prints and writes the table.

    Args:
      **chosen: any option of `GROUPS`.

    Returns:
      {"rows": one per cell and factor, "best": cell to factor, "config", "environment"}.

    Raises:
      UserError: bad input, before anything is distilled; a cell none of whose candidates finished.
    """
    config = complete(GROUPS, (SMOKE if chosen.get("smoke") else {}) | chosen)
    preset = lookup("study_search preset", config["preset"], PRESETS)
    config |= {n: v for n, v in preset.study.items() if n in config and config[n] is None}
    config["run_dir"] = config["run_dir"] or f"runs/search_{config['preset']}"
    for name in ("teachers", "gradients", "factors"):
        if not config[name]:
            raise fail("study_search", f"at least one of {name}", "none")
    for factor in (*config["factors"], config["steps_scale"]):
        above("study_search", "every one of factors and steps_scale", factor, 0.0)
    build.check_step_sizes(config)
    data = build.splits(complete(distill.GROUPS, preset.shared | study.places(config)))
    pinned = {n: v for n, v in config.items() if n not in ("run_dir", *distill.PLACES)}
    rows: list[Row] = []
    best: dict[str, float] = {}
    chosen_cells = cells(preset, config["teachers"], config["gradients"])
    with open_run(
        config["run_dir"], pinned, free_fields=("teachers", "gradients", "factors", "checkpoint_every")
    ) as directory:
        network = study.own_learner(preset, config)
        progress.say(
            f"search for study {config['preset']}: {len(chosen_cells)} cells, {network} on "
            f"{data.info.name}, {profile.device_description()}; everything goes to {config['run_dir']}"
        )
        for number, cell in enumerate(chosen_cells, start=1):
            progress.say(f"\n[{number}/{len(chosen_cells)}] {cell.teacher}, {cell.gradient}")

            def on_validation(factor: float, cell: Cell = cell) -> float:
                rows.append(_row(directory, data, config, cell, factor))
                return rows[-1]["mean"]

            best[cell.name], _ = search(config["factors"], on_validation)
        result = {"rows": rows, "best": best, "config": pinned, "environment": profile.environment()}
        write_tables(directory.path, "study_search", result, table(result), leave_out=("every", "command"))
    progress.table(
        f"\nValidation accuracy (%) of fresh networks: {network} on {data.info.name}", *table(result)
    )
    return result


def _row(directory: RunDir, data: Splits, config: Mapping[str, Any], cell: Cell, factor: float) -> Row:
    """One candidate, unless it is there; one that fails counts as nothing right, and says why."""
    stem = f"{cell.name}-{factor:g}"
    file = directory.path / "rows" / f"{stem}.json"
    options = study.cell_options(config, cell)
    options["outer_learning_rate"] = factor * options["outer_learning_rate"]
    command = shlex.join(["python", "-m", "experiments.distill", *cli.as_flags(options)])
    if file.exists():
        row = read_json(file)
        if row["command"] != command:
            remedy = "Choose another run_dir, or delete that file to have it made again."
            raise fail("study_search", f"the same options of {file.name} as now", row["command"], remedy)
        progress.say("done before")
        return row
    row = {"name": cell.name, "teacher": cell.teacher, "gradient": cell.gradient, "factor": factor}
    row |= {"outer_learning_rate": options["outer_learning_rate"], "command": command}
    progress.say(f"outer learning rate {options['outer_learning_rate']:g} ({factor:g} of the preset's) ...")
    try:
        row |= _scored(directory, data, config, options | study.places(config), stem)
    except Held:
        raise
    except (UserError, *OUT_OF_MEMORY) as error:
        note = " ".join(str(error).split())[:300]
        progress.say(f"failed: {note}")
        row |= {"mean": 0.0, "std": 0.0, "every": [], "step_size": None, "note": note}
    directory.write_json(file, row)
    return row


def _scored(
    directory: RunDir, data: Splits, config: Mapping[str, Any], options: dict[str, Any], stem: str
) -> Row:
    plan = distill.planned(options | {"checkpoint_every": config["checkpoint_every"]})
    with open_run(directory.path / "cells" / stem, plan.choices, free_fields=distill.FREE) as own:
        _, (images, labels, _) = distill.distilled(plan, own)
    unseen = data._replace(test=data.validation)  # what `tuned` calls test
    evaluation = of_new_networks(plan.learner, unseen, config, config["num_eval_learners"])
    protocol = published("dc", len(images), num_epochs=config["num_epochs"])
    batch = Batch(jnp.asarray(images), jnp.asarray(labels))
    found = tuned(evaluation, [protocol], batch, everything(len(images)), step_sizes=config["step_sizes"])
    score = {"mean": found.score.mean, "std": found.score.std, "every": found.score.every}
    return score | {"step_size": found.step_size, "note": ""}


def table(result: Mapping[str, Any]) -> Table:
    """(columns, cells): a line per cell, a column per factor, the best marked."""
    factors = sorted({row["factor"] for row in result["rows"]})
    lines = []
    for name, best in result["best"].items():
        own = {row["factor"]: row for row in result["rows"] if row["name"] == name}
        rate = own[best]["outer_learning_rate"]
        shown = [_shown(own[f], f == best) if f in own else "-" for f in factors]
        lines.append([own[best]["teacher"], own[best]["gradient"], f"{rate:.3g}", *shown])
    return ["teacher", "gradient", "best rate", *(f"x {factor:.3g}" for factor in factors)], lines


def _shown(row: Row, best: bool) -> str:
    if row["note"]:
        return "failed"
    return f"{100 * row['mean']:.1f} ± {100 * row['std']:.1f}" + " *" * best


if __name__ == "__main__":
    cli.main(run, GROUPS, __doc__)
