"""A user's own `.npz`: as a data set, and as synthetic images."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill import data
from jaxdistill.core.checks import UserError


def arrays(n=40, classes=4, dtype=np.uint8, seed=0):
    generator = np.random.default_rng(seed)
    x = generator.integers(0, 256, (n, 8, 8, 1)).astype(dtype)
    return {"x": x, "y": np.arange(n) % classes}


def write(path, **content):
    np.savez(path, **content)
    return str(path)


def rows(*parts):
    """The images of several splits, each as bytes, sorted."""
    return sorted(np.asarray(x).tobytes() for part in parts for x in part)


def test_npz_with_a_test_part_and_class_names(tmp_path):
    test = {"x_test": arrays(8, seed=1)["x"], "y_test": np.arange(8) % 4}
    path = write(tmp_path / "mine.npz", **arrays(), **test, class_names=np.array(["a", "b", "c", "d"]))
    splits = data.load(path)
    assert [len(part.x) for part in splits[:3]] == [33, 7, 8]
    assert splits.info[:5] == ("mine.npz", (8, 8, 1), 4, ("a", "b", "c", "d"), 255.0)
    assert splits.test.counts.tolist() == [2] * 4
    assert rows(np.rint(data.to_pixels(splits.test.x, splits.info))) == rows(
        test["x_test"].astype(np.float32)
    )


def test_npz_without_a_test_part_gives_a_fifth_away(tmp_path):
    content = arrays()
    splits = data.load(write(tmp_path / "a.npz", x=content["x"][..., 0], y=content["y"]))  # [N, H, W] too
    assert [len(part.x) for part in splits[:3]] == [26, 6, 8]
    assert splits.info.class_names == ("0", "1", "2", "3")


@pytest.mark.parametrize(("factor", "scale"), [(1.0, 255.0), (1 / 255, 1.0)])
def test_white_of_float_images(tmp_path, factor, scale):
    content = arrays(dtype=np.float64)
    splits = data.load(write(tmp_path / "a.npz", x=content["x"] * factor, y=content["y"]))
    assert splits.info.scale == scale
    assert splits.train.x.dtype == jnp.float32


def _with(**changes):
    return {**arrays(), **changes}


def _pixels(value):
    x = arrays(dtype=np.float32)["x"]
    x[3, 2, 1, 0] = value
    return x


BAD_NPZ = {
    "no y": ({"x": arrays()["x"]}, "arrays x and y, got only x"),
    "empty": ({}, "arrays x and y, got only an empty archive"),
    "nan": (_with(x=_pixels(np.nan)), "NaN or an infinity in image 3"),
    "inf": (_with(x=_pixels(np.inf)), "NaN or an infinity in image 3"),
    "int64 pixels": (_with(x=arrays()["x"].astype(int)), "dtype uint8 or float, got int64"),
    "rank": (_with(x=arrays()["x"][0, ..., 0]), r"shape \[N, H, W, C\]"),
    "no images": ({"x": np.zeros((0, 8, 8, 1), np.uint8), "y": np.zeros(0, int)}, "not empty"),
    "length": (_with(y=np.arange(39) % 4), "one label per image"),
    "one-hot": (_with(y=np.eye(4)[np.arange(40) % 4]), "one label per image"),
    "float labels": (_with(y=np.arange(40) % 4 + 0.5), "integer labels"),
    "negative": (_with(y=np.arange(40) % 4 - 1), "labels >= 0, got -1"),
    "gap": (_with(y=(np.arange(40) % 3) * 2), "none of class 1"),
    "huge label": (_with(y=np.arange(40) % 2 * 10**15), "none of class 1"),
    "one class": (_with(y=np.zeros(40, int)), "at least two classes"),
    "too few": (_with(x=arrays(6, 3)["x"], y=np.arange(6) % 3), "enough images of each class"),
    "rare class": (_with(y=np.minimum(np.arange(40), 1)), "got 1 of class 0"),
    "names": (_with(class_names=np.array(["a"])), "class_names of 4 strings"),
    "objects": (_with(y=np.array([None] * 40)), "Python objects"),
    "half a test": (_with(x_test=arrays()["x"]), "arrays x_test and y_test"),
    "test shape": (_with(x_test=arrays()["x"][:, :7], y_test=arrays()["y"]), "images of shape"),
    "test dtype": (_with(x_test=arrays(dtype=float)["x"], y_test=arrays()["y"]), "x_test of dtype uint8"),
    "test label": (_with(x_test=arrays()["x"], y_test=arrays()["y"] + 1), r"labels in 0\.\.3, got 4"),
    "test classes": (_with(x_test=arrays()["x"], y_test=arrays()["y"] * 0), "none of class 1"),
    "constant": (_with(x=arrays()["x"] * 0), "constant channel"),
}


@pytest.mark.parametrize("case", BAD_NPZ)
def test_a_bad_npz_is_one_clear_line(case, tmp_path):
    content, message = BAD_NPZ[case]
    path = write(tmp_path / "bad.npz", **content)
    with pytest.raises(UserError, match=message) as error:
        data.load(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["missing", "folder", "text", "npy", "cut", "flipped"])
def test_a_file_that_is_no_intact_npz_is_one_clear_line(kind, tmp_path):
    path = tmp_path / "file.npz"
    if kind == "folder":
        path.mkdir()
    elif kind == "text":
        path.write_text("not an archive")
    elif kind == "npy":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    elif kind in ("cut", "flipped"):
        content = bytearray(Path(write(path, **arrays())).read_bytes())
        content[len(content) // 2] ^= 255
        path.write_bytes(content[:-200] if kind == "cut" else content)
    with pytest.raises(UserError, match=r"npz") as error:
        data.load(str(path))
    assert "\n" not in str(error.value)
    assert "file.npz" in str(error.value)
