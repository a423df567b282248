"""How the study scores images: fresh networks of every architecture, beside real images."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from experiments import distill
from experiments.comparison import Synthetic, plan_of, protocol_of, seen
from experiments.measure import OUT_OF_MEMORY
from experiments.networks import of_new_networks
from experiments.report_data import Row, read_json
from experiments.study_cells import Preset
from jaxdistill.core.checks import UserError
from jaxdistill.core.keys import stream
from jaxdistill.core.types import Batch, Learner
from jaxdistill.data import Splits
from jaxdistill.evaluation import (
    Evaluation,
    Protocol,
    Score,
    Subsets,
    epochs,
    everything,
    published,
    random_of_each_class,
    score,
    tuned,
)
from jaxdistill.runtime import profile, progress
from jaxdistill.runtime.loop import Finished
from jaxdistill.runtime.rundir import RunDir

PROTOCOLS = ("dc", "dc_augmented")


class Setting(NamedTuple):
    """What all rows of a study share."""

    config: dict[str, Any]
    preset: Preset
    data: Splits
    learners: dict[str, Learner]
    """That images are tested on; the first is the one that they are distilled for."""
    directory: RunDir
    programs: str
    """A folder for compiled outer steps, empty at the start: what is compiled there tells its time."""

    @property
    def own(self) -> str:
        return next(iter(self.learners))


def scores(
    setting: Setting, plan: distill.Plan, finished: Finished, synthetic: Synthetic, architectures: list[str]
) -> Row:
    """Accuracies of the images of a cell.

    Args:
      setting: of the study.
      plan: of the cell.
      finished: its distillation.
      synthetic: its images.
      architectures: that are trained on them, by every protocol of `PROTOCOLS`.

    Returns:
      `as_distilled` (None of a method that trains no inner steps), `accuracies` by architecture and protocol,
      and `hard_labels`: of the same images, where their labels are no hard ones; None otherwise.
    """
    images, labels, order = synthetic
    batch, count = Batch(jnp.asarray(images), jnp.asarray(labels)), len(images)
    row: Row = {"as_distilled": None, "hard_labels": None}
    if protocol_of(plan.choices) == "as_distilled":
        own = _evaluation(setting, plan.learner)
        protocol = plan_of(plan.choices, setting.data, plan.method, finished.state, order, count)
        key = stream(plan.key, "export")
        shown = seen(plan.choices, plan.method, finished.state, synthetic, key, own.num_learners)
        row["as_distilled"] = _scored(score(own, protocol, *shown))
    row["accuracies"] = [
        {
            "architecture": name,
            "protocol": protocol,
            **trained(setting, name, protocol, batch, everything(count)),
        }
        for name in architectures
        for protocol in PROTOCOLS
    ]
    hard = np.eye(labels.shape[1], dtype=np.float32)[labels.argmax(axis=1)]
    if not np.allclose(hard, labels):
        harder = batch._replace(y=jnp.asarray(hard))
        row["hard_labels"] = trained(setting, setting.own, "dc", harder, everything(count))
    return row


def baselines(setting: Setting, rows: list[Row]) -> list[Row]:
    """Random real images, as many as each of the rows has, and the full set; each trained once, and kept.

    Every architecture is trained on as many as the grid's cells have, the training network alone on others.
    One that fails is a row that says why.
    """
    done = [row for row in rows if row["status"] == "done"]
    grid = {row["images"] for row in done if not row["change"]}
    made = [_kept(setting, "full", lambda: _full(setting), "full set", setting.own)]
    for count in sorted({row["images"] for row in done}):
        per_class = count // setting.data.info.num_classes
        if not 1 <= per_class <= int(setting.data.train.counts.min()):
            continue
        for name in setting.learners if count in grid else [setting.own]:
            for protocol in PROTOCOLS:
                stem = f"{count}-{name}-{protocol}".replace(":", "-")

                def train(name=name, protocol=protocol, count=count, per_class=per_class) -> Row:
                    real = Batch(setting.data.train.x, setting.data.train.y)
                    subsets = random_of_each_class(setting.data.train, per_class)
                    found = trained(setting, name, protocol, real, subsets, count)
                    return {"images": count, "protocol": protocol, **found}

                made.append(_kept(setting, stem, train, "random real", name))
    return made


def _kept(setting: Setting, stem: str, train: Callable[[], Row], what: str, architecture: str) -> Row:
    file = setting.directory.path / "baselines" / f"{stem}.json"
    if file.exists():
        return read_json(file)
    progress.say(f"baseline: {what}, {stem} ...")
    about = {"what": what, "architecture": architecture, "learner": setting.own}
    about |= {"dataset": setting.data.info.name, "environment": profile.environment()}
    try:
        row = about | train()
    except (UserError, *OUT_OF_MEMORY) as error:
        note = " ".join(str(error).split())[:300]
        return about | {"images": 0, "protocol": "", "every": [], "note": note}
    setting.directory.write_json(file, row)
    return row


def _evaluation(setting: Setting, learner: Learner) -> Evaluation:
    config = setting.config
    return of_new_networks(learner, setting.data, config, config["num_eval_learners"])


def trained(
    setting: Setting,
    architecture: str,
    protocol: str,
    images: Batch,
    subsets: Subsets,
    count: int | None = None,
) -> Row:
    """Accuracy of fresh networks trained on so many images (all of them where None)."""
    passes = setting.config["num_epochs" if protocol == "dc" else "num_augmented_epochs"]
    plan = published(protocol, count or len(images.y), num_epochs=passes)
    return _tuned(setting, architecture, plan, images, subsets)


def _full(setting: Setting) -> Row:
    """The whole training set but its validation split."""
    real = Batch(setting.data.train.x, setting.data.train.y)
    size, passes = len(real.y), setting.config["full_data_epochs"]
    plan = epochs(size, num_epochs=passes, decay_at_half=True, name=f"{passes} epochs")
    found = _tuned(setting, setting.own, plan, real, everything(size))
    return {"images": size, "protocol": plan.name, **found}


def _tuned(setting: Setting, architecture: str, plan: Protocol, images: Batch, subsets: Subsets) -> Row:
    """The step size is searched on validation."""
    evaluation = _evaluation(setting, setting.learners[architecture])
    found = tuned(evaluation, [plan], images, subsets, step_sizes=setting.config["step_sizes"])
    return _scored(found.score) | {"step_size": found.step_size}


def _scored(found: Score) -> Row:
    return {"mean": found.mean, "std": found.std, "every": found.every, "num_diverged": found.num_diverged}
