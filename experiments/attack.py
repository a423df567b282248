"""Distill images that make trained networks take one class for another: the effect of poisoned data.

Question: after one step on a few images, how often do unseen networks take class K for J, and how much
accuracy do the other classes lose? This measures the risk of training on other people's data. It compares
distilled images with as many real images, and with real images whose labels K are changed to J.

    python -m experiments.pretrain
    python -m experiments.attack --attack_class=0 --target_class=1 --pool=runs/pretrain

The outer loop minimises the loss on real data whose labels of class K were changed to J (Wang et al. 2018,
section 3.5). `--population=pretrained` distills for the networks of a pool and tests the held-out networks;
`fixed_pretrained` distills for the first network of the pool and tests it. Every set of images is tried with
each of `--step_sizes`, the distilled images also with the learned step size. Some of the held-out networks
choose the step size on validation: that of the highest success at which the other classes lose less than
`--most_lost`. The other held-out networks test it. Expected, digits, a minute: 99.8% for 4.5 points; real
images with changed labels 27% for 14.0. Writes attack.json, attack.csv, attack.md, attack.png (the curves
over step sizes), and the run: images, config, checkpoints.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import cli
from experiments.tables import write_tables
from jaxdistill.config.option import option, options
from jaxdistill.config.owners import HEAD_SOLVED
from jaxdistill.config.resolve import defaults, has_steps
from jaxdistill.config.table import Config
from jaxdistill.core.checks import fail
from jaxdistill.core.keys import stream
from jaxdistill.core.types import Array, Batch, Dataset, Params
from jaxdistill.data import Splits
from jaxdistill.evaluation import (
    Evaluation,
    Protocol,
    Subsets,
    as_they_are,
    confusion_on,
    evaluator,
    with_step_size,
)
from jaxdistill.runs.baselines import class_by_class, fits, own_steps
from jaxdistill.runs.compare import random_images, tested_on
from jaxdistill.runs.distill import distilled, opened
from jaxdistill.runs.networks import evaluations, num_unseen
from jaxdistill.runs.plan import default_run_dir, planned
from jaxdistill.runs.protocols import as_learned, seen
from jaxdistill.runs.result import facts
from jaxdistill.runs.run import Run
from jaxdistill.runtime import profile, progress

SMOKE = {"num_outer_steps": 20, "num_eval_learners": 2, "step_sizes": [0.1]}
STEP_SIZES = (0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.11, 0.12, 0.13, 0.14, 0.16, 0.2, 0.3, 0.5, 1.0)
"""Finer near the step sizes at which real images with changed labels begin to work."""
COLUMNS = ("success_mean", "success_std", "others_mean", "others_std", "others_lost")
LISTS = [f"{prefix}{part}_every" for prefix in ("", "validation_") for part in ("success", "others")]
"""The lists in a row, which only the JSON file has."""
Row = dict[str, Any]


@options
class Options(Config):
    title: ClassVar[str] = "attack"
    left_out: ClassVar[tuple[str, ...]] = (
        *("protocol", "num_baseline_learners", "full_data_epochs", "fresh_baselines", "data_memory"),
    )
    attack_class: int = option(0, "K, number of the class to be mistaken for the target class", low=0)
    target_class: int = option(1, "J, number of the target class", low=0)
    most_lost: float = option(0.1, "accuracy that the other classes may lose at the chosen step size", low=0)
    population: str = option(
        "pretrained",
        "networks to distill for: all of a pool, or only its first network",
        known=("pretrained", "fixed_pretrained"),
    )
    smoke: bool = option(False, "a short trial: few networks and steps")

    @classmethod
    def settings(cls, chosen: Mapping[str, Any], facts: Any) -> dict[str, Any]:
        """One step on ten images per class, for the networks of a pool."""
        return {
            "images_per_class": 10,
            "distill_epochs": 1,
            "population": "pretrained",
            "step_sizes": STEP_SIZES,
        }


class Attack(NamedTuple):
    """The class that networks should mistake, and the class that they should take it for."""

    attack_class: int
    """K."""
    target_class: int
    """J."""

    def named(self, data: Splits) -> str:
        """`3 taken for 5`."""
        names = data.info.class_names
        return f"{names[self.attack_class]} taken for {names[self.target_class]}"


def run(options: Options) -> dict[str, Any]:
    """Distills, tests every set at every step size, prints the table, writes the run directory.

    Returns:
      {"rows": one per set and step size, "chosen": one per set and one of no training, times, "config",
      "environment"}.

    Raises:
      UserError: bad input, before anything is written; a NaN on the way.
      Interrupted: SIGINT or SIGTERM; the state is saved.
    """
    from jaxdistill.runtime import figures  # imports matplotlib

    options = options.with_smoke(SMOKE)
    values = defaults(options)
    if not has_steps(values["method"], values["gradient"]):
        got = values["gradient"] if values["gradient"] in HEAD_SOLVED else values["method"]
        raise fail("attack", "a method that trains inner steps", got)
    attack, chosen = Attack(values["attack_class"], values["target_class"]), options.pick(Config)
    loaded: list[Splits] = []

    def change(data: Splits) -> Splits:
        loaded.append(data)
        return relabelled(data, attack)

    plan = planned(chosen, change=change, more=attack._asdict(), experiment="attack")
    (real,) = loaded
    classes, per_class = fits(plan)
    if plan.config.population == "pretrained" and num_unseen(plan.bank) < 2:
        expected = "a pool with at least 2 held-out networks, one to search with and one to test"
        remedy = "See num_test_networks of experiments.pretrain."
        raise fail("attack", expected, num_unseen(plan.bank), remedy)
    path, what = plan.config.run_dir or default_run_dir(plan), attack.named(real)
    with opened(plan, path) as directory:
        progress.say(
            f"attack on {real.info.name}: {what}, {plan.made_of}, {plan.config.learner}, "
            f"{profile.device_description()}; everything goes to {path}"
        )
        run = distilled(plan, directory)
        trial = trial_of(run, real, attack)
        before = untrained(trial, real.train)
        series = [
            rows_of(trial, name, each, plan.config.step_sizes, before)
            for name, each in sets(run, real, class_by_class(classes), per_class).items()
        ]
        rows = [row for own in series for row in own]
        result = {
            "rows": rows,
            "chosen": [before, *(best(own, values["most_lost"]) for own in series)],
            "most_lost": values["most_lost"],
            **facts(run, directory),
        }
        write_tables(directory.path, "attack", result, table(result), leave_out=LISTS)
        figures.lines(
            directory.path / "attack.png",
            rows,
            x="step_size",
            x_label="step size",
            panels={
                f"{what}, %": ("success_mean", "success_std"),
                "accuracy of other classes, %": ("others_mean", "others_std"),
            },
            base=10,
            title=f"attack on {real.info.name}: {tested_on(plan.config.population)}",
        )
    show(result, what)
    return result


def relabelled(data: Splits, attack: Attack) -> Splits:
    """The set that the outer loop lowers the loss on: with training labels J instead of K.

    Raises:
      UserError: a class that does not exist, or the same one twice.
    """
    for name, value in attack._asdict().items():
        if value >= data.info.num_classes:
            raise fail("attack", f"{name} in 0 ... {data.info.num_classes - 1}", value)
    if attack.attack_class == attack.target_class:
        raise fail("attack", "attack_class other than target_class", attack.attack_class)
    y = data.train.y
    changed = jnp.where(y[:, attack.attack_class, None] == 1, jnp.eye(y.shape[1])[attack.target_class], y)
    return data._replace(train=data.train._replace(y=changed))


class Trained(NamedTuple):
    """Images and the training of networks on them."""

    protocol: Protocol
    images: Batch
    subsets: Subsets


def sets(run: Run, real: Splits, place: np.ndarray, per_class: int) -> dict[str, Trained]:
    """The distilled images and the sets to compare them with.

    Args:
      run: of the distillation.
      real: its data, before the labels were changed.
      place: [N], where each distilled image would be in a set that is sorted by class.
      per_class: images of each class.
    """
    most = max(run.config.num_eval_learners, run.config.num_search_learners)
    constant = own_steps(run, place[run.order])[0]
    images, subsets = random_images(real, per_class)
    return {
        "distilled": Trained(as_learned(run, run.order), *seen(run, stream(run.key, "draws"), most)),
        "random real": Trained(constant, images, subsets),
        "mislabelled real": Trained(constant, images._replace(y=run.data.train.y), subsets),
    }


class Trial(NamedTuple):
    """The networks and data that every set is tried with."""

    attack: Attack
    evaluation: Evaluation
    search: tuple[Params, Dataset, Array]
    """Networks to search with, validation data, a key."""
    test: tuple[Params, Dataset, Array]
    """Networks to test, test data, a key."""


def trial_of(run: Run, real: Splits, attack: Attack) -> Trial:
    """Held-out networks of a pool, at most half of them to search with; a single network for both."""
    key, unseen = stream(run.key, "attack"), num_unseen(run.bank)
    evaluation, _ = evaluations(run.config, real, run.learner, run.state, key, run.bank)
    search, test = evaluation.search_learners, evaluation.num_learners
    networks = stream(evaluation.key, "networks")
    if evaluation.search_contexts is None:
        parts = evaluation.contexts(networks, search), evaluation.contexts(networks, test)
    else:
        search = min(search, unseen // 2)
        every = evaluation.contexts(networks, min(unseen, search + test))
        parts = jax.tree.map(lambda a: a[:search], every), jax.tree.map(lambda a: a[search:], every)
    searching = (parts[0], evaluation.validation, stream(evaluation.key, "search"))
    return Trial(attack, evaluation, searching, (parts[1], evaluation.test, stream(evaluation.key, "test")))


def rows_of(trial: Trial, name: str, trained: Trained, step_sizes: Sequence[float], before: Row) -> list[Row]:
    """One set at every step size, on both splits; `before` is the row without training."""
    progress.say(f"{name} images: every step size ...")
    protocol, images, subsets = trained
    evaluation = trial.evaluation
    run = evaluator(
        evaluation.learner,
        protocol,
        measure=confusion_on,
        strategy=evaluation.strategy,
        learner_chunk=evaluation.learner_chunk,
    )
    rates = set(step_sizes)
    own = float(protocol.step_size)
    rows = []
    for rate in sorted(rates | {own} if name == "distilled" else rates):
        values = with_step_size(protocol, rate).values

        def measured(params: Params, split: Dataset, key: Array, values: Any = values) -> Array:
            count = jax.tree.leaves(params)[0].shape[0]
            shown = subsets(stream(key, "images"), count)
            return run(params, images, shown, values, split, stream(key, "training"))

        line = {"series": name, "step_size": rate, "learned": name == "distilled" and rate == own}
        line |= on_both_splits(trial, measured)
        for prefix in ("", "validation_"):
            line[f"{prefix}others_lost"] = before[f"{prefix}others_mean"] - line[f"{prefix}others_mean"]
        rows.append(line)
    return rows


def untrained(trial: Trial, real: Dataset) -> Row:
    """The row of the networks without a step on any images."""
    evaluation = trial.evaluation

    def measured(params: Params, split: Dataset, key: Array) -> Array:
        return as_they_are(
            evaluation.learner,
            params,
            split,
            real,
            stream(key, "real"),
            measure=confusion_on,
            strategy=evaluation.strategy,
            learner_chunk=evaluation.learner_chunk,
        )

    line: Row = {"series": "nothing", "step_size": 0.0, "others_lost": 0.0, "learned": False}
    return line | on_both_splits(trial, measured)


def on_both_splits(trial: Trial, measured: Callable[[Params, Dataset, Array], Array]) -> Row:
    """Some unseen networks on validation, others on test; `measured` gives confusions."""
    line: Row = {}
    for prefix, (params, split, key) in (("validation_", trial.search), ("", trial.test)):
        found = shares(measured(params, split, key), trial.attack)
        line |= {prefix + part: value for part, value in found.items()}
    return line


def shares(confusion: Array, attack: Attack) -> Row:
    """How much of K is taken for J, and how much of the others is right: mean, deviation, every network.

    A network that diverged to NaN counts as no success and as no right answer.
    """
    attacked = attack.attack_class
    matrix = np.nan_to_num(np.asarray(confusion, np.float64))
    others = np.arange(matrix.shape[1]) != attacked
    success = matrix[:, attacked, attack.target_class] / np.maximum(matrix[:, attacked].sum(axis=-1), 1e-12)
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

    If they lose more at every step size, the one at which they lose least.
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
        size = f"{row['step_size']:.3g}" if row["step_size"] else "-"
        if row["step_size"] and row["learned"]:
            size += " (learned)"
        shown = [f"{100 * row[name] + 0.0:.1f}".replace("-0.0", "0.0") for name in COLUMNS]
        lines.append([row["series"], size, *shown, str(row["num_learners"])])
    return columns, lines


def show(result: Mapping[str, Any], what: str) -> None:
    """Prints the table."""
    about = result["config"]
    progress.table(
        f"\n{what} (%) and accuracy of the other classes on {about['dataset']}: {about['learner']}, "
        f"{tested_on(about['population'])}",
        *table(result),
    )


if __name__ == "__main__":
    cli.main(run, Options, __doc__)
