"""Runs with a generator: distilled, opened again, drawn from, tested after few steps, ranked with."""

import json
import shutil

import numpy as np
import pytest
from helpers import message
from tiny_runs import TINY, tiny_run

from experiments import few_step, generate, nas
from experiments.saved import load_run
from jaxdistill.core.checks import UserError
from jaxdistill.runtime.metrics import read_metrics

SMALL = {
    "teacher": "generator",
    "batch_size": 12,
    "distill_steps": 2,
    "distill_epochs": 1,
    "generator_width": 4,
    "generator_hidden": 8,
    "num_outer_steps": 10,
}


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    """(run directory, result) of a generator of digits."""
    path = tmp_path_factory.mktemp("generator") / "run"
    result, printed = tiny_run(path, **SMALL)
    assert "dd on digits: 2 batches of 12, mlp" in printed
    return path, result


@pytest.fixture(scope="module")
def learned_images(tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "run"
    tiny_run(path, num_outer_steps=5, num_baseline_learners=0)
    return path


def test_a_run_leaves_its_batches_in_order(generated):
    path, result = generated
    assert {file.name for file in path.iterdir()} >= {"images.png", "curves.png", "result.json"}
    with np.load(path / "synthetic.npz") as file:
        assert file["x"].shape == (24, 8, 8, 1)
        np.testing.assert_array_equal(file["order"], np.arange(24).reshape(2, 12))
        np.testing.assert_array_equal(file["y"], np.arange(24) % 10)
        assert json.loads(str(file["inner"]))["shuffle"] == "none"
    assert 0 < result["test_accuracy_mean"] <= 1 and result["random_real_mean"] is not None


@pytest.mark.slow
@pytest.mark.parametrize("curriculum", ["none", "all_shuffled", "fixed"])
@pytest.mark.parametrize("gradient", ["unrolled", "implicit"])
def test_every_gradient_and_curriculum_runs(tmp_path, curriculum, gradient):
    implicit = {"max_inner_steps": 5, "on_failed_solve": "skip"} if gradient == "implicit" else {}
    options = SMALL | {"curriculum": curriculum, "gradient": gradient, "num_baseline_learners": 0} | implicit
    result, _ = tiny_run(tmp_path / "run", **options)
    rows = read_metrics(tmp_path / "run/metrics.jsonl")
    assert len(rows) == 2 and all(np.isfinite(row["loss"]) for row in rows if not row.get("skipped"))
    assert 0 < result["test_accuracy_mean"] <= 1


@pytest.mark.slow
def test_networks_of_random_shape_go_on_bit_for_bit(tmp_path):
    options = SMALL | {"num_shapes": 3, "chunk_length": 2, "checkpoint_every": 2, "num_baseline_learners": 0}
    tiny_run(tmp_path / "whole", **options)
    tiny_run(tmp_path / "parts", **options | {"num_outer_steps": 10})
    from jaxdistill.runtime.checkpoint import Checkpoints

    whole = load_run(tmp_path / "whole")
    with Checkpoints(tmp_path / "parts/checkpoints") as checkpoints:
        import jax

        state, step, _ = checkpoints.restore(jax.eval_shape(whole.method.init, whole.key))
    assert step == 10
    for a, b in zip(jax.tree.leaves(state.meta), jax.tree.leaves(whole.state.meta), strict=True):
        np.testing.assert_array_equal(a, b)


# ---------------------------------------------------------------- opened again


def test_a_run_is_opened_again(generated):
    saved = load_run(generated[0])
    assert int(saved.state.step) == 10 and saved.config["teacher"] == "generator"
    with np.load(generated[0] / "synthetic.npz") as file:
        made = saved.method.synthesize(saved.state, saved.key)
        np.testing.assert_allclose(made.x.reshape(-1, 8, 8, 1), file["x_standardised"], rtol=1e-5, atol=1e-5)


def test_a_run_that_is_not_at_its_end_is_told(generated, tmp_path, capsys):
    load_run(generated[0])
    assert "note" not in capsys.readouterr().out
    shutil.copytree(generated[0], tmp_path / "run")
    file = tmp_path / "run/config.json"
    saved = json.loads(file.read_text())
    saved["config"]["num_outer_steps"] = 40
    file.write_text(json.dumps(saved))
    load_run(tmp_path / "run")
    assert "run is at 10 of 40 outer steps; these are used" in capsys.readouterr().out


def test_what_is_no_run_is_refused(tmp_path):
    cases = {"without config.json": None, "a readable": "{", "another experiment's": '{"config": {"a": 1}}'}
    for says, text in cases.items():
        if text is not None:
            (tmp_path / "config.json").write_text(text)
        with pytest.raises(UserError) as error:
            load_run(tmp_path)
        assert says in message(error)


def test_more_images_are_drawn(generated, capsys):
    path, _ = generated
    found = generate.run(run_dir=str(path), num_images=30)
    assert found["x"].shape == (30, 8, 8, 1) and (path / "generated.png").stat().st_size > 1000
    with np.load(path / "generated.npz") as file:
        np.testing.assert_array_equal(file["y"], np.arange(30) % 10)
        np.testing.assert_array_equal(file["x"], found["x"])
    other = generate.run(run_dir=str(path), num_images=30, seed=1)
    assert np.abs(other["x"] - found["x"]).max() > 1e-3
    assert "30 images of 10 classes" in capsys.readouterr().out


def test_images_draw_no_more(learned_images):
    for chosen, says in (
        ({"run_dir": str(learned_images)}, "teacher=images"),
        ({}, "--run_dir=RUN, got nothing"),
    ):
        with pytest.raises(UserError) as error:
            generate.run(**chosen)
        assert says in message(error)


# ---------------------------------------------------------------- few steps, architectures

QUICK = {"num_learners": 3, "num_search_learners": 1, "step_sizes": [0.1], "momenta": [0.5]}


@pytest.mark.slow
def test_few_steps_of_two_runs(generated, learned_images, tmp_path, capsys):
    runs = [str(generated[0]), str(learned_images)]
    (tmp_path / "a").symlink_to(runs[0])
    (tmp_path / "b").symlink_to(runs[1])
    linked = [str(tmp_path / "a"), str(tmp_path / "b")]
    result = few_step.run(runs=linked, run_dir=str(tmp_path / "out"), **QUICK)
    series = list(dict.fromkeys(row["series"] for row in result["rows"]))
    assert series[:2] == ["a", "b"] and series[2:] == ["real, batches of 12", "real, batches of 10"]
    own = [row for row in result["rows"] if row["series"] == "a"]
    assert [row["steps"] for row in own] == [1, 2] and all(len(row["every"]) == 3 for row in own)
    assert {file.suffix for file in (tmp_path / "out").iterdir()} == {".json", ".csv", ".md", ".png"}
    out = capsys.readouterr().out
    assert "Test accuracy (%) on digits after so many steps; K = 3" in out
    # the end is what `experiments.distill` calls the accuracy of these images, of other networks
    assert abs(own[-1]["mean"] - generated[1]["test_accuracy_mean"]) < 0.3


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        ({"steps": [3]}, "steps <= 2, what the run in"),
        ({"steps": [0]}, "steps >= 1, got 0"),
        ({"momenta": []}, "at least one of momenta"),
        ({"step_sizes": []}, "at least one of step_sizes"),
        ({"runs": ["nowhere"]}, "a run directory of experiments.distill, got nowhere without config.json"),
        ({"runs": ["a", "a"]}, "different runs"),
    ],
)
def test_few_steps_refuse_bad_input(generated, tmp_path, chosen, says):
    with pytest.raises(UserError) as error:
        few_step.run(**QUICK | {"runs": [str(generated[0])], "run_dir": str(tmp_path / "out")} | chosen)
    assert says in message(error)
    assert not (tmp_path / "out").exists()


