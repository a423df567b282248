"""SVHN from small MATLAB files as its authors write them."""

import io

import numpy as np
import pytest
from helpers import message
from scipy.io import savemat

from jaxdistill import data
from jaxdistill.core.checks import UserError
from jaxdistill.data import original_files, svhn
from jaxdistill.data.cache import sha256_of
from jaxdistill.data.original_files import Original

COUNTS = (40, 20)


def arrays(count, seed):
    x = np.random.default_rng(seed).integers(0, 256, (32, 32, 3, count), np.uint8)
    return {"X": x, "y": (np.arange(count) % 10 + 1).astype(np.uint8)[:, None]}  # 10 is the digit 0


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes and registers both files; `changed` are arrays of the test part in place of those made up."""

    def files(**changed):
        registered = []
        for seed, (file, count) in enumerate(zip(svhn.FILES, COUNTS, strict=True)):
            content = arrays(count, seed) | (changed if seed else {})
            path = tmp_path / file.name
            savemat(path, {k: v for k, v in content.items() if v is not None}, do_compression=True)
            registered.append(Original(file.url, path.stat().st_size, sha256_of(path)))
        monkeypatch.setattr(svhn, "FILES", tuple(registered))
        return tmp_path

    return files


def test_files_are_read_once_and_then_from_the_cache(write, tmp_path):
    folder = write()
    first = data.load("svhn_cropped", manual_dir=folder, data_dir=tmp_path / "data")
    assert first.info[:5] == ("svhn_cropped", (32, 32, 3), 10, tuple("0123456789"), 255.0)
    assert [len(part.y) for part in first[:3]] == [30, 10, 20]
    # two images of each digit; the first of 0 is number 9 of the file, the first of 1 number 0
    x = arrays(20, 1)["X"]
    found = np.rint(data.to_pixels(np.asarray(first.test.x), first.info))
    np.testing.assert_array_equal(found[0], x[..., 9])
    np.testing.assert_array_equal(found[2], x[..., 0])
    for file in svhn.FILES:
        (folder / file.name).unlink()
    again = data.load("svhn_cropped", data_dir=tmp_path / "data")
    np.testing.assert_array_equal(first.train.pixels, again.train.pixels)


def test_without_a_folder_the_files_are_downloaded(write, tmp_path, monkeypatch):
    folder = write()
    served = {file.url: (folder / file.name).read_bytes() for file in svhn.FILES}
    monkeypatch.setattr(
        original_files.urllib.request, "urlopen", lambda url, timeout: io.BytesIO(served[url])
    )
    assert len(data.load("svhn_cropped", data_dir=tmp_path / "data").test.y) == 20


def test_missing_and_damaged_files_are_named(write, tmp_path):
    folder = write()
    (folder / "test_32x32.mat").write_bytes((folder / "test_32x32.mat").read_bytes()[:-1])
    with pytest.raises(UserError) as error:
        data.load("svhn_cropped", manual_dir=folder, data_dir=tmp_path / "data")
    assert "the registered file" in message(error) and "test_32x32.mat, got" in message(error)
    (folder / "test_32x32.mat").unlink()
    with pytest.raises(UserError) as error:
        data.load("svhn_cropped", manual_dir=folder, data_dir=tmp_path / "data")
    assert "got no test_32x32.mat. They come from http://ufldl.stanford.edu/housenumbers/" in message(error)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"y": None}, "arrays X and y, got no y"),
        ({"X": None}, "arrays X and y, got no X"),
        ({"y": np.ones((19, 1), np.uint8)}, "20 labels in y, one per image, got 19"),
        ({"y": np.zeros((20, 1), np.uint8)}, "labels 1 to 10 in y, got 0"),
        ({"X": np.zeros((20, 32, 32, 3), np.uint8)}, "X, a uint8 array [32, 32, 3, N], got uint8 (20, 32"),
    ],
)
def test_other_arrays_are_refused(changed, says, write, tmp_path):
    with pytest.raises(UserError) as error:
        data.load("svhn_cropped", manual_dir=write(**changed), data_dir=tmp_path / "data")
    assert f"test_32x32.mat: expected {says}" in message(error)
    assert not (tmp_path / "data").exists()


def test_a_file_that_is_no_matlab_file_is_refused(tmp_path):
    (tmp_path / "test_32x32.mat").write_bytes(b"<html>not found</html>" * 20)
    with pytest.raises(UserError) as error:
        svhn.read_mat(tmp_path / "test_32x32.mat")
    assert "test_32x32.mat: expected an intact MATLAB file, got a damaged" in message(error)


def test_the_table_is_that_of_tfds():
    tfds = pytest.importorskip("tensorflow_datasets")
    infos = tfds.builder_cls("svhn_cropped").url_infos
    for file in svhn.FILES:
        assert (int(infos[file.url].size), infos[file.url].checksum) == file[1:]
