"""Synthetic data as a file: written whole, read back, a user's own checked."""

import json
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import message

from jaxdistill.core.checks import UserError
from jaxdistill.core.types import Batch
from jaxdistill.runtime import export

INFO = SimpleNamespace(
    name="tiny", scale=16.0, mean=(0.25,), std=(0.5,), class_names=("zéro", "one"), whitening=None
)


def write(path, **changes):
    generator = np.random.default_rng(0)
    content = {
        "images": generator.normal(size=(4, 8, 8, 1)).astype(np.float32),
        "labels": np.array([[0.75, 0.25], [0, 1], [1, 0], [0.5, 0.5]], np.float32),
        "order": np.array([[0, 1], [2, 3], [0, 1]], np.int32),
        "hyperparameters": {"learning_rate": jnp.array([0.1, 0.2, 0.3]), "momentum": jnp.array([0.9])},
        "info": INFO,
        "method": "dd",
        "learner": {"name": "mlp", "hidden": (8, 8)},
        "inner": {"name": "sgd"},
    }
    content |= changes
    export.write_synthetic(path, **content)
    return content


def test_synthetic_round_trip(tmp_path):
    content = write(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as archive:  # what a stranger sees, without this library
        arrays = {name: archive[name] for name in archive.files}
    assert set(arrays) == {
        *("x", "x_standardised", "y", "y_soft", "order", "hyper_learning_rate", "hyper_momentum"),
        *("scale", "mean", "std", "class_names", "dataset", "method", "learner", "inner"),
    }
    assert (arrays["x"].dtype, arrays["y"].dtype, arrays["order"].dtype) == (np.float32, np.int64, np.int32)
    np.testing.assert_allclose(arrays["x"], (content["images"] * 0.5 + 0.25) * 16, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(arrays["y"], [0, 1, 0, 0])
    np.testing.assert_array_equal(arrays["hyper_momentum"], np.full(3, 0.9, np.float32))
    assert str(arrays["dataset"]) == "tiny" and arrays["class_names"].tolist() == ["zéro", "one"]
    assert json.loads(str(arrays["learner"])) == {"name": "mlp", "hidden": [8, 8]}
    synthetic = export.read_synthetic(tmp_path / "a.npz")
    np.testing.assert_array_equal(synthetic.images, content["images"])
    np.testing.assert_array_equal(synthetic.labels, content["labels"])
    np.testing.assert_array_equal(synthetic.order, content["order"])
    assert set(synthetic.hyperparameters) == {"learning_rate", "momentum"}
    assert synthetic.metadata == {
        "scale": 16.0,
        "mean": (0.25,),
        "std": (0.5,),
        "class_names": ("zéro", "one"),
        "dataset": "tiny",
        "method": "dd",
        "learner": {"name": "mlp", "hidden": [8, 8]},
        "inner": {"name": "sgd"},
    }


def test_equal_data_are_equal_bytes(tmp_path, monkeypatch):
    write(tmp_path / "a.npz")
    monkeypatch.setattr("time.time", lambda: 2e9)
    write(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    write(tmp_path / "b.npz", method="gtn")
    assert (tmp_path / "a.npz").read_bytes() != (tmp_path / "b.npz").read_bytes()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"images": np.full((4, 8, 8, 1), np.nan)}, "finite images"),
        ({"labels": np.ones((4, 2))}, "sum to 1"),
        ({"labels": np.ones((3, 1))}, "one row per image"),
        ({"order": np.array([[4]])}, "order [T, B] with values in 0..3"),
        ({"hyperparameters": {"learning_rate": np.ones(2)}}, "learning_rate finite, of shape (3,)"),
    ],
)
def test_bad_synthetic_data_are_not_written(tmp_path, changes, expected):
    with pytest.raises(UserError) as error:
        write(tmp_path / "a.npz", **changes)
    assert expected in message(error) and not list(tmp_path.iterdir())


def test_a_users_file_is_read(tmp_path):
    np.savez(tmp_path / "mine.npz", x=np.zeros((3, 8, 8), np.uint8), y=np.array([0, 2, 1], np.uint8))
    synthetic = export.read_synthetic(tmp_path / "mine.npz")
    assert synthetic.pixels.shape == (3, 8, 8, 1) and synthetic.pixels.dtype == np.float32
    np.testing.assert_array_equal(synthetic.labels, np.eye(3, dtype=np.float32)[[0, 2, 1]])
    assert synthetic.images is None and synthetic.order is None
    assert synthetic.hyperparameters == {} and synthetic.metadata == {}


