"""Data sets: splits, standardisation, sampling, the user's own files, TFDS without TensorFlow or network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import message

from jaxdistill import data
from jaxdistill.core.checks import UserError
from jaxdistill.data import dataset
from jaxdistill.data.dataset import statistics
from jaxdistill.data.shaping import fitted, resize, with_channels
from jaxdistill.data.splitting import stratified_split

INFO = data.DatasetInfo("two", (4, 4, 2), 3, ("a", "b", "c"), 255.0, (0.3, 0.5), (0.2, 0.31))


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


@pytest.fixture
def tiny():
    """Classes 0, 1, 2 with 5, 2 and 3 images; every image is filled with its own number."""
    y = np.array([0, 2, 1, 0, 0, 2, 1, 0, 2, 0])
    return data.from_arrays(np.ones((10, 4, 4, 1), np.float32) * np.arange(10).reshape(10, 1, 1, 1), y, 3)


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


# Splits.


def test_digits_has_the_documented_splits(digits):
    assert [len(part.x) for part in digits[:3]] == [1197, 240, 360]
    assert digits.train.x.shape == (1197, 8, 8, 1)
    assert digits.train.x.dtype == digits.train.y.dtype == jnp.float32
    assert digits.info.image_shape == (8, 8, 1)
    assert digits.info.scale == 16.0
    pixels = data.to_pixels(digits.train.x, digits.info)
    assert float(pixels.min()) == pytest.approx(0, abs=1e-5)  # float32 round trip of values up to 16
    assert float(pixels.max()) == pytest.approx(16, abs=1e-5)


def test_digits_splits_are_those_of_scikit_learn(digits):
    sklearn = pytest.importorskip("sklearn.datasets")
    from sklearn.model_selection import train_test_split

    x, y = sklearn.load_digits(return_X_y=True)
    x, x_test, y, _ = train_test_split(x, y, test_size=0.2, stratify=y, random_state=0)
    x, x_validation = train_test_split(x, test_size=1 / 6, stratify=y, random_state=0)
    for part, expected in zip(digits[:3], (x, x_validation, x_test), strict=True):
        pixels = np.rint(data.to_pixels(np.asarray(part.x), digits.info))
        assert rows(pixels) == rows(expected.astype(np.float32).reshape(-1, 8, 8, 1))


def test_digits_splits_are_stratified(digits):
    total = sum(np.asarray(part.counts) for part in digits[:3])
    assert total.sum() == 1797
    for part in digits[:3]:
        # Two splits in a row, each rounded to whole images: 1.5 images off at the most.
        np.testing.assert_allclose(part.counts, total * len(part.x) / 1797, atol=1.5)


@pytest.mark.parametrize(("counts", "size"), [((5, 1, 7), 4), ((10, 10, 10), 15), ((30, 20, 10), 10)])
def test_stratified_split_is_a_partition_with_rounded_shares(counts, size):
    y = np.random.default_rng(1).permutation(np.repeat(np.arange(3), counts))
    kept, taken = stratified_split(y, size, 0)
    assert len(taken) == size
    assert sorted([*kept, *taken]) == list(range(len(y)))
    share = np.asarray(counts) * size / len(y)
    assert (np.abs(np.bincount(y[taken], minlength=3) - share) < 1).all()
    again, other = stratified_split(y, size, 0)[1], stratified_split(y, size, 1)[1]
    assert (again == taken).all()
    assert (other != taken).any()


def test_validation_fraction_and_seed_change_the_split(tmp_path):
    path = write(tmp_path / "a.npz", **arrays())
    splits = [
        data.load(path, validation_fraction=f, seed=s) for f, s in ((0.25, 0), (0.25, 0), (0.5, 0), (0.25, 1))
    ]
    assert [len(s.validation.x) for s in splits] == [8, 8, 16, 8]
    same, other = (rows(s.validation.x) == rows(splits[0].validation.x) for s in (splits[1], splits[3]))
    assert same
    assert not other
    everything = data.standardise(arrays()["x"], splits[3].info)
    assert rows(*(part.x for part in splits[3][:3])) == rows(everything)  # disjoint, and nothing is lost


@pytest.mark.parametrize("fraction", [0, 1, -0.1, float("nan")])
def test_validation_fraction_is_checked(fraction):
    with pytest.raises(UserError, match="validation_fraction"):
        data.load("digits", validation_fraction=fraction)


# Standardisation and size.


@pytest.mark.parametrize("module", [np, jnp])
def test_round_trip_of_uint8_is_exact(module):
    pixels = np.stack([np.arange(256, dtype=np.uint8).reshape(16, 16)] * 2, axis=-1)
    x = data.standardise(module.asarray(pixels), INFO)
    assert x.dtype == np.float32
    assert isinstance(x, np.ndarray) == (module is np)
    np.testing.assert_array_equal(np.rint(data.to_pixels(x, INFO)).astype(np.uint8), pixels)
    np.testing.assert_allclose(x[15, 15], [(1 - 0.3) / 0.2, (1 - 0.5) / 0.31], rtol=1e-6)
    with pytest.raises(AssertionError):
        data.standardise(module.zeros((4, 4, 3)), INFO)


def test_computed_statistics_standardise_the_training_part(digits):
    x = np.asarray(digits.train.x, np.float64)
    assert x.mean() == pytest.approx(0, abs=1e-6)
    assert x.std() == pytest.approx(1, abs=1e-6)


def test_statistics_agree_with_numpy_and_refuse_a_constant_channel():
    x = np.random.default_rng(0).integers(0, 256, (20, 3, 5, 2)).astype(np.uint8)
    mean, std = statistics(x, 255)
    np.testing.assert_allclose(mean, (x / 255).mean((0, 1, 2)))
    np.testing.assert_allclose(std, (x / 255).std((0, 1, 2)))
    x[..., 1] = 7
    with pytest.raises(UserError, match="constant channel 1"):
        statistics(x, 255)


@pytest.mark.parametrize("size", [3, 4, 11])
def test_resize_agrees_with_jax(size):
    x = np.random.default_rng(0).random((2, 4, 6, 3), dtype=np.float32)
    expected = jax.jit(lambda x: jax.image.resize(x, (2, size, size, 3), "bilinear", antialias=True))(x)
    np.testing.assert_allclose(resize(x, size), expected, atol=1e-6)  # sums of ten float32 terms


def test_image_size_is_applied_on_load():
    splits = data.load("digits", image_size=4)
    assert splits.info.image_shape == splits.train.x.shape[1:] == splits.test.x.shape[1:] == (4, 4, 1)
    assert float(splits.train.x.std()) == pytest.approx(1, abs=1e-5)
    x = np.zeros((1, 8, 8, 1), np.uint8)
    assert resize(x, 8) is x


@pytest.mark.parametrize("size", [0, -3, 2.5, True, "8"])
def test_a_bad_image_size_is_refused_before_anything_is_read(size):
    with pytest.raises(UserError, match="image_size"):
        data.load("missing.npz", image_size=size)


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        *(({"seed": seed}, "seed as a whole number in 0 ...") for seed in (1.5, "0", -1, True, None, 2**32)),
        *(({"data_memory": size}, "data_memory: expected a size such as 2GB") for size in ("much", -1, True)),
    ],
)
def test_a_bad_seed_or_size_is_refused_before_anything_is_read(chosen, says):
    with pytest.raises(UserError) as error:
        data.load("missing.npz", **chosen)
    assert says in message(error)


def test_images_that_are_no_squares_are_fitted():
    x = np.zeros((1, 4, 8, 1), np.uint8)
    x[:, :, 2:6] = 200  # the square in the middle
    np.testing.assert_array_equal(fitted(x, 4, "crop"), np.full((1, 4, 4, 1), 200))
    padded = fitted(x, 8, "pad")
    np.testing.assert_array_equal(padded[0, 2:6], x[0])
    assert padded[0, :2].max() == padded[0, 6:].max() == 0
    np.testing.assert_array_equal(fitted(x, 4, "stretch"), resize(x, 4))
    with pytest.raises(UserError, match="one of crop, pad, stretch"):
        data.load("digits", image_size=4, fit="squeeze")
    with pytest.raises(UserError, match="no fit without image_size"):
        data.load("digits", fit="pad")
    x = np.zeros((60, 8, 8, 1), np.uint8)
    with pytest.raises(UserError, match="test_fraction that leaves 6 of 60 images, 2 of each class"):
        data.splits(x, np.arange(60) % 3, test_fraction=0.97)


def test_grey_becomes_colour_and_back():
    grey = np.random.default_rng(0).integers(0, 256, (2, 3, 3, 1), np.uint8)
    colour = with_channels(grey, 3, "here")
    assert colour.shape == (2, 3, 3, 3)
    np.testing.assert_array_equal(with_channels(colour, 1, "here"), grey)
    np.testing.assert_allclose(
        with_channels(np.eye(3).reshape(1, 3, 1, 3), 1, "here").ravel(), [0.299, 0.587, 0.114]
    )
    splits = data.load("digits", channels=3)
    assert splits.info.image_shape == (8, 8, 3)
    assert len(splits.info.mean) == len(splits.info.std) == 3
    with pytest.raises(UserError, match=r"channels 1 \(grey\) or 3 \(colour\), got 2"):
        data.load("digits", channels=2)
    with pytest.raises(UserError, match="images of 1 or 3 channels"):
        with_channels(np.zeros((1, 2, 2, 2)), 3, "here")


# Dataset and samplers.


def test_from_arrays_sorts_stably_and_says_where_classes_are(tiny):
    assert tiny.x[:, 0, 0, 0].tolist() == [0, 3, 4, 7, 9, 2, 6, 1, 5, 8]
    assert data.labels(tiny).tolist() == [0] * 5 + [1] * 2 + [2] * 3
    assert tiny.starts.tolist() == [0, 5, 7]
    assert tiny.counts.tolist() == [5, 2, 3]
    assert (tiny.y.sum(-1) == 1).all()


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([0, 1, 3], "labels in 0..2"),
        ([0, -1, 2], "labels >= 0"),
        ([0, 1, 1], "none of class 2"),
        ([0.0, 1, 2], "integer"),
    ],
)
def test_from_arrays_refuses_bad_labels(y, message):
    with pytest.raises(UserError, match=message):
        data.from_arrays(np.zeros((3, 2, 2, 1)), np.array(y), 3)


@pytest.mark.parametrize(
    ("x", "y", "said"),
    [
        (np.zeros((3, 2, 2)), [0, 1, 2], "images x of shape [N, H, W, C], got shape (3, 2, 2)"),
        (np.zeros((3, 2, 2, 1)), [0, 1], "y of shape (3,), a class for each image, got shape (2,)"),
        (
            np.zeros((3, 2, 2, 1), np.uint8),
            [0, 1, 2],
            "of a floating dtype, got dtype uint8. jd.splits(x, y, ",
        ),
        (np.zeros((3, 2, 2, 1), int).tolist(), [0, 1, 2], "of a floating dtype, got dtype int64"),
        (np.full((3, 2, 2, 1), np.inf), [0, 1, 2], "finite images x, got NaN or infinity in image 0"),
        (np.where(np.arange(12) == 9, np.nan, 0).reshape(3, 2, 2, 1), [0, 1, 2], "in image 2. Leave such"),
    ],
)
def test_from_arrays_says_what_is_wrong_with_images(x, y, said):
    with pytest.raises(UserError) as error:
        data.from_arrays(x, y, 3)
    assert said in message(error)


def test_from_arrays_takes_lists():
    assert data.from_arrays([[[[1.0]]], [[[0.0]]]], [1, 0], 2).x.ravel().tolist() == [0.0, 1.0]


SAMPLERS = {"sample": data.sample, "sample_per_class": data.sample_per_class}


@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers_are_pure_and_jit_equals_eager(name, tiny, key):
    draw = SAMPLERS[name]
    batch, again = draw(tiny, key, 6), draw(tiny, key, 6)
    jitted = jax.jit(draw, static_argnums=2)(tiny, key, 6)
    other = draw(tiny, jax.random.fold_in(key, 1), 6)
    jax.tree.map(np.testing.assert_array_equal, batch, again)
    jax.tree.map(np.testing.assert_array_equal, batch, jitted)
    assert (batch.x != other.x).any()
    assert batch.x.dtype == batch.y.dtype == jnp.float32


def test_sample_is_uniform_over_images_and_keeps_pairs_together(tiny, key):
    batch = jax.device_get(jax.jit(data.sample, static_argnums=2)(tiny, key, 5000))
    number = np.asarray(batch.x[:, 0, 0, 0], int)
    counts = np.bincount(number, minlength=10)
    assert (np.abs(counts - 500) < 5 * np.sqrt(450)).all()  # five standard deviations
    true = np.array([0, 2, 1, 0, 0, 2, 1, 0, 2, 0])
    np.testing.assert_array_equal(batch.y.argmax(-1), true[number])


def test_sample_per_class_draws_every_image_of_its_class_only(tiny, key):
    batch = jax.device_get(jax.jit(data.sample_per_class, static_argnums=2)(tiny, key, 64))
    assert batch.x.shape == (3, 64, 4, 4, 1)
    np.testing.assert_array_equal(batch.y.argmax(-1), np.repeat(np.arange(3)[:, None], 64, axis=1))
    found = [set(np.asarray(row[:, 0, 0, 0], int)) for row in batch.x]
    assert found == [{0, 3, 4, 7, 9}, {2, 6}, {1, 5, 8}]  # a miss has odds below 5 * 0.8**64


def test_choose_per_class_gives_different_images_and_is_nested(tiny, key):
    one, two = (jax.device_get(data.choose_per_class(tiny, key, n)) for n in (1, 2))
    assert two.x.shape == (3, 2, 4, 4, 1)
    assert two.y.shape == (3, 2, 3)
    np.testing.assert_array_equal(two.y.argmax(-1), [[0, 0], [1, 1], [2, 2]])
    assert len(np.unique(two.x[..., 0, 0, 0])) == 6
    np.testing.assert_array_equal(one.x, two.x[:, :1])
    firsts = {data.choose_per_class(tiny, jax.random.key(i), 1).x.ravel()[0].item() for i in range(40)}
    assert firsts == {0, 3, 4, 7, 9}


def test_choose_per_class_names_the_class_that_is_too_small(tiny, key):
    with pytest.raises(UserError, match=r"images_per_class <= 2, got 3, but class 1 has 2 images"):
        data.choose_per_class(tiny, key, 3)


@pytest.mark.parametrize("draw", [data.sample, data.sample_per_class, data.choose_per_class])
def test_samplers_refuse_zero(draw, tiny, key):
    with pytest.raises(UserError, match=">= 1, got 0"):
        draw(tiny, key, 0)


@pytest.mark.parametrize("name", ["digits", "mnist", "mine.npz"])
def test_a_manual_dir_that_is_not_there_is_refused_for_any_set(tmp_path, name):
    (tmp_path / "file").write_text("")
    for wrong in (tmp_path / "nowhere", tmp_path / "file"):
        with pytest.raises(UserError, match=r"manual_dir, a folder, got .*Leave it out"):
            data.load(name, manual_dir=wrong, data_dir=tmp_path)


@pytest.mark.parametrize("name", ["digits", "mine.npz"])
def test_a_manual_dir_of_a_set_without_original_files_is_refused(tmp_path, name):
    with pytest.raises(UserError) as error:
        data.load(name, manual_dir=tmp_path)
    assert f"load({name}): expected no manual_dir with this kind of data set, got" in message(error)
    with pytest.raises(UserError, match=r"expected one of cifar10.* got 'mnistt'"):  # rather than that
        data.load("mnistt", manual_dir=tmp_path, data_dir=tmp_path)


@pytest.mark.parametrize(
    ("name", "sets"),
    [
        ("cifar-10-python.tar.gz", "cifar10"),
        ("cifar-100-binary", "cifar100"),
        ("tiny-imagenet-200.zip", "tiny_imagenet"),
        ("train-images-idx3-ubyte.gz", "mnist or dataset=fashion_mnist or dataset=kmnist"),
    ],
)
def test_an_original_file_in_the_place_of_a_set_says_how_to_load_it(tmp_path, name, sets):
    path = tmp_path / name
    path.write_bytes(b"") if path.suffix else path.mkdir()
    with pytest.raises(UserError) as error:
        data.load(path)
    assert f"load({name}): expected a named set, or pictures or arrays of your own, got " in message(error)
    assert message(error).endswith(f"Use dataset={sets} with manual_dir={tmp_path}.")
    if path.is_dir():
        (tmp_path / "cifar10").mkdir()  # a folder of any other name is not meant
        with pytest.raises(UserError, match=r"one of cifar10|pictures"):
            data.load(tmp_path / "cifar10")


def test_large_sets_of_8_bits_have_the_numbers_of_floats(monkeypatch, key):
    x = np.random.default_rng(0).integers(0, 256, (60, 4, 4, 3), np.uint8)
    given = x, np.arange(60) % 3
    floats = data.splits(*given)
    monkeypatch.setattr(dataset, "FLOAT_BYTES", 0)
    bytes_ = data.splits(*given)
    assert floats.train.pixels.dtype == jnp.float32 and bytes_.train.pixels.dtype == jnp.uint8
    np.testing.assert_allclose(bytes_.info.mean, floats.info.mean, rtol=1e-12)
    np.testing.assert_allclose(bytes_.info.std, floats.info.std, rtol=1e-12)
    same = dataset.standardised(x, given[1], floats.info)
    other = data.from_arrays(data.standardise(x, floats.info), given[1], 3)
    np.testing.assert_array_equal(same.x, other.x)
    sample, per_class = (jax.jit(each, static_argnums=2) for each in (data.sample, data.sample_per_class))
    for draw in (sample, per_class, data.choose_per_class):
        jax.tree.map(np.testing.assert_array_equal, draw(same, key, 4), draw(other, key, 4))
    np.testing.assert_array_equal(sample(same, key, 4).x, data.sample(other, key, 4).x)


@pytest.mark.parametrize("others", [3, 40])
def test_three_images_of_a_class_are_one_in_each_part(others):
    y = np.repeat([0, 1, 2], [3, others, others])
    x = np.random.default_rng(0).integers(0, 256, (len(y), 4, 4, 1), np.uint8)
    parts = data.splits(x, y)[:3]
    assert [int(part.counts[0]) for part in parts] == [1, 1, 1]
    assert sum(len(part.y) for part in parts) == len(y)
