"""Protocols: order of the images, step sizes, restarts, and what each paper's numbers are."""

import jax
import numpy as np
import pytest
from helpers import message

from jaxdistill.augment import DSA
from jaxdistill.core.checks import UserError
from jaxdistill.evaluation import (
    as_distilled,
    dc,
    epochs,
    few_steps,
    one_part_each,
    published,
    with_step_size,
)
from jaxdistill.inner.optimizers import sgd

KEY = jax.random.key(0)


# ---------------------------------------------------------------- order and schedule


@pytest.mark.parametrize(
    ("num_images", "batch_size", "batches", "size"),
    [(10, 5, 2, 5), (10, 4, 3, 4), (10, 256, 1, 10), (7, 3, 3, 3), (1, 1, 1, 1)],
)
def test_an_epoch_holds_every_image_once(num_images, batch_size, batches, size):
    protocol = epochs(num_images, num_epochs=3, batch_size=batch_size)
    order = np.asarray(protocol.order(KEY))
    assert order.shape == (3 * batches, size) and order.dtype == np.int32
    for epoch in order.reshape(3, -1):
        assert sorted(epoch[:num_images].tolist()) == list(range(num_images))
        # the last batch is filled up from the start of the same shuffle
        np.testing.assert_array_equal(epoch[num_images:], epoch[: len(epoch) - num_images])
    if num_images > 1:
        assert len({tuple(epoch) for epoch in order.reshape(3, -1).tolist()}) > 1
        assert (order != np.asarray(protocol.order(jax.random.key(1)))).any()


def test_dc_is_the_papers_protocol():
    protocol = dc(600)

    def shape(protocol):
        return jax.eval_shape(protocol.order, KEY).shape

    assert shape(protocol) == (900, 200)  # 300 epochs of ceil(600 / 256) equal batches
    rates = np.asarray(protocol.values["learning_rate"])
    np.testing.assert_array_equal(rates, np.repeat(np.asarray([0.01, 0.001], np.float32), 450))
    assert protocol.restart == 450 and protocol.weight_decay == 5e-4 and protocol.augment is None
    np.testing.assert_allclose(protocol.values["momentum"], 0.9)
    for name, length in (("dc", 300), ("dc_augmented", 1000), ("dsa", 1000)):
        plan = published(name, 10)
        assert plan.name == name and shape(plan) == (length, 10) and plan.restart == length // 2
        assert (plan.augment is None) == (name == "dc")
    augmented = dc(10, augment=lambda key, x: x)
    assert shape(augmented) == (1000, 10) and augmented.restart == 500


def test_protocols_of_papers_with_free_labels():
    """Their numbers of updates by images per class, step sizes, loss and images."""
    for name, updates in (("frepo", (1000, 2000, 2000, 5000)), ("rcig", (1000, 2000, 2000, 2000))):
        plans = [published(name, count, num_classes=5) for count in (5, 50, 100, 250)]
        assert tuple(jax.eval_shape(plan.order, KEY).shape[0] for plan in plans) == updates
        assert {(plan.loss, plan.weight_decay, plan.restart) for plan in plans} == {("squared", 0.0, 0)}
        assert [(plan.augment is None) for plan in plans] == [name == "rcig"] * 4
    assert set(np.asarray(published("frepo", 5).values["learning_rate"]).tolist()) == {np.float32(3e-4)}
    rates = np.asarray(published("rcig", 100).values["learning_rate"])
    np.testing.assert_allclose(rates[[0, 249, 499, 500]], [2e-7, 5e-5, 1e-4, 1e-4], rtol=1e-5)
    middle = 1e-4 * (0.01 + 0.99 * 0.5)
    np.testing.assert_allclose(rates[[1250, 1999]], [middle, 1e-6], rtol=1e-3)
    for count, classes, updates in ((10, 10, 1000), (11, 11, 2000), (100, 100, 2000)):
        assert len(published("rcig", count, num_classes=classes).values["learning_rate"]) == updates
    slower = with_step_size(published("rcig", 100), 0.01)
    assert float(slower.step_size) == pytest.approx(0.01) and slower.values["learning_rate"].max() <= 0.0101
    assert jax.eval_shape(published("rcig", 600, num_epochs=4).order, KEY).shape == (12, 200)


