"""Runs of a user's own arrays and networks, and what `jd.distill` and `jd.load_run` refuse."""

import json
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import same_bits
from linear_runs import OWN, QUIET, SHORT, network, refused, three_classes

import jaxdistill as jd
from jaxdistill import data
from jaxdistill.config.option import UNSET
from jaxdistill.config.resolve import resolve
from jaxdistill.data import load
from jaxdistill.runs.given_images import TestedOnOptions, real_data
from jaxdistill.runs.plan import digest_standardised, learner_digest, planned


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Whatever a test writes without saying where would lie here."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def mine():
    return three_classes()


def test_own_arrays_are_distilled_and_asked_for_again(here, mine):
    run = jd.distill(data=mine, run_dir="run", **QUIET)
    assert run.images.shape == (3, 8, 8, 1) and run.labels.tolist() == [0, 1, 2]
    text = refused(jd.load_run, "run")
    assert "expected the data of run: data=SPLITS, or dataset=PATH, got none" in text
    same_bits(jd.load_run("run", data=mine).state, run.state)
    other = mine._replace(train=mine.train._replace(pixels=mine.train.x + 1))
    assert "the images that run was distilled from, as data=SPLITS, got other images in data" in refused(
        jd.load_run, "run", data=other
    )
    text = refused(jd.distill, data=other, run_dir="run", **QUIET)
    assert "dataset_sha256: " in text and len(text) < 250
    assert "no learner, since run has linear" in refused(jd.load_run, "run", data=mine, learner=network(8, 3))


def test_a_set_that_load_returned_is_the_set_of_its_name(here):
    options = {"image_size": 6, "validation_fraction": 0.3}
    named, loaded = planned(jd.Config(**SHORT, **options)), data.load("digits", **options)
    assert planned(jd.Config(**SHORT), data=loaded).identity == named.identity
    changed = loaded._replace(train=loaded.train._replace(pixels=loaded.train.x + 1))
    assert "dataset_sha256" in planned(jd.Config(**SHORT), data=changed).identity
    x = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 1), np.uint8)
    np.savez("mine.npz", x=x, y=np.arange(30) % 3)
    named = planned(jd.Config(**SHORT, dataset="mine.npz"))
    assert planned(jd.Config(**SHORT), data=data.load("mine.npz")).identity == named.identity


def test_data_are_asked_for_only_where_they_are_a_users_own(here):
    loaded = data.load("digits", image_size=6)
    run = jd.distill(data=loaded, run_dir="run", **QUIET)
    for given in ({}, {"data": loaded}, {"dataset": "digits"}):
        same_bits(jd.load_run("run", **given).state, run.state)
    text = refused(jd.load_run, "run", data=data.load("digits"))
    assert "expected the data of run: dataset=digits, got other images in data" in text

    file = here / "run/config.json"  # as earlier versions wrote it
    stored = json.loads(file.read_text())
    stored["config"] |= {"dataset_sha256": digest_standardised(loaded), "image_size": None}
    file.write_text(json.dumps(stored))
    same_bits(jd.load_run("run", data=loaded).state, run.state)
    same_bits(jd.distill(data=loaded, run_dir="run", **QUIET).state, run.state)
    text = refused(jd.load_run, "run")
    assert "the images that run was distilled from, as data=SPLITS, got other images in digits" in text


