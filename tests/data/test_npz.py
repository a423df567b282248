"""A user's own `.npz`: as a data set, and as synthetic images."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill import data
from jaxdistill.core.checks import Caution, UserError
from jaxdistill.data import trees


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
    "text pixels": (_with(x=arrays()["x"].astype(str)), "x of numbers, got dtype <U3"),
    "negative pixels": (_with(x=arrays()["x"].astype(int) - 1), "integers from 0 to 65,535 in x, got -1"),
    "24-bit pixels": (_with(x=arrays()["x"].astype(int) * 1000), r"got 255000. Scale it: x / 255000"),
    "rank": (_with(x=arrays()["x"][0, ..., 0]), r"shape \[N, H, W, C\]"),
    "no images": ({"x": np.zeros((0, 8, 8, 1), np.uint8), "y": np.zeros(0, int)}, "not empty"),
    "length": (_with(y=np.arange(39) % 4), "one label per image"),
    "soft labels": (_with(y=np.full((40, 4), 0.25)), "one-hot rows, or one label per image"),
    "two rows of labels": (_with(y=np.zeros((40, 2, 2))), "one label per image, got shape"),
    "float labels": (_with(y=np.arange(40) % 4 + 0.5), "integer labels"),
    "negative": (_with(y=np.arange(40) % 4 - 1), "labels >= 0 in y, got -1"),
    "one class": (_with(y=np.zeros(40, int)), "at least two classes"),
    "too few": (_with(x=arrays(6, 3)["x"], y=np.arange(6) % 3), "3 images of each class"),
    "rare class": (
        _with(y=np.minimum(np.arange(40), 1)),
        "got 1 of class 0. Add images, or give validation and test",
    ),
    "names": (_with(class_names=np.array(["a"])), "class_names of 4 strings, one per class, got 1"),
    "names twice": (_with(class_names=np.array([*"abca"])), "class_names that differ, got a more than once"),
    "large labels": (_with(y=(np.arange(40) % 4).astype(np.uint64) << 62), r"labels below 2\^63, got 1383"),
    "huge labels": (_with(y=(np.arange(40) % 4) * 1e300), r"labels below 2\^63, got 3e"),
    "names of strings": (
        _with(y=np.arange(40).astype(str), class_names=np.array(["a"])),
        "labels that are numbers",
    ),
    "two keys": (_with(images=arrays()["x"]), "one array of images of the train part, got two, x and images"),
    "channels first": (_with(x=np.zeros((40, 3, 8, 8), np.uint8)), r"looks like \[N, C, H, W\].*layout=nchw"),
    "mixed labels": (_with(x_test=arrays()["x"], y_test=np.array(["a"] * 40)), "strings in y_test"),
    "no scale": (_with(scale=np.zeros(3)), "scale as one number"),
    "objects": (_with(y=np.array([None] * 40)), "Python objects"),
    "half a test": (_with(x_test=arrays()["x"]), "arrays x_test and y_test"),
    "test shape": (_with(x_test=arrays()["x"][:, :7], y_test=arrays()["y"]), "images of shape"),
    "test dtype": (_with(x_test=arrays(dtype=float)["x"], y_test=arrays()["y"]), "x_test of dtype uint8"),
    "test label": (
        _with(x_test=arrays()["x"], y_test=arrays()["y"] + 1),
        "labels in y_test that y has too, got 4",
    ),
    "test classes": (
        _with(x_test=arrays()["x"], y_test=arrays()["y"] * 0),
        "each class in y_test, got none of class 1",
    ),
    "constant": (_with(x=arrays()["x"] * 0 + 200), "constant channel"),
}


@pytest.mark.parametrize("case", BAD_NPZ)
def test_a_bad_npz_is_one_clear_line(case, tmp_path):
    content, message = BAD_NPZ[case]
    path = write(tmp_path / "bad.npz", **content)
    with pytest.raises(UserError, match=message) as error:
        data.load(path)
    assert "\n" not in str(error.value)


def test_pixels_of_other_types_keep_their_values(tmp_path):
    x = arrays()["x"]
    wide = x.astype(np.uint16) * 257
    found = data.load(write(tmp_path / "wide.npz", x=wide, y=arrays()["y"]))
    plain = data.load(write(tmp_path / "plain.npz", **arrays()))
    assert found.info.scale == 65535
    np.testing.assert_allclose(found.train.x, plain.train.x, atol=1e-5)
    for same in (x.astype(np.int64), x.astype(np.uint32)):
        again = data.load(write(tmp_path / "same.npz", x=same, y=arrays()["y"]))
        assert again.info.scale == 255
        np.testing.assert_array_equal(again.train.x, plain.train.x)
    ink = data.load(write(tmp_path / "ink.npz", x=x > 127, y=arrays()["y"]))
    assert ink.info.scale == 1
    assert len(np.unique(ink.train.x)) == 2


def test_one_bright_pixel_does_not_change_the_units(tmp_path):
    """A file of 0..1 with a pixel at 1.003, as a resize leaves it."""
    x = arrays()["x"] / 255
    x[0, 0, 0, 0] = 1.003
    assert data.load(write(tmp_path / "a.npz", x=x, y=arrays()["y"])).info.scale == 1
    one_white = np.minimum(arrays()["x"] / 1.0, 250)
    one_white[0] = 0
    assert data.load(write(tmp_path / "a.npz", x=one_white, y=arrays()["y"])).info.scale == 255


def test_units_that_look_wrong_are_a_caution_and_can_be_said(tmp_path):
    x, y = arrays()["x"] // 16, arrays()["y"]
    path = write(tmp_path / "sixteen.npz", x=x, y=y)
    with pytest.warns(Caution, match=r"brightest pixel of an image is 15, and white is taken to be 255"):
        assert data.load(path).info.scale == 255
    assert data.load(path, scale=15).info.scale == 15
    assert data.load(write(tmp_path / "told.npz", x=x, y=y, scale=np.array(15))).info.scale == 15
    with pytest.warns(Caution, match=r"pixels lie from -\S+ to \S+; pictures show 0 as black and 1 as white"):
        assert data.load(write(tmp_path / "b.npz", x=(x - 7.5) / 4, y=y)).info.scale == 1
    with pytest.raises(UserError, match="scale > 0"):
        data.load(path, scale=0)
    with pytest.raises(UserError, match=r"no scale with this kind of data set"):
        data.load("digits", scale=16)


OTHERS = {
    "medmnist": "train_images train_labels val_images val_labels test_images test_labels",
    "keras": "x_train y_train x_val y_val x_test y_test",
    "capitals": "X_train Y_train X_valid Y_valid X_test Y_test",
    "torch": "train_data train_targets valid_data valid_targets test_data test_targets",
    "ours": "x y x_validation y_validation x_test y_test",
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_peoples_keys_are_read(tmp_path, name):
    parts = [value for seed in range(3) for value in arrays(8, seed=seed).values()]
    content = dict(zip(OTHERS[name].split(), parts, strict=True))
    found = data.load(write(tmp_path / "a.npz", **content, comment=np.array("not an image")))
    for part, pixels in zip(found[:3], parts[::2], strict=True):
        assert rows(np.rint(data.to_pixels(part.x, found.info))) == rows(pixels.astype(np.float32))
    with pytest.raises(UserError, match="no validation_fraction, since the set has a validation part"):
        data.load(str(tmp_path / "a.npz"), validation_fraction=0.5)


LABELS = {
    "from one": (np.arange(40) % 4 + 1, ("1", "2", "3", "4"), "labels 1, 2, 3, 4 are numbered 0 to 3"),
    "gaps": (np.arange(40) % 4 * 10**12, ("0", "1000000000000", "2000000000000", "3000000000000"), "0 to 3"),
    "strings": (
        np.array(["deer", "cat", "ship", "bird"])[np.arange(40) % 4],
        ("bird", "cat", "deer", "ship"),
        None,
    ),
    "bytes": (np.array([b"b", b"a", b"d", b"c"])[np.arange(40) % 4], ("a", "b", "c", "d"), None),
    "one-hot": (np.eye(4)[np.arange(40) % 4], ("0", "1", "2", "3"), None),
    "column": (np.arange(40)[:, None] % 4, ("0", "1", "2", "3"), None),
    "whole floats": (np.arange(40) % 4 / 1.0, ("0", "1", "2", "3"), None),
}


@pytest.mark.parametrize("kind", LABELS)
def test_labels_as_people_write_them(kind, recwarn):
    y, names, told = LABELS[kind]
    found = data.splits(arrays()["x"], y)
    assert found.info.class_names == names
    assert [str(w.message) for w in recwarn if told and told in str(w.message)] or not told
    assert not [w for w in recwarn if not told and issubclass(w.category, Caution)]
    first = np.rint(data.to_pixels(np.asarray(found.train.x[:1]), found.info)).astype(np.uint8)
    place = next(i for i, x in enumerate(arrays()["x"]) if (x == first[0]).all())
    same_class = sorted({str(v) for v in np.asarray(y).reshape(40, -1).tolist()})
    assert len(same_class) == 4
    assert found.info.class_names[0] in (str(np.ravel(y)[place]).removeprefix("b'").removesuffix("'"), "0")


@pytest.mark.parametrize("key", ["x", "y"])
def test_lists_of_several_shapes_are_one_clear_line(key):
    content = arrays() | {key: [[[0, 1], [2, 3]], [[0, 1, 2]]]}
    with pytest.raises(
        UserError, match=rf"splits\(arrays\): expected {key} as one array, got lists of"
    ) as error:
        data.splits(**content)
    assert "\n" not in str(error.value)


def test_names_of_classes_without_images_are_left_out():
    y = np.arange(40) % 3 * 2
    with pytest.warns(Caution, match="no image of b, d; these classes are left out"):
        found = data.splits(arrays()["x"], y, class_names=list("abcde"))
    assert found.info.class_names == ("a", "c", "e")


def test_channels_first_can_be_said(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (40, 3, 8, 8), np.uint8)
    first = data.splits(x, np.arange(40) % 4, layout="nchw")
    last = data.splits(x.transpose(0, 2, 3, 1), np.arange(40) % 4)
    np.testing.assert_array_equal(first.train.x, last.train.x)
    assert first.info == last.info
    with pytest.raises(UserError, match="one of nchw, nhwc"):
        data.splits(x, np.arange(40) % 4, layout="hwcn")
    with pytest.raises(UserError, match=r"looks like \[N, H, W, C\]. Leave layout out"):
        data.splits(x.transpose(0, 2, 3, 1), np.arange(40) % 4, layout="nchw")


@pytest.mark.parametrize(("classes", "each"), [(2, 3), (100, 5), (7, 4)])
def test_few_images_of_many_classes_are_split(classes, each):
    x = np.random.default_rng(0).integers(0, 256, (classes * each, 2, 2), np.uint8)
    found = data.splits(x, np.repeat(np.arange(classes), each))
    assert all(int(part.counts.min()) >= 1 for part in found[:3])
    assert sum(len(part.y) for part in found[:3]) == classes * each
    more = data.splits(x, np.repeat(np.arange(classes), each), test_fraction=0.01, validation_fraction=0.01)
    assert [len(part.y) for part in more[:3]] == [classes * (each - 2), classes, classes]


def test_the_digest_is_of_the_images_as_they_were_given():
    content = arrays()
    found = data.splits(**content)
    assert len(found.info.digest) == 64
    assert data.splits(**content, image_size=4, validation_fraction=0.5).info.digest == found.info.digest
    other = {**content, "x": content["x"] ^ (np.arange(40) == 7).astype(np.uint8).reshape(40, 1, 1, 1)}
    assert data.splits(**other).info.digest != found.info.digest
    assert data.splits(content["x"], content["y"][::-1]).info.digest != found.info.digest
    assert not data.load("digits").info.digest


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


def test_an_encrypted_npz_and_one_that_grows_too_much_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=np.zeros((40, 200, 200), np.uint8), y=np.arange(40) % 4)
    monkeypatch.setattr(trees, "MOST_BYTES", 10**6)
    with pytest.raises(
        UserError, match=r"at most 1,000,000 bytes in an archive of .*got more in a.npz. If you"
    ):
        data.load(str(path))
    content = bytearray(path.read_bytes())
    for mark, place in ((b"PK\1\2", 8), (b"PK\3\4", 6)):  # the flags in both headers of the first array
        content[content.index(mark) + place] |= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"an .npz archive that needs no password, got one that is encrypted"):
        data.load(str(path))


def test_a_file_that_says_what_it_is_is_standardised_as_that_set(tmp_path):
    splits = data.load(write(tmp_path / "mine.npz", **arrays(), name="mnist"))
    assert splits.info.name == "mnist" and splits.info.digest
    assert (splits.info.mean, splits.info.std) == ((0.1307,), (0.3081,))


@pytest.mark.parametrize(("name", "says"), [("letters", "a name among cifar10"), (3, "name as one string")])
def test_a_name_that_is_no_named_set_is_an_error(tmp_path, name, says):
    with pytest.raises(UserError, match=says):
        data.load(write(tmp_path / "mine.npz", **arrays(), name=name))
