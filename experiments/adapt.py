"""Distill a target set into images that adapt networks from a source set to the target set.

Question: how good are source-trained networks on the target after a few steps on distilled target images,
against no steps, as many steps on as many real images, and training on the whole target set?

    python -m experiments.pretrain --dataset=mnist --manual_dir=FOLDER
    python -m experiments.adapt --source=mnist --target=usps --pool=runs/pretrain --manual_dir=FOLDER
    python -m experiments.adapt --flagfile=experiments/presets/adapt_usps.cfg --pool=POOL --manual_dir=FOLDER

The target's images are resized to the image size of the pool: that of the source, or the `--image_size` of
`experiments.pretrain`. `--population=pretrained` distills for the networks of the pool and tests the held-out
networks; `fixed_pretrained` distills for the first network and tests it. The row "nothing" has the networks
without adaptation. Random and optimised real images, cluster centres and averages train networks for the same
steps (see `experiments.baselines`). For the row "whole target set" new networks train for
`--full_data_epochs`; Adam's step size is searched on validation. Expected, LeNet, MNIST to USPS, 100 images:
none 77%, optimised real 89%, distilled 93.5%, everything 96%. Writes adapt.json, adapt.csv, adapt.md,
adapt.png, one baseline set of each kind as an .npz, and the run, in distilled/.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from experiments import cli
from experiments.tables import writable, write_tables
from jaxdistill.config.option import option, options
from jaxdistill.config.resolve import defaults, resolve
from jaxdistill.config.table import Config
from jaxdistill.core.keys import stream
from jaxdistill.evaluation import pretraining
from jaxdistill.methods.recipe import Facts
from jaxdistill.runs import compare
from jaxdistill.runs.baseline_files import LISTS, draw, save_sets, table
from jaxdistill.runs.baselines import BaselineOptions, Row, fits, rows_of
from jaxdistill.runs.classes import class_counts
from jaxdistill.runs.distill import distilled, opened, reading_of, say_start
from jaxdistill.runs.networks import of_new_networks
from jaxdistill.runs.plan import identity_of, planned
from jaxdistill.runs.reference import reference
from jaxdistill.runs.run import Run
from jaxdistill.runtime import profile, progress
from jaxdistill.runtime.expected_time import Shorter

SMOKE = {"num_outer_steps": 20, "num_eval_learners": 2, "full_data_epochs": 1, "num_sets": 3, "num_judges": 2}
FULL_RATES = (3e-4, 1e-3, 3e-3)
"""Step sizes of Adam to try for training on the whole target set."""
MOST_SEARCHING = 2
"""Networks per step size in that search, at most: each of them trains on the whole target set."""


@options
class Options(Config, BaselineOptions):
    title: ClassVar[str] = "adaptation"
    left_out: ClassVar[tuple[str, ...]] = (
        *("dataset", "image_size", "data_memory", "pool_dataset", "num_baseline_learners"),
    )
    source: str = option("mnist", "the set that the networks of the pool were trained on")
    target: str = option("usps", "the set to distill, as --dataset of experiments.distill")
    population: str = option(
        "pretrained",
        "networks to distill for: all of the pool, or only its first network",
        known=("pretrained", "fixed_pretrained"),
    )
    num_search_learners: int = option(
        5,
        "networks per candidate when a step size is searched; at most "
        f"{MOST_SEARCHING} on the whole target set",
        low=1,
    )
    num_full_learners: int = option(5, "new networks to train on the whole target set", low=1)
    run_dir: str = option(
        "runs/adapt", "folder to write everything into; a run that is already there is resumed"
    )
    smoke: bool = option(False, "a short trial: few networks and steps")

    @classmethod
    def settings(cls, chosen: Mapping[str, Any], facts: Any) -> dict[str, Any]:
        """Networks come from a pool."""
        return {"population": "pretrained"}


def run(options: Options) -> dict[str, Any]:
    """Distills, tests every set, prints the table, writes the files.

    Returns:
      {"rows": one per set, "margins": in words, "config", "environment"}.

    Raises:
      UserError: bad input, before anything is trained.
    """
    chosen = options.with_smoke(SMOKE)
    plan = planned(distillation(chosen))
    info = plan.data.info
    options = resolve(chosen, Facts.of(info))
    fits(plan, options.neighbors)
    folder = writable("adapt", options.run_dir)
    path = folder / "distilled"
    with opened(plan, path) as directory:
        say_start(plan, path)
        run = distilled(plan, directory)
    compare.show(run.compare())
    rows, sets = rows_of(run, options, num_learners=options.num_eval_learners, seed=options.seed)
    rows += whole_set(run, options)
    about = {"target": info.name, "image_shape": list(info.image_shape)}
    result = {
        "rows": rows,
        "margins": margins(rows),
        "config": identity_of(options) | about,
        "environment": profile.environment(),
        "class_counts": class_counts(run.data),
    }
    write_tables(folder, "adapt", result, table(result), leave_out=LISTS)
    draw(folder / "adapt.png", sets, run)
    save_sets(folder, sets, info, reading_of(run.config, info))
    show(result)
    progress.say(f"written to {folder}")
    return result


def distillation(chosen: Options) -> Config:
    """The distillation of the target for the networks of the pool."""
    values = defaults(chosen)
    return chosen.pick(
        Config,
        dataset=values["target"],
        pool_dataset=values["source"],
        image_size=side_of(values["pool"]),
        num_baseline_learners=0,
        full_data_epochs=0,
    )


def side_of(pool: str | None) -> int | None:
    """The side of the images that a pool was trained on; None if it is not known or they are not square."""
    try:
        saved = json.loads((Path(pool or "") / "config.json").read_text(encoding="utf-8"))["config"]
        height, width, _ = saved["image_shape"]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # distill says what is wrong with the folder
    return height if height == width else None


def whole_set(run: Run, options: Options) -> list[Row]:
    """New networks trained on all of the target's training set; no row with `full_data_epochs=0`."""
    count = options.full_data_epochs
    if not count:
        return []
    progress.say("the whole target set: step size searched on validation ...")
    searched = options.replace(num_search_learners=min(MOST_SEARCHING, options.num_search_learners))
    evaluation = of_new_networks(run.learner, run.data, searched, options.num_full_learners)
    training = pretraining(len(run.data.train.y), num_epochs=count)
    made = reference(
        "the whole target set",
        evaluation._replace(key=stream(run.key, "whole set")),
        [training],
        *compare.all_images(run.data),
        data=run.data,
        step_sizes=FULL_RATES,
        fresh=options.fresh_baselines,
        shorter=Shorter("full_data_epochs", count),
    )
    found = made.found
    trained_by = f"{count} epoch{'s' if count > 1 else ''}: {found.step_size:.3g}"
    row = {"set": "whole target set", **found.score.as_row(), "trained_by": trained_by}
    return [row | {"validation": found.searched}]


def margins(rows: Sequence[Row]) -> str:
    """How far the distilled images are from optimised real ones, the best others, and the whole set."""
    means = {row["set"]: 100 * row["mean"] for row in rows}

    def away(name: str) -> str:
        points = means["distilled"] - means[name]
        return f"{abs(points):.1f} points {'ahead of' if points >= 0 else 'behind'} {name}"

    small = [
        name for name in means if name not in ("nothing", "whole target set") and "distilled" not in name
    ]
    names = dict.fromkeys(["optimised real", max(small, key=lambda name: means[name]), "whole target set"])
    return f"distilled: {', '.join(away(name) for name in names if name in means)}"


def show(result: Mapping[str, Any]) -> None:
    """Prints the table, and by how much the distilled images are ahead."""
    about = result["config"]
    networks = f"{about['learner']} that was trained on {about['source']}"
    title = f"\nTest accuracy (%) on {about['target']}: {networks}"
    progress.table(title, *table(result))
    progress.say(result["margins"])


if __name__ == "__main__":
    cli.main(run, Options, __doc__)
