"""`experiments.evaluate`: any saved images, on any architecture; every refusal before anything is trained."""

import json

import jax
import numpy as np
import pytest
from helpers import message

from experiments import evaluate
from jaxdistill.core.checks import UserError
from jaxdistill.data import load
from jaxdistill.data import to_pixels as pixels_of
from jaxdistill.learners import num_params
from jaxdistill.runtime.export import write_synthetic

QUICK = {
    "learners": ["linear"],
    "num_learners": 2,
    "num_search_learners": 1,
    "step_sizes": [0.1],
    "num_epochs": 2,
}


@pytest.fixture(scope="module")
def digits():
    return load("digits")


@pytest.fixture(scope="module")
def real(digits):
    """(pixels [10, 8, 8, 1] in the set's own units, labels): one real image of each class."""
    first = np.asarray(digits.train.starts)
    return np.rint(np.asarray(pixels_of(digits.train.x[first], digits.info))), np.arange(10)


@pytest.fixture
def save(tmp_path):
    """Writes an `.npz` of a user and says where."""

    def write(**arrays):
        np.savez(tmp_path / "mine.npz", **arrays)
        return str(tmp_path / "mine.npz")

    return write


@pytest.fixture
def ours(tmp_path, digits, real):
    """A file as a run writes it: two steps of five classes each, with momentum."""
    path = tmp_path / "synthetic.npz"
    write_synthetic(
        path,
        images=np.asarray(digits.train.x[np.asarray(digits.train.starts)]),
        labels=np.eye(10),
        order=np.arange(10).reshape(2, 5),
        hyperparameters={"learning_rate": np.array([0.2, 0.1]), "momentum": np.array([0.5])},
        info=digits.info,
        method="dd",
        learner={"learner": "linear"},
        inner={"inner_optimizer": "sgd", "weight_decay": 0.0},
    )
    return str(path)


def test_a_file_of_ours_under_both_protocols(ours, tmp_path, capsys):
    result = evaluate.run(synthetic=ours, run_dir=str(tmp_path / "out"), **QUICK)
    (row,) = result["rows"]
    assert row["learner"] == "linear"
    assert list(row) == ["learner", "as_distilled", "batches shuffled", "dc", "random_real"]
    for name in list(row)[1:]:
        cell = row[name]
        assert cell["num_learners"] == len(cell["every"]) == 2
        assert cell["mean"] == pytest.approx(np.mean(cell["every"]))
        assert cell["std"] == pytest.approx(np.std(cell["every"]))
    assert row["dc"]["step_size"] == 0.1 and row["random_real"]["images_per_class"] == 1
    assert "step_size" not in row["as_distilled"]
    assert json.loads((tmp_path / "out/evaluation.json").read_text()) == result
    config = result["config"]
    assert config["synthetic"] == "synthetic.npz" and config["dataset"] == "digits"
    assert not {"run_dir", "data_dir", "manual_dir"} & set(config)
    assert {"jax", "device", "commit"} <= set(result["environment"])
    lines = capsys.readouterr().out.splitlines()
    assert "digits after training on 10 images" in lines[-4]
    assert lines[-3].split() == ["learner", "as_distilled", "batches", "shuffled", "dc", "random_real"]
    assert lines[-1].split()[:2] == ["linear", f"{100 * row['as_distilled']['mean']:.1f}"]


def cells(**options):
    (row,) = evaluate.run(**QUICK, dataset="digits", protocols=["dc"], **options)["rows"]
    return row["dc"]["every"]


def test_images_of_a_user_in_any_units_are_the_same_images(real, save, ours, capsys):
    pixels, y = real
    expected = cells(synthetic=ours)  # standardised images are in that file
    assert cells(synthetic=save(x=pixels.astype(np.uint8), y=y)) == expected
    assert "note:" not in capsys.readouterr().out
    # the others come through another rounding, which may turn a test image in 360 or two
    close = {"abs": 2.5 / 360}
    assert cells(synthetic=save(x=pixels[..., 0], y=np.eye(10)[y])) == pytest.approx(expected, **close)
    assert cells(synthetic=save(x=pixels / 16, y=y)) == pytest.approx(expected, **close)
    assert "note: images lie in 0..1; white is 1 in the file and 16 in digits" in capsys.readouterr().out
    assert cells(synthetic=save(x=pixels * 255 / 16, y=y, scale=255.0)) == pytest.approx(expected, **close)


