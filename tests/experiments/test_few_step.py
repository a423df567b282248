"""`experiments.few_step`: accuracy after every number of steps, on what runs learned and on real data."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from helpers import message
from tiny_runs import TINY

from experiments import few_step
from experiments.few_step import Options
from jaxdistill.config.resolve import resolve
from jaxdistill.config.table import Config
from jaxdistill.core.checks import UserError
from jaxdistill.inner.losses import cross_entropy
from jaxdistill.methods.recipe import Facts
from jaxdistill.runs import distill as runs_of
from jaxdistill.runs.run import load_run

SHORT = {name: value for name, value in TINY.items() if name not in ("width", "depth")}
SHORT |= {"learner": "linear", "num_outer_steps": 4, "chunk_length": 2, "num_learners": 1}
MATCHING = {"method": "dm", "dataset": "digits", "learner": "convnet", "population": "fresh"}
QUICK = {"num_learners": 3, "num_search_learners": 3, "step_sizes": [0.1], "momenta": [0.5]}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folders of two runs of ten images, for T = 2 steps."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs_of, "export", lambda run, directory: None)  # pictures take longer than the runs
        for name, rate in (("slow", 0.1), ("fast", 0.5)):
            chosen = Config(**SHORT, inner_learning_rate=rate)
            runs_of.distill(chosen, run_dir=folder / name, progress=False)
    return str(folder / "slow"), str(folder / "fast")


def refused(**chosen):
    with pytest.raises(UserError) as error:
        few_step.run(Options(**QUICK | chosen))
    return message(error)


def after_each_step(run, params):
    """Test accuracies of one network after each step of gradient descent on a run's images, by hand."""
    images, labels, order = run.synthetic
    gradient_of = jax.jit(jax.grad(lambda p, x, y: cross_entropy(run.learner.apply(p, x), y)))
    logits_of, found = jax.jit(run.learner.apply), []
    for rows, rate in zip(order, run.hyperparameters["learning_rate"], strict=True):
        gradient = gradient_of(params, images[rows], labels[rows])
        params = jax.tree.map(lambda p, g, rate=rate: np.asarray(p) - rate * np.asarray(g), params, gradient)
        logits, truth = (
            np.asarray(a).argmax(-1) for a in (logits_of(params, run.data.test.x), run.data.test.y)
        )
        found.append(float(np.mean(logits == truth)))
    return found


def test_two_runs_beside_real_data(runs, tmp_path, capsys):
    result = few_step.run(Options(**QUICK, runs=runs, run_dir=tmp_path / "out"))
    rows = {(row["series"], row["steps"]): row for row in result["rows"]}
    assert list(rows) == [(name, t) for name in ("slow", "fast", "real data") for t in (1, 2)]
    assert all(row["num_learners"] == len(row["every"]) == 3 for row in rows.values())
    assert rows["real data", 1]["momentum"] == 0.5 and "step_size" not in rows["fast", 1]
    assert {row["learner"] for row in rows.values()} == {"linear, batches of 10"}
    assert rows["slow", 1]["made_of"] == "1 per class" and rows["real data", 1]["made_of"] == "real data"
    run = load_run(runs[1])
    trial = few_step.trial_of(
        run, "fast", Options(**QUICK, seed=0, steps=(), strategy="auto", learner_chunk=None)
    )
    first = jax.tree.map(lambda a: a[0], trial.networks("learners", 3))
    ours = [rows["fast", t]["every"][0] for t in (1, 2)]
    np.testing.assert_allclose(after_each_step(run, first), ours, atol=1e-6)  # one test image is 0.003
    assert {file.suffix for file in (tmp_path / "out").iterdir()} == {".json", ".csv", ".md", ".png"}
    saved = json.loads((tmp_path / "out/few_step.json").read_text())
    assert saved["rows"] == result["rows"]
    assert saved["config"]["runs"] == ["slow", "fast"] and saved["config"]["dataset"] == "digits"
    out = capsys.readouterr().out
    assert "Test accuracy (%) on digits after so many steps; K = 3" in out and "fast       " in out


