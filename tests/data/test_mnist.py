"""Real MNIST from the authors' files: prepared without TensorFlow, equal to a direct read of the files.

The fast tier takes the first tenth of the images of each file, the slow tier all of them. The files are
looked for in `$JAXDISTILL_DATA/mnist`, by default `../shared/data/mnist` beside the checkout.
"""

import gzip
import os
import time
from pathlib import Path

import numpy as np
import pytest

from jaxdistill import data
from jaxdistill.core.checks import UserError
from jaxdistill.data import idx_sets, tfds_sets

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(os.environ.get("JAXDISTILL_DATA") or ROOT.parent / "shared" / "data") / "mnist"

pytestmark = pytest.mark.skipif(
    not all((FOLDER / name).is_file() for name in idx_sets.NAMES),
    reason=f"the MNIST files are not in {FOLDER}: set JAXDISTILL_DATA to the folder that holds mnist/",
)


@pytest.fixture(scope="module", params=[10, pytest.param(1, marks=pytest.mark.slow)])
def one_in(request):
    """What share of the files is read: the first 1/10 of each, or all."""
    return request.param


@pytest.fixture(scope="module")
def data_dir(one_in, tmp_path_factory):
    pytest.importorskip("tensorflow_datasets", reason="preparing MNIST needs tensorflow-datasets")
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def mnist(data_dir, one_in):
    read_idx = idx_sets.read_idx

    def first(path):
        whole = read_idx(path)
        return whole[: len(whole) // one_in]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(idx_sets, "read_idx", first)
        return data.load("mnist", manual_dir=FOLDER, data_dir=data_dir)


def read(name, one_in):
    header, size = (16, 28 * 28) if "images" in name else (8, 1)
    every = np.frombuffer(gzip.decompress((FOLDER / name).read_bytes()), np.uint8, offset=header)
    return every.reshape(-1, size)[: len(every) // size // one_in]


def test_splits_and_class_counts(mnist, one_in):
    assert [len(part.x) * one_in for part in mnist[:3]] == [50_000, 10_000, 10_000]
    assert mnist.info == data.DatasetInfo(
        "mnist", (28, 28, 1), 10, tuple("0123456789"), 255.0, (0.1307,), (0.3081,)
    )
    counts = np.bincount(read("train-labels-idx1-ubyte.gz", one_in).ravel())
    np.testing.assert_array_equal(
        np.asarray(mnist.train.counts) + np.asarray(mnist.validation.counts), counts
    )
    np.testing.assert_allclose(mnist.validation.counts, counts / 6, atol=1)  # stratified
    tested = np.bincount(read("t10k-labels-idx1-ubyte.gz", one_in).ravel())
    np.testing.assert_array_equal(mnist.test.counts, tested)


def test_pixels_are_those_of_the_files(mnist, one_in):
    for parts, name in ((mnist[:2], "train"), (mnist[2:3], "t10k")):
        x = read(f"{name}-images-idx3-ubyte.gz", one_in)
        y = read(f"{name}-labels-idx1-ubyte.gz", one_in).ravel()
        pixels = np.concatenate([np.rint(data.to_pixels(np.asarray(part.x), mnist.info)) for part in parts])
        pixels = pixels.astype(np.uint8).reshape(-1, 28 * 28)
        labels = np.concatenate([np.asarray(data.labels(part)) for part in parts])
        for label in range(10):
            expected, found = x[y == label], pixels[labels == label]
            assert found.sum(dtype=np.int64) == expected.sum(dtype=np.int64)
            # Every image is there as often as in the file: TFDS's order differs, the multiset does not.
            assert sorted(map(bytes, found)) == sorted(map(bytes, expected))


def test_the_second_load_is_fast_and_equal(mnist, data_dir, monkeypatch):
    monkeypatch.setattr(tfds_sets, "import_tfds", None)  # neither TFDS nor the files are touched
    start = time.perf_counter()
    again = data.load("mnist", data_dir=data_dir)
    seconds = time.perf_counter() - start
    assert seconds < 5  # half a second on an idle machine; preparing takes 17
    for first, second in zip(mnist[:3], again[:3], strict=True):
        np.testing.assert_array_equal(first.x, second.x)


def test_nothing_but_the_set_is_left_behind(mnist, data_dir):
    assert [path.name for path in data_dir.iterdir()] == ["mnist"]
    assert [path.name for path in (data_dir / "mnist").iterdir()] == ["3.0.1"]


def test_the_files_of_another_set_are_refused(data_dir):
    with pytest.raises(UserError, match=r"registered file .*train-images-idx3-ubyte.gz"):
        data.load("kmnist", manual_dir=FOLDER, data_dir=data_dir)
    assert not (data_dir / "kmnist").exists()


def test_a_folder_that_cannot_be_written_is_one_clear_line(tmp_path):
    pytest.importorskip("tensorflow_datasets")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="a folder to write in") as error:
        data.load("mnist", manual_dir=FOLDER, data_dir=tmp_path / "file")
    assert "\n" not in str(error.value)
