"""The table at the end of a distillation: distilled images, random real images, full training set."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxdistill.config import build
from jaxdistill.config.owners import HEAD_SOLVED
from jaxdistill.core.keys import stream
from jaxdistill.core.types import Array, Batch, Dataset, Meta, Params, Teacher
from jaxdistill.data import Splits
from jaxdistill.data.streaming import check_on_device
from jaxdistill.evaluation import (
    Evaluation,
    Protocol,
    Score,
    Subsets,
    accuracy_on,
    dc,
    epochs,
    everything,
    random_of_each_class,
    score,
    summarize,
)
from jaxdistill.inner.losses import inner_loss
from jaxdistill.inner.over_learners import gathered, over_learners
from jaxdistill.populations import POPULATIONS
from jaxdistill.populations.ages import Ages
from jaxdistill.populations.source import source_of
from jaxdistill.runs.classes import class_counts, tested_unevenly
from jaxdistill.runs.networks import evaluations, unseen_networks
from jaxdistill.runs.protocols import (
    ORDERS,
    equal_steps,
    in_other_order,
    other_order,
    paper_protocol,
    protocol_name,
    protocol_of,
    seen,
)
from jaxdistill.runs.reference import Reference, reference, steps_of
from jaxdistill.runs.run import Run
from jaxdistill.runtime import mesh, progress
from jaxdistill.runtime.expected_time import Shorter, duration


def score_of(run: Run, *, num_learners: int | None = None, protocol: str | None = None) -> Score:
    """Test accuracy of networks trained on a run's images, as `Run.score` says."""
    config = run.config if num_learners is None else run.config.replace(num_eval_learners=num_learners)
    distilled, _ = evaluations(config, run.data, run.tested, run.state, run.key, run.bank)
    with mesh.spread(run.plan.devices):
        shown = seen(run, stream(run.key, "export"), distilled.num_learners)
        found = score(distilled, protocol_of(run, protocol), *shown)
        return found._replace(ridge=ridge_score(run, distilled))


def compared(run: Run) -> dict[str, Any]:
    """Test accuracies of networks trained on each set; baselines' step sizes are searched on validation.

    Random real images are as many as the distilled ones, new ones for every network, and are trained on by
    the protocol of the distilled images where it is a paper's; otherwise for the same steps or by the `dc`
    protocol, whichever validation prefers. The full training set is all of it but the validation split.

    Returns:
      The accuracy fields of `result.json`; a row that was left out has a mean of None. A method with a
      `predictor` has `closed_form_accuracy`, on test, and `closed_form_validation_accuracy`.
    """
    config, data, key = run.config, run.data, run.key
    distilled, baseline = evaluations(config, data, run.tested, run.state, key, run.bank)
    chosen_on_validation = distilled._replace(test=data.validation, key=stream(key, "validation"))
    progress.say("evaluating: distilled images ...")
    name = protocol_name(config)
    training = protocol_of(run)
    batch, subsets = seen(run, stream(key, "export"), distilled.num_learners)
    shorter = Shorter("num_eval_learners", distilled.num_learners)
    with progress.expecting("distilled images", 2 * distilled.num_learners * steps_of(training), shorter):
        found = score(distilled, training, batch, subsets)._replace(ridge=ridge_score(run, distilled))
        on_validation = score(chosen_on_validation, training, batch, subsets)
    shuffle = other_order(run, name)
    reordered = None
    if shuffle is not None:
        progress.say(f"evaluating: distilled images, {ORDERS[shuffle]} ...")
        reordered = score(distilled, *in_other_order(run, shuffle))
    random = _random_real(run, baseline, name) if config.num_baseline_learners else None
    full = None
    if config.num_baseline_learners and config.full_data_epochs:
        progress.say("evaluating: full training set, step size searched on validation ...")
        full = full_set(baseline, data, config)
    return {
        **_fields("test_accuracy", found),
        "num_learners": len(found.every),
        "protocol": name,
        "test_accuracy_step_size": float(training.step_size),
        "validation_accuracy_mean": on_validation.mean,
        "test_accuracies": found.every,
        **_closed_form(run),
        **_reordered(reordered, shuffle),
        **_tuned("random_real", random),
        **_tuned("full_data", full),
        "class_counts": class_counts(data),
    }


