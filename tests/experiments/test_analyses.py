"""Accuracy by steps, epochs, images and step size: points, files, failures, one program for step sizes."""

import json

import jax
import numpy as np
import pytest
from helpers import message

from experiments import analyses
from jaxdistill.config.resolve import resolve
from jaxdistill.config.table import Config
from jaxdistill.core.checks import UserError
from jaxdistill.methods.recipe import Facts
from jaxdistill.runs.plan import identity_of, planned
from jaxdistill.runtime.divergence import Diverged
from jaxdistill.runtime.loop import compiled_chunk

SMALL = {"smoke": True, "num_baseline_learners": 1, "depth": 1}
LINEAR = {"learner": "linear", "width": None, "depth": None}


def run(**chosen):
    return analyses.run(analyses.Options(**SMALL | chosen))


@pytest.fixture
def runs(monkeypatch):
    """The configs that are distilled; nothing is, and accuracies are as good as the number of epochs."""
    asked, failures = [], {}

    def result(config):
        found = resolve(config, Facts((8, 8, 1), 10))
        if found.distill_epochs in failures:
            raise failures[found.distill_epochs]
        asked.append(config)
        score = {"mean": found.distill_epochs / 100, "std": 0.0, "num_diverged": 0}
        reordered = {f"other_order_{n}": v for n, v in score.items()} | {"other_order_accuracies": [0.1]}
        if found.distill_steps == 1:
            reordered = {"other_order_mean": None, "other_order_std": None}
        return {
            **{f"test_accuracy_{n}": v for n, v in score.items()},
            **{f"random_real_{n}": v for n, v in score.items()},
            **reordered,
            "full_data_mean": None,
            "other_order": "batches shuffled",
            "other_order_num_learners": 1,
            "random_real_num_learners": 1,
            "random_real_protocol": "dc",
            "random_real_step_size": 0.1,
            "test_accuracies": [0.1],
            "random_real_accuracies": [0.1],
            "num_learners": 1,
            "seconds": 1.0,
            "compile_seconds": 1.0,
            "outer_steps": found.num_outer_steps,
            "config": identity_of(found),
        }

    monkeypatch.setattr(analyses, "run_to_result", result)
    result.asked, result.failures = asked, failures
    return result


def test_a_point_is_a_run_of_its_own(tmp_path, capsys):
    folder = tmp_path / "run"
    short = {"analyses": ["epochs"], "epochs": [1], "num_outer_steps": 4, "num_baseline_learners": 0}
    short |= {"num_learners": 1, "num_eval_learners": 1, "chunk_length": 2} | LINEAR
    result = run(**short, run_dir=folder)
    assert [row["series"] for row in result["rows"]] == ["distilled"]
    first = result["rows"][0]
    assert first["outer_steps"] == 4 and first["num_learners"] == len(first["every"]) == 1
    assert json.loads((folder / "analyses.json").read_text()) == json.loads(json.dumps(result))
    saved = json.loads((folder / "points/epochs-1/result.json").read_text())
    assert saved["test_accuracy_mean"] == first["mean"] and saved["config"]["distill_epochs"] == 1
    assert "epochs: 1\n" in capsys.readouterr().out
    again = run(**short, run_dir=folder)
    assert again["rows"] == json.loads(json.dumps(result["rows"]))
    assert "dd: compiling" not in capsys.readouterr().out


def test_every_analysis_has_points_and_a_figure(runs, tmp_path):
    folder = tmp_path / "run"
    result = run(analyses=["steps", "rates"], run_dir=folder)
    found = [(row["analysis"], row["value"], row["series"]) for row in result["rows"]]
    assert found == [
        *(("steps", 1, name) for name in ("distilled", "random real")),
        *(("steps", 2, name) for name in ("distilled", "distilled, batches shuffled", "random real")),
        *(("rates", rate, name) for rate in (0.1, 0.3) for name in ("distilled", "random real")),
    ]
    places = [folder / f"points/{name}" for name in ("steps-1", "steps-2", "rates-0.1", "rates-0.3")]
    assert [each.run_dir for each in runs.asked] == list(map(str, places))
    assert {each.full_data_epochs for each in runs.asked} == {
        0
    }  # settings of the analyses, chosen for points
    assert result["config"]["num_outer_steps"] == 20 and "distill_steps" not in result["config"]
    for name in ("analyses.csv", "analyses.json", "analyses.md", "analyses_steps.png", "analyses_rates.png"):
        assert (folder / name).stat().st_size > 100


