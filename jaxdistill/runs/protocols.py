"""How networks are trained on the images of a run."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill.config import build
from jaxdistill.config.resolve import check_protocol
from jaxdistill.config.table import Config
from jaxdistill.core.checks import one_of
from jaxdistill.core.keys import stream
from jaxdistill.core.types import Array, Batch, Meta, Params, Teacher
from jaxdistill.data import DatasetInfo
from jaxdistill.evaluation import (
    Protocol,
    Subsets,
    as_distilled,
    everything,
    one_part_each,
    published,
    with_step_size,
)
from jaxdistill.evaluation.protocol import STEP_SIZES, multiples
from jaxdistill.evaluation.protocols import MATCHING, PROTOCOLS
from jaxdistill.inner.losses import inner_loss
from jaxdistill.runs.networks import num_unseen, unseen_networks
from jaxdistill.runs.run import Run, Synthetic
from jaxdistill.runtime.export import dedupe
from jaxdistill.teachers import CURRICULA
from jaxdistill.teachers.storage import as_read

ORDERS = {"none": "batches in order", "batches": "batches shuffled"}
"""Shuffle to its label in a table."""


OF_CLOSED_FORM = "frepo"
"""The protocol of images for a head in closed form, of methods whose images are tested by their own steps."""


def protocol_name(config: Config) -> str:
    """The name of the protocol for the distilled images: the chosen one, or the one of the method's paper."""
    name = config.protocol or build.recipe(config).protocol_for(config.dataset)
    return name if name != "as_distilled" or build.has_steps(config) else OF_CLOSED_FORM


def protocol_of(run: Run, name: str | None = None) -> Protocol:
    """The protocol that tests a run's images: their own steps, or a paper's protocol.

    Args:
      run: the run.
      name: of the protocol; the run's own when None.

    Raises:
      UserError: `as_distilled` for a method that trains no inner steps, or an unknown name.
    """
    name = one_of("protocol", name or protocol_name(run.config), PROTOCOLS)
    check_protocol(name, run.config.method, run.config.gradient)
    if name == "as_distilled":
        return as_learned(run, run.order)
    config = run.config
    plan = paper_protocol(run.data.info, name, len(run.synthetic.images), labels=config.labels)
    published_for = build.recipe(config).protocol_for(config.dataset)
    if not build.has_steps(config) or not {name, published_for} <= MATCHING.keys():
        return plan
    return with_step_size(plan, float(run.hyperparameters["learning_rate"][0]))  # learned for this training


def paper_protocol(
    info: DatasetInfo, name: str, count: int, *, num_epochs: int | None = None, labels: str = "probabilities"
) -> Protocol:
    """The training of one of the papers on images of a set; the same for every run, file and baseline.

    Args:
      info: of the set: its classes, and which operations its augmentation has.
      name: one of `PUBLISHED`.
      count: images.
      num_epochs: passes over them; the paper's when None.
      labels: their kind.
    """
    return published(
        name,
        count,
        augmentation=build.published_augmentation(info),
        num_epochs=num_epochs,
        num_classes=info.num_classes,
        labels=labels,
    )


def as_learned(run: Run, order: np.ndarray, *, shuffle: str | None = None) -> Protocol:
    """The training of the distillation, for a method that trains, in its own or in another order.

    Args:
      run: the run.
      order: [T, B], the images of each step.
      shuffle: as for `as_distilled`; the curriculum's choice when None.
    """
    plan = as_distilled(
        order,
        build.inner_optimizer(run.config, build.num_inner_steps(run.config)),
        run.method.hyperparameters(run.state),
        weight_decay=run.config.weight_decay,
        shuffle=CURRICULA[run.config.curriculum].shuffle if shuffle is None else shuffle,
        **inner_training(run),
    )
    return plan._replace(step_sizes=_searched(run.config, float(plan.step_size)))


def equal_steps(run: Run, order: Callable[[Array], Array]) -> Protocol:
    """The inner training of a run on images that are not learned, with one step size for all steps.

    Args:
      run: of a method that trains inner steps.
      order: key -> [T, B], which of the other images each step is on; their labels are probabilities.

    Returns:
      The protocol: optimiser, loss and weight decay of the run, and its temperature where that is learned.
    """
    config = run.config
    optimizer = build.inner_optimizer(config.replace(learned=()), build.num_inner_steps(config))
    plan = Protocol(
        name="equal steps",
        order=order,
        optimizer=optimizer,
        values=optimizer.values(optimizer.init()),
        weight_decay=config.weight_decay,
        restart=0,
        augment=None,
        step_sizes=_searched(config, config.inner_learning_rate),
    )
    return plan._replace(**(inner_training(run) | {"labels": "probabilities"}))


