"""Folders of pictures as data sets."""

import os
import tracemalloc

import numpy as np
import pytest
from helpers import message
from picture_files import encoded, load, pixels, png, some, write
from PIL import Image, ImageFile

from jaxdistill import data
from jaxdistill.core.checks import Caution, UserError
from jaxdistill.core.reporting import listening
from jaxdistill.data import decoding, pictures
from jaxdistill.data.folders import _alike_in_parts
from jaxdistill.data.pictures import SUFFIXES, decode


def shown(part, info):
    return [np.rint(x).astype(np.uint8) for x in data.to_pixels(np.asarray(part.x), info)]


# One picture.


def test_pictures_of_every_mode():
    grey, colour = Image.fromarray(pixels(0, (4, 6))), Image.fromarray(pixels(1, (4, 6, 3)))
    exact = {
        "PNG": (encoded(grey, "png"), np.asarray(grey)[..., None]),
        "BMP": (encoded(colour, "bmp"), np.asarray(colour)),
        "WebP": (encoded(colour, "webp", lossless=True), np.asarray(colour)),
        "TGA": (encoded(colour, "tga", compression="tga_rle"), np.asarray(colour)),
        "JPEG 2000": (encoded(grey, "jpeg2000"), np.asarray(grey)[..., None]),
        "palette": (encoded(colour.quantize(24), "png"), np.asarray(colour.quantize(24).convert("RGB"))),
        "ink": (encoded(grey.convert("1"), "png"), np.asarray(grey.convert("1").convert("L"))[..., None]),
    }
    for name, (content, expected) in exact.items():
        np.testing.assert_array_equal(decode(content), expected, err_msg=name)
    jpeg = decode(encoded(Image.fromarray(np.full((8, 8, 3), 90, np.uint8)), "jpeg"))
    assert jpeg.shape == (8, 8, 3) and np.abs(jpeg.astype(int) - 90).max() <= 2
    wide = np.array([[0, 1, 257, 65535]], np.uint16)
    found = decode(encoded(Image.fromarray(wide), "png"))
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found[..., 0], wide)


def test_what_is_no_known_format_is_not_opened():
    """Pillow would start another program for it."""
    with pytest.raises(OSError, match="cannot identify"):
        decode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 6\n")
    assert all(SUFFIXES.count(suffix) == 1 for suffix in SUFFIXES) and ".tga" in SUFFIXES


def test_transparent_pictures_lie_on_white():
    colour = np.zeros((1, 3, 4), np.uint8)
    colour[0, :, 3] = 0, 255, 128
    np.testing.assert_array_equal(decode(png(colour))[0, :, 0], [255, 0, 127])
    grey = Image.merge("LA", [Image.new("L", (1, 1), 10), Image.new("L", (1, 1), 0)])
    np.testing.assert_array_equal(decode(encoded(grey, "png")), [[[255]]])
    keyed = Image.new("L", (2, 1), 7)
    keyed.putpixel((1, 0), 9)
    np.testing.assert_array_equal(decode(encoded(keyed, "png", transparency=9))[0, :, 0], [7, 255])


def test_pictures_are_turned_upright():
    """6: the first row is the right side."""
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = pixels(2, (2, 3, 3))
    turned = decode(encoded(Image.fromarray(picture), "png", exif=exif))
    np.testing.assert_array_equal(turned, np.rot90(picture, -1))


@pytest.mark.parametrize("wide", [False, True])
def test_pictures_are_fitted_into_squares(wide):
    picture = np.zeros((4, 8), np.uint8)
    picture[:, 2:6] = 200
    factor = 257 if wide else 1
    content = encoded(Image.fromarray((picture.astype(np.uint16) * 257) if wide else picture), "png")
    assert (decode(content, 4, "crop") == 200 * factor).all()
    padded = decode(content, 8, "pad")[..., 0]
    np.testing.assert_array_equal(padded[2:6], picture.astype(int) * factor)
    assert padded[:2].max() == padded[6:].max() == 0
    assert decode(content, 4, "stretch")[0, :, 0].tolist()[1] > 100 * factor
    assert decode(content, 4, "crop").dtype == (np.uint16 if wide else np.uint8)


@pytest.mark.parametrize("kind", ["png", "tga", "jpeg2000"])
def test_a_huge_picture_is_refused_before_it_is_decoded(kind, monkeypatch):
    monkeypatch.setattr(pictures, "MOST_PIXELS", 20)
    content = encoded(Image.fromarray(pixels(0)), kind)
    monkeypatch.setattr(ImageFile.ImageFile, "load", None)  # cannot be called
    with pytest.raises(ValueError, match="6x6 pixels, more than 20"):
        decode(content)


# A set.


def test_a_folder_is_a_data_set(tmp_path):
    files = some(("train/", "val/", "test/"))
    splits = load(write(tmp_path / "pets", files), tmp_path)
    assert splits.info.name == "pets" and splits.info.class_names == ("cat", "dog")
    assert splits.info.scale == 255 and splits.info.image_shape == (6, 6, 3)
    for part, name in zip(splits[:3], ("train", "val", "test"), strict=True):
        expected = [decode(files[f"{name}/{c}/{i}.png"]) for c in ("cat", "dog") for i in range(4)]
        np.testing.assert_array_equal(shown(part, splits.info), expected)
        assert data.labels(part).tolist() == [0] * 4 + [1] * 4


