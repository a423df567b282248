"""The learner of Generative Teaching Networks: its pooling, its norms, its random shapes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
from helpers import message

from jaxdistill.core.checks import UserError
from jaxdistill.layers.pool import overlapping_max_pool
from jaxdistill.learners import learner
from jaxdistill.learners.shapes import SHAPES, random_shapes

KEY = jax.random.key(0)


def test_overlapping_pooling_equals_scipys_maximum():
    x = np.random.default_rng(0).normal(size=(2, 8, 7, 3)).astype(np.float32)
    for padding in (0, 1):
        margin = (padding, padding)
        padded = np.pad(x, ((0, 0), margin, margin, (0, 0)), constant_values=-np.inf)
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))[:, ::2, ::2]
        ours = overlapping_max_pool(jnp.asarray(x), padding=padding)
        np.testing.assert_array_equal(ours, windows.max((-1, -2)))
    with pytest.raises(UserError) as error:
        overlapping_max_pool(jnp.ones((1, 2, 5, 1)), padding=0)
    assert "at least 3x3, got 2x5" in message(error)


def normalised(layer):
    flat = layer["kernel"].reshape(-1, layer["kernel"].shape[-1])
    return (flat / np.linalg.norm(flat, axis=0) * layer["gain"]).reshape(layer["kernel"].shape)


def forward(p, x):
    """The learner in NumPy, its norms with the means of this batch."""
    for i in (1, 2):
        kernel = normalised(p[f"conv{i}"])
        x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        units = range(kernel.shape[-1])
        maps = [
            [scipy.signal.correlate(image, kernel[..., o], mode="valid")[..., 0] for o in units]
            for image in x
        ]
        x = np.moveaxis(np.asarray(maps), 1, -1)
        x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
        x = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))[:, ::2, ::2].max((-1, -2))
        x = x - x.mean((0, 1, 2)) + p[f"norm{i}"]["bias"]
        x = np.where(x > 0, x, 0.1 * x)
    x = x.reshape(len(x), -1) @ normalised(p["dense1"])
    x = x - x.mean(0) + p["norm3"]["bias"]
    return np.where(x > 0, x, 0.1 * x) @ normalised(p["classifier"]) + p["classifier"]["bias"]


@pytest.mark.usefixtures("x64")
def test_the_learner_equals_an_independent_computation():
    net = learner("gtn", image_shape=(8, 8, 2), num_classes=3, width=3)
    noise = np.random.default_rng(0)
    params = jax.tree.map(
        lambda a: np.asarray(a, np.float64) + 0.1 * noise.normal(size=a.shape), jax.jit(net.init)(KEY)
    )
    x = noise.normal(size=(4, 8, 8, 2))
    np.testing.assert_allclose(jax.jit(net.apply)(params, x), forward(params["params"], x), rtol=1e-9)


def test_test_data_see_the_means_of_the_last_inner_batch():
    net = learner("gtn", image_shape=(8, 8, 1), num_classes=3, width=4)
    x = np.random.default_rng(0).normal(size=(12, 8, 8, 1)).astype(np.float32)

    @jax.jit
    def logits(key, x):
        params = net.init(key)
        calibrated = net.calibrate(params, x)
        every = [(net.apply(calibrated, part), net.apply(params, part)) for part in (x, x[:1])]
        return every[0], every[1]

    (calibrated, of_batch), (alone, by_itself) = jax.device_get(logits(KEY, x))
    np.testing.assert_allclose(calibrated, of_batch, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(alone, calibrated[:1], rtol=1e-4, atol=1e-5)  # whatever the batch it comes in
    assert np.abs(by_itself - alone).max() > 1e-3


def test_random_shapes_lie_in_the_papers_ranges():
    drawn = random_shapes("gtn", {"width": 64}, count=300, seed=0)
    for name, low, high in (("width", 32, 127), ("second_width", 64, 255), ("hidden", 64, 255)):
        values = [options[name] for options in drawn]
        assert low <= min(values) < low + 10 and high - 10 < max(values) <= high
    drawn = random_shapes("convnet", {"width": 16, "depth": 3}, count=100, seed=0)
    assert {options["depth"] for options in drawn} == {1, 2, 3}
    assert drawn == random_shapes("convnet", {"width": 16, "depth": 3}, count=100, seed=0)
    assert drawn != random_shapes("convnet", {"width": 16, "depth": 3}, count=100, seed=1)
    for name in SHAPES:
        given = {"width": 8, "depth": 2} if name != "gtn" else {"width": 8}
        for options in random_shapes(name, given, count=3, seed=0):
            learner(name, image_shape=(8, 8, 1), num_classes=3, **options)
    with pytest.raises(UserError) as error:
        random_shapes("lenet", {}, count=2, seed=0)
    assert "one of convnet, gtn, mlp, got 'lenet'" in message(error)
