"""Distill images that make trained networks take one class for another: what poisoned data could do.

Question: after one step on a few images, how often do networks never seen take class K for J, and what does
it cost the other classes? To know the risk of training on data from others: against as many real images, and
against real images with the labels of K changed to J.

    python -m experiments.pretrain
    python -m experiments.attack --attack_class=0 --target_class=1 --pool=runs/pretrain

The outer loop lowers the loss on real data whose labels of class K were changed to J (Wang et al. 2018,
section 3.5). Networks come from a pool, `--population=pretrained`, tested on those held out, or are its
first one, `fixed_pretrained`, tested on it. Every set is tried at every one of `--step_sizes`, the
distilled images at the learned one too; the table has the one that is best on validation for some of the
networks held out, and tests it on the others: the highest success rate that on validation costs the other
classes less than `--most_lost`. Expected, digits, a minute: 99.8% for 4.5 points; real images
with changed labels 33% for 14.5.
Writes attack.json, attack.csv, attack.md, attack.png (the curves over step sizes), and the run: images,
config, checkpoints.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import build, cli, distill
from experiments.baselines import class_by_class, equal_steps, fits
from experiments.comparison import Synthetic, as_learned, seen
from experiments.distill import FREE, Plan, default_run_dir, described, distilled, facts, planned
from experiments.networks import NETWORKS, evaluations, num_unseen
from experiments.options import Groups, Option, complete, with_defaults
from experiments.tables import write_tables
from jaxdistill.core.checks import fail
from jaxdistill.core.keys import stream
from jaxdistill.core.types import Array, Batch, Dataset, DistillState, Params
from jaxdistill.data import Splits
from jaxdistill.evaluation import (
    Evaluation,
    Protocol,
    Subsets,
    as_they_are,
    confusion_on,
    evaluator,
    random_of_each_class,
    with_step_size,
)
from jaxdistill.runtime import figures, profile, progress
from jaxdistill.runtime.rundir import open_run

SMOKE = {"num_outer_steps": 20, "num_eval_learners": 2, "step_sizes": [0.1]}


STEP_SIZES = [0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.11, 0.12, 0.13, 0.14, 0.16, 0.2, 0.3, 0.5, 1.0]
"""Finer where real images with changed labels begin to work: a coarse grid would starve them."""
GROUPS: Groups = {
    "attack": {
        "attack_class": Option(0, int, "K, number of the class that is to be taken for another", low=0),
        "target_class": Option(1, int, "J, number of the class that it is to be taken for", low=0),
        "most_lost": Option(0.1, float, "accuracy that the others may lose at the chosen step size", low=0),
        "smoke": Option(False, bool, "few networks and steps: does it run?"),
    }
} | {name: dict(group) for name, group in distill.GROUPS.items() if name != "hosts"}
GROUPS["teacher"] = with_defaults(GROUPS["teacher"], images_per_class=10, distill_epochs=1)
GROUPS["evaluation"] = with_defaults(GROUPS["evaluation"], step_sizes=STEP_SIZES)
for unused in ("protocol", "num_baseline_learners", "full_data_epochs"):
    del GROUPS["evaluation"][unused]
GROUPS["learner"] = GROUPS["learner"] | {
    "population": Option(
        "pretrained", str, "networks: those of a pool, or one of it", ("pretrained", "fixed_pretrained")
    )
}
COLUMNS = ("success_mean", "success_std", "others_mean", "others_std", "others_lost")
LISTS = [f"{prefix}{part}_every" for prefix in ("", "validation_") for part in ("success", "others")]
"""Of a row, in the JSON file alone."""
Row = dict[str, Any]


def run(**chosen: Any) -> dict[str, Any]:
    """Distills, tests every set at every step size, prints the table, writes the run directory.

    Args:
      **chosen: any option of `GROUPS`.

    Returns:
      {"rows": one per set and step size, "chosen": one per set and one of no training, times, "config",
      "environment"}.

    Raises:
      UserError: bad input, before anything is written; a NaN on the way.
      Interrupted: SIGINT or SIGTERM; the state is saved.
    """
    config = complete(GROUPS, (SMOKE if chosen.get("smoke") else {}) | chosen)
    if not build.trains(config):
        raise fail("attack", "a method that trains inner steps", config["method"])
    classes = {name: config[name] for name in ("attack_class", "target_class")}
    plan = planned(
        {n: v for n, v in config.items() if n in distill.OPTIONS}, partial(relabelled, **classes), classes
    )
    real = build.splits(plan.config)
    designed, per_class = fits(plan.method, real, plan.key, {"neighbors": [1]})
    if plan.config["population"] == "pretrained" and num_unseen(plan.bank) < 2:
        expected = "a pool with at least 2 networks held out, one to search with and one to test on"
        remedy = "See num_test_networks of experiments.pretrain."
        raise fail("attack", expected, num_unseen(plan.bank), remedy)
    path = plan.config["run_dir"] or default_run_dir(plan.choices | {"method": "attack"})
    with open_run(path, plan.choices, free_fields=FREE) as directory:
        progress.say(
            f"attack on {real.info.name}: {named(real, **classes)}, {described(plan.config, real)}, "
            f"{plan.config['learner']}, {profile.device_description()}; everything goes to {path}"
        )
        finished, synthetic = distilled(plan, directory)
        evaluation, _ = evaluations(
            plan.config, real, plan.learner, finished.state, stream(plan.key, "attack"), plan.bank
        )
        networks = networks_of(evaluation, num_unseen(plan.bank))
        before = untrained(evaluation, networks, config, real.train)
        series = [
            rows_of(name, *how, evaluation, networks, config, before)
            for name, how in sets(
                plan, real, finished.state, synthetic, class_by_class(designed), per_class
            ).items()
        ]
        rows = [row for own in series for row in own]
        result = {
            "rows": rows,
            "chosen": [before, *(best(own, config["most_lost"]) for own in series)],
            "most_lost": config["most_lost"],
            **facts(plan, finished, directory),
        }
        write_tables(directory.path, "attack", result, table(result), leave_out=LISTS)
        figures.lines(
            directory.path / "attack.png",
            rows,
            x="step_size",
            x_label="step size",
            panels={
                f"{named(real, **classes)}, %": ("success_mean", "success_std"),
                "accuracy of other classes, %": ("others_mean", "others_std"),
            },
            base=10,
            title=f"attack on {real.info.name}: {NETWORKS[plan.config['population']]}",
        )
    show(result, named(real, **classes))
    return result


def relabelled(data: Splits, *, attack_class: int, target_class: int) -> Splits:
    """The set with training labels J in the place of K: what the outer loop lowers the loss on.

    Raises:
      UserError: a class that there is not, or the same one twice.
    """
    for name, value in (("attack_class", attack_class), ("target_class", target_class)):
        if value >= data.info.num_classes:
            raise fail("attack", f"{name} in 0 ... {data.info.num_classes - 1}", value)
    if attack_class == target_class:
        raise fail("attack", "attack_class other than target_class", attack_class)
    y = data.train.y
    changed = jnp.where(y[:, attack_class, None] == 1, jnp.eye(y.shape[1])[target_class], y)
    return data._replace(train=data.train._replace(y=changed))


def named(data: Splits, *, attack_class: int, target_class: int) -> str:
    """`3 taken for 5`."""
    names = data.info.class_names
    return f"{names[attack_class]} taken for {names[target_class]}"


def sets(
    plan: Plan,
    real: Splits,
    state: DistillState,
    synthetic: Synthetic,
    place: np.ndarray,
    per_class: int,
) -> dict[str, tuple[Protocol, Batch, Subsets]]:
    """(how networks are trained, images, which each sees): the distilled ones and what they have to beat."""
    order = synthetic[2]
    most = max(plan.config["num_eval_learners"], plan.config["num_search_learners"])
    constant = equal_steps(plan.config, plan.method, state, place[order])[0]
    subsets = random_of_each_class(real.train, per_class)
    draw = seen(plan.config, plan.method, state, synthetic, stream(plan.key, "draws"), most)
    learned = as_learned(plan.config, plan.method, state, order)
    return {
        "distilled": (learned, *draw),
        "random real": (constant, Batch(real.train.x, real.train.y), subsets),
        "mislabelled real": (constant, Batch(real.train.x, plan.data.train.y), subsets),
    }


class Networks(NamedTuple):
    """What every set is tried on: weights, the split that they are tested on, and a key."""

    search: tuple[Params, Dataset, Array]
    test: tuple[Params, Dataset, Array]


def networks_of(evaluation: Evaluation, unseen: int) -> Networks:
    """Networks held out of a pool, half of them at most to search with; the one network for both."""
    search, test = evaluation.search_learners, evaluation.num_learners
    key = stream(evaluation.key, "networks")
    if evaluation.search_contexts is None:
        parts = evaluation.contexts(key, search), evaluation.contexts(key, test)
    else:
        search = min(search, unseen // 2)
        every = evaluation.contexts(key, min(unseen, search + test))
        parts = jax.tree.map(lambda a: a[:search], every), jax.tree.map(lambda a: a[search:], every)
    searching = (parts[0], evaluation.validation, stream(key, "search"))
    return Networks(searching, (parts[1], evaluation.test, stream(key, "test")))


def rows_of(
    name: str,
    protocol: Protocol,
    images: Batch,
    subsets: Subsets,
    evaluation: Evaluation,
    networks: Networks,
    config: Mapping[str, Any],
    before: Row,
) -> list[Row]:
    """One set at every step size, on validation and on test."""
    progress.say(f"{name} images: every step size ...")
    run = evaluator(
        evaluation.learner,
        protocol,
        measure=confusion_on,
        strategy=evaluation.strategy,
        learner_chunk=evaluation.learner_chunk,
    )
    rates = set(config["step_sizes"])
    own = float(protocol.values["learning_rate"][0])
    rows = []
    for rate in sorted(rates | {own} if name == "distilled" else rates):
        values = with_step_size(protocol, rate).values

        def measured(params: Params, split: Dataset, key: Array, values: Any = values) -> Array:
            count = jax.tree.leaves(params)[0].shape[0]
            return run(params, images, subsets(key, count), values, split, key)

        line = {"series": name, "step_size": rate, "learned": name == "distilled" and rate == own}
        line |= on_both_splits(networks, config, measured)
        for prefix in ("", "validation_"):
            line[f"{prefix}others_lost"] = before[f"{prefix}others_mean"] - line[f"{prefix}others_mean"]
        rows.append(line)
    return rows


def untrained(evaluation: Evaluation, networks: Networks, config: Mapping[str, Any], real: Dataset) -> Row:
    """The networks as they are."""

    def measured(params: Params, split: Dataset, key: Array) -> Array:
        options = {"strategy": evaluation.strategy, "learner_chunk": evaluation.learner_chunk}
        return as_they_are(evaluation.learner, params, split, real, key, measure=confusion_on, **options)

    line: Row = {"series": "nothing", "step_size": 0.0, "others_lost": 0.0, "learned": False}
    return line | on_both_splits(networks, config, measured)


def on_both_splits(
    networks: Networks, config: Mapping[str, Any], measured: Callable[[Params, Dataset, Array], Array]
) -> Row:
    """Some unseen networks on validation, others on test; `measured` gives confusions."""
    line: Row = {}
    for prefix, (params, split, key) in (("validation_", networks.search), ("", networks.test)):
        found = shares(measured(params, split, key), config)
        line |= {prefix + part: value for part, value in found.items()}
    return line


def shares(confusion: Array, config: Mapping[str, Any]) -> Row:
    """How much of K is taken for J, and how much of the others is right: mean, deviation, every network.

    A network that diverged to NaN takes nothing for anything: the attack has not worked, and all is lost.
    """
    attacked, goal = config["attack_class"], config["target_class"]
    matrix = np.nan_to_num(np.asarray(confusion, np.float64))
    others = np.arange(matrix.shape[1]) != attacked
    success = matrix[:, attacked, goal] / np.maximum(matrix[:, attacked].sum(axis=-1), 1e-12)
    right = np.trace(matrix[:, others][:, :, others], axis1=1, axis2=2)
    right = right / np.maximum(matrix[:, others].sum(axis=(1, 2)), 1e-12)
    return {
        "success_mean": float(success.mean()),
        "success_std": float(success.std()),
        "others_mean": float(right.mean()),
        "others_std": float(right.std()),
        "num_learners": len(success),
        "success_every": success.tolist(),
        "others_every": right.tolist(),
    }


def best(rows: Sequence[Row], most_lost: float) -> Row:
    """The step size at which most of K is taken for J on validation, the others losing less than `most_lost`.

    Where they lose more at every step size, the one at which they lose least.
    """
    allowed = [row for row in rows if row["validation_others_lost"] < most_lost]
    if not allowed:
        return min(rows, key=lambda row: row["validation_others_lost"])
    return max(allowed, key=lambda row: row["validation_success_mean"])


def table(result: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """(columns, cells)."""
    columns = ["trained on", "step size", "success", "std", "other classes", "std", "lost", "K"]
    lines = []
    for row in result["chosen"]:
        size = f"{row['step_size']:.3g}" + " (learned)" * row["learned"] if row["step_size"] else "-"
        shown = [f"{100 * row[name] + 0.0:.1f}".replace("-0.0", "0.0") for name in COLUMNS]
        lines.append([row["series"], size, *shown, str(row["num_learners"])])
    return columns, lines


def show(result: Mapping[str, Any], what: str) -> None:
    """Prints the table."""
    config = result["config"]
    progress.table(
        f"\n{what} (%) and accuracy of the other classes on {config['dataset']}: {config['learner']}, "
        f"{NETWORKS[config['population']]}",
        *table(result),
    )


if __name__ == "__main__":
    cli.main(run, GROUPS, __doc__)