def test_an_own_network_is_distilled_for_and_asked_for_again(here):
    run = jd.distill(learner=network(), run_dir="run", **OWN)
    assert run.config.learner == "own" and run.learner.init is not None
    assert "the network of run: learner=LEARNER, got none" in refused(jd.load_run, "run")
    assert "the network that run was distilled for" in refused(
        jd.load_run, "run", learner=jd.learner("mlp", image_shape=(8, 8, 1), num_classes=10)
    )
    same_bits(jd.load_run("run", learner=network()).state, run.state)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"data": "mine", "dataset": "digits"}, "either data or dataset, got both"),
        ({"config": {"seed": 1}}, "distill: expected a Config, or options by name, got dict"),
        ({"config": "digits"}, "distill: expected a Config, or options by name, got str"),
        ({"data": (1, 2)}, "data as jaxdistill.splits makes it, or a path, got tuple"),
        ({"learner": 3}, "learner as a name or a Learner, got int"),
        ({"learner": "own"}, "a Learner object as learner, since the config names 'own', got none"),
        ({"learner": "mpl"}, "learner: expected one of alexnet"),
        ({"sede": 1}, "expected an option, got 'sede'. Near: seed"),
        ({"learner": network(), "width": 4}, "no width with learner=own, got 4"),
        ({"learner": network(6)}, "a network for images of 8x8x1 and 10 classes, got one that does not read"),
        ({"learner": network(8, 3)}, "and 10 classes, got one whose logits of 2 images are (2, 3)"),
        ({"population": "pretrained"}, "pool=FOLDER, got none"),
        ({"method": "mtt", "real_batch_size": UNSET}, "experiments.experts --dataset=digits"),
        ({"run_dir": "file/run"}, "a directory to write to"),
        ({"run_dir": "thesis"}, "thesis with chapter.tex in it"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_bad_input_is_one_line_and_nothing_is_written(here, mine, options, says):
    (here / "file").write_text("mine")
    (here / "thesis").mkdir()
    (here / "thesis/chapter.tex").write_text("mine")
    options = options | ({"data": mine} if options.get("data") == "mine" else {})
    config = (options.pop("config"),) if "config" in options else ()
    assert says in refused(jd.distill, *config, **OWN | options)


def test_what_would_change_the_given_data_is_refused(here, mine):
    for name, value in {"image_size": 4, "data_dir": "there", "manual_dir": "there"}.items():
        assert f"no {name} beside data, got {value}" in refused(
            jd.distill, data=mine, **QUIET | {name: value}
        )


def test_settings_of_given_data_are_those_of_their_size():
    """A step size above the bound that small images have, and 28x28 pixels have not."""
    x, y = np.random.default_rng(0).normal(size=(30, 28, 28, 1)), np.arange(30) % 3
    plan = planned(jd.Config(inner_learning_rate=3.0), data=jd.splits(x, y, x, y))
    assert plan.config.max_inner_learning_rate == 0


def test_an_own_network_of_other_units_is_another_run(here):
    networks = [
        jd.learner("mlp", image_shape=(8, 8, 1), num_classes=10, width=4, depth=1, activation=activation)
        for activation in ("relu", "tanh")
    ]
    jd.distill(learner=networks[0], run_dir="run", **OWN)
    assert "learner_sha256" in refused(jd.distill, learner=networks[1], run_dir="run", **OWN)


def test_an_own_network_of_other_arrays_is_another_network():
    net = jd.learner("linear", image_shape=(8, 8, 1), num_classes=10)
    filters = np.random.default_rng(0).normal(size=(2, 1, 8, 8, 1))
    info = load("digits").info
    frozen = [
        net._replace(apply=lambda p, x, f=f: net.apply(p, x * jnp.asarray(f, jnp.float32))) for f in filters
    ]
    assert learner_digest(frozen[0], info) != learner_digest(frozen[1], info)
    assert learner_digest(frozen[0], info) == learner_digest(frozen[0], info)


def test_a_set_named_by_its_path_is_read_as_for_the_run(here):
    y = np.arange(40) % 2
    np.savez(here / "mine.npz", x=np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1), np.uint8), y=y)
    saved = {"dataset": "mine.npz", "reading": {"test_fraction": 0.4}}
    file = SimpleNamespace(metadata=saved, pixels=np.zeros((2, 8, 8, 1)), order=None)
    for name in ("mine.npz", str(here / "mine.npz")):
        _, found = real_data(resolve(TestedOnOptions(dataset=name)), file, None, None)
        assert len(found.test.y) == 16
    _, found = real_data(resolve(TestedOnOptions()), file, None, here / "mine.npz")
    assert len(found.test.y) == 16


def test_folders_that_hold_no_run(here):
    assert "the folder of a distillation, got none without" in refused(jd.load_run, "none")
    (here / "empty").mkdir()
    assert "got empty without config.json" in refused(jd.load_run, here / "empty").replace(f"{here}/", "")
    (here / "broken").mkdir()
    (here / "broken/config.json").write_text("{")
    assert "a readable broken/config.json" in refused(jd.load_run, "broken")
    needed = {"method": "dd", "dataset": "digits", "learner": "mlp", "population": "fresh"}
    for config, says in (
        ({"method": "dd", "learner": "mlp"}, "some/config.json, got one without dataset, population"),
        (needed, "a checkpoint in some, got none yet"),
        (needed | {"warmth": 2}, "options that this version knows, got warmth"),
    ):
        (here / "some").mkdir(exist_ok=True)
        (here / "some/config.json").write_text(json.dumps({"config": config}))
        assert says in refused(jd.load_run, "some")


@pytest.mark.parametrize("text", ["[]", "{}", '{"config": null}', '{"config": []}'])
def test_a_damaged_config_is_named(here, text):
    (here / "run").mkdir()
    (here / "run/config.json").write_text(text)
    assert 'an object under "config" in run/config.json, got ' in refused(jd.load_run, "run")
