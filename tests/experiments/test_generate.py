"""`jd.generate` and `experiments.generate`: more images of a run's generator."""

import jax
import numpy as np
import pytest
from helpers import message

import jaxdistill as jd
from experiments import generate
from jaxdistill.core.checks import UserError
from jaxdistill.runs.distill import opened
from jaxdistill.runs.plan import planned
from jaxdistill.runtime.checkpoint import Checkpoints

GENERATOR = {"teacher": "generator", "batch_size": 12, "distill_steps": 2, "distill_epochs": 1}
GENERATOR |= {"generator_width": 4, "generator_hidden": 8}


def folder_of(path, **options):
    """The folder of a run of digits that is at its start: enough to be opened."""
    plan = planned(jd.Config(learner="linear", num_learners=1, **options))
    with opened(plan, path) as directory, Checkpoints(directory.checkpoints) as checkpoints:
        checkpoints.save(0, jax.jit(plan.method.init)(plan.key))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of a run with a generator."""
    return folder_of(tmp_path_factory.mktemp("generator") / "run", **GENERATOR)


def generated(**options):
    return generate.run(generate.Options(**options))


def test_more_images_are_drawn(folder, capsys):
    found = generated(run_dir=folder, num_images=30)
    assert "30 images of 10 classes: " in capsys.readouterr().out
    assert found["x"].shape == (30, 8, 8, 1) and (folder / "generated.png").stat().st_size > 1000
    with np.load(folder / "generated.npz") as file:
        np.testing.assert_array_equal(file["y"], np.arange(30) % 10)
        np.testing.assert_array_equal(file["x"], found["x"])
        np.testing.assert_array_equal(file["x_standardised"], found["x_standardised"])
        again = file["x_standardised"] * file["std"] + file["mean"]  # NumPy alone gives the pixels
        np.testing.assert_allclose(again * file["scale"], file["x"], atol=1e-4)
        assert file["class_names"].tolist() == list("0123456789")
    run = jd.load_run(folder)
    other = jd.generate(run, 30, seed=1)
    np.testing.assert_allclose(jd.standardise(other.pixels, run.data.info), other.standardised, atol=1e-5)
    assert other.labels.tolist() == found["y"].tolist()
    assert np.abs(other.pixels - found["x"]).max() > 1e-3
    own = jax.jit(run.method.synthesize)(run.state, run.key)
    assert np.abs(other.standardised[:12] - own.x[0]).max() > 1e-4  # of other noise than the run's
    np.testing.assert_array_equal(jd.generate(run, 30).pixels, found["x"])


def test_what_cannot_be_drawn_is_one_line(folder, tmp_path):
    folder_of(tmp_path / "run")
    for chosen, says in (
        (
            {"run_dir": tmp_path / "run"},
            f"a run with teacher=generator, got teacher=images in {tmp_path}/run",
        ),
        ({"run_dir": folder, "num_images": 0}, "num_images >= 1, got 0"),
        ({}, "--run_dir=RUN, got nothing"),
        ({"run_dir": tmp_path}, f"the folder of a distillation, got {tmp_path} without"),
    ):
        with pytest.raises(UserError) as error:
            generated(**chosen)
        assert says in message(error)
    with pytest.raises(UserError) as error:
        jd.generate(jd.load_run(folder), 0)
    assert "a whole number num_images >= 1, got 0" in message(error)
    with pytest.raises(UserError, match=r"generate: expected seed as a whole number .*, got 1\.5"):
        jd.generate(jd.load_run(folder), 1, seed=1.5)