def test_a_user_may_leave_classes_out(real, save):
    pixels, y = real
    result = evaluate.run(
        synthetic=save(x=pixels[:4].repeat(3, axis=0), y=y[:4].repeat(3)), dataset="digits", **QUICK
    )
    (row,) = result["rows"]
    assert set(row) == {"learner", "dc", "random_real"}  # no order, no step sizes: not as distilled
    # digits of four classes out of ten, all others wrong
    assert row["dc"]["mean"] <= 0.45


def test_architectures_with_options(digits):
    def sizes(text):
        net = evaluate.parse_learner(text, digits)
        return num_params(jax.eval_shape(net.init, jax.random.key(0)))

    assert sizes("linear") == 65 * 10
    assert sizes("mlp:width=4:depth=1:activation=tanh") == 65 * 4 + 5 * 10


BAD = [
    ({"learners": ["foo"]}, "learners: expected one of alexnet"),
    ({"learners": ["mlp:width"]}, "OPTION=VALUE with an option of"),
    ({"learners": ["mlp:norm=none"]}, "OPTION=VALUE with an option of"),
    ({"learners": ["mlp:width=wide"]}, "a whole number for width, got 'wide'"),
    ({"learners": ["mlp:activation=wide"]}, "got 'wide'"),
    ({"learners": ["linear", "convnet:depth=5"]}, "depth <= 3"),
    ({"learners": []}, "learners among"),
    ({"protocols": ["mtt"]}, "protocols: expected one of as_distilled, dc, dc_augmented, dsa, got 'mtt'"),
    ({"num_learners": 0}, "num_learners >= 1, got 0"),
    ({"num_search_learners": 0}, "num_search_learners >= 1, got 0"),
    ({"num_epochs": 0}, "num_epochs >= 1, got 0"),
    ({"step_sizes": []}, "at least one of step_sizes"),
    ({"step_sizes": [-0.1]}, "step_sizes > 0"),
    ({"strategy": "pmap"}, "strategy: expected one of"),
    ({"learner_chunk": 0}, "learner_chunk >= 1, got 0"),
    ({"seed": -1}, "seed >= 0, got -1"),
    ({"synthetic": None}, "--synthetic=FILE.npz, got nothing"),
    ({"synthetic": "none.npz"}, "no file of that name"),
    ({"dataset": "mnistt"}, "got 'mnistt'"),
    ({"image_size": 16}, "images 16x16x1 as in digits, got 8x8x1"),
    ({"nonsense": 1}, "options among"),
]


@pytest.fixture
def untrained(monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("it trains")

    monkeypatch.setattr(evaluate, "tuned", refuse)
    monkeypatch.setattr(evaluate, "score", refuse)


def refused(tmp_path, **options) -> str:
    with pytest.raises(UserError) as error:
        evaluate.run(**(QUICK | {"run_dir": str(tmp_path / "out")} | options))
    assert not (tmp_path / "out").exists()
    return message(error)


@pytest.mark.parametrize(("chosen", "says"), BAD)
def test_bad_options_are_one_line(ours, tmp_path, untrained, chosen, says):
    assert says in refused(tmp_path, **({"synthetic": ours} | chosen))


def test_bad_files_are_one_line(real, save, tmp_path, untrained):
    pixels, y = real
    for arrays, says in (
        ({"x": pixels}, "arrays x and y, got only x"),
        ({"x": pixels, "y": y[:5]}, "one row per image"),
        ({"x": pixels[:, :4], "y": y}, "images 8x8x1 as in digits, got 4x8x1"),
        ({"x": np.repeat(pixels, 3, axis=-1), "y": y}, "got 8x8x3"),
        ({"x": pixels, "y": y + 1}, "labels of 10 classes as in digits, got 11"),
        ({"x": pixels, "y": y - 1}, "y as integers from 0"),
        ({"x": pixels * np.nan, "y": y}, "finite"),
        ({"x": np.array(["a"] * 10), "y": y}, "x as numbers"),
    ):
        assert says in refused(tmp_path, synthetic=save(**arrays), dataset="digits")
    file = save(x=pixels, y=y)
    assert "--dataset=NAME" in refused(tmp_path, synthetic=file)
    text = refused(tmp_path, synthetic=file, dataset="digits", protocols=["as_distilled"])
    assert "order and step sizes in the file, got no order. Use --protocols=dc." in text
    named = save(x=pixels, y=y, dataset="my digits")
    assert "'my digits'" in (text := refused(tmp_path, synthetic=named)) and "--dataset chooses" in text


def test_a_place_that_cannot_be_written_to_is_found_before_training(ours, tmp_path, untrained):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError) as error:
        evaluate.run(synthetic=ours, run_dir=str(tmp_path / "file/out"), **QUICK)
    assert "a run_dir to write to" in message(error)
