"""Images that make networks take one class for another: what is counted, if it works, what is refused."""

import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import message
from tiny_runs import TINY, drawn

from experiments import attack
from jaxdistill.core.checks import UserError
from jaxdistill.data import load
from jaxdistill.evaluation import few_steps
from jaxdistill.runs import plan as runs_plan
from jaxdistill.runs.bank_training import PretrainOptions, pretrain
from jaxdistill.runs.run import load_run
from jaxdistill.runtime.progress import silent

UNUSED = ("width", "depth", "num_baseline_learners", "full_data_epochs")
SHORT = {name: value for name, value in TINY.items() if name not in UNUSED}
SHORT |= {
    "learner": "linear",
    "num_eval_learners": 1,
    "num_search_learners": 1,
    "num_outer_steps": 5,
    "num_learners": 1,
    "distill_epochs": 1,
}


def pool_in(folder, **chosen):
    with silent():
        pretrain(PretrainOptions(**chosen, run_dir=folder))
    return folder


def attacked(folder, run_dir, **chosen):
    return attack.run(attack.Options(**{"pool": folder} | chosen, run_dir=run_dir))


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """The folder of three tiny networks, one of them held out."""
    few = {"learner": "linear", "num_networks": 3, "num_test_networks": 1, "num_epochs": 1}
    return pool_in(tmp_path_factory.mktemp("attack") / "pool", **few)


def test_success_and_what_the_others_keep_by_hand():
    # of class 0: 1 right, 3 taken for 1; class 1: 2 right of 4; class 2: 2 right of 2
    matrix = jnp.asarray([[[1, 3, 0], [0, 2, 2], [0, 0, 2]]]) / 10
    found = attack.shares(matrix, attack.Attack(0, 1))
    assert found["success_mean"] == pytest.approx(0.75) and found["others_mean"] == pytest.approx(4 / 6)
    lost = attack.shares(jnp.full((1, 3, 3), jnp.nan), attack.Attack(0, 1))
    assert lost["success_mean"] == lost["others_mean"] == 0.0


def test_the_step_size_is_chosen_on_validation():
    rows = [
        {"validation_others_lost": lost, "validation_success_mean": success, "success_mean": 1 - success}
        for lost, success in ((0.02, 0.3), (0.05, 0.6), (0.4, 0.9))
    ]
    assert attack.best(rows, 0.1) is rows[1]  # not the best on test, nor the one that costs too much
    assert attack.best(rows, 0.01) is rows[0]


def test_training_labels_are_changed_and_no_others():
    data = load("digits")
    changed = attack.relabelled(data, attack.Attack(3, 5))
    before, after = np.asarray(data.train.y).argmax(1), np.asarray(changed.train.y).argmax(1)
    assert (after[before == 3] == 5).all() and (after == before)[before != 3].all()
    assert changed.test is data.test and changed.validation is data.validation


def test_images_and_training_have_streams_of_their_own(key, monkeypatch):
    used = set()

    def subsets(key, count):
        used.add(("images", str(jax.random.key_data(key))))
        return np.zeros((count, 1), np.int32)

    def train(params, images, rows, values, split, key):
        used.add(("training", str(jax.random.key_data(key))))
        return np.zeros((1, 3, 3))

    monkeypatch.setattr(attack, "evaluator", lambda *arguments, **options: train)
    evaluation = SimpleNamespace(learner=None, strategy="auto", learner_chunk=None)
    parts = ((np.zeros((1, 1)), None, each) for each in jax.random.split(key))
    trained = attack.Trained(few_steps(10, num_steps=2, batch_size=5), None, subsets)
    before = {"others_mean": 0.9, "validation_others_mean": 0.9}
    attack.rows_of(attack.Trial(attack.Attack(0, 1), evaluation, *parts), "real", trained, [0.1, 0.2], before)
    assert len(used) == len({key for _, key in used}) == 4  # two purposes, two splits; one for all step sizes


