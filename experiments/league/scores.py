"""How the league scores a set: new networks of every architecture, with hard and with soft labels."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments.league.setting import League
from jaxdistill.core.types import Batch
from jaxdistill.evaluation import Protocol, Tuned, everything, tuned
from jaxdistill.runs.compare import random_images
from jaxdistill.runs.networks import of_new_networks
from jaxdistill.runs.protocols import paper_protocol
from jaxdistill.runs.reference import reference
from jaxdistill.runtime import mesh

Score = dict[str, Any]
"""A score in a row: `Score.as_row`, and what was trained how."""


def by_labels(images: np.ndarray, labels: np.ndarray, kind: str) -> dict[str, tuple[Batch, str]]:
    """The set by its labels: `hard`, and `soft` where its own labels are others.

    Args:
      images: [N, H, W, C], standardised.
      labels: [N, classes].
      kind: of the labels, see `jaxdistill.core.labels`.

    Returns:
      Name to (the set, kind of its labels).
    """
    x, y = jnp.asarray(images), labels
    hard = np.eye(y.shape[1], dtype=np.float32)[y.argmax(axis=1)]
    found = {"hard": (Batch(x, jnp.asarray(hard)), "probabilities")}
    if kind == "free" or not np.allclose(hard, y):
        found["soft"] = (Batch(x, jnp.asarray(y)), kind)
    return found


def training(league: League, protocol: str, count: int, labels: str = "probabilities") -> Protocol:
    """A protocol of the league on N images; free labels are the targets of a squared loss.

    Args:
      league: the league.
      protocol: its `protocol` or its `augmented_protocol`.
      count: N.
      labels: their kind.
    """
    options = league.options
    passes = options.num_epochs if protocol == options.protocol else options.num_augmented_epochs
    plan = paper_protocol(league.data.info, protocol, count, num_epochs=passes, labels=labels)
    return plan._replace(loss="squared") if labels == "free" else plan


def scored(league: League, architecture: str, protocol: str, images: Batch, labels: str) -> Score:
    """Test accuracy of new networks that are trained on a set, the step size searched on validation."""
    options, plan = league.options, training(league, protocol, len(images.y), labels)
    evaluation = of_new_networks(
        league.learners[architecture], league.data, options, options.num_eval_learners
    )
    with mesh.spread(league.devices):
        found = tuned(evaluation, [plan], images, everything(len(images.y)), step_sizes=options.step_sizes)
    return as_row(architecture, protocol, plan, found)


def on_validation(league: League, images: Batch, labels: str) -> float:
    """Validation accuracy of few networks under the league's protocol; the test images stay unseen."""
    unseen = league.data._replace(test=league.data.validation)
    few = league.options.replace(num_eval_learners=league.options.num_search_learners)
    seen = league._replace(data=unseen, options=few)
    return scored(seen, league.own, league.options.protocol, images, labels)["mean"]


def of_random_real(
    league: League, architecture: str, protocol: str, per_class: int, *, squared: bool = False
) -> Score:
    """Test accuracy of networks, each trained on its own random real images.

    Args:
      league: the league.
      architecture: one of its networks.
      protocol: one of its protocols.
      per_class: images of each class.
      squared: whether the loss is a squared one instead of the protocol's loss: for sets with free labels.
    """
    options, data = league.options, league.data
    plan = training(league, protocol, per_class * data.info.num_classes)
    plan = plan._replace(loss="squared") if squared else plan
    made = reference(
        f"{per_class} random real images per class, {architecture}, {protocol}",
        of_new_networks(league.learners[architecture], data, options, options.num_eval_learners),
        [plan],
        *random_images(data, per_class),
        data=data,
        step_sizes=options.step_sizes,
        fresh=options.fresh_baselines,
        shorter="a smaller num_epochs or num_augmented_epochs takes less",
    )
    return as_row(architecture, protocol, plan, made.found) | made.as_fields()


def as_row(architecture: str, protocol: str, plan: Protocol, found: Tuned) -> Score:
    """The fields of a score."""
    about = {"architecture": architecture, "protocol": protocol, "loss": plan.loss}
    return about | found.score.as_row() | {"step_size": found.step_size}


def find(scores: Any, **wanted: Any) -> Mapping[str, Any] | None:
    """The first score with these fields."""
    return next((s for s in scores if all(s.get(n) == v for n, v in wanted.items())), None)
