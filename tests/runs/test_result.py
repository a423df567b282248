"""The main job from end to end, as small as it can be: what a run directory holds, and what may change."""

import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import message
from tiny_runs import ALONE, TINY, drawn, tiny_run

import jaxdistill as jd
from jaxdistill.config import build
from jaxdistill.config.option import UNSET
from jaxdistill.config.table import PLACES
from jaxdistill.core.checks import UserError
from jaxdistill.evaluation import Tuned, summarize
from jaxdistill.runs import compare, result
from jaxdistill.runs.plan import default_run_dir, planned
from jaxdistill.runs.protocols import in_other_order, other_order, other_shuffle
from jaxdistill.runs.reference import Reference
from jaxdistill.runtime import loop
from jaxdistill.runtime.metrics import read_metrics


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(path, result, what was printed) of a run that no test changes."""
    path = tmp_path_factory.mktemp("runs") / "tiny"
    with drawn():
        return path, *tiny_run(path)


def distilled(path, **options):
    """A tiny run without its evaluation."""
    return jd.distill(**TINY | ALONE | options, run_dir=path, progress=False)


def test_a_run_directory_holds_everything(finished):
    path, result, _ = finished
    files = {"config.json", "metrics.jsonl", "synthetic.npz", "images.png", "curves.png", "result.json"}
    assert {item.name for item in path.iterdir()} == files | {"checkpoints", "lock"}
    for name in ("images.png", "curves.png"):
        assert (path / name).read_bytes().startswith(b"\x89PNG")
    assert json.loads((path / "result.json").read_text()) == result
    assert {
        "test_accuracy_mean",
        "test_accuracy_std",
        "num_learners",
        "random_real_mean",
        "random_real_std",
        "random_real_balanced_mean",
        "random_real_per_class",
        "full_data_mean",
        "seconds",
        "compile_seconds",
        "outer_steps",
        "config",
        "environment",
    } <= set(result)
    assert result["outer_steps"] == 20 and result["num_learners"] == len(result["test_accuracies"]) == 2
    assert result["seconds"] > 0 and result["compile_seconds"] > 0 and result["full_data_mean"] is None
    stored = json.loads((path / "config.json").read_text())
    assert stored["experiment"] == "distill" and stored["chosen"] == TINY
    assert stored["config"] == result["config"]
    assert stored["config"].items() >= TINY.items() and stored["config"]["seed"] == 0
    assert not set(PLACES) & set(stored["config"])
    environment = stored["environment"]
    assert environment["jax"] == jax.__version__ and environment["jaxdistill"]
    assert environment["device"] == jax.devices()[0].device_kind and "commit" in environment
    assert sorted(int(item.name) for item in (path / "checkpoints").iterdir()) == [15, 20]


def test_metrics_have_a_row_per_chunk(finished):
    rows = read_metrics(finished[0] / "metrics.jsonl")
    assert [row["step"] for row in rows] == [5, 10, 15, 20]
    names = {"step", "loss", "accuracy", "inner_loss", "gradient_norm", "learning_rate", "seconds"}
    assert set(rows[0]) == names
    assert all(len(row["learning_rate"]) == 2 for row in rows)  # one per inner step
    assert 0 < rows[0]["seconds"] <= rows[-1]["seconds"]


def test_synthetic_file_is_enough_to_train_elsewhere(finished):
    with np.load(finished[0] / "synthetic.npz", allow_pickle=False) as file:
        content = dict(file)
    assert content["x"].shape == content["x_standardised"].shape == (10, 8, 8, 1)
    expected = (content["x"] / content["scale"] - content["mean"]) / content["std"]
    # pixels up to a few times 16, rounded to float32 and taken back
    np.testing.assert_allclose(content["x_standardised"], expected, atol=1e-5)
    assert content["y"].tolist() == list(range(10)) and content["y_soft"].shape == (10, 10)
    assert content["order"].tolist() == [list(range(10))] * 2
    last = read_metrics(finished[0] / "metrics.jsonl")[-1]["learning_rate"]
    np.testing.assert_allclose(content["hyper_learning_rate"], last, rtol=1e-6)
    assert content["class_names"].tolist() == list("0123456789") and content["scale"] == 16
    assert (str(content["dataset"]), str(content["method"])) == ("digits", "dd")
    assert json.loads(str(content["learner"]))["learner"] == "mlp"
    assert json.loads(str(content["inner"])) == {
        "inner_optimizer": "sgd",
        "weight_decay": 0.0,
        "loss": "cross_entropy",
        "temperature": 1.0,
        "shuffle": "none",
        "population": "fresh",
    }


def test_the_table_is_printed(finished):
    path, result, printed = finished
    assert printed.startswith("dd on digits: 1 per class, mlp") and f"everything goes to {path}" in printed
    rows = {line[:18].rstrip(): line[18:].split() for line in printed.splitlines()}
    assert rows["distilled images"][:3] == [
        f"{100 * result['test_accuracy_mean']:.1f}",
        f"{100 * result['test_accuracy_std']:.1f}",
        "2",
    ]
    assert rows["random real images"][0] == f"{100 * result['random_real_mean']:.1f}"
    assert "full training set" not in rows and "uneven" not in printed and "balanced" not in printed
    assert "20 outer steps in" in printed and "20/20" in printed


def test_a_finished_run_is_shown_again(finished, monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("it trains again")

    monkeypatch.setattr(loop, "compiled_chunk", refuse)
    monkeypatch.setattr(result, "compared", refuse)
    path, before, printed = finished
    times = {item: item.stat().st_mtime_ns for item in path.rglob("*") if item.name != "lock"}
    again, shown = tiny_run(path)
    assert again == before
    assert "note: this run has ended; the table is that of its result.json" in shown
    assert shown.splitlines()[-7:] == printed.splitlines()[-7:]  # the table and the line below it
    cadence, _ = tiny_run(path, checkpoint_every=10)
    assert cadence == before
    tiny_run(path)
    changed = {item.name for item, time in times.items() if item.stat().st_mtime_ns != time}
    assert changed <= {"config.json", "tiny"}
    run = jd.load_run(path)
    assert run.compare() == before and run.score().every == before["test_accuracies"]


def test_other_evaluation_options_evaluate_again(finished, monkeypatch):
    path, before, _ = finished
    synthetic = (path / "synthetic.npz").read_bytes()
    monkeypatch.setattr(loop, "compiled_chunk", lambda *given: None)  # nothing to call: no outer step
    more, printed = tiny_run(path, num_eval_learners=1)
    assert more["num_learners"] == 1 and more["test_accuracies"] != before["test_accuracies"]
    assert more["random_real_mean"] == before["random_real_mean"] and "distilled images" in printed
    # the times of the distillation, which this start did not do; the log has them to a thousandth
    assert more["seconds"] == pytest.approx(before["seconds"], abs=0.011)
    assert more["compile_seconds"] == before["compile_seconds"]
    assert (path / "synthetic.npz").read_bytes() == synthetic
    assert not before["random_real_reused"] and more["random_real_reused"]
    assert more["random_real_made"] == before["random_real_made"]
    back, _ = tiny_run(path)
    assert back["test_accuracies"] == before["test_accuracies"]
    (path / "result.json").write_text(json.dumps(before))


def test_same_seed_same_files(finished, tmp_path):
    path = finished[0]
    with drawn("image_grid"):
        same = distilled(tmp_path / "same")
    other = distilled(None, seed=1)
    for name in ("synthetic.npz", "images.png"):
        assert (tmp_path / "same" / name).read_bytes() == (path / name).read_bytes()
    assert not np.array_equal(other.images, same.images)


BATCHES = {"distill_steps": 2, "images_per_class": 2, "inner_learning_rate": 0.3, "num_outer_steps": 5}


def test_images_in_order_are_tested_shuffled_too(tmp_path):
    ordered, printed = tiny_run(tmp_path / "run", **ALONE | BATCHES | {"num_eval_learners": 3})
    assert ordered["other_order"] == "batches shuffled" and "batches shuffled" in printed
    assert ordered["other_order_num_learners"] == len(ordered["other_order_accuracies"]) == 3
    assert ordered["other_order_accuracies"] != ordered["test_accuracies"]
    assert "random real" not in printed and ordered["random_real_mean"] is None


def test_images_in_a_drawn_order_are_tested_in_order_too():
    config = jd.Config(**TINY | BATCHES, curriculum="batch_shuffled")
    plan = planned(config, opening=True)
    run = jd.Run(plan, loop.Finished(plan.method.init(plan.key), 0.0, 0.0, 0, 0, []))
    assert other_order(run, "as_distilled") == "none" and other_order(run, "dc") is None
    protocol, images, _ = in_other_order(run, "none")
    order = np.asarray(protocol.order(run.key))
    assert sorted(order[:2].ravel()) == list(range(20)) and (order == np.tile(order[:2], (2, 1))).all()
    teacher = build.teacher(run.config.replace(curriculum="full"), run.data, run.key)
    batches = teacher.batches(run.state.meta.teacher, run.key)
    np.testing.assert_array_equal(np.asarray(images.x)[order], batches.x)


@pytest.mark.parametrize(
    ("order", "shuffle", "other"),
    [
        ([[0, 1], [1, 0]], "none", None),
        ([[0, 1], [2, 3]], "none", "batches"),
        ([[0, 1], [2, 3]], "batches", "none"),
        ([[0, 0, 1], [0, 1, 1]], "none", "batches"),  # the same images, but not as often
    ],
)
def test_batches_all_alike_have_no_other_order(order, shuffle, other):
    assert other_shuffle(np.array(order), shuffle) == other


def test_the_default_directory_follows_the_choices():
    def name(experiment="distill", **identity):
        config = types.SimpleNamespace(method="dd", dataset="a/my set.npz")
        return default_run_dir(types.SimpleNamespace(config=config, identity=identity, experiment=experiment))

    one = name(seed=0, num_eval_learners=20)
    assert one.startswith("runs/dd-my set-") and name(seed=0, num_eval_learners=5) == one
    assert name(seed=1, num_eval_learners=20) != one and name("attack", seed=0).startswith(
        "runs/attack-my set"
    )


def write_set(path, shape, counts, seed=0):
    """Images that differ by class, uint8; `counts` of them per class."""
    generator = np.random.default_rng(seed)
    y = np.repeat(np.arange(len(counts)), counts)
    means = generator.integers(40, 215, (len(counts), *shape))
    x = np.clip(means[y] + generator.normal(0, 40, (len(y), *shape)), 0, 255).astype(np.uint8)
    np.savez(path, x=x, y=y, class_names=np.array([f"kind {c}" for c in range(len(counts))]))
    return str(path)


MANY = {
    "learner": "linear",
    "width": UNSET,
    "depth": UNSET,
    "population": "fixed",
    "num_learners": 1,
    "images_per_class": 2,
    "distill_steps": 2,
    "start": "real",
    "soft_labels": True,
    "inner_momentum": 0.5,
    "learned": ["learning_rate", "momentum"],
    "per_step": False,
    "weight_decay": 1e-3,
    "gradient": "truncated",
    "backprop_last": 3,
    "random_window": True,
    "schedule": "halving",
    "clip": 0,
    "microbatch": 16,
    "strategy": "vmap",
    "num_outer_steps": 5,
    "full_data_epochs": 1,
}


def test_a_colour_set_of_a_user_with_many_options(tmp_path, monkeypatch):
    found = Tuned(summarize(jnp.array([0.4, 0.6]), 4), "dc", 0.1, {"dc": {0.1: 0.5}})
    monkeypatch.setattr(compare, "reference", lambda *given, **more: Reference(found, False, "now"))
    dataset = write_set(tmp_path / "mine.npz", (12, 12, 3), (20, 20, 20, 20))
    with drawn("image_grid"):
        found, printed = tiny_run(tmp_path / "run", dataset=dataset, **MANY)
    assert printed.startswith("dd on mine.npz: 2 per class, linear")
    assert "the fixed initialisation" in printed and "full training set" in printed
    assert found["num_learners"] == 1 and found["test_accuracy_std"] == 0  # one network: the fixed one
    assert found["test_accuracy_step_size"] != found["full_data_step_size"] == 0.1
    with np.load(tmp_path / "run/synthetic.npz") as file:
        assert file["x"].shape == (8, 12, 12, 3) and file["mean"].shape == (3,)
        assert file["order"].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]] * 2
        assert file["hyper_momentum"].shape == (4,) and len(set(file["hyper_momentum"].tolist())) == 1
        assert 0.5 < file["y_soft"].max() < 1
        assert file["class_names"].tolist() == [f"kind {c}" for c in range(4)]
    from PIL import Image

    grid = np.asarray(Image.open(tmp_path / "run/images.png").convert("RGB")).astype(int)
    assert (np.abs(grid[..., 0] - grid[..., 1]) > 50).mean() > 0.05  # true colour, not grey
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "mine.npz").rename(tmp_path / "elsewhere/mine.npz")  # the same set in another place
    dataset = str(tmp_path / "elsewhere/mine.npz")
    assert tiny_run(tmp_path / "run", dataset=dataset, **MANY)[0] == found
    np.testing.assert_array_equal(jd.load_run(tmp_path / "run", dataset=dataset).labels, [0, 1, 2, 3] * 2)
    write_set(dataset, (12, 12, 3), (20, 20, 20, 20), seed=1)  # another set in the same place
    with pytest.raises(UserError) as error:
        tiny_run(tmp_path / "run", dataset=dataset, **MANY)
    assert "dataset_sha256: " in message(error)
    with pytest.raises(UserError) as error:
        jd.load_run(tmp_path / "run", dataset=dataset)
    assert "the images that" in message(error) and "was distilled from" in message(error)


def test_what_a_set_cannot_give_is_left_out(tmp_path):
    """Two channels make no picture, and a class has fewer real images than there are distilled ones."""
    dataset = write_set(tmp_path / "odd.npz", (6, 6, 2), (30, 9))
    options = {"dataset": dataset, "images_per_class": 8, "num_outer_steps": 1, "num_eval_learners": 1}
    found, printed = tiny_run(tmp_path / "run", **options)
    assert found["random_real_mean"] is None and found["random_real_std"] is None
    assert "note: no images.png, since images have 2 channels" in printed
    assert "note: no random real images, since a class has only" in printed
    assert "distilled images" in printed and "\nrandom real images" not in printed


def test_uneven_classes_are_told_and_balanced_accuracy_is_shown(tmp_path):
    dataset = write_set(tmp_path / "uneven.npz", (6, 6, 1), (30, 9))
    found, printed = tiny_run(tmp_path / "run", **ALONE | {"dataset": dataset, "num_outer_steps": 1})
    counts = found["class_counts"]
    assert counts == {"train": [20, 7], "test": [5, 1]}
    assert (
        "note: classes are uneven, 20 training images of kind 0 to 7 of kind 1; real batches are drawn "
        "uniformly over images, so large classes have more of them" in printed
    )
    per_class = found["test_accuracy_per_class"]
    assert found["test_accuracy_mean"] == pytest.approx(np.average(per_class, weights=counts["test"]))
    assert found["test_accuracy_balanced_mean"] == pytest.approx(np.mean(per_class))
    lines = printed.splitlines()
    (columns,) = (line for line in lines if line.startswith("trained on"))
    (row,) = (line for line in lines if line.startswith("distilled images"))
    assert columns.split()[2:6] == ["mean", "std", "balanced", "K"]
    assert row.split()[4] == f"{100 * np.mean(per_class):.1f}"


@pytest.mark.slow
def test_a_colour_set_with_a_convnet(tmp_path):
    dataset = write_set(tmp_path / "mine.npz", (32, 32, 3), (20, 20, 20, 20))
    net = {"learner": "convnet", "width": 8, "depth": 3}
    found, _ = tiny_run(tmp_path / "run", dataset=dataset, **net)
    assert found["random_real_mean"] is not None
