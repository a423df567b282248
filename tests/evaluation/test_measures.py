"""What a trained network is measured by: accuracy without further training, and confusion of classes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import SHAPE, same_bits, tiny_data, tiny_net

from jaxdistill.data import sample
from jaxdistill.evaluation import (
    Correct,
    accuracy_on,
    as_they_are,
    confusion_on,
    correct_on,
    summarize_by_class,
)

KEY = jax.random.key(0)


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_networks_as_they_are(norm):
    data, net = tiny_data(counts=(20, 5, 5)), tiny_net("convnet", width=4, depth=1, norm=norm)
    params = jax.jit(jax.vmap(net.init))(jax.random.split(KEY, 2))
    found = as_they_are(net, params, data, data, KEY, batch_size=12, strategy="map")
    batch = sample(data, KEY, 12)
    alone = jax.jit(lambda params, x: accuracy_on(net, net.calibrate(params, x), data))
    for k in range(2):
        one = jax.tree.map(lambda a, k=k: np.asarray(a)[k], params)
        np.testing.assert_allclose(found[k], alone(one, batch.x), atol=1e-6)
    assert len(set(np.asarray(batch.y).argmax(1))) == 3  # not of one class, as the first of a split are


def test_confusion_counts_by_class_and_answer():
    net, data = tiny_net("linear"), tiny_data()
    params = net.init(KEY)
    answers = np.asarray(net.apply(params, data.x)).argmax(1)
    truth = np.asarray(data.y).argmax(1)
    expected = np.zeros((3, 3))
    np.add.at(expected, (truth, answers), 1 / len(truth))
    confusion = jax.jit(
        lambda params, microbatch: confusion_on(net, params, data, microbatch=microbatch), static_argnums=1
    )
    for microbatch in (4, 256):
        found = np.asarray(confusion(params, microbatch))
        np.testing.assert_allclose(found, expected, atol=1e-6)
    right = jax.jit(lambda params: accuracy_on(net, params, data))(params)
    assert np.trace(found) == pytest.approx(float(right), abs=1e-6)
    broken = jax.tree.map(lambda a: np.asarray(a) * np.nan, params)
    assert np.isnan(confusion(broken, 256)).any()


@pytest.mark.parametrize("microbatch", [4, 256])  # 30 images: not dividing, larger than the set
def test_balanced_accuracy_is_the_mean_over_classes(microbatch):
    net, data = tiny_net("linear"), tiny_data(counts=(21, 3, 6))
    params = jax.jit(jax.vmap(net.init))(jax.random.split(KEY, 2))
    one = [jax.tree.map(lambda a, k=k: np.asarray(a)[k], params) for k in range(2)]
    answers = [np.asarray(net.apply(each, data.x)).argmax(1) for each in one]
    truth = np.asarray(data.y).argmax(1)
    measure = jax.jit(lambda p, d: correct_on(net, p, d, microbatch=microbatch))
    found = [measure(each, data) for each in one]
    for each, right in zip(one, found, strict=True):
        assert right.accuracy == accuracy_on(net, each, data, microbatch=microbatch)
    score = summarize_by_class(jax.tree.map(lambda *a: jnp.stack(a), *found), data.y)
    recalls = np.array([[np.mean(each[truth == c] == c) for c in range(3)] for each in answers])
    assert score.per_class == pytest.approx(recalls.mean(0), abs=1e-12)
    assert score.balanced_mean == pytest.approx(recalls.mean(), abs=1e-12)
    assert score.balanced_std == pytest.approx(recalls.mean(1).std(), abs=1e-12)
    assert score.every == pytest.approx([np.mean(each == truth) for each in answers])
    assert abs(score.balanced_mean - score.mean) > 0.05


def test_classes_of_networks_that_diverged_and_classes_without_images():
    labels = jnp.eye(3)[jnp.array([0, 0, 0, 2])]
    right = Correct(jnp.array([0.5, jnp.nan]), jnp.array([[0.5, 0.0, 0.0], [jnp.nan] * 3]))
    score = summarize_by_class(right, labels)
    assert score.per_class == [pytest.approx((2 / 3 + 1 / 3) / 2), None, pytest.approx(1 / 6)]
    assert score.balanced_mean == pytest.approx((1 / 3 + 1 / 3) / 2) and score.num_diverged == 1
    net, data = tiny_net("linear"), tiny_data()
    broken = jax.tree.map(lambda a: a.at[..., 0].set(jnp.nan), net.init(KEY))
    assert all(np.isnan(each).all() for each in correct_on(net, broken, data))


@pytest.mark.parametrize("measure", [correct_on, confusion_on])
def test_only_the_images_of_a_part_become_floats(measure):
    net, table = tiny_net("linear"), jnp.linspace(-1.0, 1.0, 256)[:, None].repeat(SHAPE[-1], 1)
    floats, params = tiny_data(), net.init(KEY)
    pixels = jax.random.bits(KEY, floats.pixels.shape, jnp.uint8)
    bytes_ = floats._replace(pixels=pixels, table=table)
    whole = floats._replace(pixels=bytes_.x)
    measured = jax.jit(lambda params, data: measure(net, params, data, microbatch=5))
    found = measured(params, bytes_)
    same_bits(found, measured(params, whole))
    program = str(jax.make_jaxpr(lambda data: measure(net, params, data, microbatch=5))(bytes_))
    shape = ",".join(map(str, pixels.shape))
    assert f"u8[{shape}]" in program and f"f32[{shape}]" not in program
