"""Runs of closed-form heads: free labels in their files, evaluation under every protocol, resuming."""

import shutil

import jax
import numpy as np
import pytest
from helpers import message, same_bits
from tiny_runs import ALONE, TINY, lighter, tiny_run

import jaxdistill as jd
from jaxdistill.config.option import UNSET
from jaxdistill.core.checks import UserError
from jaxdistill.core.labels import centred
from jaxdistill.evaluation.protocols import PROTOCOLS
from jaxdistill.runs.protocols import protocol_of
from jaxdistill.runtime.export import read_synthetic
from jaxdistill.runtime.training_code import from_torch_file, training_code

FREPO = ALONE | {
    "method": "frepo",
    "learner": "linear",
    "width": UNSET,
    "depth": UNSET,
    "distill_epochs": UNSET,
    "num_learners": 1,
    "num_outer_steps": 10,
    "pool_size": 3,
    "max_age": 6,
}
"""Ten outer steps on digits, in which every network of the pool is replaced."""


@pytest.fixture(scope="module", autouse=True)
def light():
    with lighter():
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(path, result, what was printed) of a run."""
    path = tmp_path_factory.mktemp("frepo") / "run"
    return path, *tiny_run(path, **FREPO)


def test_a_pool_is_resumed_to_the_bit(tmp_path, whole):
    shutil.copytree(whole[0], tmp_path / "run")
    for gone in ("synthetic.npz", "result.json"):
        (tmp_path / "run" / gone).unlink()
    shutil.rmtree(tmp_path / "run/checkpoints/10")
    assert "resumes from outer step 5" in tiny_run(tmp_path / "run", **FREPO)[1]
    one, other = (jd.load_run(path) for path in (tmp_path / "run", whole[0]))
    same_bits(*(jax.tree.map(np.asarray, run.state) for run in (one, other)))
    assert (tmp_path / "run/synthetic.npz").read_bytes() == (whole[0] / "synthetic.npz").read_bytes()


def test_the_result_has_the_ridge_beside_trained_networks(whole):
    _, result, printed = whole
    assert result["protocol"] == "frepo" and len(result["test_accuracy_ridge"]) == 3  # the pool
    assert result["test_accuracy_ridge_mean"] == pytest.approx(np.mean(result["test_accuracy_ridge"]))
    assert 0.3 < result["test_accuracy_ridge_mean"] < 1 and "ridge regression of the head" in printed
    assert not [name for name in np.load(whole[0] / "synthetic.npz") if name.startswith("hyper_")]


def test_networks_without_a_solution_count_as_chance(tmp_path):
    net = {"learner": "mlp", "width": 16, "depth": 2}
    dead = {**FREPO, **net, "age_learning_rate": 1e20, "num_outer_steps": 1}
    result, printed = tiny_run(tmp_path / "run", **dead)
    assert result["test_accuracy_ridge_num_diverged"] == 1 and 0.1 in result["test_accuracy_ridge"]
    assert "(1 without a solution)" in printed
    again = jd.load_run(tmp_path / "run", progress=False)
    assert again.compare(progress=False)["test_accuracy_ridge"] == result["test_accuracy_ridge"]


def test_free_labels_are_exported_as_such(tmp_path, whole):
    run = jd.load_run(whole[0])
    file = read_synthetic(whole[0] / "synthetic.npz")
    assert file.kind == "free" and file.metadata["inner"]["loss"] == "squared"
    np.testing.assert_array_equal(file.labels, run.batch.y)
    assert np.abs(file.labels - centred(np.eye(10))).max() > 1e-3 and file.labels.min() < 0
    with np.load(whole[0] / "synthetic.npz") as content:
        assert "y_soft" not in content and content["y"].tolist() == file.labels.argmax(1).tolist()
    code = training_code(file, from_torch_file("x.pt", kind=file.kind))
    compile(code, "training_code", "exec")
    assert 'd["free_labels"]' in code and "square()" in code and "cross_entropy(net" not in code
    jd.export(run, tmp_path / "folder", to="folder", progress=False)
    assert "free_label" in (tmp_path / "folder/distillation.json").read_text()
    damaged = dict(np.load(whole[0] / "synthetic.npz"))
    damaged["y_soft"] = damaged.pop("y_free")
    np.savez(tmp_path / "wrong.npz", **damaged)
    with pytest.raises(UserError) as error:
        read_synthetic(tmp_path / "wrong.npz")
    assert "labels that are >= 0 and sum to 1" in message(error)


@pytest.mark.slow
def test_every_protocol_takes_them(whole):
    """Cross-entropies are given the class of each image; random real images are probabilities everywhere."""
    run = jd.load_run(whole[0])
    with pytest.raises(UserError) as error:
        run.score(protocol="as_distilled")
    assert "frepo, rcig, rat with gradient=closed_form, which trains no inner steps" in message(error)
    for name in set(PROTOCOLS) - {"as_distilled"}:
        plan = protocol_of(run, name)
        assert (plan.labels, plan.loss == "squared") == ("free", name in ("frepo", "rcig"))
    options = {"num_learners": 1, "num_search_learners": 1, "step_sizes": [0.01], "num_epochs": 3}
    found = jd.evaluate(run, "linear", protocols=("dc", "rcig"), progress=False, **options)
    (row,) = found["rows"]
    assert row["random_real"]["protocol"] in ("dc", "rcig") and row["rcig"]["mean"] > 0 < row["dc"]["mean"]


@pytest.mark.slow
def test_other_teachers_and_losses_have_a_closed_form_too():
    """A generator, whose labels are probabilities, with a learned temperature; no pool, so new networks."""
    options = TINY | ALONE | {"gradient": "closed_form", "distill_epochs": UNSET, "num_outer_steps": 5}
    options |= {"teacher": "generator", "generator_width": 4, "generator_hidden": 8, "width": 16}
    run = jd.distill(**options, outer_loss="platt", hyper_learning_rate=0.1, progress=False)
    assert run.metrics[-1]["temperature"] != 1 and run.metrics[-1]["inner_loss"] > 0
    assert run.hyperparameters["learning_rate"].shape == (1,) and run.config.learned == ()
    assert protocol_of(run).name == "frepo" and protocol_of(run).labels == "probabilities"


@pytest.mark.slow
def test_a_squared_inner_loop_is_tested_as_it_was_distilled():
    options = TINY | ALONE | {"inner_loss": "squared", "labels": "free", "num_outer_steps": 5}
    run = jd.distill(**options, progress=False)
    plan = protocol_of(run)
    assert (plan.name, plan.loss, plan.labels, plan.temperature) == ("as_distilled", "squared", "free", 1.0)
    assert run.score(1).ridge is None


@pytest.mark.slow
def test_the_head_is_solved_on_the_network_of_the_distillation():
    """Its parameters are not those of the network that is trained for the test."""
    options = TINY | {"gradient": "closed_form", "distill_epochs": UNSET, "num_outer_steps": 2}
    options |= {"learner": "convnet", "width": 16, "depth": 1, "eval_norm": "none"}
    assert len(jd.distill(**options, progress=False).score(2).ridge) == 2
