"""Feature regression learns, on digits: against random real images under the same protocol."""

import dataclasses

import pytest

import jaxdistill as jd
from jaxdistill.runs.compare import ridge_score
from jaxdistill.runs.networks import evaluations

TINY = {"learner": "mlp", "width": 32, "depth": 1, "num_outer_steps": 100, "chunk_length": 50}


def test_a_hundred_steps_teach_ridge_regression_on_features_of_a_tiny_net():
    run = jd.distill(method="frepo", dataset="digits", **TINY, progress=False)
    first, last = run.metrics
    assert last["loss"] < 0.95 * first["loss"]
    evaluation, _ = evaluations(run.config, run.data, run.learner, run.state, run.key, run.bank)
    evaluation = evaluation._replace(test=run.data.validation)
    start = run.method.init(run.key)._replace(
        population=run.state.population
    )  # real images, the same networks
    images = dataclasses.replace(run, finished=run.finished._replace(state=start))
    before, after = (ridge_score(each, evaluation) for each in (images, run))
    assert before is not None and after is not None and len(after.every) == 10  # the pool
    assert after.mean > before.mean + 0.1


@pytest.mark.slow
def test_ten_digits_beat_random_real_ones_by_ten_points():
    evaluation = {"num_search_learners": 2, "num_baseline_learners": 5, "full_data_epochs": 0}
    evaluation |= {"step_sizes": [1e-3, 3e-3, 1e-2], "num_eval_learners": 10}
    run = jd.distill(method="frepo", dataset="digits", **evaluation, progress=False)
    found = run.compare(progress=False)
    assert found["test_accuracy_mean"] >= 0.93
    assert found["test_accuracy_mean"] > found["random_real_mean"] + 0.1
