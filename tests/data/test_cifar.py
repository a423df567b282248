"""CIFAR-10 and CIFAR-100 from small archives in both original forms: read, cached, refused."""

import io
import pickle
import struct
import tarfile

import numpy as np
import pytest
from helpers import message

from jaxdistill import data
from jaxdistill.core.checks import Caution, UserError
from jaxdistill.data import cifar, original_files
from jaxdistill.data.cache import sha256_of
from jaxdistill.data.original_files import Original

PER_FILE = {"cifar10": (20, 20), "cifar100": (300, 200)}
"""Images in each file of the training part, and in that of the test part."""


def python2(batch):
    """A dict as Python 2 pickled it, protocol 2: text as bytes, `align` and `copy` of a dtype as 0 and 1."""

    def text(value):
        return b"U" + bytes([len(value)]) + value.encode()

    def one(value):
        if isinstance(value, np.ndarray):
            dtype = b"cnumpy\ndtype\n" + text("u1") + b"K\x00K\x01\x87R(K\x03" + text("|") + b"NNNJ"
            dtype += b"\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
            shape = b"".join(b"M" + struct.pack("<H", size) for size in value.shape) + b"\x86"
            raw = b"T" + struct.pack("<i", value.size) + value.tobytes()
            empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text("b") + b"\x87R"
            return empty + b"(K\x01" + shape + dtype + b"\x89" + raw + b"tb"
        if isinstance(value, list):
            return b"](" + b"".join(map(one, value)) + b"e"
        return text(value) if isinstance(value, str) else b"K" + bytes([value])

    return b"\x80\x02}(" + b"".join(one(each) for pair in batch.items() for each in pair) + b"u."


def content_of(name, count, seed):
    """([count, 3072] rows as the files have them, labels)."""
    rows = np.random.default_rng(seed).integers(0, 256, (count, cifar.PIXELS), np.uint8)
    return rows, [(i + seed) % cifar.CLASSES[name] for i in range(count)]


def files_of(name, form, dump=python2):
    """The files of a form of the set, by name."""
    train, test = PER_FILE[name]
    counts = dict.fromkeys(form.train, train) | dict.fromkeys(form.test, test)
    names = [f"class {i}" for i in range(cifar.CLASSES[name])]
    if form.key:
        found = {form.names: dump({f"{form.key}_names": names})}
    else:
        found = {form.names: "\n".join([*names, ""]).encode()}
    for seed, (file, count) in enumerate(counts.items()):
        rows, labels = content_of(name, count, seed)
        if form.key:
            found[file] = dump({"batch_label": file, f"{form.key}s": labels, "data": rows})
        else:
            coarse = [[7]] * count if name == "cifar100" else [[]] * count
            records = zip(coarse, labels, rows, strict=True)
            found[file] = b"".join(bytes([*a, b]) + row.tobytes() for a, b, row in records)
    return found


def pack(path, folder, files):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(f"{folder}/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


@pytest.fixture
def small(monkeypatch):
    """Registers the small counts, and archives where a test has written one."""

    def register(name, archive=None):
        forms = []
        for form in cifar.FORMS[name]:
            train, test = PER_FILE[name]
            form = form._replace(train=dict.fromkeys(form.train, train), test=dict.fromkeys(form.test, test))
            if archive is not None and archive.name == form.archive.name:
                original = Original(form.archive.url, archive.stat().st_size, sha256_of(archive))
                form = form._replace(archive=original)
            forms.append(form)
        monkeypatch.setitem(cifar.FORMS, name, tuple(forms))
        return forms

    return register


def written(folder, name, form, files=None):
    path = folder / form.archive.name
    pack(path, form.folder, files or files_of(name, form))
    return path


def check_content(splits, name):
    """Every pixel of the test part, and the training labels."""
    form = cifar.FORMS[name][0]
    rows, labels = content_of(name, PER_FILE[name][1], seed=len(form.train))
    order = np.argsort(labels, kind="stable")
    expected = rows[order].reshape(-1, 3, 32, 32)
    found = np.rint(data.to_pixels(np.asarray(splits.test.x), splits.info))
    for channel in range(3):
        np.testing.assert_array_equal(found[..., channel], expected[:, channel])
    np.testing.assert_array_equal(data.labels(splits.test), np.sort(labels))
    assert splits.info.class_names[3] == "class 3" and splits.info.scale == 255
    assert len(splits.train.y) + len(splits.validation.y) == PER_FILE[name][0] * len(form.train)


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_an_archive_is_read_once_and_then_from_the_cache(name, which, small, tmp_path):
    path = written(tmp_path, name, small(name)[which])
    small(name, path)
    first = data.load(name, manual_dir=tmp_path, data_dir=tmp_path / "data")
    check_content(first, name)
    (cache,) = (tmp_path / "data" / "arrays").iterdir()
    assert cache.name.startswith(f"{name}-{sha256_of(path)[:16]}")
    path.unlink()
    again = data.load(name, data_dir=tmp_path / "data")  # neither the archive nor a network
    np.testing.assert_array_equal(first.train.pixels, again.train.pixels)
    assert first.info == again.info
    streamed = data.load(name, data_dir=tmp_path / "data", data_memory=1000).train.pixels
    assert isinstance(streamed._images, np.memmap)  # on the disk


@pytest.mark.parametrize("which", [0, 1])
def test_an_unpacked_archive_is_read_with_a_caution(which, small, tmp_path):
    form = small("cifar10")[which]
    (tmp_path / form.folder).mkdir()
    for file, content in files_of("cifar10", form, python2 if which == 0 else pickle.dumps).items():
        (tmp_path / form.folder / file).write_bytes(content)
    with pytest.warns(Caution, match=rf"no checksum covers the files in .*{form.folder}"):
        splits = data.load("cifar10", manual_dir=tmp_path, data_dir=tmp_path / "data")
    check_content(splits, "cifar10")
    assert not (tmp_path / "data").exists()


def test_without_a_folder_the_binary_archive_is_downloaded(small, tmp_path, monkeypatch):
    path = written(tmp_path, "cifar10", small("cifar10")[0])
    small("cifar10", path)
    asked = []

    def serve(address, timeout):
        asked.append(address)
        return io.BytesIO(path.read_bytes())

    monkeypatch.setattr(original_files.urllib.request, "urlopen", serve)
    check_content(data.load("cifar10", data_dir=tmp_path / "data"), "cifar10")
    assert set(asked) == {"https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"}
    monkeypatch.setattr(original_files.urllib.request, "urlopen", None)
    check_content(data.load("cifar10", data_dir=tmp_path / "data"), "cifar10")


def test_offline_and_a_folder_without_the_files_are_one_clear_line(tmp_path, monkeypatch):
    monkeypatch.setattr(original_files, "probe", lambda url, seconds: "No route to host")
    with pytest.raises(UserError) as error:
        data.load("cifar100", data_dir=tmp_path / "data")
    assert "a connection to www.cs.toronto.edu to download the set, got No route to host" in message(error)
    assert "manual_dir, a folder with cifar-100-binary.tar.gz" in message(error)
    with pytest.raises(UserError) as error:
        data.load("cifar10", manual_dir=tmp_path, data_dir=tmp_path / "data")
    assert "cifar-10-binary.tar.gz or cifar-10-python.tar.gz in " in message(error)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("change", "says"), [(lambda c: c[:-9], "bytes in place"), (bytes.swapcase, "SHA-256")]
)
def test_a_changed_archive_is_refused(change, says, small, tmp_path):
    path = written(tmp_path, "cifar10", small("cifar10")[1])
    small("cifar10", path)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(UserError) as error:
        data.load("cifar10", manual_dir=tmp_path, data_dir=tmp_path / "data")
    assert f"the registered file {path}, got" in message(error) and says in message(error)
    assert not (tmp_path / "data").exists()