def test_a_jpeg_may_be_called_jfif(tmp_path):
    files = some(count=6)
    files["cat/6.jfif"] = encoded(Image.fromarray(pixels(60)), "jpeg")
    splits = load(write(tmp_path / "pets", files), tmp_path)
    assert sum(len(part.y) for part in splits[:3]) == 13


def test_images_of_two_parts_are_compared_without_a_copy_of_them():
    train = np.random.default_rng(0).integers(0, 256, (300, 64, 64, 3), np.uint8)
    x = {"train": train, "test": train[7:9].copy()}
    tracemalloc.start()
    try:
        assert _alike_in_parts(x) == ["2 of 2 test images stand in train, too"]
        assert tracemalloc.get_traced_memory()[1] < train.nbytes / 10
    finally:
        tracemalloc.stop()


def test_classes_without_parts_are_split_and_may_have_folders(tmp_path):
    files = {name.replace("/", "/deeper/"): content for name, content in some().items()}
    splits = load(write(tmp_path / "pets", files), tmp_path)
    assert sum(len(part.y) for part in splits[:3]) == 8
    assert splits.info.class_names == ("cat", "dog")


def test_the_cache_is_found_again_until_a_file_changes(tmp_path, monkeypatch):
    root = write(tmp_path / "pets", some())
    first = load(root, tmp_path)
    monkeypatch.setattr(decoding, "decode", None)  # cannot be called
    again = load(root, tmp_path)
    assert again.info == first.info
    np.testing.assert_array_equal(again.train.x, first.train.x)
    monkeypatch.undo()
    write(root, {"cat/0.png": png(pixels(99))})
    changed = load(root, tmp_path)
    assert changed.info.digest != first.info.digest
    for path in (tmp_path / "cache").rglob("about.json"):
        path.write_text("{")
    with pytest.warns(Caution, match=r"is damaged \(about.json changed"):
        assert load(root, tmp_path).info == changed.info
    (about,) = (path for path in (tmp_path / "cache").rglob("about.json") if path.read_text() != "{")
    for path in [*about.parent.glob("*.npy")]:
        content = path.read_bytes()
        parts = [content[:kept] for kept in (0, 5, 100, len(content) - 1)]  # of the name, header and values
        for damaged in (*parts, content[:-1] + bytes([content[-1] ^ 1])):
            path.write_bytes(damaged)
            with pytest.warns(Caution, match=rf"is damaged \({path.name} changed .* decoded anew"):
                assert load(root, tmp_path).info == changed.info
            assert path.read_bytes() == content


def test_the_digest_is_that_of_the_files_whatever_is_made_of_them(tmp_path):
    root = write(tmp_path / "pets", some())
    digests = {load(root, tmp_path, **o).info.digest for o in ({}, {"image_size": 4}, {"channels": 1})}
    assert len(digests) == 1
    os.utime(root / "cat/0.png", (1, 1))
    assert load(root, tmp_path).info.digest in digests


def test_folders_of_parts_beside_an_unknown_one_are_refused(tmp_path):
    root = write(tmp_path / "pets", some(("train/", "test/", "extra/")))
    with pytest.raises(UserError) as error:
        load(root, tmp_path)
    assert "folders of parts among train|training, validation" in message(error)
    assert "got extra beside test" in message(error) or "got extra beside train" in message(error)


def test_repeated_pictures_and_folders_without_any_are_told(tmp_path):
    files = some()
    files["cat/copy.png"] = files["cat/0.png"]
    files["emu/0.psd"] = b"no picture by name"
    with pytest.warns(Caution) as told:
        load(write(tmp_path / "pets", files), tmp_path)
    lines = " ".join(str(each.message) for each in told)
    assert (
        "images that repeat others: 1; validation and test, split off, may have some that train has" in lines
    )
    assert "no picture in emu" in lines


def test_a_cache_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.warns(
        Caution, match=r"cannot be kept in .*: they stay in memory, and are decoded every time"
    ):
        load(write(tmp_path / "pets", some()), tmp_path)


def test_what_a_killed_process_left_is_removed(tmp_path):
    root = write(tmp_path / "pets", some())
    load(root, tmp_path)
    (about,) = (tmp_path / "cache").rglob("about.json")
    left = about.parent.with_name(f".{about.parent.name}.killed")
    left.mkdir()
    (about.parent / "x.npy").unlink()
    load(root, tmp_path)
    assert left.is_dir()  # another process may be writing it
    os.utime(left, (1, 1))
    (about.parent / "x.npy").unlink()
    load(root, tmp_path)
    assert not left.exists()