def test_runs_share_rows_on_real_data_if_those_depend_on_the_same(runs):
    run = load_run(runs[0])
    bias = run.tested._replace(apply=lambda params, x: run.tested.apply(params, x) + 1.0)
    tested = run.plan._replace(tested=bias)  # as eval_norm changes it
    read = run.plan._replace(data=run.data._replace(validation=run.data.test))  # as preprocess changes it
    others = [dataclasses.replace(run, plan=plan) for plan in (run.plan, tested, read)]
    chosen = Options(**QUICK, seed=0, steps=(), strategy="auto", learner_chunk=None)
    trials = [
        few_step.trial_of(each, name, chosen) for each, name in zip([run, *others], "abcd", strict=True)
    ]
    found = few_step.on_real_data(trials)
    assert [(name, trial.name) for name, (trial, _) in found.items()] == [
        ("real, batches of 10, for a and b", "a"),
        ("real, batches of 10, for c", "c"),
        ("real, batches of 10, for d", "d"),
    ]
    assert None not in (who for _, who in found.values())


def test_runs_are_named_by_what_tells_their_folders_apart():
    assert few_step.names_of(["a/x", "b/y/"]) == ["x", "y"]
    assert few_step.names_of(["a/x", "b/x", "b/y"]) == ["a/x", "b/x", "b/y"]
    assert few_step.names_of(["a/c/x", "b/c/x"]) == ["a/c/x", "b/c/x"]
    with pytest.raises(UserError, match=r"different runs, got a/x, \./a/x"):
        few_step.names_of(["a/x", "./a/x"])


def test_rows_on_real_data_are_named_by_what_tells_networks_apart():
    def named(*networks):
        trials = [
            few_step.Trial(None, name, None, [], n, None) for name, n in zip("abc", networks, strict=False)
        ]
        return few_step.real_names([[trial] for trial in trials])

    assert named("mlp, batches of 10") == ["real data"]
    assert named("mlp, batches of 10", "mlp, batches of 12") == ["real, batches of 10", "real, batches of 12"]
    assert named("mlp, batches of 10", "lenet, batches of 10")[1] == "real, lenet, batches of 10"
    same = named("mlp, batches of 10", "mlp, batches of 10", "mlp, batches of 12")
    assert same == ["real, batches of 10, for a", "real, batches of 10, for b", "real, batches of 12"]


def test_a_table_has_a_column_for_every_number_of_steps():
    rows = [
        {"series": series, "steps": steps, "mean": 0.5, "std": 0.01}
        for series, steps in (("a", 1), ("a", 4), ("b", 4))
    ]
    columns, lines = few_step.table(rows)
    assert columns == ["trained on", "1", "4"]
    assert lines == [["a", "50.0±1.0", "50.0±1.0"], ["b", "-", "50.0±1.0"]]


def test_the_runs_of_the_default_are_for_one_network():
    digits = Facts((8, 8, 1), 10)
    generator, images = (
        resolve(config.replace(**few_step.NETWORK), digits)
        for config in (few_step.SMALL_GTN, few_step.IMAGES)
    )
    assert generator.distill_steps * generator.distill_epochs == images.distill_epochs == 16
    assert generator.batch_size == 10 and images.images_per_class == 1
    assert (generator.learner, generator.width) == (images.learner, images.width) == ("mlp", 64)
    for config in (few_step.SMALL_GTN, few_step.IMAGES):
        resolve(config.replace(**few_step.NETWORK | few_step.SHORT), digits)


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        ({"steps": [3]}, "steps <= 2, what the run in"),
        ({"steps": [0]}, "steps >= 1, got 0"),
        ({"momenta": []}, "at least one of momenta"),
        ({"step_sizes": []}, "at least one of step_sizes"),
        ({"runs": ["nowhere"]}, "got nowhere without config.json"),
        ({"runs": ["a", "a"]}, "different runs"),
    ],
)
def test_bad_input_writes_nothing(runs, tmp_path, chosen, says):
    assert says in refused(**{"runs": runs[:1], "run_dir": tmp_path / "out"} | chosen)
    assert not (tmp_path / "out").exists()


def test_matching_has_no_steps_to_test(tmp_path):
    saved = {"experiment": "distill", "config": MATCHING}
    (tmp_path / "config.json").write_text(json.dumps(saved))
    says = refused(runs=[tmp_path], run_dir=tmp_path / "out")
    assert "a method that trains inner steps, got dm" in says and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_trial_run_distills_first(tmp_path):
    result = few_step.run(Options(smoke=True, run_dir=tmp_path, num_learners=3))
    assert {row["series"] for row in result["rows"]} == {"gtn", "images", "real data"}
    assert {row["num_learners"] for row in result["rows"]} == {3}  # what is chosen wins over the trial run's
    assert (tmp_path / "gtn/result.json").exists() and (tmp_path / "images/result.json").exists()
