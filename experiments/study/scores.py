"""How the study scores images: fresh networks of every architecture, beside real images."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments.records import Damaged, kept, note_of
from experiments.report.fields import BaselineRow, CellRow
from experiments.study.setting import Study
from jaxdistill.core.checks import UserError
from jaxdistill.core.keys import stream
from jaxdistill.core.types import Batch, Learner
from jaxdistill.evaluation import (
    Evaluation,
    Subsets,
    everything,
    published,
    score,
    tuned,
)
from jaxdistill.runs.budget import OUT_OF_MEMORY
from jaxdistill.runs.compare import full_set, random_images
from jaxdistill.runs.networks import of_new_networks
from jaxdistill.runs.protocols import protocol_name, protocol_of, seen
from jaxdistill.runs.reference import reference
from jaxdistill.runs.run import Run
from jaxdistill.runtime import profile, progress
from jaxdistill.runtime.rundir import RunDir

PROTOCOLS = ("dc", "dc_augmented")
Scored = dict[str, Any]
"""A score as a result file has it: `Score.as_row`, and the step size that was searched."""


def scores(study: Study, run: Run, architectures: Sequence[str]) -> dict[str, Any]:
    """Accuracies of the images of a cell.

    Args:
      study: its setting.
      run: the cell, distilled.
      architectures: networks that are trained on the images, by every protocol of `PROTOCOLS`.

    Returns:
      `as_distilled` (None of a method that trains no inner steps), `accuracies` by architecture and protocol,
      and `hard_labels`: of the same images with hard labels; None where their labels are hard already.
    """
    batch, labels = run.batch, run.synthetic.labels
    count = len(labels)
    found: dict[str, Any] = {"as_distilled": None, "hard_labels": None}
    if protocol_name(run.config) == "as_distilled":
        own = _evaluation(study, run.tested)
        shown = seen(run, stream(run.key, "export"), own.num_learners)
        found["as_distilled"] = score(own, protocol_of(run), *shown).as_row()
    found["accuracies"] = [
        {
            "architecture": name,
            "protocol": protocol,
            **trained(study, name, protocol, batch, everything(count)),
        }
        for name in architectures
        for protocol in PROTOCOLS
    ]
    hard = np.eye(labels.shape[1], dtype=np.float32)[labels.argmax(axis=1)]
    if not np.allclose(hard, labels):
        found["hard_labels"] = trained(
            study, study.own, "dc", batch._replace(y=jnp.asarray(hard)), everything(count)
        )
    return found


def baselines(study: Study, directory: RunDir, rows: Sequence[CellRow]) -> list[BaselineRow]:
    """Random real images, as many as each of the rows has, and the full set; each trained once, and kept.

    Every architecture is trained on as many images as the cells of the grid have; on other numbers of images
    the training network alone. A baseline that fails is a row that says why.

    Args:
      study: its setting.
      directory: its folder.
      rows: of its cells.
    """
    done = [row for row in rows if row["status"] == "done"]
    grid = {row["images"] for row in done if not row["change"]}
    made = [_kept(study, directory, "full", lambda: _full(study), "full set", study.own)]
    for count in sorted({row["images"] for row in done}):
        per_class = count // study.data.info.num_classes
        if not 1 <= per_class <= int(study.data.train.counts.min()):
            continue
        for name in study.learners if count in grid else [study.own]:
            for protocol in PROTOCOLS:
                stem = f"{count}-{name}-{protocol}".replace(":", "-")

                def train(name=name, protocol=protocol, count=count, per_class=per_class) -> dict[str, Any]:
                    found = trained(study, name, protocol, *random_images(study.data, per_class), count)
                    return {"images": count, "protocol": protocol, **found}

                made.append(_kept(study, directory, stem, train, "random real", name))
    return made


def _kept(
    study: Study,
    directory: RunDir,
    stem: str,
    train: Callable[[], dict[str, Any]],
    what: str,
    architecture: str,
) -> BaselineRow:
    """The baseline in a file, made and written where there is none."""
    file = directory.path / "baselines" / f"{stem}.json"
    about = {"what": what, "architecture": architecture, "learner": study.own}
    about |= {"dataset": study.data.info.name, "environment": profile.environment()}

    def make() -> dict[str, Any]:
        progress.say(f"baseline: {what}, {stem} ...")
        return about | train()

    try:
        return kept(directory, file, make)
    except Damaged:
        raise
    except (UserError, *OUT_OF_MEMORY) as error:
        return about | {"images": 0, "protocol": "", "every": [], "note": note_of(error)[:300]}


def _evaluation(study: Study, learner: Learner) -> Evaluation:
    return of_new_networks(learner, study.data, study.options, study.options.num_eval_learners)


def trained(
    study: Study,
    architecture: str,
    protocol: str,
    images: Batch,
    subsets: Subsets,
    real: int | None = None,
) -> Scored:
    """Accuracy of fresh networks, the step size searched on validation.

    Args:
      study: its setting.
      architecture: one of its learners.
      protocol: one of `PROTOCOLS`.
      images: [M, ...].
      subsets: which of them each network sees.
      real: of the training images, how many each network sees; None of other images, all of which it sees.
    """
    passes = study.options.num_epochs if protocol == "dc" else study.options.num_augmented_epochs
    plan = published(protocol, len(images.y) if real is None else real, num_epochs=passes)
    evaluation, rates = _evaluation(study, study.learners[architecture]), study.options.step_sizes
    if real is None:
        found, origin = tuned(evaluation, [plan], images, subsets, step_sizes=rates), {}
    else:
        made = reference(
            f"{architecture}, {protocol}, {real} random real images",
            evaluation,
            [plan],
            images,
            subsets,
            data=study.data,
            step_sizes=rates,
            fresh=study.options.fresh_baselines,
            shorter="a smaller num_epochs or num_augmented_epochs takes less",
        )
        found, origin = made.found, made.as_fields()
    return found.score.as_row() | {"step_size": found.step_size} | origin


def _full(study: Study) -> dict[str, Any]:
    """The whole training set but its validation split."""
    evaluation = _evaluation(study, study.learners[study.own])
    made = full_set(evaluation, study.data, study.options)
    row = {"images": len(study.data.train.y), "protocol": made.found.protocol}
    return row | made.found.score.as_row() | {"step_size": made.found.step_size} | made.as_fields()
