"""Images that turn networks of one set into networks for another: distilled, compared, refused."""

import json

import numpy as np
import pytest
from helpers import message
from sklearn.datasets import load_digits

from experiments import adapt, pretrain
from jaxdistill.core.checks import UserError

NETWORK = {"learner": "mlp", "width": 32, "depth": 1}
POOL = NETWORK | {"num_networks": 12, "num_test_networks": 2, "num_epochs": 20, "learning_rate": 0.01}


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """(folder with the target: digits in the mirror, larger, and a pool of networks for it)."""
    folder = tmp_path_factory.mktemp("adapt")
    x, y = load_digits(return_X_y=True)
    mirrored = np.kron(x.reshape(-1, 8, 8)[:, :, ::-1], np.ones((2, 2))).astype(np.uint8) * 15
    np.savez(folder / "mirrored.npz", x=mirrored, y=y)
    pretrain.run(**POOL, run_dir=str(folder / "pool"))
    return folder


def options(places, **chosen):
    chosen = {
        "source": "digits",
        "target": str(places / "mirrored.npz"),
        "pool": str(places / "pool"),
    } | chosen
    return NETWORK | {"smoke": True, "num_outer_steps": 600, "distill_epochs": 10, "num_learners": 4} | chosen


@pytest.mark.slow
def test_networks_are_turned_to_the_target(places, tmp_path, capsys):
    result = adapt.run(**options(places), run_dir=str(tmp_path / "run"))
    rows = {row["set"]: row for row in result["rows"]}
    assert list(rows) == [
        *("distilled", "nothing", "random real", "optimised real", "k-means", "average real"),
        "whole target set",
    ]
    # networks for the source read few digits in the mirror
    assert rows["nothing"]["mean"] < 0.5 and rows["nothing"]["num_learners"] == 2
    assert rows["distilled"]["mean"] > rows["nothing"]["mean"] + 0.1
    assert rows["whole target set"]["mean"] > 0.2
    assert result["config"]["image_shape"] == [8, 8, 1]  # those of the pool, not the 16x16 of the target
    printed = capsys.readouterr().out
    ahead = 100 * (rows["distilled"]["mean"] - rows["optimised real"]["mean"])
    assert f"distilled: {abs(ahead):.1f} points {'ahead of' if ahead >= 0 else 'behind'} opt" in printed
    assert "Test accuracy (%) on mirrored.npz: mlp that was trained on digits" in printed
    for name in ("adapt.json", "adapt.csv", "adapt.md", "adapt.png", "distilled/synthetic.npz"):
        assert (tmp_path / "run" / name).stat().st_size > 100
    assert str(places) not in (tmp_path / "run/adapt.json").read_text()
    saved = json.loads((tmp_path / "run/distilled/config.json").read_text())["config"]
    assert saved["pool_dataset"] == "digits" and saved["dataset"] == "mirrored.npz"


def test_one_network_without_the_whole_set(places, tmp_path):
    chosen = options(places, population="fixed_pretrained", num_learners=1, full_data_epochs=0)
    result = adapt.run(**chosen | {"num_outer_steps": 5}, run_dir=str(tmp_path / "run"))
    assert [row["set"] for row in result["rows"]][-1] == "average real"
    assert result["rows"][0]["num_learners"] == result["rows"][1]["num_learners"] == 1
    assert "points" in result["margins"] and "whole target set" not in result["margins"]
    assert (tmp_path / "run/k-means.npz").exists()


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
        ({"width": 9}, "width: 32 there, 9 here"),
        (
            {"target": "three.npz"},
            "here. The set that they were trained on and the one to distill need the same",
        ),
        ({"target": "nowhere.npz"}, "an .npz file"),
        ({"population": "fresh"}, "expected one of fixed_pretrained, pretrained, got 'fresh'"),
        ({"norms": [0.0]}, "norms >= 1, got 0"),
        ({"images_per_class": 200}, "images_per_class <= 116, got 200, but class "),
        ({"neighbors": [11]}, "neighbors <= 10, the images, got [11]"),
    ],
)
def test_bad_input_starts_nothing(places, tmp_path, monkeypatch, chosen, says):
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    np.savez("three.npz", x=generator.integers(0, 255, (90, 8, 8), np.uint8), y=np.arange(90) % 3)
    with pytest.raises(UserError) as error:
        adapt.run(**options(places, **chosen), run_dir="run")
    assert says in message(error)
    assert not (tmp_path / "run").exists()
