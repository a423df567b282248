"""Files as their authors publish them: downloads without a network, checksums."""

import gzip
import hashlib
import io
import struct
import threading
import urllib.error
from types import SimpleNamespace

import numpy as np
import pytest

from jaxdistill.core.checks import Caution, UserError
from jaxdistill.data import idx_sets, original_files
from jaxdistill.data.tfds_sets import Source


def test_probe_reports_failures_and_gives_up_in_time(monkeypatch):
    def no_name(url, timeout):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(original_files.urllib.request, "urlopen", no_name)
    assert original_files.probe("http://nowhere.invalid/", 1.0) == "Name or service not known"
    release = threading.Event()

    def hang(url, timeout):
        release.wait(30)
        return io.BytesIO()

    monkeypatch.setattr(original_files.urllib.request, "urlopen", hang)
    assert "no answer" in original_files.probe("http://nowhere.invalid/", 0.01)  # a name server that hangs
    release.set()
    monkeypatch.setattr(original_files.urllib.request, "urlopen", lambda url, timeout: io.BytesIO())
    assert original_files.probe("http://nowhere.invalid/", 1.0) == ""


def idx(values):
    return gzip.compress(
        struct.pack(">BBBB", 0, 0, 8, values.ndim)
        + struct.pack(f">{values.ndim}I", *values.shape)
        + values.tobytes()
    )


def test_download_checks_what_arrives_and_fetches_only_what_is_missing(tmp_path, monkeypatch):
    url = "http://example.invalid/set/"
    served = {url + name: idx(np.full((3, 2, 2), i, np.uint8)) for i, name in enumerate(idx_sets.NAMES)}
    infos = {
        u: SimpleNamespace(size=len(content), checksum=hashlib.sha256(content).hexdigest())
        for u, content in served.items()
    }
    base = SimpleNamespace(URL=url, url_infos=infos)
    files = idx_sets.originals(base)
    asked = []

    def serve(address, timeout):
        asked.append(address)
        return io.BytesIO(served[address])

    monkeypatch.setattr(original_files.urllib.request, "urlopen", serve)
    source = Source("mnist", tmp_path, None, None)
    last = url + idx_sets.NAMES[-1]
    intact, served[last] = served[last], served[last][:-4]
    with pytest.raises(UserError, match=f"the registered {idx_sets.NAMES[-1]} from example.invalid, got"):
        original_files.download(source, files)
    assert not list(tmp_path.rglob("*.part"))

    served[last] = intact
    asked.clear()
    folder = original_files.download(source, files)
    assert set(asked) == {last}
    assert sorted(path.name for path in folder.iterdir()) == sorted(idx_sets.NAMES)
    np.testing.assert_array_equal(idx_sets.read_idx(folder / idx_sets.NAMES[2]), np.full((3, 2, 2), 2))

    def cut(address, timeout):
        raise TimeoutError("timed out")

    (folder / idx_sets.NAMES[0]).unlink()
    monkeypatch.setattr(original_files, "probe", lambda address, seconds: "")
    monkeypatch.setattr(original_files.urllib.request, "urlopen", cut)
    with pytest.raises(UserError, match=r"a complete download of train-images.*timed out"):
        original_files.download(source, files)


def test_a_large_download_says_its_size_first(tmp_path, monkeypatch):
    monkeypatch.setattr(original_files.urllib.request, "urlopen", lambda address, timeout: io.BytesIO(b"cut"))
    file = original_files.Original("http://example.invalid/large.bin", 170_052_171, "0" * 64)
    with (
        pytest.warns(Caution, match=r"load\(cifar10\): downloads 170 MB from example.invalid to"),
        pytest.raises(
            UserError, match=r"the registered large.bin from example.invalid, got 3 bytes in place"
        ),
    ):
        original_files.download(Source("cifar10", tmp_path, None, None), [file])
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
