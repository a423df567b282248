"""Experts and what follows them, as scripts: made, gone on with, matched, refused where they do not fit."""

import shutil

import jax
import numpy as np
import pytest
from helpers import damage, message, same_bits
from tiny_runs import tiny_run

from experiments import banks, distill, experts
from experiments.options import complete
from experiments.saved import load_run
from jaxdistill.core.checks import UserError
from jaxdistill.runtime.checkpoint import Checkpoints

NETWORK = {"learner": "mlp", "width": 8, "depth": 1}
EXPERTS = NETWORK | {"num_experts": 3, "group_size": 2, "num_epochs": 4, "learning_rate": 0.5}
MTT = NETWORK | {"method": "mtt", "start_epochs": 2, "expert_epochs": 2, "num_outer_steps": 10}
MTT |= {"outer_learning_rate": 10.0, "num_learners": 1, "num_baseline_learners": 0, "distill_epochs": 3}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(folder, result) of three tiny experts."""
    folder = tmp_path_factory.mktemp("experts") / "run"
    return folder, experts.run(**EXPERTS, run_dir=str(folder))


def bank_of(folder):
    config = complete(distill.GROUPS, MTT | {"experts": str(folder)})
    info = distill.build.splits(config).info
    return banks.load_bank(config, config, distill.build.learner(config, info), info).given


def test_experts_learn_and_are_kept_epoch_by_epoch(made, capsys):
    folder, result = made
    assert len(result["test_accuracies"]) == len(result["validation_accuracies"]) == 3
    assert np.mean(result["test_accuracies"]) > 0.3  # chance is 0.1
    bank = bank_of(folder)
    leaves = jax.tree.leaves(bank)
    assert {leaf.shape[:2] for leaf in leaves} == {(3, 5)} and result["bytes"] == sum(
        4 * leaf.size for leaf in leaves
    )
    kernel = np.asarray(bank["params"]["dense1"]["kernel"])
    assert np.abs(np.diff(kernel, axis=1)).max((1, 2, 3)).min() > 1e-4  # every one moves
    assert np.abs(kernel[0] - kernel[1]).max() > 1e-2 and np.abs(kernel[1] - kernel[2]).max() > 1e-2
    again = experts.run(**EXPERTS, run_dir=str(folder))  # nothing is left to do
    assert again == result and "3 experts on digits: mlp, 4 epochs, cpu; " in capsys.readouterr().out


def test_what_is_chosen_stays_in_a_smoke_run(tmp_path):
    result = experts.run(smoke=True, num_epochs=1, learner="mlp", width=4, run_dir=str(tmp_path / "run"))
    assert {n: result["config"][n] for n in ("num_epochs", "width", "depth", "num_experts")} == {
        "num_epochs": 1,
        "width": 4,
        "depth": 1,
        "num_experts": 2,
    }


def test_a_stopped_run_goes_on_with_the_next_group(made, tmp_path, monkeypatch):
    save = Checkpoints.save

    def stop(self, step, state):
        if step == 2:
            raise KeyboardInterrupt
        save(self, step, state)

    monkeypatch.setattr(Checkpoints, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        experts.run(**EXPERTS, run_dir=str(tmp_path / "run"))
    with pytest.raises(UserError) as error:
        bank_of(tmp_path / "run")
    assert "all 3 experts in" in message(error)
    monkeypatch.setattr(Checkpoints, "save", save)
    experts.run(**EXPERTS, run_dir=str(tmp_path / "run"))
    same_bits(bank_of(tmp_path / "run"), bank_of(made[0]))


@pytest.mark.parametrize(("number", "says"), [(1, "Delete 1 ... 2 there, then"), (2, "Delete 2 there, then")])
def test_a_damaged_group_is_told_and_made_again(made, tmp_path, number, says):
    copy = shutil.copytree(made[0], tmp_path / "run")
    groups = copy / banks.GROUPS_FOLDER
    damage(groups / str(number))
    for ask in (lambda: bank_of(copy), lambda: experts.run(**EXPERTS, run_dir=str(copy))):
        with pytest.raises(UserError) as error:
            ask()
        assert f"{number} that does not restore (" in message(error) and says in message(error)
    for deleted in range(number, 3):
        shutil.rmtree(groups / str(deleted))
    experts.run(**EXPERTS, run_dir=str(copy))
    same_bits(bank_of(copy), bank_of(made[0]))


def test_a_run_follows_experts_and_is_evaluated_with_its_step_size(made, tmp_path):
    result, printed = tiny_run(tmp_path / "run", **MTT, experts=str(made[0]))
    step_size = result["test_accuracy_step_size"]
    assert result["protocol"] == "dsa" and f"dsa, step size {step_size:.3g}" in printed and step_size != 0.01
    assert len(result["config"]["experts_sha256"]) == 64 and "experts" not in result["config"]
    with np.load(tmp_path / "run/synthetic.npz") as file:
        np.testing.assert_allclose(file["hyper_learning_rate"], step_size)
    saved = load_run(tmp_path / "run")
    assert int(saved.state.step) == 10


@pytest.mark.slow
@pytest.mark.parametrize("gradient", ["accumulated", "truncated", "implicit"])
def test_any_gradient_follows_experts(made, tmp_path, gradient):
    options = MTT | {"gradient": gradient, "experts": str(made[0])}
    if gradient == "implicit":
        options |= {"distill_epochs": None}
        options |= {
            "learned": [],
            "max_inner_steps": 5,
            "damping": 10.0,
            "outer_learning_rate": 0.1,
            "hyper_learning_rate": None,
        }
    if gradient == "truncated":
        options |= {"inner_batch_size": 5}
    result, _ = tiny_run(tmp_path / "run", **options)
    assert 0 < result["test_accuracy_mean"] <= 1


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        (
            {"experts": None},
            "experts: expected --experts=FOLDER, got none. python -m experiments.experts --dataset=dig",
        ),
        ({"experts": "nowhere"}, "a folder of experiments.experts, got nowhere"),
        ({"width": 9}, "width: 8 there, 9 here"),
        (
            {"learner": "linear", "width": None, "depth": None},
            "learner: mlp there, linear here; width: 8 there, None",
        ),
        ({"image_size": 6}, "image_shape: [8, 8, 1] there, [6, 6, 1] here"),
        ({"start_epochs": 4}, "start_epochs + expert_epochs <= 5, the snapshots of an expert, got 4 + 2"),
        ({"population": "fresh"}, "experts with method=mtt, and with no other, got population=fresh with"),
        (
            {"method": "dd", "population": "experts", "experts": None},
            "experts with method=mtt, and with no other, got population=experts",
        ),
        ({"gradient": "implicit", "learned": [], "warm_start": True}, "warm_start left out with method=mtt"),
        ({"gradient": "accumulated", "inner_momentum": 0.5}, "sgd without momentum"),
        ({"gradient": "accumulated", "remat": "step"}, "gradient=unrolled with remat"),
        ({"hyper_learning_rate": -1.0}, "hyper_learning_rate >= 0, got -1.0"),
        ({"inner_batch_size": 0}, "inner_batch_size >= 1, got 0"),
        ({"inner_batch_size": 11}, "batch_size <= 10, the synthetic images, got 11"),
    ],
)
def test_bad_input_starts_nothing(made, tmp_path, chosen, says):
    options = MTT | {"experts": str(made[0]), "run_dir": str(tmp_path / "run")} | chosen
    if chosen.get("method") == "dd":
        options = {
            name: value for name, value in options.items() if name not in ("start_epochs", "expert_epochs")
        }
    with pytest.raises(UserError) as error:
        distill.run(**options)
    assert says in message(error)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        ({"learning_rate": 0.0}, "learning_rate > 0.0, got 0.0"),
        ({"num_experts": 0}, "num_experts >= 1, got 0"),
        ({"augment": ["krop"]}, "got 'krop'"),
        ({"learner": "convmet"}, "got 'convmet'"),
    ],
)
def test_experts_refuse_bad_input(tmp_path, chosen, says):
    with pytest.raises(UserError) as error:
        experts.run(**EXPERTS | chosen, run_dir=str(tmp_path / "run"))
    assert says in message(error)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_one_image_per_class_beats_random_real_ones(tmp_path):
    small = {"width": 16, "depth": 2}
    experts.run(**small, learning_rate=0.1, num_experts=5, run_dir=str(tmp_path / "experts"))
    result = distill.run(
        **small,
        method="mtt",
        experts=str(tmp_path / "experts"),
        start_epochs=10,
        inner_learning_rate=0.1,
        outer_learning_rate=100.0,
        num_outer_steps=600,
        step_sizes=[0.01, 0.03, 0.1],
        num_eval_learners=10,
        num_baseline_learners=10,
        full_data_epochs=0,
        run_dir=str(tmp_path / "run"),
    )
    assert result["test_accuracy_mean"] > result["random_real_mean"] + 0.1, result