ROWS = np.zeros((20, cifar.PIXELS), np.uint8)


def batch(**content):
    return python2(content)


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize(
    ("which", "file", "change", "says"),
    [
        (0, "data_batch_2.bin", lambda c: c[:-1], "records of 3073 bytes, got 61459 bytes"),
        (0, "data_batch_2.bin", lambda c: c[:-3073], "20 images, got 19"),
        (0, "test_batch.bin", lambda c: b"\x0a" + c[1:], "labels 0 to 9, got 10"),
        (0, "batches.meta.txt", lambda c: b"cat\n", "10 names of classes, got 1"),
        (0, "data_batch_3.bin", None, "got no data_batch_3.bin"),
        (1, "data_batch_2", lambda c: c[:1000], "an intact pickle, got a damaged"),
        (1, "data_batch_2", lambda c: b"c__builtin__\neval\n(U\x011tR.", "names __builtin__.eval"),
        (1, "data_batch_2", lambda c: b"cposix\nsystem\n(U\x04truetR.", "names posix.system"),
        (1, "data_batch_2", lambda c: batch(data=ROWS), "a dict with labels, got only data"),
        (1, "data_batch_2", lambda c: batch(labels=[1, 2]), "a dict with data, got only labels"),
        (1, "data_batch_2", lambda c: batch(labels=[1], data=ROWS[:9, :9]), "(9, 9)"),
        (1, "data_batch_2", lambda c: batch(labels=[1], data=ROWS), "a list of 20 integers, got 1 of"),
        (1, "data_batch_2", lambda c: pickle.dumps([1]), "a dict with data, got list"),
    ],
)
def test_other_files_are_refused(which, file, change, says, small, tmp_path):
    form = small("cifar10")[which]
    files = files_of("cifar10", form)
    if change is None:
        del files[file]
    else:
        files[file] = change(files[file])
    small("cifar10", written(tmp_path, "cifar10", form, files))
    with pytest.raises(UserError) as error:
        data.load("cifar10", manual_dir=tmp_path, data_dir=tmp_path / "data")
    assert says in message(error) and file in message(error) and form.archive.name in message(error)
    assert not (tmp_path / "data").exists()


def test_code_in_a_pickle_is_not_run(tmp_path):
    target = tmp_path / "written by the pickle"
    evil = pickle.dumps({"data": Evil(str(target)), "labels": []})
    with pytest.raises(
        UserError, match=r"here: expected a pickle of arrays, got a pickle that names (_io|io)\.open"
    ):
        cifar.unpickled(evil, "here")
    assert not target.exists()
    pickle.loads(evil)["data"].close()  # the pickle does what it should not
    assert target.exists()


@pytest.mark.filterwarnings("error")  # numpy dislikes how Python 2 wrote the dtype
def test_pickles_of_python_2_are_read():
    found = cifar.unpickled(python2({"data": np.arange(6, dtype=np.uint8).reshape(2, 3) + 7}), "here")
    np.testing.assert_array_equal(found["data"], [[7, 8, 9], [10, 11, 12]])


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_pickles_of_python_3_are_read(protocol):
    batch = {"data": np.arange(12, dtype=np.uint8).reshape(3, 4), "labels": [1, 2]}
    found = cifar.unpickled(pickle.dumps(batch, protocol), "here")
    np.testing.assert_array_equal(found["data"], batch["data"])
    assert found["labels"] == [1, 2]


def test_the_table_is_that_of_tfds():
    builder_cls = pytest.importorskip("tensorflow_datasets").builder_cls
    for name, (binary, _) in cifar.FORMS.items():
        info = builder_cls(name).url_infos[binary.archive.url]
        assert (int(info.size), info.checksum) == binary.archive[1:]
