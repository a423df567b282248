"""Sets that nobody learned, as functions of a run: classes, steps, sets in files."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import message
from tiny_runs import TINY, drawn

from jaxdistill.config.resolve import resolve
from jaxdistill.config.table import Config
from jaxdistill.core.checks import UserError
from jaxdistill.core.types import Batch
from jaxdistill.evaluation import Score, Tuned
from jaxdistill.evaluation.protocol import STEP_SIZES, multiples
from jaxdistill.runs import baselines, compare
from jaxdistill.runs.baseline_files import draw
from jaxdistill.runs.plan import planned
from jaxdistill.runs.reference import Reference
from jaxdistill.runs.run import Run
from jaxdistill.runtime.loop import Finished

OPTIONS = resolve(baselines.BaselineOptions(num_sets=1, neighbors=[1], norms=[2.0]))
SCORE = Score(0.5, 0.0, [0.5], 0)


def started(**chosen):
    """A run at its start: images and step sizes as they are before anything is learned."""
    plan = planned(Config(**TINY | chosen))
    return Run(plan, Finished(plan.method.init(plan.key), 0.0, 0.0, 0, 0, []))


def test_a_class_whose_labels_have_moved_is_still_drawn(tmp_path, monkeypatch):
    """Images with learned labels stand for the class that they were meant for."""
    run = started(soft_labels=True)
    phi = run.state.meta.teacher
    meta = run.state.meta._replace(teacher=phi | {"y": jnp.roll(phi["y"], 1, axis=1)})
    run = Run(run.plan, run.finished._replace(state=run.state._replace(meta=meta)))
    assert run.labels.tolist() == [9, *range(9)]
    monkeypatch.setattr(baselines, "score", lambda *given: SCORE)
    tuned = Tuned(SCORE, "one step size", 0.1, {})
    monkeypatch.setattr(baselines, "tuned", lambda *given, **more: tuned)
    monkeypatch.setattr(baselines, "reference", lambda *given, **more: Reference(tuned, False, "now"))
    monkeypatch.setattr(
        baselines, "optimized_real", lambda data, key, n, **more: baselines.random_real(data, key, n)
    )
    rows, sets = baselines.rows_of(run, OPTIONS, num_learners=1, seed=0)
    assert [row["set"] for row in rows] == list(sets)
    for images in sets.values():
        assert np.asarray(images.y).argmax(1).tolist() == list(range(10))
    with drawn("image_grid"):
        draw(tmp_path / "sets.png", sets, run)
    assert (tmp_path / "sets.png").stat().st_size > 1000


def test_real_images_take_the_places_of_distilled_ones_of_their_class():
    run = started(distill_steps=2, images_per_class=4, distill_epochs=1)
    classes, per_class = baselines.fits(run.plan)
    assert per_class == 4 and np.bincount(classes).tolist() == [4] * 10
    place = baselines.class_by_class(classes)
    assert sorted(place) == list(range(40))
    by_class = np.repeat(np.arange(10), 4)
    np.testing.assert_array_equal(by_class[place], classes)
    one, scaled = baselines.own_steps(run, place[run.order])
    for protocol in (one, scaled):
        np.testing.assert_array_equal(protocol.order(jax.random.key(0)), place[run.order])
    np.testing.assert_allclose(one.values["learning_rate"], 0.05)
    np.testing.assert_array_equal(scaled.values["learning_rate"], run.hyperparameters["learning_rate"])


def test_equal_steps_are_those_of_the_run(monkeypatch):
    """Its optimiser, loss and learned temperature, in both comparisons with real images."""
    asked = []
    monkeypatch.setattr(
        compare, "reference", lambda name, evaluation, plans, *given, **more: asked.append(plans)
    )

    def plans(run):
        compare._random_real(run, None, "as_distilled")
        return [asked.pop()[0], *baselines.own_steps(run, run.order)]

    run = started(inner_optimizer="adam", inner_learning_rate=1e-3, inner_loss="platt")
    inner = run.state.meta.inner | {"log_temperature": jnp.full(1, 0.5)}
    run.finished.state.meta.inner.update(inner)
    gradient, now = {"w": jnp.full(2, 3.0)}, {"learning_rate": jnp.asarray(0.1)}
    for plan in plans(run):
        assert plan.temperature == pytest.approx(np.exp(-0.5)) and plan.labels == "probabilities"
        transform = plan.optimizer.build(now)
        moved, _ = transform.update(gradient, transform.init(gradient))
        np.testing.assert_allclose(moved["w"], -0.1, rtol=1e-2)  # whatever the gradient
        np.testing.assert_allclose(plan.step_sizes, multiples(1e-3), rtol=1e-4)
    for plan in plans(started(inner_momentum=0.5, weight_decay=0.1)):
        assert plan.step_sizes == STEP_SIZES and plan.weight_decay == 0.1 and plan.temperature == 1
        np.testing.assert_array_equal(plan.values["momentum"], 0.5)


@pytest.mark.parametrize(
    ("chosen", "neighbors", "says"),
    [
        ({"images_per_class": 200}, (1,), "images_per_class <= 124, got 200, but class "),
        ({}, (11,), "neighbors <= 10, the images, got [11]"),
    ],
)
def test_what_cannot_be_compared_is_refused(chosen, neighbors, says):
    with pytest.raises(UserError) as error:
        baselines.fits(planned(Config(**TINY | chosen), opening=True), neighbors)
    assert says in message(error)


def test_classes_of_several_sizes_are_refused():
    plan = planned(Config(**TINY), opening=True)
    eleven = Batch(jnp.arange(11.0).reshape(1, 11, 1, 1, 1), jnp.eye(10)[jnp.arange(11) % 10][None])
    method = plan.method._replace(synthesize=lambda state, key: eleven)
    with pytest.raises(UserError) as error:
        baselines.fits(plan._replace(methods=[method]))
    assert "the same number of images in every class" in message(error)