def test_the_protocols_of_idc_and_rat():
    plans = {name: published(name, 100) for name in ("idc", "idc_unmixed", "rat")}
    idc = plans["idc"]
    assert jax.eval_shape(idc.order, KEY).shape == (2000, 50)  # 1,000 epochs of two batches of at most 64
    rates = np.asarray(idc.values["learning_rate"])
    np.testing.assert_allclose(rates[[0, 1331, 1332, 1665, 1666, 1999]], np.repeat([1e-2, 2e-3, 4e-4], 2))
    np.testing.assert_allclose(published("idc", 10, num_epochs=1).values["learning_rate"], 1e-2)
    assert (idc.restart, idc.weight_decay, idc.loss) == (0, 5e-4, "cross_entropy")
    assert (idc.mix is None, plans["idc_unmixed"].mix is None) == (False, True)
    np.testing.assert_array_equal(plans["idc_unmixed"].values["learning_rate"], rates)
    rat = plans["rat"]
    assert jax.eval_shape(rat.order, KEY).shape == (1000, 100) and rat.augment is DSA.siamese
    assert (rat.loss, rat.weight_decay, rat.mix) == ("cross_entropy", 0.0, None)
    np.testing.assert_allclose(rat.values["learning_rate"], 1e-3)


@pytest.mark.parametrize("name", ["dc", "dsa", "idc", "rcig"])
def test_no_epochs_are_refused(name):
    with pytest.raises(UserError) as error:
        published(name, 600, num_epochs=0)
    assert "num_epochs >= 1, got 0" in message(error)


@pytest.mark.parametrize("name", ["num_images", "num_epochs", "batch_size"])
def test_counts_below_one_are_refused(name):
    with pytest.raises(UserError) as error:
        epochs(**({"num_images": 3, "num_epochs": 1, "batch_size": 2} | {name: 0}))
    assert f"{name} >= 1" in message(error)


def test_values_have_one_length_per_protocol():
    optimizer = sgd(num_steps=3)
    with pytest.raises(UserError) as error:
        as_distilled(np.zeros((2, 4)), optimizer, optimizer.values(optimizer.init()))
    assert "1 or 2 values of learning_rate, one per step" in message(error)


def test_a_step_size_keeps_the_shape_of_its_schedule():
    protocol = with_step_size(dc(6, num_epochs=4), 0.3)
    np.testing.assert_allclose(protocol.values["learning_rate"], [0.3, 0.3, 0.03, 0.03], rtol=1e-6)
    np.testing.assert_allclose(protocol.values["momentum"], 0.9)


@pytest.mark.parametrize("shuffle", ["batches", "images"])
def test_a_shuffled_curriculum_is_shuffled_anew_for_every_network(shuffle):
    order = np.arange(12).reshape(4, 3)
    optimizer = sgd(num_steps=4, learned=())
    plan = as_distilled(order, optimizer, optimizer.values({}), shuffle=shuffle)
    drawn = [np.asarray(plan.order(jax.random.key(seed))) for seed in range(4)]
    assert all(sorted(d.ravel()) == list(range(12)) for d in drawn)
    assert len({d.tobytes() for d in drawn}) > 1
    whole = all({tuple(row) for row in d} == {tuple(row) for row in order} for d in drawn)
    assert whole == (shuffle == "batches")
    with pytest.raises(UserError) as error:
        as_distilled(order, optimizer, optimizer.values({}), shuffle="steps")
    assert "one of batches, images, none" in message(error)


def test_few_steps_go_through_the_set_before_they_start_again():
    plan = few_steps(6, num_steps=4, batch_size=3)
    order = np.asarray(plan.order(KEY))
    assert order.shape == (4, 3) and sorted(order[:2].ravel()) == sorted(order[2:].ravel()) == list(range(6))
    np.testing.assert_array_equal(one_part_each(4)(KEY, 3), np.arange(12).reshape(3, 4))
    with pytest.raises(UserError) as error:
        few_steps(6, num_steps=0, batch_size=3)
    assert "num_steps >= 1" in message(error)