def ridge_score(run: Run, evaluation: Evaluation) -> Score | None:
    """Test accuracies of networks whose last layer is solved in closed form, as in the distillation.

    Args:
      run: the run.
      evaluation: of its images: how many networks, and their key. They are of the run's own architecture, and
        those of a pool of networks of all ages are its own.

    Returns:
      Of a network without a solution the accuracy is that of chance; None for a run of another gradient.
    """
    config, learner, batch = run.config, run.learner, run.batch
    if not build.recipe(config).trains or config.gradient not in HEAD_SOLVED:
        return None
    key = stream(evaluation.key, "ridge")
    if isinstance(run.state.population, Ages):
        params = run.state.population.params
    else:
        contexts = unseen_networks(config, learner, run.state, run.bank)
        params = contexts(stream(key, "learners"), evaluation.num_learners)
    batches = jax.tree.map(lambda a: a[None], batch)
    teacher = Teacher(lambda key: (), lambda phi, key: phi, None, labels=config.labels)
    loss = inner_loss(learner, loss="squared", labels=config.labels)
    optimizer = build.inner_optimizer(config, 1)
    solve = build.solve(config, learner)(
        teacher._replace(init=lambda key: batches), loss, optimizer, calibrate=learner.calibrate
    )

    def accuracy(params: Params, batches: Batch, test: Dataset) -> Array:
        trained, info = solve(Meta(batches, {}), params, None, key)
        found = accuracy_on(solve.learner or learner, trained, test)
        return jnp.where(info.report.get("singular_kernels", 0) > 0, jnp.nan, found)

    mapped = over_learners(accuracy, strategy=config.strategy, chunk=config.learner_chunk)
    found = jax.jit(lambda *a: gathered(mapped(a[0], shared=a[1:])))(params, batches, evaluation.test)
    return summarize(found, evaluation.test.y.shape[1])


def _closed_form(run: Run) -> dict[str, Any]:
    """Accuracy of the method's own prediction from the images, if it needs no training; else nothing."""
    if run.method.predictor is None:
        return {}
    machine, params = run.method.predictor(run.state, stream(run.key, "export"))
    tested = jax.jit(lambda params, split: accuracy_on(machine, params, split))
    splits = {"closed_form_accuracy": run.data.test, "closed_form_validation_accuracy": run.data.validation}
    return {name: float(tested(params, split)) for name, split in splits.items()}