def _searched(config: Config, step_size: float) -> tuple[float, ...]:
    """Candidates for the step size of a run's own training on other images."""
    return STEP_SIZES if config.inner_optimizer == "sgd" else multiples(step_size)


def inner_training(run: Run) -> dict[str, Any]:
    """The training loss of the inner loop: the loss, the kind of labels, the temperature (learned, or 1)."""
    loss, temperature = run.config.inner_loss, 1.0
    if loss == "platt":
        temperature = float(jnp.exp(-run.state.output.inner["log_temperature"][0]))
    loss = "squared" if loss == "squared" or run.config.labels == "free" else "cross_entropy"
    return {"loss": loss, "labels": run.config.labels, "temperature": temperature}


def other_order(run: Run, protocol: str) -> str | None:
    """The shuffle to test a run's images with besides the one that they were distilled with.

    None if networks are trained by another protocol, if each sees images of its own, or if all batches hold
    the same images.
    """
    curriculum = CURRICULA[run.config.curriculum]
    if protocol != "as_distilled" or curriculum.noise == "fresh":
        return None
    return other_shuffle(run.order, curriculum.shuffle)


def other_shuffle(order: np.ndarray, shuffle: str) -> str | None:
    """The opposite of `shuffle`: `none` or `batches`; None if all batches hold the same images.

    Args:
      order: [T, B], the images of each step.
      shuffle: of the batches during distillation.
    """
    if (np.sort(order) == np.sort(order[:1])).all():
        return None
    return "batches" if shuffle == "none" else "none"


def in_other_order(run: Run, shuffle: str) -> tuple[Protocol, Batch, Subsets]:
    """(how networks are trained, images, which each of them sees): batches shuffled, or in their order."""
    images, labels, order = run.synthetic
    if shuffle == "none":
        in_order = run.config.replace(curriculum="full")
        teacher = build.teacher(in_order, run.data, stream(run.key, "teacher start"))
        images, labels, order = dedupe(
            teacher.batches(as_read(teacher, run.state.output.teacher), stream(run.key, "export"))
        )
    plan = as_learned(run, order, shuffle=shuffle)
    return plan, Batch(jnp.asarray(images), jnp.asarray(labels)), everything(len(images))


def seen(run: Run, key: Array, count: int) -> tuple[Batch, Subsets]:
    """The images of a run, and which of them each network sees: a draw of its own where noise is fresh.

    Args:
      run: the run.
      key: of the draws; a named stream, which is split into a key per network.
      count: networks.

    Returns:
      (images, subsets).
    """
    size = len(run.synthetic.images)
    if CURRICULA[run.config.curriculum].noise != "fresh":
        return run.batch, everything(size)
    keys = jax.random.split(key, count)
    draw = jax.jit(lambda state: jax.lax.map(lambda key: run.method.synthesize(state, key), keys))
    made = draw(run.state)
    flat = Batch(made.x.reshape(-1, *made.x.shape[3:]), made.y.reshape(-1, made.y.shape[-1]))
    return flat, one_part_each(size)


def training_data(run: Run) -> Synthetic:
    """The distilled images, each once, and their order in training.

    For implicit gradients all images are in every step, for as many steps as the slowest of a few fresh
    networks needs to the tolerance of the distillation.
    """
    config, learner = run.config, run.learner
    batches = run.method.synthesize(run.state, stream(run.key, "export"))
    images, labels, order = dedupe(batches)
    if not build.has_steps(config) or config.gradient != "implicit":
        return Synthetic(images, labels, order)
    teacher = Teacher(lambda key: (), lambda phi, key: batches, None, labels=config.labels)
    loss = inner_loss(learner, weight_decay=config.weight_decay, **inner_training(run))
    optimizer = build.inner_optimizer(config, build.num_inner_steps(config))
    solve = build.solve(config, learner)(teacher, loss, optimizer, calibrate=learner.calibrate)

    def steps(params: Params) -> jax.Array:
        return solve(Meta((), {}), params, None, run.key)[1].report["inner_steps"]

    networks = unseen_networks(config, learner, run.state, run.bank)
    count = min(config.num_search_learners, num_unseen(run.bank))
    params = networks(stream(run.key, "inner steps"), count)
    most = max(1, int(jax.jit(lambda params: jax.lax.map(steps, params))(params).max()))
    return Synthetic(images, labels, np.tile(order.reshape(1, -1), (most, 1)))
