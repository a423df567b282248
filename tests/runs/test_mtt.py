"""The method mtt through the engine: experts are followed, and refused where they do not fit."""

import numpy as np
import pytest
from helpers import message, same_bits
from tiny_runs import ALONE, TINY, tiny_run

from jaxdistill.config.option import UNSET
from jaxdistill.config.resolve import resolve
from jaxdistill.config.table import Config
from jaxdistill.core.checks import UserError
from jaxdistill.methods.recipe import Facts
from jaxdistill.runs.bank_training import ExpertOptions, train_experts
from jaxdistill.runs.distill import distill
from jaxdistill.runs.given_images import content, protocols_for
from jaxdistill.runs.plan import planned
from jaxdistill.runs.protocols import protocol_of
from jaxdistill.runs.result import run_to_result
from jaxdistill.runs.run import load_run
from jaxdistill.runtime.progress import silent

NETWORK = {"learner": "mlp", "width": 8, "depth": 1}
CROP = {"augment": ["crop"]}
"""One operation: all of them take longer to compile than the rest."""
EXPERTS = NETWORK | CROP | {"num_experts": 2, "group_size": 1, "num_epochs": 4, "learning_rate": 0.5}
MTT = NETWORK | CROP | {"method": "mtt", "start_epochs": 2, "expert_epochs": 2, "num_outer_steps": 5}
MTT |= {"outer_learning_rate": 10.0, "num_learners": 1, "distill_epochs": 3, "real_batch_size": UNSET}
MTT |= {"protocol": "dc"}  # 300 epochs; the paper's has 1000 and all operations


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of two tiny experts."""
    folder = tmp_path_factory.mktemp("experts") / "run"
    with silent():
        train_experts(ExpertOptions(**EXPERTS, run_dir=folder))
    return folder


def test_a_run_follows_experts_and_is_tested_with_its_step_size(made, tmp_path):
    run = distill(Config(**TINY | ALONE | MTT, experts=made), run_dir=tmp_path / "run", progress=False)
    protocol, step_size = protocol_of(run, "dsa"), run.hyperparameters["learning_rate"][0]
    assert protocol.name == "dsa" and protocol.values["learning_rate"][0] == step_size != 0.1
    of_file = protocols_for(content(run), ("dsa",), None, run.data.info)["dsa"]
    assert protocol.augment is of_file.augment  # whatever the experts were trained with
    assert len(run.plan.identity["experts_sha256"]) == 64 and "experts" not in run.plan.identity
    with np.load(tmp_path / "run/synthetic.npz") as file:
        np.testing.assert_allclose(file["hyper_learning_rate"], step_size)
    again = load_run(tmp_path / "run")  # without the experts
    assert again.step == 5
    same_bits(again.state.meta, run.state.meta)
    with silent():
        result = again.compare()  # also in the folder of a run of experts that are not there
    assert result["outer_steps"] == 5 and result["config"] == run.plan.identity


@pytest.mark.slow
@pytest.mark.parametrize("gradient", ["accumulated", "truncated", "implicit"])
def test_any_gradient_follows_experts(made, tmp_path, gradient):
    options = MTT | {"gradient": gradient, "experts": made}
    if gradient == "implicit":
        options |= {"distill_epochs": 1, "max_inner_steps": 5, "damping": 10.0, "outer_learning_rate": 0.1}
    if gradient == "truncated":
        options |= {"inner_batch_size": 5}
    result, _ = tiny_run(tmp_path / "run", **options)
    assert 0 < result["test_accuracy_mean"] <= 1


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        ({"experts": UNSET}, "a folder of experiments.experts, got runs/experts. python -m experiments.exp"),
        ({"experts": "nowhere"}, "a folder of experiments.experts, got nowhere"),
        ({"width": 9}, "width: 8 there, 9 here"),
        (
            {"learner": "linear", "width": None, "depth": None},
            "learner: mlp there, linear here; width: 8 there, None",
        ),
        ({"image_size": 6}, "image_shape: [8, 8, 1] there, [6, 6, 1] here"),
        ({"start_epochs": 4}, "start_epochs + expert_epochs <= 5, the snapshots of an expert, got 4 + 2"),
        ({"gradient": "implicit", "distill_epochs": 1, "warm_start": True}, "no warm_start with meth"),
        ({"gradient": "accumulated", "inner_momentum": 0.5}, "sgd without momentum"),
        ({"gradient": "accumulated", "remat": "step"}, "no remat with gradient=accumulated"),
        ({"hyper_learning_rate": -1.0}, "hyper_learning_rate >= 0, got -1.0"),
        ({"inner_batch_size": 0}, "inner_batch_size >= 1, got 0"),
        ({"inner_batch_size": 11}, "batch_size <= 10, the synthetic images, got 11"),
    ],
)
def test_bad_input_is_refused(made, tmp_path, monkeypatch, chosen, says):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        planned(Config(**MTT | {"experts": made} | chosen))
    assert says in message(error)


@pytest.mark.parametrize("chosen", [{"population": "fresh"}, {"method": "dd", "population": "experts"}])
def test_experts_and_mtt_go_together(chosen):
    with pytest.raises(UserError) as error:
        resolve(Config(**{"method": "mtt"} | chosen), Facts((8, 8, 1), 10))
    assert "experts with method=mtt and another population with other methods, got" in message(error)


@pytest.mark.slow
def test_one_image_per_class_beats_random_real_ones(tmp_path):
    """The defaults of both: experts for digits, and what follows them."""
    train_experts(ExpertOptions(num_experts=5, run_dir=tmp_path / "experts"))
    short = {"num_outer_steps": 600, "num_eval_learners": 10, "num_baseline_learners": 10}
    short |= {"step_sizes": [0.01, 0.03, 0.1], "full_data_epochs": 0}
    chosen = Config(method="mtt", experts=tmp_path / "experts", run_dir=tmp_path / "run", **short)
    result = run_to_result(chosen)
    assert result["test_accuracy_mean"] > result["random_real_mean"] + 0.1, result