def _random_real(run: Run, baseline: Evaluation, name: str) -> Reference | None:
    """The score of as many random real images as distilled images; None if there are too few."""
    config, data = run.config, run.data
    classes, order = data.info.num_classes, run.order
    per_class = len(run.synthetic.images) // classes
    if not per_class or not enough_real(data, per_class):
        return None
    progress.say("evaluating: random real images, step size searched on validation ...")
    count = per_class * classes
    plans: Sequence[Protocol] = [paper_protocol(data.info, name, count)] if name != "as_distilled" else ()
    if name == "as_distilled":
        passes = max(1, order.size // count)
        shuffled = epochs(count, num_epochs=passes, batch_size=order.shape[1]).order
        plans = [equal_steps(run, shuffled), dc(count)]
    return reference(
        "random real images",
        baseline,
        plans,
        *random_images(data, per_class),
        data=data,
        step_sizes=config.step_sizes,
        fresh=config.fresh_baselines,
        shorter="num_baseline_learners=0 leaves real images out",
    )


def enough_real(data: Splits, per_class: int) -> bool:
    """Whether every class has enough training images; prints a note if one has fewer."""
    smallest = int(data.train.counts.min())
    if per_class > smallest:
        progress.say(f"note: no random real images, since a class has only {smallest} of them")
    return per_class <= smallest


def random_images(data: Splits, per_class: int) -> tuple[Batch, Subsets]:
    """(the training images, which of them each network sees): new random ones of every class for each."""
    check_on_device(data.train, "random real images")
    return Batch(data.train.x, data.train.y), random_of_each_class(data.train, per_class)


def all_images(data: Splits) -> tuple[Batch, Subsets]:
    """(the training images, which of them each network sees): all of them."""
    check_on_device(data.train, "all real images")
    return Batch(data.train.x, data.train.y), everything(len(data.train.y))


def full_set(evaluation: Evaluation, data: Splits, config: Any) -> Reference:
    """The score of the training set without its validation part; the step size is searched on validation.

    Args:
      evaluation: the networks.
      data: the splits.
      config: options with `full_data_epochs`, `step_sizes` and `fresh_baselines`.
    """
    passes = config.full_data_epochs
    name = f"{passes} epoch" if passes == 1 else f"{passes} epochs"
    training = epochs(len(data.train.y), num_epochs=passes, decay_at_half=True, name=name)
    return reference(
        "full training set",
        evaluation,
        [training],
        *all_images(data),
        data=data,
        step_sizes=config.step_sizes,
        fresh=config.fresh_baselines,
        shorter=Shorter("full_data_epochs", passes),
    )


def _fields(name: str, found: Score) -> dict[str, Any]:
    row = found.as_row()
    parts = (part for part in row if part not in ("num_learners", "every"))
    return {f"{name}_{part}": row[part] for part in parts}


def _reordered(found: Score | None, shuffle: str | None) -> dict[str, Any]:
    if found is None or shuffle is None:
        return {"other_order_mean": None, "other_order_std": None}
    return _fields("other_order", found) | {
        "other_order": ORDERS[shuffle],
        "other_order_num_learners": len(found.every),
        "other_order_accuracies": found.every,
    }


def _tuned(name: str, made: Reference | None) -> dict[str, Any]:
    if made is None:
        return {f"{name}_mean": None, f"{name}_std": None}
    row = made.found
    return _fields(name, row.score) | {
        f"{name}_num_learners": len(row.score.every),
        f"{name}_accuracies": row.score.every,
        f"{name}_protocol": row.protocol,
        f"{name}_step_size": row.step_size,
        f"{name}_validation": {p: {f"{k:g}": v for k, v in s.items()} for p, s in row.searched.items()},
        **{f"{name}_{part}": value for part, value in made.as_fields().items()},
    }


def tested_on(population: str) -> str:
    """A description of the networks that test a run of the given population."""
    return source_of(POPULATIONS[population]).tested_on if population in POPULATIONS else "fresh networks"


def show(result: Mapping[str, Any]) -> None:
    """Prints the table of a result."""
    saved, with_balanced = result["config"], tested_unevenly(result)

    def cells(title: str, how: str, prefix: str) -> list[str]:
        mean, std, diverged = (result[f"{prefix}_{part}"] for part in ("mean", "std", "num_diverged"))
        count = result["num_learners" if prefix == "test_accuracy" else f"{prefix}_num_learners"]
        lost = f" ({diverged} diverged)" if diverged else ""
        balanced = [f"{100 * result[f'{prefix}_balanced_mean']:.1f}"] if with_balanced else []
        return [title, f"{100 * mean:.1f}", f"{100 * std:.1f}", *balanced, str(count), how + lost]

    def searched(prefix: str) -> str:
        return f"{result[f'{prefix}_protocol']}, step size {result[f'{prefix}_step_size']:.3g}"

    protocol = result.get("protocol", "as_distilled")
    how = "as distilled"
    if protocol != "as_distilled":
        how = f"{protocol}, step size {result['test_accuracy_step_size']:.3g}"
    rows = [cells("distilled images", how, "test_accuracy")]
    if (ridge := result.get("test_accuracy_ridge")) is not None:
        mean, std = (f"{100 * result[f'test_accuracy_ridge_{part}']:.1f}" for part in ("mean", "std"))
        empty = [""] if with_balanced else []
        lost = result.get("test_accuracy_ridge_num_diverged")
        how = "ridge regression of the head" + (f" ({lost} without a solution)" if lost else "")
        rows.append(["distilled images", mean, std, *empty, str(len(ridge)), how])
    if result.get("other_order_mean") is not None:
        rows.append(cells("distilled images", result["other_order"], "other_order"))
    if "closed_form_accuracy" in result:
        share = f"{100 * result['closed_form_accuracy']:.1f}"
        balanced = ["-"] if with_balanced else []
        rows.append(["distilled images", share, "-", *balanced, "-", "closed form, no network"])
    for title, prefix in (("random real images", "random_real"), ("full training set", "full_data")):
        if result[f"{prefix}_mean"] is not None:
            rows.append(cells(title, searched(prefix), prefix))
    networks = f"{tested_on(saved['population'])}: {saved['learner']} on {saved['dataset']}"
    columns = ["trained on", "mean", "std", *(["balanced"] if with_balanced else []), "K", "trained by"]
    progress.table(f"\nTest accuracy (%) of {networks}", columns, rows)
    if "bits_per_class" in result:
        progress.say(
            f"{result['images_trained_on']} images trained on, {result['scalars_stored']} scalars stored, "
            f"{result['bits_per_class']:.0f} bits per class"
        )
    speed = result["outer_steps"] / max(result["seconds"], 1e-9)
    progress.say(
        f"{result['outer_steps']} outer steps in {duration(result['seconds'])} ({speed:.3g}/s), "
        f"compiled in {duration(result['compile_seconds'])}"
    )
