"""Tiny ImageNet from a small zip in the original form."""

import io
import zipfile

import numpy as np
import pytest
from helpers import message
from PIL import Image

from jaxdistill import data
from jaxdistill.core.checks import UserError
from jaxdistill.data import tiny_imagenet

IDS = ("n02124075", "n01443537", "n01629819")
"""Not sorted, as in the original."""


def jpeg(seed, mode="RGB", side=64):
    """A plain picture with one colour, which JPEG keeps."""
    file = io.BytesIO()
    Image.new("RGB", (side, side), (seed * 20, 200, 90)).convert(mode).save(file, "jpeg", quality=95)
    return file.getvalue()


def content():
    files = {
        "wnids.txt": "\n".join(IDS),
        "words.txt": "n01443537\tgoldfish, Carassius auratus\nn9\tnothing\n",
    }
    for c, name in enumerate(IDS):
        files[f"train/{name}/{name}_boxes.txt"] = f"{name}_0.JPEG\t0\t0\t62\t62\n"
        for i in range(4):
            files[f"train/{name}/images/{name}_{i}.JPEG"] = jpeg(4 * c + i, "L" if i == 1 else "RGB")
    rows = [f"val_{i}.JPEG\t{IDS[i % 3]}\t0\t32\t44\t62\n" for i in range(6)]
    files |= {"val/val_annotations.txt": "".join(rows), "test/images/test_0.JPEG": jpeg(0)}
    return files | {f"val/images/val_{i}.JPEG": jpeg(i) for i in range(6)}


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes the zip; `changed` are files in place of the original ones, None leaves one out."""
    for name, count in {"CLASSES": 3, "PER_CLASS": 4, "TESTED": 6}.items():
        monkeypatch.setattr(tiny_imagenet, name, count)

    def archive(changed=None):
        with zipfile.ZipFile(tmp_path / tiny_imagenet.ARCHIVE, "w") as file:
            for name, text in (content() | (changed or {})).items():
                if text is not None:
                    file.writestr(f"{tiny_imagenet.FOLDER}/{name}", text)
        return tmp_path

    return archive


def test_the_zip_is_read_once_and_then_from_the_cache(write, tmp_path, monkeypatch):
    folder = write()
    first = data.load("tiny_imagenet", manual_dir=folder, data_dir=tmp_path / "data")
    names = ("goldfish, Carassius auratus", "n01629819", "n02124075")
    assert first.info[:5] == ("tiny_imagenet", (64, 64, 3), 3, names, 255.0)
    assert [len(part.y) for part in first[:3]] == [9, 3, 6]
    # sorted by WordNet number: n01443537 is the second of wnids.txt, its test images val_1 and val_4
    found = data.to_pixels(np.asarray(first.test.x), first.info)
    np.testing.assert_allclose(found[:, 5, 5, 0], [20, 80, 40, 100, 0, 60], atol=3)
    monkeypatch.setattr(tiny_imagenet, "tree", None)  # the second time nothing is decoded
    again = data.load("tiny_imagenet", manual_dir=folder, data_dir=tmp_path / "data")
    np.testing.assert_array_equal(first.train.pixels, again.train.pixels)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (
            {"train/n01443537/images/n01443537_2.JPEG": None},
            "n01443537_2.JPEG in tiny-imagenet-200.zip, got no",
        ),
        ({"val/images/val_3.JPEG": None}, "val/images/val_3.JPEG in tiny-imagenet-200.zip, got no"),
        ({"val/images/val_3.JPEG": jpeg(3)[:300]}, "val/images/val_3.JPEG: expected a picture that can be"),
        (
            {"val/images/val_3.JPEG": jpeg(3, side=32)},
            "val_3.JPEG: expected 64x64 pixels, got 32x32",
        ),
        ({"val/val_annotations.txt": None}, "val/val_annotations.txt in tiny-imagenet-200.zip, got no"),
        (
            {"val/val_annotations.txt": "val_0.JPEG\tn01443537\n"},
            "annotations.txt: expected 6 lines, got 1",
        ),
        (
            {"val/val_annotations.txt": "val_0.JPEG\tn9\n" * 6},
            "one of wnids.txt, got val_0.JPEG n9",
        ),
        ({"wnids.txt": "n01443537\n"}, "wnids.txt: expected 3 classes, got 1"),
    ],
)
def test_another_content_is_refused(changed, says, write, tmp_path):
    with pytest.raises(UserError) as error:
        data.load("tiny_imagenet", manual_dir=write(changed), data_dir=tmp_path / "data")
    assert says in message(error)
    assert not (tmp_path / "data").exists()


def test_a_cut_zip_a_changed_byte_and_no_zip_are_refused(write, tmp_path):
    path = write() / tiny_imagenet.ARCHIVE
    whole = path.read_bytes()
    at = whole.index(b"val/images/val_2.JPEG") + 100
    for damaged in (whole[:-40], whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]):
        path.write_bytes(damaged)
        with pytest.raises(UserError) as error:
            data.load("tiny_imagenet", manual_dir=tmp_path, data_dir=tmp_path / "data")
        assert "files that can be read, got tiny-imagenet-200" in message(error)
    path.unlink()
    for folder in (tmp_path, None):
        with pytest.raises(UserError) as error:
            data.load("tiny_imagenet", manual_dir=folder, data_dir=tmp_path / "data")
        assert "tiny-imagenet-200.zip" in message(error) and "It comes from http" in message(error)
    assert not (tmp_path / "data").exists()
