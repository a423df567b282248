"""The method gtn through the engine: what its recipe learns, and where the learned numbers are kept."""

import numpy as np

import jaxdistill as jd

SMALL = {
    "batch_size": 12,
    "distill_steps": 2,
    "generator_width": 4,
    "generator_hidden": 8,
    "learner": "linear",
}
"""The generator of `test_generators`, which has the same shapes to compile."""
SHORT = {"num_outer_steps": 2, "chunk_length": 2, "schedule": "constant", "real_batch_size": 16}


def test_a_run_learns_step_sizes_and_momenta_and_keeps_them(tmp_path):
    options = {"validate_every": 1, "run_dir": tmp_path / "run", "progress": False}
    run = jd.distill(method="gtn", **SMALL, **SHORT, **options)
    assert (run.config.teacher, run.config.learner, run.config.validate_every) == ("generator", "linear", 1)
    (row,) = run.metrics
    rate, momentum = (run.hyperparameters[name] for name in ("learning_rate", "momentum"))
    assert (run.config.inner_learning_rate, run.config.inner_momentum) == (0.1, 0.5)  # where they start
    assert rate.shape == momentum.shape == (2,)
    assert (np.abs(rate - 0.1) > 1e-4).all()
    assert momentum[0] == 0.5 and abs(momentum[1] - 0.5) > 1e-4  # the first step has no velocity yet
    with np.load(tmp_path / "run/synthetic.npz") as file:
        for name, learned in run.hyperparameters.items():
            np.testing.assert_array_equal(file[f"hyper_{name}"], learned)
            np.testing.assert_allclose(row[name], learned)
