"""`experiments.evaluate`: the table and its file; every refusal before anything is trained."""

import json

import numpy as np
import pytest
from helpers import message

from experiments import evaluate
from jaxdistill.core.checks import UserError
from jaxdistill.data import load
from jaxdistill.evaluation.protocols import PROTOCOLS
from jaxdistill.runs.evaluate import EvaluateOptions
from jaxdistill.runtime.export import write_synthetic

QUICK = {
    "learners": ["linear"],
    "num_learners": 2,
    "num_search_learners": 2,
    "step_sizes": [0.1],
    "num_epochs": 2,
}


def written(path, data) -> str:
    """A file as a run writes it: a real image of each class, in two steps, with momentum."""
    classes = data.info.num_classes
    write_synthetic(
        path,
        images=np.asarray(data.train.x[np.asarray(data.train.starts)]),
        labels=np.eye(classes),
        order=np.arange(classes).reshape(2, -1),
        hyperparameters={"learning_rate": np.array([0.2, 0.1]), "momentum": np.array([0.5])},
        info=data.info,
        method="dd",
        learner={"learner": "linear"},
        inner={"inner_optimizer": "sgd", "weight_decay": 0.0},
    )
    return str(path)


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    """Such a file of digits."""
    return written(tmp_path_factory.mktemp("run") / "synthetic.npz", load("digits"))


@pytest.fixture
def untrained(monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("it trains")

    monkeypatch.setattr(evaluate, "evaluated", refuse)


def evaluated(**options):
    return evaluate.run(evaluate.Options(**options))


def test_the_docstring_names_every_protocol():
    assert all(f"`{name}`" in evaluate.__doc__ for name in PROTOCOLS)


def test_a_file_of_ours_under_both_protocols(tmp_path, capsys):
    x = np.random.default_rng(0).integers(0, 256, (60, 4, 4, 1), np.uint8)
    mine, y = str(tmp_path / "mine.npz"), np.arange(60) % 4
    np.savez(mine, x=x, y=y, x_test=x[:10], y_test=y[:10])  # validation is as large: one program for both
    ours = written(tmp_path / "synthetic.npz", load(mine))
    result = evaluated(synthetic=ours, dataset=mine, run_dir=tmp_path / "out", **QUICK)
    (row,) = result["rows"]
    assert list(row) == ["learner", "as_distilled", "batches shuffled", "dc", "random_real"]
    assert row["learner"] == "linear"
    for name in list(row)[1:]:
        cell = row[name]
        assert cell["num_learners"] == len(cell["every"]) == 2 and cell["num_diverged"] == 0
        assert cell["mean"] == pytest.approx(np.mean(cell["every"]))
        assert cell["std"] == pytest.approx(np.std(cell["every"]))
    assert row["dc"]["step_size"] == 0.1 and row["random_real"]["images_per_class"] == 1
    assert "step_size" not in row["as_distilled"]
    assert json.loads((tmp_path / "out/evaluation.json").read_text()) == result
    config = result["config"]
    assert config["synthetic"] == "synthetic.npz" and config["dataset"] == "mine.npz"
    assert config["image_size"] == 4 and config["smoke"] is False
    assert set(QUICK) < set(config) and not {"run_dir", "data_dir", "manual_dir", "mesh"} & set(config)
    assert {"jax", "device", "commit"} <= set(result["environment"])
    lines = capsys.readouterr().out.splitlines()
    assert "mine.npz after training on 4 images" in lines[-4]
    assert lines[-3].split() == ["learner", "as_distilled", "batches", "shuffled", "dc", "random_real"]
    assert lines[-1].split()[:2] == ["linear", f"{100 * row['as_distilled']['mean']:.1f}"]


def test_smoke_is_short_where_nothing_else_was_chosen(ours, monkeypatch):
    seen = []
    monkeypatch.setattr(evaluate, "prepared", lambda images, learners, options: seen.append(options))
    monkeypatch.setattr(evaluate, "evaluated", lambda plan: {"config": {}})
    monkeypatch.setattr(evaluate, "show", lambda *given: None)
    evaluated(synthetic=ours, smoke=True, num_learners=7)
    (options,) = seen
    assert isinstance(options, EvaluateOptions) and options.num_learners == 7
    assert options.num_epochs == 3 and options.step_sizes == (0.01, 0.1)


BAD = [
    ({"learners": ["foo"]}, "learner: expected one of alexnet"),
    ({"learners": ["mlp:widht=4"]}, "an option, got 'widht'. Near: width."),
    ({"learners": ["linear", "convnet:depth=5"]}, "depth <= 3"),
    ({"learners": []}, "learners among"),
    (
        {"protocols": ["mtt"]},
        "one of as_distilled, dc, dc_augmented, dsa, frepo, idc, idc_unmixed, rat, rcig, got 'mtt'",
    ),
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
    ({"mesh": "learner:2"}, "mesh"),
    ({"nonsense": 1}, "an option, got 'nonsense'"),
]


@pytest.mark.parametrize(
    ("chosen", "says"), BAD, ids=lambda value: ",".join(value) if isinstance(value, dict) else ""
)
def test_bad_options_are_one_line(ours, tmp_path, untrained, chosen, says):
    with pytest.raises(UserError) as error:
        evaluated(**{"synthetic": ours, "run_dir": tmp_path / "out"} | QUICK | chosen)
    assert says in message(error) and not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_written_to_is_found_before_training(ours, tmp_path, untrained):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError) as error:
        evaluated(synthetic=ours, run_dir=tmp_path / "file/out", **QUICK)
    assert "a run_dir to write to" in message(error)


@pytest.mark.parametrize(
    ("there", "what"),
    [("config.json", "a run of another experiment"), ("baselines.json", "results of experiments.baselines")],
)
def test_a_folder_of_another_experiment_is_refused(ours, tmp_path, untrained, there, what):
    (tmp_path / there).write_text("{}")
    with pytest.raises(UserError) as error:
        evaluated(synthetic=ours, run_dir=tmp_path, **QUICK)
    assert f"evaluate: expected a run_dir of its own, got {tmp_path}, {what}. Choose " in message(error)
    assert [path.name for path in tmp_path.iterdir()] == [there]


def test_a_folder_of_other_things_is_refused(ours, tmp_path, untrained):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
    with pytest.raises(UserError) as error:
        evaluated(synthetic=ours, run_dir=tmp_path, **QUICK)
    assert f"a run_dir that is new, empty or its own, got {tmp_path} with cat, dog in it." in message(error)
    (tmp_path / "evaluation.json").write_text("{}")
    with pytest.raises(AssertionError, match="it trains"):  # it is its own
        evaluated(synthetic=ours, run_dir=tmp_path, **QUICK)


def test_an_interruption_leaves_no_folder(ours, tmp_path, monkeypatch):
    def interrupted(plan):
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluate, "evaluated", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluated(synthetic=ours, run_dir=tmp_path / "new/out", **QUICK)
    assert not any(tmp_path.iterdir())


def test_the_folder_of_the_images_own_run_will_do(tmp_path, monkeypatch):
    mine = written(tmp_path / "synthetic.npz", load("digits"))
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr(evaluate, "evaluated", lambda job: {"rows": [], "config": {}})
    monkeypatch.setattr(evaluate, "show", lambda job, result: None)
    evaluated(synthetic=mine, run_dir=tmp_path, **QUICK)
    assert (tmp_path / "evaluation.json").is_file()
