"""Runs on whitened images: what their file holds, and how it is evaluated."""

import json

import numpy as np
import pytest
from helpers import message

import jaxdistill as jd
from experiments import generate
from jaxdistill.config.resolve import resolve
from jaxdistill.core.checks import UserError
from jaxdistill.runs.banks import load_bank
from jaxdistill.runs.distill import content_of
from jaxdistill.runs.evaluate import EvaluateOptions, prepared
from jaxdistill.runs.generate import Generated
from jaxdistill.runs.given_images import standardised
from jaxdistill.runtime.export import read_synthetic, write_synthetic

SHORT = {
    "learner": "linear",
    "distill_epochs": 2,
    "num_outer_steps": 2,
    "num_learners": 1,
    "real_batch_size": 16,
    "progress": False,
}


@pytest.fixture(scope="module")
def run():
    return jd.distill(dataset="digits", preprocess="zca", start="real", **SHORT)


@pytest.fixture(scope="module")
def file(run, tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "synthetic.npz"
    write_synthetic(path, **content_of(run))
    return path


def test_a_file_is_evaluated_on_the_data_of_its_run(run, file, capsys):
    job = prepared(file, "linear", EvaluateOptions())
    assert job.config["preprocess"] == run.plan.identity["preprocess"] == "zca"
    assert job.data.info == run.data.info and job.data.info.preprocess == "zca"
    for name in ("train", "validation", "test"):
        np.testing.assert_array_equal(getattr(job.data, name).x, getattr(run.data, name).x)
    np.testing.assert_array_equal(job.images.x, run.batch.x)
    assert read_synthetic(file).whitening == run.data.info.whitening
    assert "whitened" not in capsys.readouterr().out


def test_numpy_alone_whitens_and_undoes_it(run, file):
    with np.load(file) as arrays:
        u, s, mean = arrays["zca_vectors"], arrays["zca_scales"], arrays["zca_mean"]
        x, z = arrays["x"], arrays["x_standardised"].reshape(10, 64)
        standardised = ((x / arrays["scale"] - arrays["mean"]) / arrays["std"]).reshape(10, 64)
    np.testing.assert_allclose((standardised - mean) @ (u / s) @ u.T, z, atol=1e-4)
    np.testing.assert_allclose(z @ (u * s) @ u.T + mean, standardised, atol=1e-4)
    np.testing.assert_array_equal(run.images, x)


def test_images_are_whitened_as_the_data_are(run, file, capsys):
    digits = jd.load("digits")
    job = prepared(file, "linear", EvaluateOptions(preprocess="standardise"))
    assert "note: the images were not whitened as digits; they are" in capsys.readouterr().out
    np.testing.assert_array_equal(job.data.test.x, digits.test.x)
    np.testing.assert_allclose(job.images.x, jd.standardise(run.images, digits.info), atol=1e-5)
    raw = file.with_name("raw.npz")
    np.savez(raw, x=run.images, y=run.labels, scale=16.0)
    job = prepared(raw, "linear", EvaluateOptions(dataset="digits", preprocess="zca"))
    np.testing.assert_allclose(job.images.x, run.batch.x, atol=1e-4)


def test_a_run_of_whitened_arrays_says_so():
    x = np.random.default_rng(0).normal(size=(60, 8, 8, 1)).astype(np.float32)
    data = jd.splits(x, np.arange(60) % 3, x[:10], np.arange(10) % 3, preprocess="zca", name="mine")
    run = jd.distill(data=data, **SHORT)
    assert content_of(run)["reading"]["preprocess"] == "zca"
    with pytest.raises(UserError) as error:
        jd.distill(data=data, preprocess="zca", **SHORT)
    assert "no preprocess beside data, got zca" in message(error)


def test_networks_of_images_that_were_not_whitened_are_refused(run, tmp_path):
    info = run.data.info
    saved = {"dataset": "digits", "learner": "linear", "num_networks": 1, "group_size": 1}
    saved |= {"image_shape": list(info.image_shape), "class_names": list(info.class_names)}
    (tmp_path / "config.json").write_text(json.dumps({"config": saved}))
    config = resolve(jd.Config(method="dd", population="pretrained", learner="linear", pool=str(tmp_path)))
    with pytest.raises(UserError) as error:
        load_bank(config, run.learner, info)
    assert "preprocess: standardise there, zca here" in message(error)
    assert "--preprocess=zca" in message(error)
    with pytest.raises(UserError) as error:  # an older folder is of images that were not whitened
        load_bank(config, run.learner, info._replace(whitening=None))
    assert "an unfinished folder" in message(error)


def test_a_file_of_generated_images_says_how_they_are_whitened(run, tmp_path, monkeypatch):
    made = Generated(run.images, run.synthetic.images, run.labels)
    monkeypatch.setattr(generate, "load_run", lambda *given, **options: run)
    monkeypatch.setattr(generate, "generate", lambda *given, **options: made)
    generate.run(generate.Options(run_dir=tmp_path))
    file = read_synthetic(tmp_path / "generated.npz")
    np.testing.assert_array_equal(standardised(file, run.data.info).x, run.batch.x)
    assert file.whitening == run.data.info.whitening


@pytest.mark.parametrize("name", ["mean", "vectors"])
def test_a_damaged_whitening_is_one_line(file, tmp_path, name):
    with np.load(file) as arrays:
        changed = dict(arrays)
    changed[f"zca_{name}"] = changed[f"zca_{name}"][:3]
    np.savez(tmp_path / "synthetic.npz", **changed)
    with pytest.raises(UserError) as error:
        read_synthetic(tmp_path / "synthetic.npz")
    assert f"zca_{name} finite, of shape (64,{' 64)' if name == 'vectors' else ')'}" in message(error)
