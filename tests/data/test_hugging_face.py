"""Hugging Face data sets on disk: arrow files as `save_to_disk` writes them, and parquet files."""

import io
import json
import sys

import numpy as np
import pytest
from helpers import message
from PIL import Image

from jaxdistill import data
from jaxdistill.core.checks import Caution, UserError
from jaxdistill.data import hugging_face

pa = pytest.importorskip("pyarrow", reason="the extra hf is not installed")
parquet = pytest.importorskip("pyarrow.parquet")

NAMES = ["cat", "dog"]
FEATURES = {"image": {"_type": "Image"}, "label": {"names": NAMES, "_type": "ClassLabel"}}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def pixels(seed, shape=(8, 8, 3)):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def png(array):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "png")
    return file.getvalue()


def table(seeds, features=FEATURES, shape=(8, 8, 3), **columns):
    """Pictures with labels 0 1 0 1 ...; `columns` are added, or taken in place of these."""
    content = {"image": [{"bytes": png(pixels(seed, shape)), "path": None} for seed in seeds]}
    content |= {"label": [i % 2 for i in range(len(seeds))]} | columns
    found = pa.table({key: value for key, value in content.items() if value is not None})
    if features is None:
        return found
    about = {"info": {"features": features}}
    return found.replace_schema_metadata({"huggingface": json.dumps(about)})


def save_split(folder, *shards):
    folder.mkdir(parents=True)
    names = [f"data-{i:05d}-of-{len(shards):05d}.arrow" for i in range(len(shards))]
    for name, shard in zip(names, shards, strict=True):
        with pa.ipc.new_stream(folder / name, shard.schema) as writer:
            writer.write_table(shard, max_chunksize=3)
    state = {"_data_files": [{"filename": name} for name in names], "_split": folder.name}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text("{}")


def save_splits(folder, **splits):
    for name, shards in splits.items():
        save_split(folder / name, *shards)
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": list(splits)}))
    return folder


def found(splits):
    """The pixels of all parts, each part sorted by class."""
    return [np.rint(data.to_pixels(np.asarray(part.x), splits.info)).astype(np.uint8) for part in splits[:3]]


TRAIN, VALIDATION, TEST = range(8), range(20, 24), range(30, 34)


def check(splits):
    assert splits.info.class_names == ("cat", "dog") and splits.info.scale == 255
    expected = [[*seeds][::2] + [*seeds][1::2] for seeds in (TRAIN, VALIDATION, TEST)]
    for part, seeds in zip(found(splits), expected, strict=True):
        np.testing.assert_array_equal(part, np.stack([pixels(seed) for seed in seeds]))


def test_a_folder_of_splits(tmp_path):
    shards = {"train": [table(range(4)), table(range(4, 8))], "test": [table(TEST)]}
    folder = save_splits(tmp_path / "pets", **shards, validation=[table(VALIDATION)])
    splits = data.load(folder)
    check(splits)
    assert splits.info.name == "pets" and len(splits.info.digest) == 64


def test_one_split_gives_parts_away(tmp_path):
    save_split(tmp_path / "pets", table(range(20), label=["b", "a"] * 10, features=None))
    splits = data.load(tmp_path / "pets")
    assert [len(part.y) for part in splits[:3]] == [13, 3, 4]
    assert splits.info.class_names == ("a", "b")


@pytest.mark.parametrize("layout", ["data/{}-00000-of-00001.parquet", "{}/0000.parquet", "{}.parquet"])
def test_parquet_files(layout, tmp_path):
    for part, seeds in {"train": TRAIN, "validation": VALIDATION, "test": TEST}.items():
        path = tmp_path / "pets" / layout.format(part)
        path.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(table(seeds), path)
    check(data.load(tmp_path / "pets"))


def test_one_parquet_file_of_bytes_without_features(tmp_path):
    pictures = [png(pixels(seed)) for seed in range(20)]
    parquet.write_table(table(range(20), None, image=None, img=pictures), tmp_path / "pets.parquet")
    splits = data.load(str(tmp_path / "pets.parquet"))
    assert splits.info.class_names == ("0", "1") and splits.info.name == "pets"
    assert {image.tobytes() for part in found(splits) for image in part} == {
        pixels(seed).tobytes() for seed in range(20)
    }


def test_pictures_that_differ(tmp_path, monkeypatch):
    mixed = [{"bytes": png(pixels(i, (8, 8, 3) if i else (8, 8))), "path": None} for i in range(8)]
    parquet.write_table(table(range(8), image=mixed), tmp_path / "a.parquet")
    decode = hugging_face.decoded
    for again in (False, True):  # from the cache, with the same caution
        monkeypatch.setattr(hugging_face, "decoded", None if again else decode)
        with pytest.warns(Caution, match="1 of 8 pictures are grey; they become colour"):
            assert data.load(tmp_path / "a.parquet").info.image_shape == (8, 8, 3)
    monkeypatch.setattr(hugging_face, "decoded", decode)
    content = table(range(8), label=[1, 2] * 4, features=None, image=mixed)
    parquet.write_table(content, tmp_path / "b.parquet")
    for again in (False, True):  # what was found out about labels, too
        monkeypatch.setattr(hugging_face, "decoded", None if again else decode)
        with pytest.warns(Caution) as told:
            data.load(tmp_path / "b.parquet")
        lines = " ".join(str(each.message) for each in told)
        assert "load(b): labels 1, 2 are numbered 0 to 1" in lines and "pictures are grey" in lines
    monkeypatch.setattr(hugging_face, "decoded", decode)
    sizes = [{"bytes": png(pixels(i, (8, 8 + i % 2, 3))), "path": None} for i in range(8)]
    parquet.write_table(table(range(8), image=sizes), tmp_path / "b.parquet")
    with pytest.raises(UserError, match=r"8x8 of row 0 of train and 8x9 of row 1 of train\. Pass image_size"):
        data.load(tmp_path / "b.parquet")
    assert data.load(tmp_path / "b.parquet", image_size=6).info.image_shape == (6, 6, 3)