def test_a_picture_of_the_old_size_and_time_is_read_anew(tmp_path):
    root = write(tmp_path / "pets", some())
    file = root / "cat/0.bmp"
    file.write_bytes(encoded(Image.fromarray(np.zeros((6, 6), np.uint8)), "bmp"))
    before, about = load(root, tmp_path).info.digest, file.stat()
    file.write_bytes(encoded(Image.fromarray(np.ones((6, 6), np.uint8)), "bmp"))
    os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert file.stat().st_size == about.st_size and load(root, tmp_path).info.digest != before


def test_what_is_odd_is_told(tmp_path):
    files = some(("train/", "test/"))
    files["test/cat/1.png"] = files["train/cat/2.png"]
    files["train/cat/0.png"] = png(pixels(50, (6, 6)))
    files["train/dog/0.png"] = encoded(Image.fromarray(np.full((6, 6), 4000, np.uint16)), "png")
    files["train/dog/1.png"] = b"no picture"
    root = write(tmp_path / "pets", files)
    (root / "train/empty").mkdir()
    for name in ("notes.txt", "train/cat/0.xml", "train/cat/1.xml", "train/dog/0.xml"):
        (root / name).write_text("no picture")
    with pytest.raises(
        UserError, match=r"1 broken: train/dog/1.png \(cannot identify.*skip_broken leaves them"
    ):
        load(root, tmp_path)
    assert not list((tmp_path / "cache").rglob("about.json"))
    with pytest.warns(Caution) as told:
        splits = load(root, tmp_path, skip_broken=True)
    lines = " / ".join(str(each.message) for each in told)
    for part in (
        "broken pictures that are left out, 1",
        "1 of 15 pictures have 16 bits; they are rounded to 8",
        "2 of 15 pictures are grey; they become colour",
        "1 of 8 test images stand in train, too",
        "no picture in train/empty",
        "4 files are no pictures by name, and left out: notes.txt, train/cat/0.xml, train/cat/1.xml and 1 m",
    ):
        assert part in lines
    assert splits.train.counts.sum() + splits.validation.counts.sum() == 7
    with pytest.warns(Caution, match="left out"):  # from the cache, too
        load(root, tmp_path, skip_broken=True)


def _link(root):
    write(root, some())
    (root / "cat/out.png").symlink_to(root.parent / "elsewhere.png")


def test_pictures_that_exceed_the_memory_are_not_resized(tmp_path):
    with pytest.raises(
        UserError, match=r"image_size at which 8 grey pictures fit .*got 10000000, which takes"
    ):
        load(write(tmp_path / "pets", some()), tmp_path, image_size=10**7)


BAD = {
    "empty": (lambda root: root.mkdir(), "pictures (.*), got none among 0 files"),
    "text": (lambda root: write(root, {"cat/a.txt": b""}), "got none among 1 files"),
    "one class": (lambda root: write(root, some(classes=("cat",))), "at least two classes, got only cat"),
    "test alone": (lambda root: write(root, some(("test/",))), "a folder train, got only test"),
    "beside": (lambda root: write(root, {**some(), "a.png": b""}), "a folder for each class.*got a.png"),
    "flat": (
        lambda root: write(root, {"train/a.png": b"", "test/b.png": b""}),
        "got test/b.png outside of them",
    ),
    "one image": (
        lambda root: write(root, {**some(), "fox/a.png": png(pixels(9))}),
        "3 images of each class.*got 1 of class fox",
    ),
    "case": (lambda root: write(root, some(classes=("Cat", "cat"))), "more than case, got Cat and cat"),
    "link": (_link, "cat/out.png, which leads out of it"),
    "sizes": (
        lambda root: write(root, {**some(), "dog/z.png": png(pixels(1, (5, 7, 3)))}),
        r"one size, got 6x6 of cat/0.png and 5x7 of dog/z.png. Pass image_size",
    ),
    "class in test alone": (
        lambda root: write(root, {**some(("train/", "test/")), "test/fox/a.png": png(pixels(9))}),
        "the same classes in train and test, got fox only in test",
    ),
    "no labels": (
        lambda root: write(root, {**some(("train/",)), "test/1.png": png(pixels(9))}),
        "a folder for each class.*got test/1.png",
    ),
    "huge": (  # the header of a picture of 30,000 x 30,000 pixels
        lambda root: write(root, {**some(), "dog/huge.pgm": b"P5 30000 30000 255 "}),
        r"1 broken: dog/huge.pgm \(more than 100,000,000 pixels\)",
    ),
    "cut": (
        lambda root: write(root, {**some(), "dog/cut.png": png(pixels(1))[:60]}),
        "1 broken: dog/cut.png",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_folder_is_one_clear_line(case, tmp_path):
    make, message = BAD[case]
    make(tmp_path / "pets")
    with pytest.raises(UserError, match=message) as error:
        load(tmp_path / "pets", tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("small", [0, 10**6])
def test_decoding_tells_how_far_it_is_in_threads_or_not(small, tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "CHUNK", 3)
    monkeypatch.setattr(decoding, "SMALL", small)
    told = []
    with listening(lambda *how_far: told.append(how_far) if how_far[0] == "decoding pictures" else None):
        load(write(tmp_path / "pets", some()), tmp_path)
    assert told[-1] == ("decoding pictures", 8, 8) and len(told) == 3
