"""Archives of pictures as data sets: read as their folder, or refused before they are unpacked."""

import gzip
import struct
import tarfile
import zlib

import numpy as np
import pytest
from helpers import message
from picture_files import archive, load, pixels, png, some, write

from jaxdistill.core.checks import UserError
from jaxdistill.data import trees


@pytest.mark.parametrize("name", ["pets.zip", "pets.tar", "pets.tar.gz"])
def test_an_archive_is_the_set_of_its_folder(name, tmp_path):
    files = {f"top/sub/{path}": content for path, content in some(("train/", "test/")).items()}
    folder = load(write(tmp_path / "pets", files), tmp_path)
    found = load(
        archive(tmp_path / name, {**files, "__MACOSX/top/x.png": b"", "top/notes.txt": b""}), tmp_path
    )
    assert found.info == folder.info
    for ours, theirs in zip(found[:3], folder[:3], strict=True):
        np.testing.assert_array_equal(ours.x, theirs.x)


def test_a_tar_of_a_folder_as_tar_makes_it(tmp_path):
    for name in ("pets.tar.gz", "pets.tar"):
        path = archive(tmp_path / name, {f"./{place}": content for place, content in some().items()})
        assert len(load(path, tmp_path).train.y) == 4
    with tarfile.open(tmp_path / "linked.tar", "w") as file:
        member = tarfile.TarInfo("cat/0.png")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        file.addfile(member)
    with pytest.raises(UserError, match=r"got cat/0.png, a link or a device"):
        load(tmp_path / "linked.tar", tmp_path)


def test_a_bad_archive_is_one_clear_line(tmp_path):
    path = archive(tmp_path / "pets.zip", some())
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    with pytest.raises(UserError, match=r"load\(pets.zip\): expected files that can be read, got pets.zip"):
        load(path, tmp_path)
    place = whole.index(b"cat/1.png") + 20
    path.write_bytes(whole[:place] + b"\0\0\0\0" + whole[place + 4 :])
    with pytest.raises(UserError, match=r"got cat/1.png \("):
        load(path, tmp_path)
    bomb = archive(tmp_path / "bomb.zip", {**some(), "cat/bomb.png": bytes(20_000_000)})
    with pytest.raises(UserError, match=r"grow by at most a factor of 1000, got cat/bomb.png: .* 20,000,000"):
        load(bomb, tmp_path)
    outside = archive(tmp_path / "outside.zip", {**some(), "../cat/a.png": png(pixels(9))})
    with pytest.raises(UserError, match=r"got ../cat/a.png, which leads out of it"):
        load(outside, tmp_path)
    with pytest.raises(UserError, match=r"got nothing at .*gone.zip"):
        load(tmp_path / "gone.zip", tmp_path)
    with pytest.raises(UserError, match="no layout with this kind of data set, got nchw"):
        load(bomb, tmp_path, layout="nchw")


def header(name, size):
    member = tarfile.TarInfo(name)
    member.size = size
    return member.tobuf()


@pytest.mark.parametrize("kind", ["one", "many", "sparse", "behind the end", "a name"])
def test_a_tar_that_grows_too_much_is_read_no_further(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(trees, "MOST_BYTES", 10**6)
    path = tmp_path / "bomb.tar.gz"
    content = header("cat/0.png", 3 * 10**6) + bytes(3 * 10**6 - 3 * 10**6 % 512 + 512)
    if kind == "many":
        content = b"".join(header(f"cat/{i}.png", 5 * 10**5) + bytes(977 * 512) for i in range(4))
    elif kind == "sparse":  # says that a hole of ten gigabytes is a part of it
        member = tarfile.TarInfo("cat/0.png")
        member.pax_headers = {"GNU.sparse.size": str(10**10), "GNU.sparse.map": "0,0"}
        content = member.tobuf(tarfile.PAX_FORMAT)
    elif kind == "behind the end":
        content = b"".join(header(n, len(c)) + c + bytes(-len(c) % 512) for n, c in some().items())
        content += bytes(3 * 10**6)
    elif kind == "a name":
        member = tarfile.TarInfo("././@LongLink")
        member.type, member.size = tarfile.GNUTYPE_LONGNAME, 3 * 10**6
        content = member.tobuf() + bytes(4 * 10**6)
    path.write_bytes(gzip.compress(content))
    assert len(path.read_bytes()) < 10**4
    most = []
    read = gzip.GzipFile.read
    monkeypatch.setattr(gzip.GzipFile, "read", lambda self, size=-1: most.append(size) or read(self, size))
    with pytest.raises(UserError) as error:
        load(path, tmp_path)
    assert "at most 1,000,000 bytes in an archive of" in message(error)
    assert "got more in bomb.tar.gz. If you trust it, unpack it" in message(error)
    assert max(most) <= trees.BLOCK


def test_a_picture_of_a_billion_pixels_in_a_tar_is_not_decoded(tmp_path):
    square = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    square += struct.pack(">I", zlib.crc32(square[12:])) + b"\0\0\1\0IDAT"
    path = archive(tmp_path / "pets.tar.gz", {**some(), "dog/huge.png": square})
    with pytest.raises(UserError, match=r"1 broken: dog/huge.png \(more than 100,000,000 pixels\)"):
        load(path, tmp_path)


def test_backslashes_in_a_zip_separate_folders(tmp_path):
    path = archive(tmp_path / "pets.zip", {name.replace("/", "\\"): value for name, value in some().items()})
    assert load(path, tmp_path).info.class_names == ("cat", "dog")
    outside = archive(tmp_path / "outside.zip", {"..\\cat\\a.png": png(pixels(9))})
    with pytest.raises(UserError, match="which leads out of it"):
        load(outside, tmp_path)


def test_an_encrypted_zip_says_so(tmp_path):
    path = archive(tmp_path / "pets.zip", some())
    content = bytearray(path.read_bytes())
    for mark, place in ((b"PK\1\2", 8), (b"PK\3\4", 6)):  # the flags in both headers of the first member
        content[content.index(mark) + place] |= 1
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        load(path, tmp_path)
    assert "needs no password, got pets.zip, which is encrypted. Unpack it with its" in message(error)


def test_a_zip_that_grows_too_much_as_a_whole_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(trees, "MOST_BYTES", 10**6)
    path = archive(tmp_path / "pets.zip", {f"cat/{i}.png": bytes(9 * 10**5) for i in range(4)})
    with pytest.raises(UserError, match=r"at most 1,000,000 bytes in an archive of .* got more in pets.zip"):
        load(path, tmp_path)