def test_analyses_are_added_to_those_that_are_there(runs, tmp_path):
    first = run(analyses=["rates"], rates=[0.1], run_dir=tmp_path / "run")
    both = run(analyses=["epochs"], epochs=[1], run_dir=tmp_path / "run")
    assert [row["analysis"] for row in both["rows"]] == ["epochs"] * 2 + ["rates"] * 2
    assert both["rows"][2:] == json.loads(json.dumps(first["rows"]))
    before = (tmp_path / "run/analyses.json").read_bytes()
    with pytest.raises(UserError) as error:
        run(analyses=["epochs"], epochs=[2], real_batch_size=32, run_dir=tmp_path / "run")
    assert "another real_batch_size" in message(error)
    assert (tmp_path / "run/analyses.json").read_bytes() == before


def test_step_sizes_share_a_program_and_stay_as_they_are():
    texts = []
    for rate in (0.1, 0.3):
        options = {"distill_epochs": 2, "num_learners": 1, "num_outer_steps": 5}
        plan = planned(Config(**options | LINEAR | analyses.POINTS["rates"][1](rate)))
        state = plan.method.init(plan.key)
        program = compiled_chunk(plan.method)
        texts.append(program.lower(state, plan.arguments, plan.key, 5).as_text())
        after = program(state, plan.arguments, plan.key, 5)[0]
        before, learned = (
            np.asarray(plan.method.hyperparameters(s)["learning_rate"]) for s in (state, after)
        )
        np.testing.assert_allclose(before, rate, rtol=1e-6)
        np.testing.assert_array_equal(before, learned)
        moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), state.meta.teacher, after.meta.teacher)
        assert max(jax.tree.leaves(moved)) > 1e-3  # the images do move
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("failure", "says"),
    [
        (Diverged("loop: expected finite losses, got NaN."), "got NaN"),
        (MemoryError("no more\nto be had"), "no more to be had"),
    ],
)
def test_a_point_that_fails_is_a_row(runs, tmp_path, failure, says):
    runs.failures[2] = failure
    rows = run(analyses=["epochs"], run_dir=tmp_path / "run")["rows"]
    assert [row["mean"] is None for row in rows] == [False, False, True]
    assert says in rows[-1]["error"]
    assert says in (tmp_path / "run/analyses.md").read_text()


def test_no_point_that_ends_is_an_error(runs, tmp_path):
    runs.failures |= dict.fromkeys((1, 2), Diverged("loop: expected finite losses, got NaN."))
    with pytest.raises(UserError) as error:
        run(analyses=["epochs"], run_dir=tmp_path / "run")
    assert "at least one point that finishes, got none" in message(error)


@pytest.mark.parametrize(("content", "says"), [("[]", "rows and config in"), ("{", "a readable ")])
def test_a_damaged_file_of_earlier_rows_is_left_alone(runs, tmp_path, content, says):
    (tmp_path / "analyses.json").write_text(content)
    with pytest.raises(UserError, match=says):
        run(analyses=["epochs"], epochs=[1], run_dir=tmp_path)
    assert (tmp_path / "analyses.json").read_text() == content and not runs.asked


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        ({"analyses": []}, "at least one of analyses, got none"),
        ({"analyses": ["step"]}, "expected one of epochs, images, rates, steps, got 'step'"),
        ({"steps": []}, "at least one of steps, got none"),
        ({"epochs": [0]}, "epochs >= 1, got 0"),
        ({"rates": [0.0]}, "rates > 0, got 0.0"),
        (
            {"analyses": ["images", "epochs"], "rates": [0.5]},
            "no rates with analyses=images,epochs, where",
        ),
        ({"analyses": ["images"], "images": [1, 500], "start": "real"}, "images_per_class <= "),
        ({"method": "dm"} | LINEAR, "no distill_epochs with method=dm"),
        ({"teacher": "generator"}, "teacher=images, got generator"),
        ({"gradient": "implicit"}, "a gradient of a fixed number of inner steps, got implicit"),
    ],
)
def test_bad_input_starts_nothing(tmp_path, chosen, says):
    with pytest.raises(UserError) as error:
        run(**chosen, run_dir=tmp_path / "run")
    assert says in message(error)
    assert not (tmp_path / "run").exists()
