"""Named sets: TFDS without TensorFlow or network, names, downloads, caches."""

import struct
import sys

import jax
import numpy as np
import pytest

from jaxdistill import data
from jaxdistill.core.checks import Caution, UserError
from jaxdistill.data import cache, idx_sets, original_files, registry, tfds_sets


def rows(*parts):
    """The images of several splits, each as bytes, sorted."""
    return sorted(np.asarray(x).tobytes() for part in parts for x in part)


# Names.


@pytest.mark.parametrize("name", ["nope_such", "a/b/c", "mnist "])
def test_an_unknown_name_lists_the_known_ones(name, tmp_path):
    with pytest.raises(UserError, match=r"one of cifar10, .*digits.*prepared TFDS set.*npz") as error:
        data.load(name, data_dir=tmp_path)
    assert repr(name) in str(error.value)


def test_the_default_folder_is_in_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert registry.default_data_dir() == tmp_path / "jaxdistill" / "data"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert registry.default_data_dir() == tmp_path / ".cache" / "jaxdistill" / "data"


@pytest.mark.parametrize("name", ["stl10", "cifar10:3.0.2"])
def test_a_set_that_needs_tensorflow_says_what_to_run(name, tmp_path):
    pytest.importorskip("tensorflow_datasets")
    command = (
        f"pip install tensorflow, then tfds build {name} --file_format=array_record --data_dir={tmp_path}"
    )
    with pytest.raises(UserError, match=command):
        data.load(name, data_dir=tmp_path)
    assert not any(tmp_path.iterdir())


def test_without_tfds_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "tensorflow_datasets", None)
    with pytest.raises(UserError, match="pip install tensorflow-datasets"):
        data.load("mnist", data_dir=tmp_path)
    with pytest.raises(UserError, match="one of cifar10"):
        data.load("stl10", data_dir=tmp_path)


# Prepared TFDS sets: a tiny one, written and read without TensorFlow.


def prepare_tiny(
    folder, shape=(8, 8, 3), splits=("train", "test"), labelled=True, file_format="array_record"
):
    """Writes the set `tiny_set` 1.0.0 and returns its images and labels by split."""
    tfds = pytest.importorskip("tensorflow_datasets")
    image = pytest.importorskip("PIL.Image")
    generator = np.random.default_rng(0)
    sizes = [shape[:2] if shape[0] else (5 + i % 7, 9) for i in range(24)]
    content = {s: [generator.integers(0, 256, (*size, 3)).astype(np.uint8) for size in sizes] for s in splits}

    class TinySet(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            label = (
                tfds.features.ClassLabel(names=["cat", "dog"]) if labelled else tfds.features.Scalar(np.int64)
            )
            features = {"image": tfds.features.Image(shape=shape), "label": label}
            features = tfds.features.FeaturesDict(features)
            return tfds.core.DatasetInfo(builder=self, features=features, supervised_keys=("image", "label"))

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(split) for split in splits}

        def _generate_examples(self, split):
            for i, pixels in enumerate(content[split]):
                yield i, {"image": image.fromarray(pixels), "label": i % 2}

    tfds.disable_progress_bar()
    with tfds_sets.quiet():
        TinySet(data_dir=str(folder)).download_and_prepare(file_format=file_format)
    return content


def test_a_prepared_set_is_read_once_and_then_from_its_cache(tmp_path, monkeypatch):
    content = prepare_tiny(tmp_path)
    first = data.load("tiny_set", data_dir=tmp_path)
    assert [len(part.x) for part in first[:3]] == [20, 4, 24]
    assert first.info[:5] == ("tiny_set", (8, 8, 3), 2, ("cat", "dog"), 255.0)
    for parts, split in ((first[:2], "train"), (first[2:3], "test")):
        for label in (0, 1):
            x = np.concatenate([np.asarray(part.x)[np.asarray(data.labels(part)) == label] for part in parts])
            assert rows(np.rint(data.to_pixels(x, first.info)).astype(np.uint8)) == rows(
                content[split][label::2]
            )

    monkeypatch.setattr(tfds_sets, "import_tfds", None)  # the second time TFDS is not touched
    second = data.load("tiny_set:1.0.0", data_dir=tmp_path)
    jax.tree.map(np.testing.assert_array_equal, first[:3], second[:3])
    assert first.info == second.info
    monkeypatch.undo()

    (file,) = tmp_path.rglob("x.npy")
    file.write_bytes(file.read_bytes()[:1000])  # damaged: read anew, and written anew
    with pytest.warns(Caution, match="is damaged .x.npy changed since it was written"):
        third = data.load("tiny_set", data_dir=tmp_path)
    jax.tree.map(np.testing.assert_array_equal, first[:3], third[:3])
    assert file.stat().st_size > 1000
    assert not [path for path in file.parents[1].iterdir() if path.name.startswith(".")]


