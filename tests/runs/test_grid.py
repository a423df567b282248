"""The whole grid: every teacher under every objective and way to differentiate lowers its loss, on digits."""

import jax
import numpy as np
import pytest

import jaxdistill as jd
from jaxdistill.runs.bank_training import ExpertOptions, train_experts

NETWORK = {"learner": "mlp", "width": 16, "depth": 1}
TEACHERS = {
    "images": {"teacher": "images", "start": "noise", "images_per_class": 2},
    "generator": {
        "teacher": "generator",
        "start": "noise",
        "batch_size": 20,
        "generator_width": 8,
        "generator_hidden": 32,
    },
}
ADAM = {"outer_optimizer": "adam", "outer_momentum": 0.5, "hyper_learning_rate": None, "schedule": "constant"}
WAYS = {
    "unrolled": {"method": "dd", "inner_learning_rate": 0.1},
    "accumulated": {"method": "dd", "gradient": "accumulated", "inner_learning_rate": 0.1},
    "implicit": {"method": "dd", "gradient": "implicit", "weight_decay": 0.05, "on_failed_solve": "skip"},
    "closed form": {
        "method": "dd",
        "gradient": "closed_form",
        "ridge": 0.01,
    },  # about as many images as features
    "gradient matching": {"method": "dc"},
    "gradient matching, all classes": {"method": "dc", "by_class": False},
    "gradient matching, augmented": {"method": "dsa"},
    "distribution matching": {"method": "dm"},
    "distribution matching, all layers": {"method": "dm", "feature_layers": "all"},
    "trajectory matching": {
        "method": "mtt",
        "start_epochs": 2,
        "expert_epochs": 2,
        "inner_learning_rate": 0.1,
    },
}


@pytest.fixture(scope="module")
def trajectories(tmp_path_factory):
    folder = tmp_path_factory.mktemp("experts") / "run"
    train_experts(ExpertOptions(**NETWORK, num_experts=2, num_epochs=4, learning_rate=0.3, run_dir=folder))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("way", sorted(WAYS))
@pytest.mark.parametrize("teacher", sorted(TEACHERS))
def test_every_cell_lowers_its_loss(trajectories, teacher, way):
    chosen = WAYS[way]
    options = NETWORK | TEACHERS[teacher] | ADAM | {"outer_learning_rate": 0.02} | chosen
    options |= {"num_learners": 2, "num_outer_steps": 150, "chunk_length": 10, "clip": 1.0}
    if way in ("unrolled", "accumulated", "trajectory matching"):
        options |= {"distill_epochs": 10}
    options |= {"experts": trajectories} if chosen["method"] == "mtt" else {"real_batch_size": 32}
    losses = [row["loss"] for row in jd.distill(**options, progress=False).metrics]
    assert len(losses) == 15 and np.isfinite(losses).all()
    assert np.mean(losses[-3:]) < 0.9 * np.mean(losses[:2]), losses
    jax.clear_caches()
