"""Accuracy by steps, epochs, images and step size: points, files, failures, one program for step sizes."""

import json

import jax
import numpy as np
import pytest
from helpers import message

from experiments import analyses, distill
from jaxdistill.core.checks import UserError
from jaxdistill.runtime.loop import Diverged, compiled_chunk

SMALL = {"smoke": True, "num_baseline_learners": 1, "depth": 1}


def test_every_analysis_has_points_and_a_figure(tmp_path, capsys):
    result = analyses.run(**SMALL, analyses=["steps", "rates"], run_dir=str(tmp_path / "run"))
    found = [(row["analysis"], row["value"], row["series"]) for row in result["rows"]]
    assert found == [
        *(("steps", 1, name) for name in ("distilled", "random real")),
        *(("steps", 2, name) for name in ("distilled", "distilled, batches shuffled", "random real")),
        *(("rates", rate, name) for rate in (0.1, 0.3) for name in ("distilled", "random real")),
    ]
    first = result["rows"][0]
    assert first["outer_steps"] == 20 and first["num_learners"] == len(first["every"]) == 2
    for name in ("analyses.csv", "analyses.json", "analyses.md", "analyses_steps.png", "analyses_rates.png"):
        assert (tmp_path / "run" / name).stat().st_size > 100
    assert json.loads((tmp_path / "run/analyses.json").read_text()) == json.loads(json.dumps(result))
    printed = capsys.readouterr().out
    assert "distinct steps: 2" in printed and "batches shuffled" in printed
    again = analyses.run(**SMALL, analyses=["steps", "rates"], run_dir=str(tmp_path / "run"))
    assert (
        again["rows"] == json.loads(json.dumps(result["rows"]))
        and "dd: compiling" not in capsys.readouterr().out
    )


def test_analyses_are_added_to_those_that_are_there(tmp_path):
    options = SMALL | {"run_dir": str(tmp_path / "run")}
    first = analyses.run(**options, analyses=["rates"], rates=[0.1])
    both = analyses.run(**options, analyses=["epochs"], epochs=[1])
    assert [row["analysis"] for row in both["rows"]] == ["epochs"] * 2 + ["rates"] * 2
    assert both["rows"][2:] == json.loads(json.dumps(first["rows"]))
    with pytest.raises(UserError) as error:
        analyses.run(**options, analyses=["epochs"], epochs=[2], real_batch_size=32)
    assert "another real_batch_size" in message(error)


def test_step_sizes_share_a_program_and_stay_as_they_are(tmp_path):
    texts, states = [], []
    for rate in (0.1, 0.3):
        options = {"width": 8, "depth": 1, "num_outer_steps": 5, **analyses.POINTS["rates"][1](rate)}
        plan = distill.planned(options)
        state = plan.method.init(plan.key)
        program = compiled_chunk(plan.method)
        texts.append(program.lower(state, plan.arguments, plan.key, 5).as_text())
        states.append((plan.method, program(state, plan.arguments, plan.key, 5)[0]))
        before, after = (
            np.asarray(plan.method.hyperparameters(s)["learning_rate"]) for s in (state, states[-1][1])
        )
        np.testing.assert_allclose(before, rate, rtol=1e-6)
        np.testing.assert_array_equal(before, after)
        moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), state.meta.teacher, states[-1][1].meta.teacher)
        assert max(jax.tree.leaves(moved)) > 1e-3  # the images do move
    assert texts[0] == texts[1]


def test_a_point_that_fails_is_a_row(tmp_path, monkeypatch):
    run = distill.run

    def fails(**options):
        if options["distill_epochs"] == 2:
            raise Diverged("loop: expected finite losses, got NaN.")
        return run(**options)

    monkeypatch.setattr(distill, "run", fails)
    result = analyses.run(**SMALL, analyses=["epochs"], run_dir=str(tmp_path / "run"))
    assert [row["mean"] is None for row in result["rows"]] == [False, False, True]
    assert "got NaN" in result["rows"][-1]["error"]
    assert "got NaN" in (tmp_path / "run/analyses.md").read_text()


def test_results_of_other_options_are_kept(tmp_path):
    options = SMALL | {"analyses": ["epochs"], "run_dir": str(tmp_path / "run")}
    analyses.run(**options)
    before = (tmp_path / "run/analyses.json").read_bytes()
    assert b'"num_outer_steps": 20' in before
    with pytest.raises(UserError) as error:
        analyses.run(**options, num_outer_steps=30)
    assert "num_outer_steps" in str(error.value)
    assert (tmp_path / "run/analyses.json").read_bytes() == before


def test_a_damaged_file_of_earlier_rows_is_told_and_memory_that_ends_is_a_row(tmp_path, monkeypatch):
    real, folder = distill.run, tmp_path / "run"

    def fails(**options):
        if options["distill_epochs"] == 2:
            raise MemoryError("no more\nto be had")
        return real(**options)

    monkeypatch.setattr(distill, "run", fails)
    options = SMALL | {"analyses": ["epochs"], "run_dir": str(folder)}
    rows = analyses.run(**options)["rows"]
    assert [row["error"] for row in rows if row["mean"] is None] == ["no more to be had"]
    for content, says in (("[]", "rows and config in"), ("{", "a readable ")):
        (folder / "analyses.json").write_text(content)
        with pytest.raises(UserError, match=says):
            analyses.run(**options)
        assert (folder / "analyses.json").read_text() == content


def test_no_point_that_ends_is_an_error(tmp_path, monkeypatch):
    def fails(**options):
        raise Diverged("loop: expected finite losses, got NaN.")

    monkeypatch.setattr(distill, "run", fails)
    with pytest.raises(UserError) as error:
        analyses.run(**SMALL, analyses=["epochs"], run_dir=str(tmp_path / "run"))
    assert "a point that ends, got none" in message(error)


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        ({"analyses": []}, "at least one of steps, epochs, images, rates, got none"),
        ({"analyses": ["step"]}, "expected one of epochs, images, rates, steps, got 'step'"),
        ({"steps": []}, "at least one value of steps, got none"),
        ({"epochs": [0]}, "epochs >= 1, got 0"),
        ({"rates": [0.0]}, "rates > 0.0, got 0.0"),
        ({"images": [1, 500], "start": "real"}, "images_per_class <= "),
        ({"method": "dm"}, "left out with method=dm"),
        ({"teacher": "generator"}, "teacher=images, got generator"),
        ({"gradient": "implicit"}, "a gradient through the steps that are counted, got implicit"),
    ],
)
def test_bad_input_starts_nothing(tmp_path, chosen, says):
    with pytest.raises(UserError) as error:
        analyses.run(**SMALL | chosen, run_dir=str(tmp_path / "run"))
    assert says in message(error)
    assert not (tmp_path / "run").exists()
