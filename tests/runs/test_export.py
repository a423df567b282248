"""`jd.export`: what other programs find in each format, and what is refused before anything is written."""

import json
import sys

import jax
import numpy as np
import pytest
from helpers import message
from PIL import Image
from synthetic_files import INFO, SGD, written

import jaxdistill as jd
from experiments import export as script
from jaxdistill.core.checks import UserError
from jaxdistill.data.dataset import with_whitening
from jaxdistill.runs.given_images import content, protocols_for, standardised
from jaxdistill.runtime.export import read_synthetic
from jaxdistill.runtime.export_formats import class_folders, pictures
from jaxdistill.runtime.training_code import from_hf_folder, from_torch_file, training_code


@pytest.fixture
def file(tmp_path):
    return written(tmp_path / "synthetic.npz")


def test_an_npz_of_pictures_is_the_same_images(file, tmp_path, capsys):
    assert jd.export(file, tmp_path / "a.npz", to="npz") == tmp_path / "a.npz"
    ours = read_synthetic(file)
    outside = int(((ours.pixels < -0.5 * 16 / 255) | (ours.pixels >= 255.5 * 16 / 255)).sum())
    assert outside > 0
    text = f"note: pictures are rounded to 8 bits, {outside} of 256 values clipped"
    assert text in capsys.readouterr().out
    with np.load(tmp_path / "a.npz") as found, np.load(file) as old:
        assert found["x"].dtype == np.uint8 and found["scale"] == 255
        np.testing.assert_allclose(found["x"], np.clip(old["x"] * 255 / 16, 0, 255), atol=0.5001)
        assert found.files == old.files
        for name in set(old.files) - {"x", "scale"}:
            np.testing.assert_array_equal(found[name], old[name])
    again = standardised(content(tmp_path / "a.npz"), INFO)
    np.testing.assert_array_equal(again.x, ours.images)


def test_a_folder_of_pictures(file, tmp_path):
    folder = jd.export(file, tmp_path / "there" / "folder", to="folder", progress=False)
    names = ["0_zebra", "1_ant_fly", "2_Ant"]
    assert sorted(p.name for p in folder.iterdir()) == [*names, "distillation.json"]
    ours, told = read_synthetic(file), json.loads((folder / "distillation.json").read_text(encoding="utf-8"))
    assert [image["label"] for image in told["images"]] == [0, 1, 2, 2]
    for image, soft, pixels in zip(told["images"], ours.labels, pictures(ours).x, strict=True):
        assert image["file"].split("/")[0] == names[image["label"]]
        np.testing.assert_allclose(image["soft_label"], soft)
        with Image.open(folder / image["file"]) as picture:
            np.testing.assert_array_equal(np.asarray(picture), pixels[..., 0])
    assert told["steps"]["order"] == ours.order.tolist() and told["white"] == 255
    np.testing.assert_allclose(told["steps"]["learning_rate"], [0.3, 0.2, 0.1], rtol=1e-6)
    assert (told["mean"], told["std"], told["class_names"]) == ([0.25], [0.5], list(INFO.class_names))


@pytest.mark.parametrize("to", ["folder", "hf"])
def test_what_was_exported_is_read_again(to, file, tmp_path):
    if to == "hf":
        pytest.importorskip("pyarrow", reason="the extra hf is not installed")
    ours, again = read_synthetic(file), content(jd.export(file, tmp_path / "there", to=to, progress=False))
    if to == "hf":
        np.testing.assert_array_equal(again.images, ours.images)
    np.testing.assert_array_equal(again.pixels, pictures(ours).x)
    np.testing.assert_array_equal(again.labels, ours.labels)
    np.testing.assert_array_equal(again.order, ours.order)
    assert again.hyperparameters.keys() == ours.hyperparameters.keys()
    for name, value in ours.hyperparameters.items():
        np.testing.assert_array_equal(again.hyperparameters[name], value)
    told = {name: value for name, value in ours.metadata.items() if name != "scale"}
    assert again.metadata == told | {"scale": 255}
    assert list(protocols_for(again, (), None, INFO)) == list(protocols_for(ours, (), None, INFO))

    (tmp_path / "there" / "distillation.json").write_text('{"white": 255}')
    with pytest.raises(
        UserError, match=r"expected what jd.export writes, with distillation.json, got KeyError"
    ):
        content(tmp_path / "there")