SEARCH = {"num_candidates": 3, "num_learners": 1, "num_epochs": 1, "step_sizes": [0.1]}


@pytest.mark.slow
def test_a_search_from_start_to_end(generated, tmp_path, capsys, monkeypatch):
    options = SEARCH | {"distilled": str(generated[0]), "run_dir": str(tmp_path / "nas")}
    result = nas.run(**options)
    assert len(result["rows"]) == 3 and set(result["ways"]) == {"distilled", "real", "random", "long"}
    best = max(result["rows"], key=lambda row: row["long_validation"])
    assert result["ways"]["long"]["pick"] == best["name"]
    names = {file.name for file in (tmp_path / "nas/search").iterdir()}
    assert names >= {"result.json", "rows.csv", "nas.md", "nas.png"}
    assert "Rank correlation with long training: 3 ConvNets on digits, K = 1" in capsys.readouterr().out
    monkeypatch.setattr(nas, "candidate", None)  # what is there is not measured again
    assert nas.run(**options)["rows"] == result["rows"]


def test_ranks_are_those_of_scipy_by_hand():
    scores = {"distilled": [0.1, 0.2, 0.3, 0.4], "real": [0.4, 0.3, 0.2, 0.1], "random": [0.5] * 4}
    truth = [0.2, 0.1, 0.3, 0.4]
    rows = [
        {"name": str(i), "long_validation": truth[i], "long_test": truth[i] / 2, "long_seconds": 1.0}
        | {f"{way}_validation": values[i] for way, values in scores.items()}
        | {f"{way}_seconds": 0.5 for way in scores}
        for i in range(4)
    ]
    found = nas.judged(rows)
    # one pair of six is out of order: tau = 4 / 6; squared rank differences sum to 2: rho = 1 - 12 / 60
    assert found["distilled"]["kendall"] == pytest.approx(4 / 6)
    assert found["distilled"]["spearman"] == pytest.approx(0.8)
    assert found["real"]["spearman"] == pytest.approx(-0.8) and found["random"]["kendall"] is None
    assert found["distilled"]["pick"] == "3" and found["distilled"]["pick_test"] == 0.2
    assert found["long"]["seconds"] == 4.0 and found["real"]["seconds"] == 2.0


