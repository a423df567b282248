"""Images for linearised networks are learned, on digits: against random real ones under the same protocol."""

import pytest

import jaxdistill as jd


@pytest.mark.slow
def test_ten_digits_beat_random_real_ones_by_ten_points():
    evaluation = {"num_search_learners": 2, "num_baseline_learners": 5, "full_data_epochs": 0}
    evaluation |= {"step_sizes": [3e-4, 1e-3, 3e-3], "num_eval_learners": 10}
    run = jd.distill(method="rcig", dataset="digits", **evaluation, progress=False)
    first, last = run.metrics[0], run.metrics[-1]
    assert last["loss"] < 0.3 * first["loss"] and last["temperature"] < 0.5
    assert last["inner_gradient"] < 1e-2 and last["residual"] < 1e-2  # of every step, all of them converge
    assert 0.5 < last["implicit_kept"] <= 1 and last["singular_kernels"] == 0
    assert run.config.labels == "free" and run.state.average != ()
    found = run.compare(progress=False)
    assert found["protocol"] == "rcig" and len(found["test_accuracy_ridge"]) == 30  # the pool
    assert found["test_accuracy_ridge_mean"] > 0.85
    assert found["test_accuracy_mean"] > found["random_real_mean"] + 0.1
