"""`experiments.nas`: candidates are drawn, measured in every way, ranked, and not measured twice."""

import json

import jax
import numpy as np
import pytest
from helpers import message
from tiny_runs import TINY

from experiments.nas import __main__ as nas
from experiments.nas import architectures
from experiments.nas.__main__ import Options
from jaxdistill.config.option import UNSET
from jaxdistill.config.resolve import filled, resolve
from jaxdistill.config.table import Config
from jaxdistill.core.checks import UserError
from jaxdistill.data import load
from jaxdistill.evaluation import few_steps
from jaxdistill.learners import learner
from jaxdistill.methods.recipe import Facts
from jaxdistill.runs import distill as runs_of

SHORT = {name: value for name, value in TINY.items() if name not in ("width", "depth")}
SHORT |= {"learner": "linear", "num_outer_steps": 4, "chunk_length": 2, "num_learners": 1}
SEARCH = {"num_candidates": 3, "num_learners": 1, "num_epochs": 1, "batch_size": 512, "step_sizes": [0.1]}


def distill(path, **changed):
    """The folder of a run of ten images, for T = 2 steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs_of, "export", lambda run, directory: None)  # pictures take longer than the run
        runs_of.distill(Config(**SHORT | changed), run_dir=path, progress=False)
    return str(path)


@pytest.fixture(scope="module")
def distilled(tmp_path_factory):
    return distill(tmp_path_factory.mktemp("run") / "run")


@pytest.fixture(scope="module")
def info():
    return load("digits").info


def check_search(result, folder, out):
    assert len(result["rows"]) == 3 and set(result["ways"]) == {*nas.WAYS, "long"}
    best = max(result["rows"], key=lambda row: row["long_validation"])
    assert result["ways"]["long"]["pick"] == best["name"]
    for row in result["rows"]:
        assert {f"{way}_step_size" for way in ("real", "random", "long")} <= row.keys()
        assert "distilled_step_size" not in row and row["long_seconds"] > 0
        assert row["again_step_size"] == row["long_step_size"]
    assert {"result.json", "rows.csv", "nas.md", "nas.png"} <= {file.name for file in folder.iterdir()}
    assert json.loads((folder / "result.json").read_text())["rows"] == result["rows"]
    assert "Rank correlation with long training: 3 ConvNets on digits, K = 1" in out


def test_a_search_of_linear_networks(distilled, tmp_path, capsys, monkeypatch):
    net = learner("linear", image_shape=(8, 8, 1), num_classes=10)  # one program for all candidates
    monkeypatch.setattr(nas, "made", lambda info, network: net)
    options = Options(**SEARCH, distilled=distilled, run_dir=tmp_path)
    result = nas.run(options)
    check_search(result, tmp_path / "search", capsys.readouterr().out)
    for row in result["rows"]:
        assert row["long_validation"] > row["distilled_validation"]  # an epoch of digits, 4 outer steps
    more = nas.run(options.replace(num_candidates=4))["rows"]
    assert more[:3] == result["rows"] and len(more) == 4
    monkeypatch.setattr(nas, "candidate", None)  # what is there is not measured again
    assert nas.run(options)["rows"] == result["rows"]
    next((tmp_path / "search/candidates").iterdir()).write_text("{")
    with pytest.raises(UserError, match=r"saved results: expected a readable .*candidates"):
        nas.run(options)
    other = distill(tmp_path / "other/run", seed=1)  # another run of the same folder name
    with pytest.raises(UserError, match=r"distilled_sha256: [0-9a-f]{8}"):
        nas.run(options.replace(distilled=other))


@pytest.mark.slow
def test_a_search_of_convnets(distilled, tmp_path, capsys):
    result = nas.run(Options(**SEARCH, distilled=distilled, run_dir=tmp_path))
    check_search(result, tmp_path / "search", capsys.readouterr().out)
    assert len({row["long_validation"] for row in result["rows"]}) > 1


def test_networks_images_and_training_have_streams_of_their_own(monkeypatch):
    used = set()

    def note(purpose, key):
        used.add((purpose, str(jax.random.key_data(key))))

    def draw(key, count):
        note("learners", key)
        return np.zeros((count, 1))

    def subsets(key, count):
        note("images", key)
        return np.zeros((count, 1), np.int32)

    def train(params, images, rows, values, split, key):
        note("training", key)
        return np.asarray([0.5])

    monkeypatch.setattr(nas, "new_networks", lambda net: draw)
    monkeypatch.setattr(nas, "evaluator", lambda *arguments, **options: train)
    trial = nas.Trial(None, load("digits"), filled(Options(num_learners=1)), None)
    training = nas.training_by(few_steps(10, num_steps=2, batch_size=5), subsets)
    for name in ("first", "second"):
        trial.run("real", training, [0.1], name, test=True)
    assert len(used) == len({key for _, key in used}) == 6  # three purposes, two draws; one for both splits


def test_ranks_are_those_of_scipy_by_hand():
    scores = {"distilled": [0.1, 0.2, 0.3, 0.4], "real": [0.4, 0.3, 0.2, 0.1], "random": [0.5] * 4}
    scores["again"] = [0.3, 0.2, 0.4, 0.5]
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
    assert found["again"]["spearman"] == pytest.approx(1)
    assert found["distilled"]["pick"] == "3" and found["distilled"]["pick_test"] == 0.2
    assert found["long"]["seconds"] == 4.0 and found["real"]["seconds"] == 2.0


def test_the_space_is_large_and_fits_the_images(info):
    every = architectures.space(info)
    assert len(every) >= 64 and len({architectures.name_of(network) for network in every}) == len(every)
    assert len(architectures.space(info._replace(image_shape=(4, 4, 1)))) < len(
        every
    )  # no room for three poolings
    drawn = architectures.drawn(info, 5, seed=0)
    assert len({architectures.name_of(network) for network in drawn}) == 5
    assert drawn == architectures.drawn(info, 5, seed=0) != architectures.drawn(info, 5, seed=1)
    with pytest.raises(UserError) as error:
        architectures.drawn(info, 10_000, 0)
    assert f"num_candidates <= {len(every)}" in message(error)


def test_the_run_of_the_default_can_be_made(info):
    for config in (nas.DISTILLED, nas.DISTILLED.replace(**nas.SHORT)):
        resolve(config, Facts(info.image_shape, 10))


def test_images_of_a_matching_run_are_trained_on_for_a_few_steps(tmp_path, monkeypatch):
    matching = {"method": "dm", "augment": ["crop"], "images_per_class": 2, "distill_epochs": UNSET}
    config = Config(**SHORT | matching)
    monkeypatch.setattr(runs_of, "export", lambda run, directory: None)
    run = runs_of.distill(config, run_dir=tmp_path / "run", progress=False)
    trainings = nas.trainings_of(run, filled(Options(num_steps=3, few_batch_size=5)))
    size, key = len(run.data.train.y), jax.random.key(0)
    assert trainings.images.x.shape[0] == size + 20
    way = trainings.ways["distilled"]
    assert (
        way.searched and way.protocol.order(key).shape == (3, 5) and way.first_step.order(key).shape == (1, 5)
    )
    rows = way.subsets(key, 2)
    assert rows.shape == (2, 20)
    np.testing.assert_array_equal(trainings.images.x[rows[1]], run.batch.x)  # no real image among them
    assert len(set(trainings.ways["random"].subsets(key, 1)[0].tolist())) == 20


@pytest.mark.parametrize("name", ["num_steps", "few_batch_size"])
def test_a_run_with_steps_of_its_own_takes_none_of_others(distilled, tmp_path, name):
    with pytest.raises(UserError) as error:
        nas.run(Options(**SEARCH, distilled=distilled, **{name: 3}, run_dir=tmp_path / "nas"))
    assert f"no {name} beside a run of dd, which has its own, where it has no effect, got 3" in message(error)