def test_without_an_order_there_is_none_in_the_steps(file, tmp_path):
    with np.load(file) as arrays:
        np.savez(tmp_path / "b.npz", **{name: arrays[name] for name in arrays.files if name != "order"})
    folder = jd.export(tmp_path / "b.npz", tmp_path / "folder", to="folder", progress=False)
    steps = json.loads((folder / "distillation.json").read_text(encoding="utf-8"))["steps"]
    assert set(steps) == {"learning_rate", "momentum"}  # the code of a card makes a tensor of each


def test_hyperparameters_of_another_inner_optimizer_are_one_clear_line(tmp_path):
    path = written(tmp_path / "a.npz", inner=SGD | {"inner_optimizer": "adam"})
    with pytest.raises(UserError) as error:
        protocols_for(read_synthetic(path), ("as_distilled",), None, INFO)
    assert "expected hyper-parameters of adam, got hyper_momentum in the file" in message(error)


def test_folders_sort_as_classes():
    assert class_folders([*"0123456789"]) == [*"0123456789"]
    assert class_folders(["b", "a"]) == ["0_b", "1_a"]
    assert class_folders(["..", "é é"]) == ["_", "é_é"] and class_folders(["a/b", "a b"])[1] == "1_a_b"
    assert class_folders([str(n) for n in range(11)])[1:3] == ["01_1", "02_2"]


def test_a_picture_that_is_gone_or_another_is_named(file, tmp_path):
    folder = jd.export(file, tmp_path / "folder", to="folder", progress=False)
    pictures_there = sorted(folder.rglob("*.png"))
    kept = pictures_there[0].read_bytes()
    pictures_there[0].write_bytes(pictures_there[1].read_bytes())
    with pytest.raises(UserError) as error:
        content(folder)
    name = pictures_there[0].relative_to(folder).as_posix()
    assert f"the picture {name} as it was exported, got another one" in message(error)
    pictures_there[0].write_bytes(kept)
    pictures_there[1].unlink()
    with pytest.raises(UserError) as error:
        content(folder)
    assert f"the picture {pictures_there[1].relative_to(folder).as_posix()} as it was" in message(error)


def test_a_class_without_images_is_told(tmp_path, capsys):
    labels = np.eye(3, dtype=np.float32)[[0, 0, 2, 2]]
    jd.export(written(tmp_path / "synthetic.npz", labels=labels), tmp_path / "folder", to="folder")
    assert "note: no image is of class ant/fly; folder readers number the later" in capsys.readouterr().out


def test_a_hugging_face_data_set(file, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="the extra hf is not installed")
    result = {"test_accuracy_mean": 0.9, "test_accuracy_std": 0.01, "num_learners": 5}
    for name, value in (("config", {}), ("result", result)):
        (tmp_path / f"{name}.json").write_text(json.dumps(value))
    folder = jd.export(tmp_path, tmp_path / "data set", to="hf", progress=False)
    rows = parquet.read_table(folder / "data").to_pylist()
    ours = read_synthetic(file)
    np.testing.assert_array_equal(np.asarray([r["standardised"] for r in rows], np.float32), ours.images)
    np.testing.assert_array_equal(np.asarray([r["soft_label"] for r in rows], np.float32), ours.labels)
    assert [r["label"] for r in rows] == [0, 1, 2, 2] and rows[0]["image"]["bytes"].startswith(b"\x89PNG")
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "          '1': \"ant/fly\"" in card and "read 90.0% (± 1.0) of the test images" in card
    assert 'path = "data set"  # this folder' in card and str(tmp_path) not in card
    assert training_code(ours, from_hf_folder("data set", "distillation.json")) in card
    assert "# license: fill it in" in card and json.loads((folder / "distillation.json").read_text())["steps"]


@pytest.mark.slow
def test_datasets_reads_it_and_the_card_trains(file, tmp_path, torch, monkeypatch):
    datasets = pytest.importorskip("datasets", reason="Hugging Face's datasets is not installed")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    folder = jd.export(file, tmp_path / "hf", to="hf", progress=False)
    found = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    assert found.features["label"].names == list(INFO.class_names) and found[0]["image"].size == (8, 8)
    monkeypatch.chdir(tmp_path)
    code = (folder / "README.md").read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    made: dict = {}
    exec(code.replace('split="train"', 'split="train", cache_dir="cache"'), made)
    np.testing.assert_array_equal(made["x"].permute(0, 2, 3, 1).numpy(), read_synthetic(file).images)