def test_a_cache_that_cannot_be_written_does_no_harm(tmp_path, monkeypatch):
    prepare_tiny(tmp_path)

    def full(*args, **kwargs):
        raise OSError("no space left on device")

    monkeypatch.setattr(cache.np, "save", full)
    assert len(data.load("tiny_set", data_dir=tmp_path).test.x) == 24
    assert not list(tmp_path.rglob("*.npy"))


def test_a_set_with_images_of_many_sizes_needs_image_size(tmp_path, monkeypatch):
    prepare_tiny(tmp_path, shape=(None, None, 3), splits=("train",))
    with pytest.raises(UserError, match="Pass image_size"):
        data.load("tiny_set", data_dir=tmp_path)
    first = data.load("tiny_set", data_dir=tmp_path, image_size=6)
    assert [part.x.shape[1:] for part in first[:3]] == [(6, 6, 3)] * 3
    assert [len(part.x) for part in first[:3]] == [15, 4, 5]  # a fifth was split off as the test part
    assert data.load("tiny_set", data_dir=tmp_path, image_size=5).info.image_shape == (5, 5, 3)
    monkeypatch.setattr(tfds_sets, "import_tfds", None)
    second = data.load("tiny_set", data_dir=tmp_path, image_size=6)
    jax.tree.map(np.testing.assert_array_equal, first[:3], second[:3])


@pytest.mark.parametrize(("fit", "column"), [("crop", [4, 4, 4, 4]), ("pad", [0, 4, 4, 0])])
def test_pictures_of_a_prepared_set_that_are_no_squares_are_fitted(fit, column):
    image = np.zeros((4, 8, 3), np.uint8) + 4
    squared = tfds_sets._resize_one(image, 4, fit)
    np.testing.assert_array_equal(squared[:, 1, 0], column)


def test_a_prepared_set_that_does_not_fit_is_one_clear_line(tmp_path):
    prepare_tiny(tmp_path / "a", labelled=False)
    with pytest.raises(UserError, match="images with one class label each"):
        data.load("tiny_set", data_dir=tmp_path / "a")
    prepare_tiny(tmp_path / "b", splits=("test",))
    with pytest.raises(UserError, match="a split named train, got test"):
        data.load("tiny_set", data_dir=tmp_path / "b")
    prepare_tiny(tmp_path / "c")
    info = tmp_path / "c" / "tiny_set" / "1.0.0" / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "riegeli"))
    with pytest.raises(UserError, match=r"tfrecord files, got another file format.*tfds build tiny_set"):
        data.load("tiny_set", data_dir=tmp_path / "c")


