"""The table that a run's images stand in beside sets that nobody learned, as a script."""

import json

import numpy as np
import pytest
from helpers import message
from tiny_runs import TINY

from experiments import baselines
from jaxdistill.config.option import UNSET
from jaxdistill.config.table import Config
from jaxdistill.core.checks import UserError
from jaxdistill.runs.distill import distill
from jaxdistill.runtime.export import read_synthetic

SHORT = {
    "smoke": True,
    "num_learners": 1,
    "num_sets": 2,
    "num_judges": 1,
    "neighbors": [1, 3],
    "norms": [2.0],
}
NAMES = ["distilled", "random real", "optimised real", "k-means", "average real"]


def run(**chosen):
    return baselines.run(baselines.Options(**chosen))


@pytest.fixture(scope="module")
def distilled(tmp_path_factory):
    """The folder of a run of five outer steps."""
    folder = tmp_path_factory.mktemp("baselines") / "run"
    short = TINY | {"learner": "linear", "width": UNSET, "depth": UNSET, "num_outer_steps": 5}
    distill(Config(**short), run_dir=folder, progress=False)
    return str(folder)


def test_the_table_has_every_set_under_one_protocol(distilled, tmp_path, capsys):
    folder = tmp_path / "out"
    result = run(**SHORT, run=distilled, run_dir=folder)
    rows = result["rows"]
    assert [row["set"] for row in rows] == NAMES
    for row in rows:
        assert row["num_learners"] == len(row["every"]) == 1 and 0 <= row["mean"] <= 1
        assert row["neighbors_k"] in (1, 3) and 0 < row["neighbors_mean"] <= 1
    assert rows[0]["trained_by"] == "as distilled"
    assert all(row["trained_by"].endswith(": 0.1") for row in rows[1:])
    assert set(rows[1]["validation"]) == {"one step size", "scaled schedule"}
    # one image per class: averages and cluster centres are the same
    assert rows[3]["neighbors_mean"] == rows[4]["neighbors_mean"] > 0.8
    assert [row["neighbors_sets"] for row in rows] == [1, 5, 1, 1, 1]
    assert "k-means" in capsys.readouterr().out
    for name in ("baselines.json", "baselines.csv", "baselines.md", "baselines.png"):
        assert (folder / name).stat().st_size > 100
    k_means = read_synthetic(folder / "k-means.npz")
    assert k_means.metadata["reading"]["preprocess"] == "standardise"
    assert k_means.labels.argmax(1).tolist() == list(range(10)) and k_means.metadata["dataset"] == "digits"
    assert np.asarray(read_synthetic(folder / "random_real.npz").images).shape == (10, 8, 8, 1)
    assert json.loads((folder / "baselines.json").read_text()) == json.loads(json.dumps(result))
    assert distilled not in (folder / "baselines.json").read_text()
    assert {"run": "run", "dataset": "digits", "learner": "linear", "num_sets": 2}.items() <= result[
        "config"
    ].items()


def test_without_a_run_ten_digits_are_distilled_first(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(baselines, "run_to_result", asked.append)
    monkeypatch.setattr(baselines.compare, "show", lambda result: None)
    assert baselines.distilled_digits(tmp_path, smoke=False) == str(tmp_path / "distilled")
    assert asked == [Config(num_baseline_learners=0, run_dir=tmp_path / "distilled")]


@pytest.mark.slow
def test_a_run_of_two_batches_and_of_a_matching_method(tmp_path):
    for name, options in {
        "two": {"distill_steps": 2, "images_per_class": 2, "distill_epochs": 1},
        "dm": {"method": "dm", "learner": "mlp", "start": "noise", "protocol": "dc"},
    }.items():
        distill(Config(num_outer_steps=5, width=8, **options), run_dir=tmp_path / name, progress=False)
        result = run(smoke=True, run=str(tmp_path / name), run_dir=tmp_path / "out")
        other = ["distilled, batches shuffled"] if name == "two" else []
        assert [row["set"] for row in result["rows"]] == [NAMES[0], *other, *NAMES[1:]]
        by_class = {row["set"]: row["mean"] for row in result["rows"]}
        assert by_class["k-means"] > 0.1  # chance; the classes are in the steps that they should be in
        if name == "dm":
            assert {row["trained_by"].split(":")[0] for row in result["rows"]} == {"dc"}


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        ({"dataset": "mnist"}, "dataset=digits, got mnist"),
        ({"run": "nowhere"}, "the folder of a distillation, got nowhere"),
        ({"keep": 0.0}, "keep > 0, got 0.0"),
        ({"neighbors": [0]}, "neighbors >= 1, got 0"),
        ({"neighbors": [1, 11]}, "neighbors <= 10, the images, got [1, 11]"),
        ({"norms": []}, "at least one of norms, got none"),
        ({"norms": [0.5]}, "norms >= 1, got 0.5"),
        ({"num_sets": 0}, "num_sets >= 1, got 0"),
    ],
)
def test_bad_input_starts_nothing(distilled, tmp_path, chosen, says):
    with pytest.raises(UserError) as error:
        run(**{"run": distilled, "smoke": True} | chosen, run_dir=tmp_path / "out")
    assert says in message(error)
    assert not (tmp_path / "out").exists()


def test_results_of_another_experiment_are_kept(distilled, tmp_path):
    (tmp_path / "adapt.json").write_text("{}")
    with pytest.raises(UserError, match="results of experiments"):
        run(run=distilled, smoke=True, run_dir=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["adapt.json"]