def test_a_torch_file_comes_back(file, tmp_path, torch, capsys):
    path = jd.export(file, tmp_path / "a.pt")
    d, ours = torch.load(path, weights_only=True), read_synthetic(file)
    np.testing.assert_array_equal(d["images"].permute(0, 2, 3, 1).numpy(), ours.images)
    np.testing.assert_array_equal(d["pixels"].permute(0, 2, 3, 1).numpy(), ours.pixels)
    assert d["images"].is_contiguous() and d["labels"].tolist() == [0, 1, 2, 2] and d["scale"] == 16
    assert d["order"].dtype == torch.int64 and d["class_names"] == list(INFO.class_names)
    out = capsys.readouterr().out
    assert training_code(ours, from_torch_file(str(path))) in out
    assert "note: distilled for one fixed initialisation" in out
    again = content(path)
    for name in ("pixels", "images", "labels", "order"):
        np.testing.assert_array_equal(getattr(again, name), getattr(ours, name))
    assert again.metadata == ours.metadata and again.fixed_start
    jax.tree.map(np.testing.assert_array_equal, again.hyperparameters, ours.hyperparameters)
    assert list(protocols_for(again, (), None, INFO)) == list(protocols_for(ours, (), None, INFO))


def whitened(channels):
    """(what is known of images that are whitened, 60 such images in pixels)."""
    pixels = np.random.default_rng(1).integers(0, 17, (60, 8, 8, channels)).astype(np.float32)
    info = INFO._replace(image_shape=(8, 8, channels), mean=(0.25,) * channels, std=(0.5,) * channels)
    return with_whitening(info, pixels), pixels


def test_a_torch_file_of_whitened_images_says_how(tmp_path, torch, capsys):
    info, pixels = whitened(3)
    ours = read_synthetic(written(tmp_path / "synthetic.npz", info=info))
    path = jd.export(tmp_path / "synthetic.npz", tmp_path / "a.pt")
    again = content(path)
    assert again.whitening == ours.whitening == info.whitening
    np.testing.assert_array_equal(standardised(again, info).x, ours.images)
    first = from_torch_file(str(path), whitened=True)
    assert "\n".join(first) in capsys.readouterr().out
    made: dict = {"pixels": torch.from_numpy(pixels).permute(0, 3, 1, 2)}
    exec(
        "\n".join(line.removeprefix("# ") if line.startswith(("# u", "# z")) else line for line in first),
        made,
    )
    found = made["z"].permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(found, jd.standardise(pixels, info), atol=1e-4)


@pytest.mark.parametrize("to", ["folder", "npz"])
def test_folders_hold_no_whitening(tmp_path, to):
    info, _ = whitened(1)
    file = written(tmp_path / "synthetic.npz", info=info)
    if to == "npz":
        found = content(jd.export(file, tmp_path / "a.npz", to=to, progress=False))
        np.testing.assert_array_equal(standardised(found, info).x, read_synthetic(file).images)
        return
    with pytest.raises(UserError) as error:
        jd.export(file, tmp_path / "folder", to=to)
    assert "images of preprocess=standardise, got whitened images. to=torch and to=npz" in message(error)
    assert not (tmp_path / "folder").exists()


def refused(images, path, **options) -> str:
    with pytest.raises(UserError) as error:
        jd.export(images, path, progress=False, **options)
    return message(error)


def test_what_cannot_be_exported_is_one_line(file, tmp_path):
    out = tmp_path / "out.npz"
    np.savez(tmp_path / "mine.npz", x=np.zeros((2, 8, 8)), y=[0, 1])
    wide = INFO._replace(image_shape=(8, 8, 2), mean=(0.0, 0.0), std=(1.0, 1.0))
    wide_file = written(tmp_path / "wide.npz", info=wide)
    (tmp_path / "empty").mkdir()
    for images, path, to, says in (
        (file, out, "onnx", "export to: expected one of folder, hf, latents, npz, torch, got 'onnx'"),
        (file, tmp_path / "out", "npz", "a path that ends in .npz, got"),
        (file, tmp_path / "out", "torch", "a path that ends in .pt or .pth, got"),
        (
            tmp_path / "mine.npz",
            out,
            "npz",
            "the synthetic.npz of a run, got a file without x_standardised, scale",
        ),
        (tmp_path / "none.npz", out, "npz", "no file of that name"),
        (tmp_path / "empty", out, "npz", "a folder of a finished run, with synthetic.npz, got"),
        (3, out, "npz", "images as a Run, its folder or its synthetic.npz, got int"),
        (3, out, "latents", "images as a Run, its folder or its latents.npz, got int"),
        (
            wide_file,
            tmp_path / "out",
            "folder",
            "images of 1 or 3 channels, got 2. to=torch and to=npz take any number.",
        ),
    ):
        assert says in refused(images, path, to=to)
    assert {p.name for p in tmp_path.iterdir()} == {"synthetic.npz", "mine.npz", "wide.npz", "empty"}


