"""Images that turn networks of one set into networks for another: distilled, compared, refused."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import message
from sklearn.datasets import load_digits
from tiny_runs import TINY

from experiments import adapt
from jaxdistill.core.checks import UserError
from jaxdistill.runs.bank_training import PretrainOptions, pretrain
from jaxdistill.runtime.progress import silent

SHORT = {
    name: value for name, value in TINY.items() if name not in ("width", "depth", "num_baseline_learners")
}
SHORT |= {
    "learner": "linear",
    "distill_epochs": 1,
    "num_eval_learners": 1,
    "num_search_learners": 1,
    "num_outer_steps": 5,
    "num_learners": 1,
    "full_data_epochs": 1,
}
SHORT |= {"num_full_learners": 1, "num_sets": 2, "num_judges": 1, "neighbors": [1], "norms": [2.0]}


def adapted(folder, run_dir, **chosen):
    """The script on digits in the mirror, for the pool in a folder."""
    places = {"source": "digits", "target": folder / "mirrored.npz", "pool": folder / "pool"}
    return adapt.run(adapt.Options(**places | chosen, run_dir=run_dir))


def target_and_pool(folder, **chosen):
    """A folder with the target, digits in the mirror, larger; and with a pool of networks for digits."""
    x, y = load_digits(return_X_y=True)
    mirrored = np.kron(x.reshape(-1, 8, 8)[:, :, ::-1], np.ones((2, 2))).astype(np.uint8) * 15
    np.savez(folder / "mirrored.npz", x=mirrored, y=y)
    with silent():
        pretrain(PretrainOptions(**chosen, run_dir=folder / "pool"))
    return folder


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    few = {"learner": "linear", "num_networks": 3, "num_test_networks": 1, "num_epochs": 1}
    return target_and_pool(tmp_path_factory.mktemp("adapt"), **few)


def test_a_pool_is_adapted_and_everything_is_written(places, tmp_path, capsys):
    result = adapted(places, tmp_path / "run", **SHORT)
    rows = {row["set"]: row for row in result["rows"]}
    assert list(rows) == [
        *("distilled", "nothing", "random real", "optimised real", "k-means", "average real"),
        "whole target set",
    ]
    assert {row["num_learners"] for row in rows.values()} == {1}
    assert result["config"]["image_shape"] == [8, 8, 1]  # those of the pool, not the 16x16 of the target
    assert result["config"]["target"] == "mirrored.npz" and result["config"]["source"] == "digits"
    printed = capsys.readouterr().out
    ahead = 100 * (rows["distilled"]["mean"] - rows["optimised real"]["mean"])
    assert f"distilled: {abs(ahead):.1f} points {'ahead of' if ahead >= 0 else 'behind'} opt" in printed
    assert "Test accuracy (%) on mirrored.npz: linear that was trained on digits" in printed
    for name in ("adapt.json", "adapt.csv", "adapt.md", "adapt.png", "k-means.npz"):
        assert (tmp_path / "run" / name).stat().st_size > 100
    for name in ("config.json", "result.json", "synthetic.npz"):
        assert (tmp_path / "run/distilled" / name).stat().st_size > 100
    assert str(places) not in (tmp_path / "run/adapt.json").read_text()
    saved = json.loads((tmp_path / "run/distilled/config.json").read_text())["config"]
    assert saved["pool_dataset"] == "digits" and saved["dataset"] == "mirrored.npz"


@pytest.mark.slow
def test_one_network_without_the_whole_set(places, tmp_path):
    chosen = SHORT | {"population": "fixed_pretrained", "num_eval_learners": 3, "full_data_epochs": 0}
    result = adapted(places, tmp_path / "run", **chosen)
    assert [row["set"] for row in result["rows"]][-1] == "average real"
    assert result["rows"][0]["num_learners"] == result["rows"][1]["num_learners"] == 1
    assert "points" in result["margins"] and "whole target set" not in result["margins"]


@pytest.mark.slow
def test_networks_are_turned_to_the_target(tmp_path):
    network = {"learner": "mlp", "width": 32, "depth": 1}
    pool = {"num_networks": 12, "num_test_networks": 2, "num_epochs": 20, "learning_rate": 0.01}
    short = {"smoke": True, "num_outer_steps": 600, "distill_epochs": 10, "num_learners": 4}
    folder = target_and_pool(tmp_path, **network, **pool)
    rows = {row["set"]: row for row in adapted(folder, tmp_path / "run", **network, **short)["rows"]}
    # networks for the source read few digits in the mirror
    assert rows["nothing"]["mean"] < 0.5 and rows["nothing"]["num_learners"] == 2
    assert rows["distilled"]["mean"] > rows["nothing"]["mean"] + 0.1
    assert rows["whole target set"]["mean"] > 0.2


def test_the_search_on_the_whole_set_has_as_many_networks_as_the_help_says(monkeypatch):
    class Stop(Exception):
        pass

    def made(learner, data, options, count):
        raise Stop(options.num_search_learners)

    monkeypatch.setattr(adapt, "of_new_networks", made)
    (text,) = re.findall(r"at most (\d+) on the whole", adapt.Options.options()["num_search_learners"].help)
    for chosen in (1, 9):
        options = adapt.Options(full_data_epochs=1, num_search_learners=chosen, num_full_learners=1)
        with silent(), pytest.raises(Stop) as stop:
            adapt.whole_set(SimpleNamespace(learner=None, data=None), options)
        assert stop.value.args[0] == min(chosen, int(text))


def test_margins_are_told_in_points():
    rows = [{"set": "distilled", "mean": 0.935}, {"set": "optimised real", "mean": 0.887}]
    rows += [{"set": "whole target set", "mean": 0.959}, {"set": "nothing", "mean": 0.99}]
    expected = "distilled: 4.8 points ahead of optimised real, 2.4 points behind whole target set"
    assert adapt.margins(rows) == expected
    told = adapt.margins([*rows, {"set": "k-means", "mean": 0.945}])  # the best of the others, too
    assert told == expected.replace(", ", ", 1.0 points behind k-means, ")


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        ({"pool": None}, "--pool=FOLDER, got none. python -m experiments.pretrain --dataset=digits "),
        ({"source": "mnist"}, "dataset: digits there, mnist here"),
        ({"learner": "mlp"}, "learner: linear there, mlp here"),
        (
            {"target": "three.npz"},
            "here. The set of the networks and the set to distill need the same",
        ),
        ({"target": "nowhere.npz"}, "an .npz file"),
        ({"population": "fresh"}, "expected one of fixed_pretrained, pretrained, got 'fresh'"),
        ({"norms": [0.0]}, "norms >= 1, got 0"),
        ({"images_per_class": 200}, "images_per_class <= 124, got 200, but class "),
        ({"neighbors": [11]}, "neighbors <= 10, the images, got [11]"),
    ],
)
def test_bad_input_starts_nothing(places, tmp_path, monkeypatch, chosen, says):
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    np.savez("three.npz", x=generator.integers(0, 255, (90, 8, 8), np.uint8), y=np.arange(90) % 3)
    with pytest.raises(UserError) as error:
        adapted(places, "run", **SHORT | chosen)
    assert says in message(error)
    assert not (tmp_path / "run").exists()