def test_the_space_is_large_and_fits_the_images(generated):
    saved = load_run(generated[0])
    every = nas.space(saved)
    assert len(every) >= 64 and len({nas.name_of(options) for options in every}) == len(every)
    with pytest.raises(UserError) as error:
        nas.drawn(saved, 10_000, 0)
    assert f"num_candidates <= {len(every)}" in message(error)


def test_matching_has_no_steps_to_test(tmp_path):
    options = {"method": "dm", "learner": "mlp", "num_outer_steps": 1, "num_baseline_learners": 0}
    tiny_run(tmp_path / "run", **options | {"distill_epochs": None, "real_batch_size": 4})
    for script, chosen in (
        (few_step, {"runs": [str(tmp_path / "run")]}),
        (nas, {"distilled": str(tmp_path / "run")}),
    ):
        with pytest.raises(UserError) as error:
            script.run(**chosen, run_dir=str(tmp_path / "out"))
        assert "a method that trains inner steps, got dm" in message(error)
        assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------- bad input of a run with a generator


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        (
            {"curriculum": "fulll"},
            "expected one of all_shuffled, batch_shuffled, fixed, full, none, got 'fulll'",
        ),
        ({"teacher": "images", "batch_size": 4}, "batch_size left out with teacher=images, got 4"),
        ({"start": "real"}, "start left out with teacher=generator, got real"),
        ({"upsamplings": 4}, "multiples of 16 (upsamplings=4), got 8x8"),
        ({"batch_size": None, "distill_steps": 3}, "10 images in 3 equal batches"),
        ({"num_shapes": 2, "learner": "lenet", "image_size": 16}, "one of convnet, gtn, mlp, got 'lenet'"),
        ({"num_shapes": 2, "population": "fixed", "num_learners": 1}, "population=fresh with networks of"),
        ({"validate_every": 3}, "a divisor of the 2 inner steps as keep_every, got 3"),
        ({"gradient": "implicit", "validate_every": 1}, "gradient=unrolled with validate_every"),
        ({"gradient": "implicit", "learned": ["momentum"]}, "their implicit gradient is zero"),
    ],
)
def test_a_generator_refuses_bad_input(tmp_path, chosen, says):
    from experiments import distill

    options = TINY | SMALL | {"run_dir": str(tmp_path / "run")}
    if chosen.get("learner") == "lenet":
        options |= {"width": None, "depth": None}
    with pytest.raises(UserError) as error:
        distill.run(**options | chosen)
    assert says in message(error)
    assert not (tmp_path / "run").exists()
