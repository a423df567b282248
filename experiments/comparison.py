"""The table at the end of a distillation: distilled images, random real ones, the full training set."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import build, gradients
from experiments.banks import Bank
from experiments.networks import NETWORKS, evaluations, num_unseen, unseen_networks
from jaxdistill.augment import DSA
from jaxdistill.core.checks import fail
from jaxdistill.core.keys import stream
from jaxdistill.core.types import Batch, DistillState, Learner, Meta, Method, Params, Teacher
from jaxdistill.data import Splits
from jaxdistill.evaluation import (
    PUBLISHED,
    Protocol,
    Score,
    Subsets,
    Tuned,
    as_distilled,
    dc,
    epochs,
    everything,
    one_part_each,
    published,
    random_of_each_class,
    score,
    tuned,
    with_step_size,
)
from jaxdistill.inner.losses import inner_loss
from jaxdistill.runtime import progress
from jaxdistill.runtime.export import dedupe
from jaxdistill.teachers import CURRICULA

ORDERS = {"none": "batches in order", "batches": "batches shuffled"}
Synthetic = tuple[np.ndarray, np.ndarray, np.ndarray]
"""(images [N, H, W, C], labels [N, classes], order [T, B]): what a network is trained on, and how."""


def compare(
    choices: dict[str, Any],
    data: Splits,
    learner: Learner,
    method: Method,
    state: DistillState,
    synthetic: Synthetic,
    key: jax.Array,
    bank: Bank | None,
) -> dict[str, Any]:
    """Test accuracies of networks trained on each set, every baseline's step size searched on validation.

    Random real images are as many as the distilled ones, new ones for every network, and are trained on by
    the protocol of the distilled images where it is a paper's; otherwise for the same steps or by the `dc`
    protocol, whichever validation prefers. The full training set is all of it but the validation split.

    Args:
      choices: the run's config.
      data: its data.
      learner: its network.
      method: what distilled.
      state: its final state.
      synthetic: of `training_data`.
      key: root key of the run.
      bank: what its population draws from.

    Returns:
      The accuracy fields of `result.json`; a row that was left out has a mean of None.
    """
    distilled, baseline = evaluations(choices, data, learner, state, key, bank)
    images, _, order = synthetic
    per_class = len(images) // data.info.num_classes
    chosen_on_validation = distilled._replace(test=data.validation, key=stream(key, "validation"))
    progress.say("evaluating: distilled images ...")
    protocol = protocol_of(choices)
    plan = plan_of(choices, data, method, state, order, len(images))
    batch, subsets = seen(choices, method, state, synthetic, stream(key, "export"), distilled.num_learners)
    found = score(distilled, plan, batch, subsets)
    on_validation = score(chosen_on_validation, plan, batch, subsets)
    shuffle = other_order(choices, protocol, order)
    reordered = None
    if shuffle is not None:
        progress.say(f"evaluating: distilled images, {ORDERS[shuffle]} ...")
        reordered = score(distilled, *in_other_order(choices, data, method, state, synthetic, shuffle, key))

    real, rates = Batch(data.train.x, data.train.y), choices["step_sizes"]
    random = full = None
    smallest = int(data.train.counts.min())
    count = per_class * data.info.num_classes
    baselines = choices["num_baseline_learners"] > 0
    if baselines and per_class > smallest:
        progress.say(f"note: no random real images, since a class has only {smallest} of them")
    elif baselines and per_class:
        progress.say("evaluating: random real images, step size searched on validation ...")
        equal_steps = epochs(
            count,
            num_epochs=max(1, order.size // count),
            batch_size=order.shape[1],
            momentum=choices["inner_momentum"],
            weight_decay=choices["weight_decay"],
            name="equal steps",
        )
        subsets = random_of_each_class(data.train, per_class)
        plans = (
            [equal_steps, dc(count)] if protocol == "as_distilled" else [paper_protocol(choices, data, count)]
        )
        random = tuned(baseline, plans, real, subsets, step_sizes=rates)
    if baselines and choices["full_data_epochs"]:
        progress.say("evaluating: full training set, step size searched on validation ...")
        size, passes = data.train.y.shape[0], choices["full_data_epochs"]
        all_of_it = epochs(
            size, num_epochs=passes, decay_at_half=True, name=f"{passes} epoch{'s' * (passes > 1)}"
        )
        full = tuned(baseline, [all_of_it], real, everything(size), step_sizes=rates)
    return {
        **_score("test_accuracy", found),
        "num_learners": len(found.every),
        "protocol": protocol,
        "test_accuracy_step_size": float(plan.values["learning_rate"][0]),
        "validation_accuracy_mean": on_validation.mean,
        "test_accuracies": found.every,
        **_reordered(reordered, shuffle),
        **_tuned("random_real", random),
        **_tuned("full_data", full),
    }


def protocol_of(config: Mapping[str, Any]) -> str:
    """How networks are trained on the distilled images: as chosen, or as the method was published."""
    if config["protocol"] is None and build.trains(config) and config["method"] != "mtt":
        return "as_distilled"
    if config["protocol"] is None and config["method"] == "dc":
        return "dc_augmented" if config["dataset"] == "mnist" else "dc"
    if config["protocol"] is None:
        return "dsa"
    if config["protocol"] == "as_distilled" and not build.trains(config):
        known = ", ".join(PUBLISHED)
        expected = f"one of {known} with method={config['method']}, which trains no inner steps"
        raise fail("evaluation", expected, "as_distilled")
    return config["protocol"]


def plan_of(
    config: Mapping[str, Any],
    data: Splits,
    method: Method,
    state: DistillState,
    order: np.ndarray,
    count: int,
) -> Protocol:
    """How networks are trained on the distilled images of a run: the same steps, or a paper's protocol."""
    if protocol_of(config) == "as_distilled":
        return as_learned(config, method, state, order)
    plan = paper_protocol(config, data, count)
    if config["method"] != "mtt":
        return plan
    return with_step_size(plan, float(method.hyperparameters(state)["learning_rate"][0]))


