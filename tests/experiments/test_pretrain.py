"""A pool of networks as a script: what is trained, saved, resumed and refused."""

import json

import jax
import numpy as np
import pytest
from helpers import message, same_bits

from experiments import pretrain
from jaxdistill.config import build
from jaxdistill.config.resolve import resolve
from jaxdistill.config.table import Config
from jaxdistill.core.checks import UserError
from jaxdistill.data import load
from jaxdistill.evaluation import accuracy_on
from jaxdistill.methods.recipe import Facts
from jaxdistill.runs.banks import load_bank
from jaxdistill.runtime.checkpoint import Checkpoints

NETWORK = {"learner": "mlp", "width": 8, "depth": 1}
POOL = NETWORK | {"num_networks": 4, "num_test_networks": 1, "num_epochs": 4, "learning_rate": 0.01}


def trained(folder, **chosen):
    return pretrain.run(pretrain.Options(**POOL | chosen, run_dir=folder))


def bank_of(folder):
    """(the pool in a folder, its data, its network)."""
    data = load("digits")
    chosen = Config(population="pretrained", pool=folder, **NETWORK)
    config = resolve(chosen, Facts(data.info.image_shape, 10))
    network = build.learner(config, data.info)
    return load_bank(config, network, data.info), data, network


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(folder, result) of four tiny networks."""
    folder = tmp_path_factory.mktemp("pool") / "run"
    return folder, trained(folder)


def test_networks_learn_and_some_are_held_out(made, capsys):
    folder, result = made
    bank, data, net = bank_of(folder)
    accuracies = [
        float(accuracy_on(net, jax.tree.map(lambda a, k=k: a[k], part), data.test))
        for part, count in ((bank.given, 3), (bank.held_out, 1))
        for k in range(count)
    ]
    np.testing.assert_allclose(result["test_accuracies"], accuracies, atol=1e-6)
    assert min(accuracies) > 0.3  # chance is 0.1
    assert trained(folder) == result  # nothing is left to do
    printed = capsys.readouterr().out
    assert "4 networks on digits: mlp, 4 epochs, cpu; " in printed
    assert "test accuracy of 3 networks" in printed and "of 1 held out" in printed
    saved = json.loads((folder / "config.json").read_text())
    assert saved["experiment"] == "pretrain" and saved["chosen"] == POOL
    assert saved["config"]["image_shape"] == [8, 8, 1] and saved["config"]["group_size"] == 1


@pytest.mark.parametrize(("side", "expected"), [(8, ("mlp", None)), (28, ("lenet", "xavier"))])
def test_without_an_option_the_network_is_that_of_dd(side, expected):
    facts = Facts((side, side, 1), 10)
    for cls in (pretrain.Options, Config):
        found = resolve(cls(), facts)
        assert (found.learner, found.initialization) == expected
    assert resolve(pretrain.Options(learner="convnet"), facts).initialization is None


def test_a_network_is_the_same_in_any_group_and_after_a_stop(made, tmp_path, monkeypatch):
    save = Checkpoints.save

    def stop(self, step, state):
        if step == 2:
            raise KeyboardInterrupt
        save(self, step, state)

    chosen = {"group_size": 2, "strategy": "map"}
    monkeypatch.setattr(Checkpoints, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "run", **chosen)
    with pytest.raises(UserError) as error:
        bank_of(tmp_path / "run")
    assert "all 4 networks in" in message(error)
    monkeypatch.setattr(Checkpoints, "save", save)
    trained(tmp_path / "run", **chosen)
    one_by_one, pairs = bank_of(made[0])[0], bank_of(tmp_path / "run")[0]
    for a, b in zip(jax.tree.leaves(one_by_one), jax.tree.leaves(pairs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)  # other programs: to rounding


def test_a_folder_of_an_older_version_is_a_pool_and_is_resumed(made, tmp_path):
    """It names no experiment, and holds null for every option of a network that nobody chose."""
    folder, result = tmp_path / "run", made[1]
    folder.mkdir()
    (folder / "groups").symlink_to(made[0] / "groups")
    saved = json.loads((made[0] / "config.json").read_text())
    old = {"norm": None, "pooling": None, "kernel": None} | saved["config"]
    (folder / "config.json").write_text(json.dumps({"config": old, "environment": saved["environment"]}))
    (folder / "result.json").write_text("{}")
    same_bits(bank_of(folder)[0], bank_of(made[0])[0])
    assert trained(folder) == result
    with pytest.raises(UserError, match="num_epochs: 4 there, 5 here"):
        trained(folder, num_epochs=5)


def test_a_network_that_diverges_is_not_saved(tmp_path):
    with pytest.raises(UserError) as error:
        trained(tmp_path / "run", learning_rate=1e30)
    assert "networks with finite weights, got NaN. Lower learning_rate." in message(error)


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        ({"num_test_networks": 4}, "num_test_networks < num_networks = 4, got 4"),
        ({"num_test_networks": 0}, "num_test_networks >= 1, got 0"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"learner": "mlpp"}, "expected one of"),
    ],
)
def test_bad_input_starts_nothing(tmp_path, chosen, says):
    with pytest.raises(UserError) as error:
        trained(tmp_path / "run", **chosen)
    assert says in message(error)
    assert not (tmp_path / "run").exists()