def many(*names):
    return {**FEATURES, **{name: {"names": NAMES, "_type": "ClassLabel"} for name in names}}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (lambda: table(range(8), None, image=None), "one column of pictures, got only label"),
        (lambda: table(range(8), label=None), "one column of class labels, got only image"),
        (lambda: table(range(8), None, label=None), "one column of class labels, got only image"),
        (lambda: table(range(8), label=[0, 1, None, 0] * 2), "a label in each row of train, got 2 without"),
        (lambda: table(range(8), label=[0, 1, -1, 0] * 2), "labels >= 0 in y, got -1"),
        (
            lambda: table(range(8), many("fine", "coarse"), label=None, fine=[0, 1] * 4, coarse=[0] * 8),
            "one column of class labels, got fine, coarse. Remove the others",
        ),
        (
            lambda: table(
                range(3), image=[{"bytes": png(pixels(0)), "path": ""}, {"bytes": None, "path": "a"}, None]
            ),
            "row 1: expected the bytes of a picture, got none",
        ),
        (
            lambda: table(range(2), image=[{"bytes": png(pixels(0))}, {"bytes": b"no picture"}]),
            "row 1 of train: expected a picture that can be decoded, got a broken picture",
        ),
    ],
)
def test_other_tables_are_refused(content, says, tmp_path):
    parquet.write_table(content(), tmp_path / "pets.parquet")
    with pytest.raises(UserError) as error:
        data.load(tmp_path / "pets.parquet")
    assert says in message(error)


def test_the_label_column_of_several(tmp_path):
    content = table(range(20), many("breed"), breed=[0] * 20)
    parquet.write_table(content, tmp_path / "pets.parquet")
    assert data.load(tmp_path / "pets.parquet").test.counts.tolist() == [2, 2]  # breed has one class


def described(folder, features):
    """The same rows, described otherwise."""
    if not isinstance(features, bytes):
        features = json.dumps({"info": {"features": features}}).encode()
    for name, seeds in (("train", TRAIN), ("test", TEST)):
        shard = table(seeds).replace_schema_metadata({"huggingface": features})
        with pa.ipc.new_stream(folder / name / "data-00000-of-00001.arrow", shard.schema) as writer:
            writer.write_table(shard)


def cut(path):
    path.write_bytes(path.read_bytes()[:200])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda folder: cut(folder / "test" / "data-00000-of-00001.arrow"), "intact file"),
        (
            lambda folder: (folder / "test" / "data-00000-of-00001.arrow").unlink(),
            "data-00000-of-00001.arrow",
        ),
        (lambda folder: (folder / "test" / "state.json").write_text("{"), "state.json with _data_files"),
        (
            lambda folder: (folder / "dataset_dict.json").write_text('{"splits": ["test"]}'),
            "a split named train",
        ),
        (lambda folder: (folder / "dataset_dict.json").write_text('{"splits": 3}'), "a list of splits, got"),
        (lambda folder: (folder / "dataset_dict.json").write_text("[1]"), "dataset_dict.json with splits"),
        (
            lambda folder: (folder / "test" / "state.json").write_text('{"_data_files": [{"file": 1}]}'),
            "a filename in each of _data_files",
        ),
        (lambda folder: described(folder, b"{"), "features in the metadata of its columns"),
        (lambda folder: described(folder, b"[1]"), "features in the metadata of its columns"),
        (
            lambda folder: described(folder, {"label": {"_type": "ClassLabel", "names": "ab"}}),
            "names of label",
        ),
    ],
)
def test_a_damaged_folder_is_one_clear_line(change, says, tmp_path):
    folder = save_splits(tmp_path / "pets", train=[table(TRAIN)], test=[table(TEST)])
    change(folder)
    with pytest.raises(UserError) as error:
        data.load(folder)
    assert says in message(error)


def test_what_is_not_read_is_said(tmp_path):
    folder = save_splits(tmp_path / "pets", train=[table(range(20))], extra=[table(TEST)])
    with pytest.warns(Caution, match="the split extra is not read"):
        assert sum(len(part.y) for part in data.load(folder)[:3]) == 20
    for name in ("small/train.parquet", "large/train.parquet"):
        (tmp_path / "two" / name).parent.mkdir(parents=True)
        parquet.write_table(table(TRAIN), tmp_path / "two" / name)
    with pytest.raises(UserError, match="train files in one folder, got large and small"):
        data.load(tmp_path / "two")
    parquet.write_table(table(TRAIN), tmp_path / "two" / "more.parquet")
    (tmp_path / "two" / "large" / "train.parquet").unlink()
    with pytest.raises(UserError, match=r"test in the name of each file, got more\.parquet"):
        data.load(tmp_path / "two")
    with pytest.raises(UserError, match="a parquet file, got nothing at"):
        data.load(tmp_path / "none.parquet")


def test_without_pyarrow_the_error_says_what_to_install(tmp_path, monkeypatch):
    parquet.write_table(table(TRAIN), tmp_path / "pets.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r'pyarrow, got an import error .*pip install "jaxdistill\[hf\]"'):
        data.load(tmp_path / "pets.parquet")


def test_options_without_effect_are_refused(tmp_path):
    parquet.write_table(table(TRAIN), tmp_path / "pets.parquet")
    for options in ({"layout": "nhwc"}, {"scale": 255.0}, {"skip_broken": True}, {"manual_dir": tmp_path}):
        with pytest.raises(UserError, match=f"no {next(iter(options))} with this kind"):
            data.load(tmp_path / "pets.parquet", **options)