X = np.zeros((2, 8, 8), np.float32)


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        ({"x": X}, "arrays x and y"),
        ({"x": X * np.nan, "y": [0, 1]}, "finite images"),
        ({"x": X[0], "y": [0, 1]}, "x of shape [N, H, W, C]"),
        ({"x": X, "y": [0]}, "one row per image"),
        ({"x": X, "y": [0, -1]}, "y as integers from 0"),
        ({"x": X, "y": [0, 0.5]}, "y as integers from 0"),
        ({"x": X, "y": [[0.5, 0.6], [0, 1]]}, "sum to 1"),
        ({"x": X, "y": ["a", "b"]}, "y as integers or probabilities"),
        ({"x": X, "y": [0, 1], "order": [[0, 5]]}, "values in 0..1"),
        (
            {"x": X, "y": [0, 1], "hyper_gamma": [0.1]},
            "hyper_learning_rate or hyper_momentum, got hyper_gamma",
        ),
        ({"x": X, "y": [0, 1], "hyper_momentum": ["a"]}, "hyper_momentum as 1 numbers, got dtype"),
        ({"x": X, "y": [0, 1], "order": [[0, 1]], "hyper_momentum": [0.1, 0.2]}, "1 numbers, got dtype"),
        ({"x": X, "y": [0, 1], "hyper_momentum": [np.nan]}, "finite hyper_momentum, got nan"),
        ({"x": X, "y": [0, 1], "inner": "[1]"}, "a JSON object in inner, got [1]"),
        ({"x": X, "y": [0, 1], "scale": "white"}, "scale as one number, finite, above 0"),
        ({"x": X, "y": [0, 1], "scale": 0}, "scale as one number, finite, above 0"),
        ({"x": X, "y": [0, 1], "mean": [0.1, 0.2]}, "mean as a number, or 1, finite, got"),
        ({"x": X, "y": [0, 1], "mean": [np.inf]}, "mean as a number, or 1, finite, got"),
        ({"x": X, "y": [0, 1], "std": [0.0]}, "std as a number, or 1, finite, above 0, got"),
    ],
)
def test_bad_users_files_are_refused(tmp_path, arrays, expected):
    np.savez(tmp_path / "mine.npz", **{name: np.asarray(value) for name, value in arrays.items()})
    with pytest.raises(UserError) as error:
        export.read_synthetic(tmp_path / "mine.npz")
    assert expected in message(error)


def test_damaged_files_are_said(tmp_path):
    with pytest.raises(UserError) as error:
        export.read_synthetic(tmp_path / "run" / "none.npz")
    assert "read_synthetic(run/none.npz)" in message(error) and "no file of that name" in message(error)
    write(tmp_path / "a.npz")
    whole = (tmp_path / "a.npz").read_bytes()
    flipped = bytearray(whole)
    flipped[300] ^= 0xFF
    np.save(tmp_path / "array.npy", X)
    np.savez(tmp_path / "pickle.npz", x=X, y=np.array([{}, {}], dtype=object))
    damaged = dict.fromkeys(
        (b"", b"text", whole[: len(whole) // 2], bytes(flipped)), "an intact .npz archive"
    )
    damaged[(tmp_path / "array.npy").read_bytes()] = "a single .npy array"
    damaged[(tmp_path / "pickle.npz").read_bytes()] = "Python objects"
    for content, expected in damaged.items():
        (tmp_path / "b.npz").write_bytes(content)
        with pytest.raises(UserError) as error:
            export.read_synthetic(tmp_path / "b.npz")
        assert expected in message(error)


def test_dedupe_finds_the_epochs():
    distinct = np.random.default_rng(0).normal(size=(2, 3, 8, 8, 1)).astype(np.float32)
    distinct[0, 1] = distinct[0, 0]  # two equal images in one batch stay two
    labels = np.stack([np.eye(3)[[0, 0, 2]], np.eye(3)]).astype(np.float32)
    again = [0, 1, 1, 0]
    x, y = distinct[again], labels[again]
    x[2], y[2] = x[2, ::-1], y[2, ::-1]  # an epoch that shuffles its batches
    images, classes, order = export.dedupe(Batch(jnp.asarray(x), jnp.asarray(y)))
    assert images.shape == (6, 8, 8, 1) and classes.shape == (6, 3) and order.dtype == np.int32
    np.testing.assert_array_equal(images[order], x)
    np.testing.assert_array_equal(classes[order], y)
    np.testing.assert_array_equal(order, [[0, 1, 2], [3, 4, 5], [5, 4, 3], [0, 1, 2]])
    relabelled = Batch(jnp.asarray(x[:1, :1].repeat(2, axis=0)), jnp.eye(3)[:2][:, None])
    assert len(export.dedupe(relabelled)[0]) == 2