def checksum(content):
    """The masked CRC-32C of tfrecord files."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def to_tfrecords(folder):
    """The prepared set in `folder` with its records in tfrecord files."""
    reader = pytest.importorskip("array_record.python.array_record_module").ArrayRecordReader
    for path in folder.glob("*.array_record*"):
        out = b""
        for record in reader(str(path)).read_all():
            size = struct.pack("<Q", len(record))
            out += size + checksum(size) + record + checksum(record)
        path.with_name(path.name.replace("array_record", "tfrecord")).write_bytes(out)
        path.unlink()
    info = folder / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))


def test_tfrecord_files_give_the_same_set(tmp_path):
    pytest.importorskip("grain", reason="the extra tfrecord is not installed")
    prepare_tiny(tmp_path / "a")
    prepare_tiny(tmp_path / "b")
    folder = tmp_path / "b" / "tiny_set" / "1.0.0"
    to_tfrecords(folder)
    (path,) = folder.glob("*train*")
    whole = path.read_bytes()
    first = 16 + struct.unpack("<Q", whole[:8])[0]
    for damaged in (whole[:-9], whole[first:]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=f"an intact set in {folder}"):
            data.load("tiny_set", data_dir=tmp_path / "b")
    path.write_bytes(whole)
    first, second = (data.load("tiny_set", data_dir=tmp_path / place) for place in "ab")
    jax.tree.map(np.testing.assert_array_equal, first[:3], second[:3])
    assert first.info == second.info


def test_tfrecord_files_without_grain_say_what_to_install(tmp_path, monkeypatch):
    prepare_tiny(tmp_path)
    to_tfrecords(tmp_path / "tiny_set" / "1.0.0")
    monkeypatch.setitem(sys.modules, "grain.experimental", None)
    with pytest.raises(UserError, match=r'grain, which reads tfrecord.*pip install "jaxdistill\[grain\]"'):
        data.load("tiny_set", data_dir=tmp_path)


@pytest.mark.parametrize("damage", ["cut", "gone", "metadata"])
def test_a_damaged_prepared_set_is_one_clear_line(damage, tmp_path):
    prepare_tiny(tmp_path)
    folder = tmp_path / "tiny_set" / "1.0.0"
    (records,) = folder.glob("*train*")
    if damage == "cut":
        records.write_bytes(records.read_bytes()[:-500])
    elif damage == "gone":
        records.unlink()
    else:
        (folder / "dataset_info.json").write_text("{")
    with pytest.raises(UserError, match=f"an intact set in {folder}.*Remove the folder") as error:
        data.load("tiny_set", data_dir=tmp_path)
    assert "\n" not in str(error.value)


def test_a_set_with_configurations_lists_them(tmp_path):
    folder = tmp_path / "tiny_set" / "small" / "1.0.0"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").touch()
    assert tfds_sets.prepared_folder(tmp_path, "tiny_set/small:1.0.0") == folder
    assert tfds_sets.prepared_folder(tmp_path, "tiny_set/small:1.0.1") is None
    with pytest.raises(UserError, match="one of tiny_set/small, got"):
        data.load("tiny_set", data_dir=tmp_path)


def test_the_newest_version_is_taken(tmp_path):
    for version in ("9.0.0", "10.0.0", "10.0.0.incompleteABC", "notes"):
        (tmp_path / "some" / version).mkdir(parents=True)
        (tmp_path / "some" / version / "dataset_info.json").touch()
    folder = tfds_sets.prepared_folder(tmp_path, "some")
    assert folder is not None
    assert folder.name == "10.0.0"
    assert tfds_sets.prepared_folder(tmp_path, "some:9.0.0") == tmp_path / "some" / "9.0.0"


# MNIST and its relatives, without the files and without a network.


def test_missing_files_are_named_at_once(tmp_path):
    pytest.importorskip("tensorflow_datasets")
    (tmp_path / "train-images-idx3-ubyte.gz").touch()
    with pytest.raises(
        UserError, match=r"got no train-labels-idx1-ubyte.gz, t10k.*\. They come from http"
    ) as error:
        data.load("fashion_mnist", manual_dir=tmp_path, data_dir=tmp_path / "data")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("size", [1000, 9912422])
def test_a_damaged_file_is_named_and_nothing_is_written(size, tmp_path):
    pytest.importorskip("tensorflow_datasets")
    for name in idx_sets.NAMES:
        (tmp_path / name).write_bytes(bytes(size))
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte.gz, got (1000 bytes|SHA-256)") as error:
        data.load("mnist", manual_dir=tmp_path, data_dir=tmp_path / "data")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "data").exists()


def test_offline_is_one_clear_line(tmp_path, monkeypatch):
    pytest.importorskip("tensorflow_datasets")
    monkeypatch.setattr(original_files, "probe", lambda url, seconds: "No route to host")
    message = r"to storage.googleapis.com to download the set, got No route to host\. Or pass manual_dir"
    with pytest.raises(UserError, match=message):
        data.load("mnist", data_dir=tmp_path / "data")
    assert not (tmp_path / "data").exists()