@pytest.mark.parametrize(("to", "package"), [("torch", "torch"), ("hf", "pyarrow")])
def test_a_missing_package_is_one_line(file, tmp_path, monkeypatch, to, package):
    monkeypatch.setitem(sys.modules, package, None)
    text = refused(file, tmp_path / "a.pt", to=to)
    assert "got an import error" in text and f'pip install "jaxdistill[{to}]" installs it.' in text
    assert not (tmp_path / "a.pt").exists()


def test_only_exports_are_replaced(file, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("dear")
    assert "a path that does not exist yet" in refused(file, mine, to="folder")
    assert "a folder of an earlier export, to overwrite" in refused(file, mine, to="folder", overwrite=True)
    np.savez(tmp_path / "data.npz", x=np.zeros(2), y=np.zeros(2))
    assert "a file of an earlier export" in refused(file, tmp_path / "data.npz", to="npz", overwrite=True)
    first = jd.export(file, tmp_path / "first.npz", to="npz", progress=False)
    jd.export(file, first, to="npz", overwrite=True, progress=False)
    (tmp_path / "a.npz").mkdir()
    assert "a file to overwrite" in refused(file, tmp_path / "a.npz", to="npz", overwrite=True)
    assert (mine / "thesis.txt").read_text() == "dear"
    folder = jd.export(file, tmp_path / "folder", to="folder", progress=False)
    (folder / "more.txt").write_text("more")
    jd.export(file, folder, to="folder", overwrite=True, progress=False)
    assert not (folder / "more.txt").exists() and (folder / "0_zebra" / "00000.png").is_file()
    assert not [p.name for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_an_export_that_breaks_leaves_what_was_there(file, tmp_path, monkeypatch):
    folder = jd.export(file, tmp_path / "folder", to="folder", progress=False)
    monkeypatch.setattr(Image.Image, "save", lambda *arguments, **options: 1 / 0)
    for path in (folder, tmp_path / "new"):
        with pytest.raises(ZeroDivisionError):
            jd.export(file, path, to="folder", overwrite=True, progress=False)
    assert {p.name for p in tmp_path.iterdir()} == {"synthetic.npz", "folder"}
    assert (folder / "0_zebra" / "00000.png").is_file()


def test_the_script(file, tmp_path, capsys):
    def called(**options):
        return script.run(script.Options(**options))

    path = called(synthetic=str(file), to="npz", output=str(tmp_path / "a.npz"))
    assert path.is_file() and f"4 images of tiny: {path}" in capsys.readouterr().out
    called(run=str(tmp_path), to="npz", output=str(path), overwrite=True)
    for options, says in (
        ({"output": "a.pt"}, "--run=FOLDER or --synthetic=FILE.npz, got nothing"),
        ({"run": "a", "synthetic": "b", "output": "a.pt"}, "--run=FOLDER or --synthetic=FILE.npz, got both"),
        ({"synthetic": str(file)}, "--output=PATH, got nothing"),
    ):
        with pytest.raises(UserError) as error:
            called(**options)
        assert says in message(error)


def test_labels_follow_the_names_of_the_classes(file):
    """A set of the same classes in another order; one of others is refused."""
    given, names = content(file), INFO.class_names
    turned = INFO._replace(class_names=names[::-1])
    ours, theirs = (standardised(given, info).y for info in (INFO, turned))
    np.testing.assert_array_equal(np.asarray(theirs), np.asarray(ours)[:, ::-1])
    with pytest.raises(UserError) as error:
        standardised(given, INFO._replace(class_names=("ape", *names[1:])))
    assert f"images of classes of {INFO.name} (ape, " in message(error) and names[0] in message(error)
