"""ZCA whitening: against a direct eigendecomposition in float64, there and back, and what it refuses."""

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import message

from jaxdistill import data
from jaxdistill.core.checks import UserError
from jaxdistill.data import dataset as module
from jaxdistill.data.whitening import LARGEST, Whitening, spectrum, zca


def correlated(count, seed=0):
    """[count, 8, 8, 3] float64: neighbours look alike, and channels differ."""
    x = np.random.default_rng(seed).normal(size=(count, 8, 8, 3)).cumsum(axis=1).cumsum(axis=2)
    return x * [1.0, 2.0, 0.5] + [0.0, 1.0, -3.0]


def made(count=300, seed=0, **options):
    """Splits of 8-bit images of three classes."""
    x = correlated(count, seed)
    x = np.clip(127 + 25 * x, 0, 255).astype(np.uint8)
    return x, data.splits(x, np.arange(count) % 3, x[:9], np.arange(9) % 3, **options)


@pytest.mark.parametrize("count", [400, 50])  # 192 values: with fewer images some directions do not vary
def test_it_is_the_inverse_root_of_the_regularised_covariance(count):
    x = correlated(count)
    mean, vectors, scales = spectrum(lambda: np.array_split(x, 3))
    flat = x.reshape(count, 192)
    covariance = np.cov(flat.T, bias=True)
    values, direct = np.linalg.eigh(covariance + 0.1 * np.trace(covariance) / 192 * np.eye(192))
    np.testing.assert_allclose(mean, flat.mean(0), atol=1e-12)
    for power in (-1, 1):
        expected = (direct * values ** (power / 2)) @ direct.T
        found = (vectors * scales**power) @ vectors.T
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())


def test_whitened_images_have_the_covariance_that_the_regulariser_leaves():
    x = correlated(400)
    covariance = np.cov(x.reshape(400, 192).T, bias=True)
    whitening = zca(lambda: [x], "test")
    z = whitening.apply(x.astype(np.float32)).reshape(400, 192)
    expected = np.linalg.solve(covariance + 0.1 * np.trace(covariance) / 192 * np.eye(192), covariance)
    np.testing.assert_allclose(z.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(np.cov(z.T, bias=True), expected, atol=1e-4)
    sharp = spectrum(lambda: [x], regularisation=1e-9)  # without it: the identity
    root = (sharp[1] / sharp[2]) @ sharp[1].T
    np.testing.assert_allclose(root @ covariance @ root, np.eye(192), atol=1e-3)


@pytest.mark.parametrize("module_of_arrays", [np, jnp], ids=["numpy", "jax"])
def test_there_and_back(module_of_arrays):
    x, splits = made(preprocess="zca")
    assert splits.info.preprocess == "zca"
    pixels = module_of_arrays.asarray(x[:7])
    whitened = data.standardise(pixels, splits.info)
    assert isinstance(whitened, np.ndarray) == (module_of_arrays is np) and whitened.dtype == np.float32
    back = np.asarray(data.to_pixels(whitened, splits.info))
    np.testing.assert_array_equal(np.rint(back).astype(np.uint8), x[:7])
    np.testing.assert_allclose(data.standardise(pixels[0], splits.info), whitened[0], atol=1e-4)
    alone = data.standardise(x[:7], splits.info._replace(whitening=None))
    assert np.abs(np.asarray(whitened) - alone).max() > 0.1


def test_it_is_fitted_on_the_training_part_and_applied_to_all():
    splits, plain = made(preprocess="zca")[1], made()[1]
    assert plain.info.whitening is None and plain.info == splits.info._replace(whitening=None)
    whitening = zca(lambda: [np.asarray(plain.train.x)], "test")
    assert splits.info.whitening.agrees_with(whitening)
    for part, other in zip(splits[:3], plain[:3], strict=True):
        np.testing.assert_allclose(part.x, whitening.apply(np.asarray(other.x)), atol=1e-3)
    np.testing.assert_array_equal(splits.test.y, plain.test.y)


def test_two_are_equal_if_every_number_is():
    one, same, other = (made(seed=seed, preprocess="zca")[1].info for seed in (0, 0, 1))
    assert one == same and hash(one) == hash(same) and one != other
    assert not one.whitening.agrees_with(other.whitening) and one.whitening != "zca"
    near = Whitening(one.whitening.mean, one.whitening.vectors * -1, one.whitening.scales * (1 + 1e-6))
    assert near != one.whitening and near.agrees_with(one.whitening)
    small = Whitening(*(np.zeros((2, 2)[:n], np.float32) for n in (1, 2, 1)))
    assert not small.agrees_with(one.whitening)


def test_images_of_a_large_set_are_floats(monkeypatch):
    expected = made(preprocess="zca")[1]
    monkeypatch.setattr(module, "FLOAT_BYTES", 0)
    found = made(preprocess="zca")[1]
    assert made()[1].train.table is not None and found.train.table is None
    np.testing.assert_array_equal(found.train.pixels, expected.train.pixels)


def test_what_it_refuses(tmp_path):
    with pytest.raises(UserError) as error:
        made(preprocess="pca")
    assert "splits(arrays) preprocess: expected one of standardise, zca, got 'pca'" in message(error)
    with pytest.raises(UserError) as error:
        zca(lambda: [np.zeros((1, 65, 64, 3))], "load(mine)")
    assert f"images of at most {LARGEST} values, got 12480. Make them smaller" in message(error)
    np.savez(tmp_path / "mine.npz", x=made()[0], y=np.arange(300) % 3)
    with pytest.raises(UserError) as error:
        data.load(tmp_path / "mine.npz", data_memory=1000, preprocess="zca")
    assert "preprocess=standardise with images larger than data_memory=1000, got zca" in message(error)