def test_the_tables_and_files_of_an_attack(pool, tmp_path, capsys, monkeypatch):
    run_dir, loaded = tmp_path / "run", []
    monkeypatch.setattr(runs_plan, "load", lambda *names, **how: loaded.append(names) or load(*names, **how))
    one = SHORT | {"population": "fixed_pretrained"}  # needs none of those held out
    with drawn("image_grid"):
        result = attacked(pool, run_dir, **one, target_class=2)
    assert [row["series"] for row in result["chosen"]] == [
        *("nothing", "distilled", "random real", "mislabelled real")
    ]
    assert {row["num_learners"] for row in result["chosen"]} == {1}
    assert [row["step_size"] for row in result["rows"] if row["learned"]] not in ([], [0.1])
    assert len(result["rows"]) == 3 + 1 and result["most_lost"] == 0.1
    assert loaded == [("digits",)]  # once
    printed = capsys.readouterr().out
    assert (
        "0 taken for 2 (%) and accuracy of the other classes on digits: linear, the pre-trained n" in printed
    )
    for name in ("attack.json", "attack.csv", "attack.md", "attack.png", "images.png", "synthetic.npz"):
        assert (run_dir / name).stat().st_size > 100
    saved = json.loads((run_dir / "config.json").read_text())
    assert saved["experiment"] == "attack"
    assert (saved["config"]["attack_class"], saved["config"]["target_class"]) == (0, 2)
    with pytest.raises(UserError) as error:
        load_run(run_dir, pool=pool)
    assert "a run of experiments.distill, got one of experiments.attack" in message(error)
    with pytest.raises(UserError) as error:  # another attack is another run
        attacked(pool, run_dir, **one, target_class=1)
    assert "target_class: 2 there, 1 here" in message(error)


@pytest.mark.slow
def test_unseen_networks_take_one_class_for_another(tmp_path):
    network = {"learner": "mlp", "width": 32, "depth": 1}
    pool = pool_in(tmp_path / "pool", **network, num_networks=14, num_test_networks=4, num_epochs=20)
    short = {"smoke": True, "num_outer_steps": 300, "num_learners": 4, "step_sizes": [0.1, 0.5]}
    result = attacked(pool, tmp_path / "run", **network, **short)
    chosen = {row["series"]: row for row in result["chosen"]}
    assert chosen["nothing"]["success_mean"] < 0.1 and chosen["nothing"]["others_mean"] > 0.8
    assert chosen["distilled"]["success_mean"] > chosen["mislabelled real"]["success_mean"] + 0.3
    assert chosen["distilled"]["success_mean"] > chosen["random real"]["success_mean"] + 0.3
    # below 0.1 on validation, of other networks never seen
    assert chosen["distilled"]["validation_others_lost"] < 0.1 and chosen["distilled"]["others_lost"] < 0.3
    assert {row["num_learners"] for row in chosen.values()} == {2}
    assert len(result["rows"]) == 3 * 2 + 1


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        ({"attack_class": 1, "target_class": 1}, "attack_class other than target_class, got 1"),
        ({"attack_class": 10}, "attack_class in 0 ... 9, got 10"),
        ({"target_class": 12}, "target_class in 0 ... 9, got 12"),
        ({"attack_class": -1}, "attack_class >= 0, got -1"),
        ({"pool": None}, "--pool=FOLDER, got none. python -m experiments.pretrain --dataset=digits"),
        ({}, "a pool with at least 2 held-out networks, one to search with and one to test, got 1"),
        ({"population": "fresh"}, "expected one of fixed_pretrained, pretrained, got 'fresh'"),
        ({"method": "dm"}, "a method that trains inner steps, got dm"),
        ({"images_per_class": 200}, "images_per_class <= 124, got 200, but class "),
        ({"most_lost": -0.1}, "most_lost >= 0, got -0.1"),
    ],
)
def test_bad_input_starts_nothing(pool, tmp_path, chosen, says):
    with pytest.raises(UserError) as error:
        attacked(pool, tmp_path / "run", **SHORT | chosen)
    assert says in message(error)
    assert not (tmp_path / "run").exists()
