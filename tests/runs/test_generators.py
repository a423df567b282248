"""Runs that learn a generator: what they leave, opened again, resumed; options that do not go together."""

import json
import shutil

import numpy as np
import pytest
from helpers import message, same_bits
from tiny_runs import drawn

import jaxdistill as jd
from jaxdistill.config.option import UNSET
from jaxdistill.core.checks import UserError
from jaxdistill.runs.plan import planned

SMALL = {
    "teacher": "generator",
    "batch_size": 12,
    "distill_steps": 2,
    "distill_epochs": 1,
    "generator_width": 4,
    "generator_hidden": 8,
    "learner": "mlp",
    "width": 4,
    "depth": 1,
    "num_outer_steps": 2,
    "chunk_length": 1,
    "num_learners": 1,
    "schedule": "constant",
    "real_batch_size": 16,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run in a folder, of a generator of digits."""
    linear = {"learner": "linear", "width": UNSET, "depth": UNSET}
    with drawn():
        return jd.distill(
            **SMALL | linear, run_dir=tmp_path_factory.mktemp("generator") / "run", progress=False
        )


def test_a_run_leaves_its_batches_in_order(run):
    assert "2 batches of 12" in repr(run)
    assert {file.name for file in run.path.iterdir()} >= {"images.png", "curves.png", "synthetic.npz"}
    with np.load(run.path / "synthetic.npz") as file:
        assert file["x"].shape == (24, 8, 8, 1)
        np.testing.assert_array_equal(file["order"], np.arange(24).reshape(2, 12))
        np.testing.assert_array_equal(file["y"], np.arange(24) % 10)
        assert json.loads(str(file["inner"]))["shuffle"] == "none"
        made = run.method.synthesize(run.state, run.key)
        np.testing.assert_allclose(made.x.reshape(-1, 8, 8, 1), file["x_standardised"], rtol=1e-5, atol=1e-5)


def test_a_run_is_opened_again(run, tmp_path, capsys):
    again = jd.load_run(run.path)
    assert again.config.teacher == "generator" and "note" not in capsys.readouterr().out
    same_bits(again.state.meta, run.state.meta)
    shutil.copytree(run.path, tmp_path / "run")
    file = tmp_path / "run/config.json"
    saved = json.loads(file.read_text())
    saved["config"]["num_outer_steps"] = 40
    file.write_text(json.dumps(saved))
    jd.load_run(tmp_path / "run")
    assert "run has 2 of 40 outer steps; their images are used" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("curriculum", ["none", "all_shuffled", "fixed"])
@pytest.mark.parametrize("gradient", ["unrolled", "implicit"])
def test_every_gradient_and_curriculum_runs(curriculum, gradient):
    implicit = {"max_inner_steps": 5, "on_failed_solve": "skip"} if gradient == "implicit" else {}
    options = SMALL | {"curriculum": curriculum, "gradient": gradient, "progress": False} | implicit
    run = jd.distill(**options, num_eval_learners=2)
    assert len(run.metrics) == 2
    assert all(np.isfinite(row["loss"]) for row in run.metrics if not row.get("skipped"))
    assert 0 < run.score().mean <= 1


@pytest.mark.slow
def test_networks_of_random_shape_go_on_bit_for_bit(tmp_path):
    options = SMALL | {"num_shapes": 3, "num_outer_steps": 4, "checkpoint_every": 1, "progress": False}
    whole = jd.distill(**options, run_dir=tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "parts")
    shutil.rmtree(tmp_path / "parts/checkpoints/4")
    again = jd.distill(**options, run_dir=tmp_path / "parts")
    assert [row["step"] for row in again.metrics] == [1, 2, 3, 4]
    assert again.finished.compile_seconds > 0  # of the last step's network
    same_bits(again.state, whole.state)


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        ({"curriculum": "fulll"}, "one of all_shuffled, batch_shuffled, fixed, full, none, got 'fulll'"),
        ({"teacher": "images", "batch_size": 4}, "no batch_size with teacher=images, got 4"),
        ({"start": "real"}, "no start with teacher=generator, got real"),
        ({"upsamplings": 4}, "multiples of 16 (upsamplings=4), got 8x8"),
        ({"batch_size": UNSET, "distill_steps": 3}, "10 images in 3 equal batches"),
        ({"num_shapes": 2, "learner": "lenet", "image_size": 16}, "one of convnet, gtn, mlp, got 'lenet'"),
        ({"num_shapes": 2, "population": "fixed", "num_learners": 1}, "population=fresh with networks of"),
        ({"validate_every": 3}, "a divisor of the 2 inner steps as keep_every, got 3"),
        ({"gradient": "implicit", "validate_every": 1}, "no validate_every with gradient=implicit"),
        ({"gradient": "implicit", "learned": ["momentum"]}, "their implicit gradient is zero"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_options_that_do_not_go_together(chosen, says):
    network = {"width": UNSET, "depth": UNSET} if "learner" in chosen else {}
    with pytest.raises(UserError) as error:
        planned(jd.Config(**SMALL | network | chosen))
    assert says in message(error)