def paper_protocol(config: Mapping[str, Any], data: Splits, count: int) -> Protocol:
    """The training of one of the matching papers on so many images."""
    return published(protocol_of(config), count, augmentation=build.augmentation(config, data.info) or DSA)


def other_order(config: Mapping[str, Any], protocol: str, order: np.ndarray) -> str | None:
    """The shuffle to test a run's images with besides the one that they were distilled with.

    None where networks are trained by another protocol, where each sees images of its own, or where all
    batches are of the same images.
    """
    curriculum = CURRICULA[config["curriculum"]]
    if protocol != "as_distilled" or curriculum.noise == "fresh":
        return None
    return other_shuffle(order, curriculum.shuffle)


def other_shuffle(order: np.ndarray, shuffle: str) -> str | None:
    """`none` for a shuffled order [T, B], `batches` for one that was kept, None of batches all alike."""
    if (np.sort(order) == np.sort(order[:1])).all():
        return None
    return "batches" if shuffle == "none" else "none"


def in_other_order(
    config: Mapping[str, Any],
    data: Splits,
    method: Method,
    state: DistillState,
    synthetic: Synthetic,
    shuffle: str,
    key: jax.Array,
) -> tuple[Protocol, Batch, Subsets]:
    """(how networks are trained, images, which each of them sees): batches shuffled, or in their order."""
    images, labels, order = synthetic
    if shuffle == "none":
        teacher = build.teacher({**config, "curriculum": "full"}, data, stream(key, "teacher start"))
        images, labels, order = dedupe(teacher.batches(state.meta.teacher, stream(key, "export")))
    plan = as_learned(config, method, state, order, shuffle=shuffle)
    return plan, Batch(jnp.asarray(images), jnp.asarray(labels)), everything(len(images))


def as_learned(
    config: Mapping[str, Any],
    method: Method,
    state: DistillState,
    order: np.ndarray,
    *,
    shuffle: str | None = None,
) -> Protocol:
    """The training that the images were distilled for, of a method that has one, or in another order."""
    return as_distilled(
        jnp.asarray(order),
        build.inner_optimizer(config),
        method.hyperparameters(state),
        weight_decay=config["weight_decay"],
        shuffle=CURRICULA[config["curriculum"]].shuffle if shuffle is None else shuffle,
    )


def seen(
    config: Mapping[str, Any],
    method: Method,
    state: DistillState,
    synthetic: Synthetic,
    key: jax.Array,
    count: int,
) -> tuple[Batch, Subsets]:
    """(images, which of them each of `count` networks sees): a draw of its own where noise is fresh."""
    images, labels, _ = synthetic
    if CURRICULA[config["curriculum"]].noise != "fresh":
        return Batch(jnp.asarray(images), jnp.asarray(labels)), everything(len(images))
    keys = jax.random.split(key, count)
    made = jax.jit(lambda state: jax.lax.map(lambda key: method.synthesize(state, key), keys))(state)
    flat = Batch(made.x.reshape(-1, *made.x.shape[3:]), made.y.reshape(-1, made.y.shape[-1]))
    return flat, one_part_each(len(images))


