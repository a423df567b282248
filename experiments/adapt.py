"""Distill a target set into images that turn networks trained on a source set into networks for the target.

Question: how good are source-trained networks on the target after a few steps on distilled target images,
against no steps, as many steps on as many real images, and training on the whole target set?

    python -m experiments.pretrain --dataset=mnist --manual_dir=FOLDER
    python -m experiments.adapt --source=mnist --target=usps --pool=runs/pretrain --manual_dir=FOLDER
    python -m experiments.adapt --flagfile=experiments/presets/adapt_usps.cfg --pool=POOL --manual_dir=FOLDER

The target's images are brought to the size of the pool's: that of the source, or the `--image_size` that
the pool was trained with. `--population=pretrained` distills for the networks of the pool and tests on
those held out, `fixed_pretrained` for the first one; "nothing" are the networks as they are. Random and
optimised real images, cluster centres and averages are trained on for the same steps, see
`experiments.baselines`; the whole target set by new networks, for `--full_data_epochs`, Adam's step size
searched on validation. Expected, LeNet, MNIST to USPS, 100 images: none 77%, optimised real 89%, distilled
93.5%, everything 96%. Writes adapt.json, adapt.csv, adapt.md, adapt.png, one baseline
set of each kind as an .npz, and the run, in distilled/.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments import baselines, cli, distill
from experiments.baselines import LISTS, SMOKE, Row, row
from experiments.networks import new_networks
from experiments.options import DATA, POOL, Groups, Option, complete, with_defaults
from experiments.saved import Saved, load_run
from experiments.tables import writable, write_tables
from jaxdistill.core.keys import stream
from jaxdistill.core.types import Batch
from jaxdistill.evaluation import Evaluation, everything, pretraining, tuned
from jaxdistill.runtime import profile, progress

GROUPS: Groups = {
    "adaptation": {
        "source": Option("mnist", str, "the set that the networks of the pool were trained on"),
        "target": Option("usps", str, "the set to distill, as --dataset of experiments.distill"),
        "pool": POOL["pool"],
        "num_full_learners": Option(5, int, "new networks trained on the whole target set", low=1),
        "smoke": Option(False, bool, "few networks and steps: does it run?"),
    },
    "data": {name: DATA[name] for name in ("data_dir", "manual_dir")},
    **{
        n: dict(group)
        for n, group in distill.GROUPS.items()
        if n not in ("data", "pre-trained networks", "hosts")
    },
    "baselines": {n: o for n, o in baselines.GROUPS["baselines"].items() if n not in ("run", "smoke")},
}
GROUPS["learner"] = GROUPS["learner"] | {
    "population": GROUPS["learner"]["population"]._replace(
        default="pretrained", known=("pretrained", "fixed_pretrained")
    )
}
GROUPS["run"] = with_defaults(GROUPS["run"], run_dir="runs/adapt")
del GROUPS["evaluation"]["num_baseline_learners"]
SHORT = {"num_outer_steps": 20, "num_eval_learners": 2, "full_data_epochs": 1}
FULL_RATES = (3e-4, 1e-3, 3e-3)
"""Step sizes of Adam that training on the whole target set is searched over."""


def run(**chosen: Any) -> dict[str, Any]:
    """Distills, tests every set, prints the table, writes the files.

    Args:
      **chosen: any option of `GROUPS`.

    Returns:
      {"rows": one per set, "margins": in words, "config", "environment"}.

    Raises:
      UserError: bad input, before anything is trained.
    """
    chosen = SHORT | chosen if chosen.get("smoke") else chosen
    config = complete(GROUPS, chosen)
    config |= {name: SMOKE[name] for name in GROUPS["baselines"] if config["smoke"] and name in SMOKE}
    baselines.check(config)
    folder = Path(config["run_dir"])
    options = {name: value for name, value in chosen.items() if name in distill.OPTIONS}
    options |= {"dataset": config["target"], "pool_dataset": config["source"], "pool": config["pool"]}
    options |= {"population": config["population"], "image_size": side_of(config["pool"])}
    options |= {"num_baseline_learners": 0, "run_dir": str(folder / "distilled")}
    plan = distill.planned(options)
    baselines.fits(plan.method, plan.data, plan.key, config)
    writable("adapt", folder)
    distill.run(**options)
    places = {name: config[name] for name in ("data_dir", "manual_dir", "pool")}
    dataset = config["target"] if config["target"].endswith(".npz") else None
    saved = load_run(options["run_dir"], dataset=dataset, **places)
    limits = {"num_learners": config["num_eval_learners"]}
    rows, pictures = baselines.rows_of(saved, config | limits)
    rows += whole_set(saved, config)
    result = {
        "rows": rows,
        "margins": margins(rows),
        "config": {n: v for n, v in config.items() if n not in (*places, "run_dir", "target")}
        | {"target": saved.data.info.name, "image_shape": list(saved.data.info.image_shape)},
        "environment": profile.environment(),
    }
    write_tables(folder, "adapt", result, baselines.table(rows), leave_out=LISTS)
    baselines.draw(folder / "adapt.png", pictures, saved)
    baselines.save_sets(folder, pictures, saved)
    show(result)
    progress.say(f"written to {folder}")
    return result


def side_of(pool: str | None) -> int | None:
    """The side of the images that a pool was trained on; None where that is not known or not one."""
    try:
        saved = json.loads((Path(pool or "") / "config.json").read_text(encoding="utf-8"))["config"]
        height, width, _ = saved["image_shape"]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # distill says what is wrong with the folder
    return height if height == width else None


def whole_set(saved: Saved, config: Mapping[str, Any]) -> list[Row]:
    """New networks trained on all of the target's training set; no row with `full_data_epochs=0`."""
    epochs, train = config["full_data_epochs"], saved.data.train
    if not epochs:
        return []
    progress.say("the whole target set: step size searched on validation ...")
    evaluation = Evaluation(
        learner=saved.learner,
        contexts=new_networks(saved.learner),
        validation=saved.data.validation,
        test=saved.data.test,
        key=stream(saved.key, "whole set"),
        num_learners=config["num_full_learners"],
        search_learners=min(2, config["num_search_learners"]),
        strategy=config["strategy"],
        learner_chunk=config["learner_chunk"],
    )
    plan = pretraining(len(train.y), num_epochs=epochs)
    found = tuned(
        evaluation, [plan], Batch(train.x, train.y), everything(len(train.y)), step_sizes=FULL_RATES
    )
    how = f"{epochs} epoch{'s' * (epochs > 1)}: {found.step_size:.3g}"
    return [row("whole target set", found.score) | {"trained_by": how, "validation": found.searched}]


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
    config = result["config"]
    networks = f"{config['learner']} that was trained on {config['source']}"
    title = f"\nTest accuracy (%) on {config['target']}: {networks}"
    progress.table(title, *baselines.table(result["rows"]))
    progress.say(result["margins"])


if __name__ == "__main__":
    cli.main(run, GROUPS, __doc__)
