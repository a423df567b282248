"""Experts as a script: what is trained and saved epoch by epoch, defaults, damage, what is refused."""

import shutil

import jax
import numpy as np
import pytest
from helpers import damage, message, same_bits

from experiments import experts
from jaxdistill.config import build
from jaxdistill.config.resolve import resolve
from jaxdistill.config.table import Config, NetworkOptions
from jaxdistill.core.checks import UserError
from jaxdistill.data import load
from jaxdistill.methods.recipe import Facts
from jaxdistill.runs.banks import GROUPS_FOLDER, load_bank

NETWORK = {"learner": "mlp", "width": 8, "depth": 1}
EXPERTS = NETWORK | {"num_experts": 2, "group_size": 1, "num_epochs": 4, "learning_rate": 0.5}
EXPERTS |= {"augment": ["crop"]}  # all operations take longer to compile than the rest


def trained(folder, **chosen):
    return experts.run(experts.Options(**EXPERTS | chosen, run_dir=folder))


def bank_of(folder):
    info = load("digits").info
    config = resolve(Config(method="mtt", experts=folder, **NETWORK), Facts(info.image_shape, 10))
    return load_bank(config, build.learner(config, info), info).given


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(folder, result) of two tiny experts."""
    folder = tmp_path_factory.mktemp("experts") / "run"
    return folder, trained(folder)


def test_experts_learn_and_are_saved_epoch_by_epoch(made, capsys):
    folder, result = made
    assert len(result["test_accuracies"]) == len(result["validation_accuracies"]) == 2
    assert np.mean(result["test_accuracies"]) > 0.3  # chance is 0.1
    bank = bank_of(folder)
    leaves = jax.tree.leaves(bank)
    assert {leaf.shape[:2] for leaf in leaves} == {(2, 5)}
    assert result["bytes"] == sum(4 * leaf.size for leaf in leaves)
    kernel = np.asarray(bank["params"]["dense1"]["kernel"])
    assert np.abs(np.diff(kernel, axis=1)).max((1, 2, 3)).min() > 1e-4  # every one moves
    assert np.abs(kernel[0] - kernel[1]).max() > 1e-2
    assert trained(folder) == result  # nothing is left to do
    printed = capsys.readouterr().out
    assert "2 experts on digits: mlp, 4 epochs, cpu; " in printed and "test accuracy of 2 experts" in printed


@pytest.mark.parametrize("facts", [Facts((8, 8, 1), 10), Facts((28, 28, 1), 10)])
@pytest.mark.parametrize("chosen", [{}, {"learner": "mlp"}, {"depth": 1}])
def test_without_an_option_experts_are_those_that_mtt_follows(facts, chosen):
    found, student = resolve(experts.Options(**chosen), facts), resolve(Config(method="mtt", **chosen), facts)
    for name in NetworkOptions.options():
        assert getattr(found, name) == getattr(student, name), name
    assert found.learner == chosen.get("learner", "convnet")
    assert found.learning_rate == student.inner_learning_rate == (0.1 if facts.small else 0.01)
    assert found.run_dir == student.experts


@pytest.mark.parametrize(("number", "says"), [(1, "Delete 1 ... 2 there, then"), (2, "Delete 2 there, then")])
def test_a_damaged_group_is_named_and_trained_again(made, tmp_path, number, says):
    copy = shutil.copytree(made[0], tmp_path / "run")
    damage(copy / GROUPS_FOLDER / str(number))
    for ask in (bank_of, trained):
        with pytest.raises(UserError) as error:
            ask(copy)
        assert f"{number} that does not restore (" in message(error) and says in message(error)
    if number == 2:
        shutil.rmtree(copy / GROUPS_FOLDER / "2")
        trained(copy)
        same_bits(bank_of(copy), bank_of(made[0]))


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        ({"learning_rate": 0.0}, "learning_rate > 0.0, got 0.0"),
        ({"num_experts": 0}, "num_experts >= 1, got 0"),
        ({"augment": ["krop"]}, "got 'krop'"),
        ({"learner": "convmet"}, "got 'convmet'"),
    ],
)
def test_bad_input_starts_nothing(tmp_path, chosen, says):
    with pytest.raises(UserError) as error:
        trained(tmp_path / "run", **chosen)
    assert says in message(error)
    assert not (tmp_path / "run").exists()
