"""Learned images: order of the batches, labels, what they start from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import message

from jaxdistill.core.checks import UserError
from jaxdistill.teachers.images import images, unit_noise

SHAPE = (2, 2, 1)
KEY = jax.random.key(0)


def make(**options):
    return images(**({"image_shape": SHAPE, "num_classes": 3} | options))


def test_batches_are_class_major_and_tile_over_epochs():
    teacher = make(images_per_class=4, distill_steps=2, distill_epochs=3)
    phi = teacher.init(KEY)
    assert set(phi) == {"x"} and phi["x"].shape == (2, 6, *SHAPE) and phi["x"].dtype == jnp.float32
    phi, batches = jax.device_get((phi, teacher.batches(phi, KEY)))
    assert batches.x.shape == (6, 6, *SHAPE) and batches.y.shape == (6, 6, 3)
    for step in range(6):
        np.testing.assert_array_equal(batches.x[step], phi["x"][step % 2])
        np.testing.assert_array_equal(batches.y[step], np.eye(3)[[0, 0, 1, 1, 2, 2]])
    assert batches.y.dtype == jnp.float32
    assert len({np.asarray(image).tobytes() for image in batches.x[:2].reshape(-1, 4)}) == 12


def test_noise_is_standard_normal_and_follows_its_key():
    x = np.asarray(make(images_per_class=400).init(KEY)["x"])
    assert abs(float(x.mean())) < 4 / np.sqrt(x.size) and float(x.std()) == pytest.approx(1, abs=0.05)
    again, other = (np.asarray(make(images_per_class=400).init(key)["x"]) for key in (KEY, jax.random.key(1)))
    np.testing.assert_array_equal(x, again)
    assert float(np.abs(x - other).max()) > 0.1


def test_unit_noise_has_norm_one_and_no_direction():
    x = np.asarray(unit_noise(jax.random.key(0), (3, 40, 4, 4, 2)))
    np.testing.assert_allclose(np.sum(x**2, axis=(-3, -2, -1)), 1.0, rtol=1e-5)
    assert abs(x.mean()) < 0.02 and 0.9 < np.std(x) * np.sqrt(32) < 1.1  # 3,840 numbers


@pytest.mark.parametrize("distill_steps", [1, 2, 4])
@pytest.mark.parametrize("soft_labels", [False, True])
def test_by_class_gives_the_start_back(distill_steps, soft_labels):
    start = np.random.default_rng(0).normal(size=(3, 4, *SHAPE)).astype(np.float32)
    teacher = make(
        images_per_class=4, distill_steps=distill_steps, start=jnp.asarray(start), soft_labels=soft_labels
    )

    @jax.jit
    def everything(key):
        phi = teacher.init(key)
        return teacher.by_class(phi, key), teacher.batches(phi, key)

    by_class, batches = jax.device_get(everything(KEY))
    assert np.asarray(by_class.x).tobytes() == np.asarray(start).tobytes()
    assert by_class.y.shape == (3, 4, 3)
    np.testing.assert_array_equal(by_class.y.argmax(-1), np.arange(3)[:, None].repeat(4, axis=1))
    found = {  # one epoch: every image once, with its label
        (np.asarray(x).tobytes(), int(y.argmax()))
        for x, y in zip(batches.x.reshape(12, 4), batches.y.reshape(12, 3), strict=True)
    }
    assert found == {(np.asarray(start[c, i]).tobytes(), c) for c in range(3) for i in range(4)}


def test_soft_labels_start_at_the_confidence_and_are_learned():
    teacher = make(images_per_class=2, soft_labels=True, label_confidence=0.7)
    phi = teacher.init(KEY)
    assert set(phi) == {"x", "y"} and phi["y"].shape == (1, 6, 3)

    @jax.jit
    def labels_and_slope(phi):
        labels = teacher.batches(phi, KEY).y
        return labels, jax.grad(lambda phi: teacher.batches(phi, KEY).y[0, 0, 1])(phi)["y"]

    (y,), slope = jax.device_get(labels_and_slope(phi))
    np.testing.assert_allclose(y.sum(-1), 1, rtol=1e-6)
    np.testing.assert_allclose(y, np.eye(3)[[0, 0, 1, 1, 2, 2]] * 0.55 + 0.15, rtol=1e-5)
    assert float(slope[0, 0, 1]) == pytest.approx(0.15 * 0.85, rel=1e-5)  # of a softmax


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"images_per_class": 0}, "images_per_class >= 1"),
        ({"images_per_class": -2}, "images_per_class >= 1"),
        ({"distill_steps": 0}, "distill_steps >= 1"),
        ({"distill_epochs": 0}, "distill_epochs >= 1"),
        ({"images_per_class": 5, "distill_steps": 2}, "images_per_class a multiple of distill_steps = 2"),
        ({"soft_labels": True, "label_confidence": 1.0}, "label_confidence in (1/3, 1)"),
        ({"soft_labels": True, "label_confidence": 1 / 3}, "label_confidence in (1/3, 1)"),
        ({"start": jnp.zeros((3, 2, *SHAPE))}, "start of shape (3, 1, 2, 2, 1)"),
    ],
)
def test_bad_choices_are_refused(options, expected):
    with pytest.raises(UserError) as error:
        make(**options)
    assert expected in message(error)
