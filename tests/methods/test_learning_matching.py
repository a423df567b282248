"""The matching methods learn, on digits: against random real images under the same evaluator."""

import jax
import pytest
from tiny_runs import tiny_run

import jaxdistill as jd
from experiments import experts
from jaxdistill.core.types import Batch
from jaxdistill.data import load
from jaxdistill.evaluation import Evaluation, everything, published, random_of_each_class, tuned
from jaxdistill.learners import learner
from jaxdistill.populations.fresh import fresh

KEY = jax.random.key(0)
METHODS = ("dd", "dc", "dsa", "dm", "mtt", "gtn", "rat", "idc")


@pytest.mark.slow
@pytest.mark.parametrize("teacher", ["images", "generator"])
def test_matching_on_one_fixed_network(tmp_path, teacher):
    options = {"method": "dc", "population": "fixed", "teacher": teacher, "start": "noise", "learner": "mlp"}
    options |= {"num_baseline_learners": 0, "images_per_class": 2, "real_batch_size": 8, "distill_epochs": 1}
    options |= {"num_learners": 1}
    if teacher == "generator":
        options |= {"generator_width": 4, "generator_hidden": 8}
    result, _ = tiny_run(tmp_path / "run", **options)
    assert 0 < result["test_accuracy_mean"] <= 1


def tuned_by(protocol, images, subsets, digits):
    """Mean test accuracy of ten ConvNets, the protocol's step size searched on validation."""
    net = learner("convnet", image_shape=(8, 8, 1), num_classes=10, width=16, depth=2)
    contexts = jax.jit(lambda key, count: fresh(net).context((), None, key, count), static_argnums=1)
    evaluation = Evaluation(
        net, contexts, digits.validation, digits.test, KEY, num_learners=10, search_learners=3
    )
    return tuned(evaluation, [protocol], images, subsets, step_sizes=[0.01, 0.03, 0.1]).score.mean


@pytest.fixture(scope="module")
def a_hundred_random_ones():
    """(digits, test accuracy of networks trained on ten random digits of each class)."""
    digits = load("digits")
    real, subsets = Batch(digits.train.x, digits.train.y), random_of_each_class(digits.train, 10)
    return digits, tuned_by(published("dc", 100), real, subsets, digits)


TEN = {
    "dc": {"num_outer_steps": 1200, "real_batch_size": 64, "match_learning_rate": 0.1},
    "dsa": {"num_outer_steps": 1200, "real_batch_size": 64},
    "dm": {"num_outer_steps": 500, "real_batch_size": 64},
    "mtt": {
        "start_epochs": 10,
        "inner_learning_rate": 0.1,
        "outer_learning_rate": 100.0,
        "num_outer_steps": 600,
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("method", TEN)
def test_ten_images_per_class_beat_random_real_ones(tmp_path, method, a_hundred_random_ones):
    """Under one protocol, DC's, the step size searched for both: the papers' own has 0.01 for all."""
    digits, random = a_hundred_random_ones
    network, options = {"width": 16, "depth": 2}, dict(TEN[method])
    if method == "mtt":
        experts.run(experts.Options(num_experts=5, run_dir=str(tmp_path / "experts")))
        options["experts"] = str(tmp_path / "experts")
    run = jd.distill(method=method, images_per_class=10, **network, **options)
    found = tuned_by(published("dc", 100), run.batch, everything(100), digits)
    assert found > random + 0.02, (found, random)


@pytest.fixture(scope="module")
def followed(tmp_path_factory):
    """The experts that `python -m experiments.experts` trains."""
    folder = str(tmp_path_factory.mktemp("experts") / "run")
    experts.run(experts.Options(run_dir=folder))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_defaults_beat_random_real_images_by_ten_points(method, followed):
    """With no other option, one image per class; a generator makes more: ten random ones are its baseline."""
    options = {"experts": followed} if method == "mtt" else {}
    run = jd.distill(method=method, **options)
    result = run.compare()
    random = result["random_real_mean"]
    if method == "gtn":
        random = jd.distill(method="dd", num_outer_steps=20, learner="mlp", width=64).compare()[
            "random_real_mean"
        ]
    assert result["test_accuracy_mean"] > random + 0.1, (result["test_accuracy_mean"], random)