def training_data(
    config: Mapping[str, Any],
    learner: Learner,
    method: Method,
    state: DistillState,
    key: jax.Array,
    bank: Bank | None,
) -> Synthetic:
    """The distilled images, each once, and the order in which they are trained on.

    For implicit gradients all images are in every step, for as many steps as the slowest of a few fresh
    networks needs to the tolerance of the distillation.
    """
    batches = method.synthesize(state, stream(key, "export"))
    images, labels, order = dedupe(batches)
    if config["gradient"] != "implicit":
        return images, labels, order
    teacher = Teacher(init=lambda key: (), batches=lambda phi, key: batches, by_class=None)
    loss = inner_loss(learner, weight_decay=config["weight_decay"])
    solve = gradients.solve(config)(teacher, loss, build.inner_optimizer(config), calibrate=learner.calibrate)

    def steps(params: Params) -> jax.Array:
        return solve(Meta((), {}), params, None, key)[1].report["inner_steps"]

    networks = unseen_networks(config, learner, state, bank)
    params = networks(stream(key, "inner steps"), min(config["num_search_learners"], num_unseen(bank)))
    most = max(1, int(jax.jit(lambda params: jax.lax.map(steps, params))(params).max()))
    return images, labels, np.tile(order.reshape(1, -1), (most, 1))


def _score(name: str, found: Score) -> dict[str, Any]:
    return {f"{name}_mean": found.mean, f"{name}_std": found.std, f"{name}_num_diverged": found.num_diverged}


def _reordered(found: Score | None, shuffle: str | None) -> dict[str, Any]:
    if found is None or shuffle is None:
        return {"other_order_mean": None, "other_order_std": None}
    return _score("other_order", found) | {
        "other_order": ORDERS[shuffle],
        "other_order_num_learners": len(found.every),
        "other_order_accuracies": found.every,
    }


def _tuned(name: str, row: Tuned | None) -> dict[str, Any]:
    if row is None:
        return {f"{name}_mean": None, f"{name}_std": None}
    return _score(name, row.score) | {
        f"{name}_num_learners": len(row.score.every),
        f"{name}_accuracies": row.score.every,
        f"{name}_protocol": row.protocol,
        f"{name}_step_size": row.step_size,
        f"{name}_validation": {p: {f"{k:g}": v for k, v in s.items()} for p, s in row.searched.items()},
    }


def show(result: dict[str, Any]) -> None:
    """Prints the table of a result."""
    config = result["config"]

    def cells(title: str, how: str, prefix: str) -> list[str]:
        mean, std, diverged = (result[f"{prefix}_{part}"] for part in ("mean", "std", "num_diverged"))
        count = result["num_learners" if prefix == "test_accuracy" else f"{prefix}_num_learners"]
        lost = f" ({diverged} diverged)" if diverged else ""
        return [title, f"{100 * mean:.1f}", f"{100 * std:.1f}", str(count), how + lost]

    def searched(prefix: str) -> str:
        return f"{result[f'{prefix}_protocol']}, step size {result[f'{prefix}_step_size']:.3g}"

    protocol = result.get("protocol", "as_distilled")
    how = "the learned schedule"
    if protocol != "as_distilled":
        how = f"{protocol}, step size {result['test_accuracy_step_size']:.3g}"
    rows = [cells("distilled images", how, "test_accuracy")]
    if result.get("other_order_mean") is not None:
        rows.append(cells("distilled images", result["other_order"], "other_order"))
    for title, prefix in (("random real images", "random_real"), ("full training set", "full_data")):
        if result[f"{prefix}_mean"] is not None:
            rows.append(cells(title, searched(prefix), prefix))
    where = NETWORKS.get(config["population"], "fresh networks")
    progress.table(
        f"\nTest accuracy (%) of {where}: {config['learner']} on {config['dataset']}",
        ["trained on", "mean", "std", "K", "trained by"],
        rows,
    )
    speed = result["outer_steps"] / max(result["seconds"], 1e-9)
    progress.say(
        f"{result['outer_steps']} outer steps in {progress.duration(result['seconds'])} ({speed:.3g}/s), "
        f"compiled in {progress.duration(result['compile_seconds'])}"
    )
