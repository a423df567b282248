"""Images that make networks take one class for another: what is counted, if it works, what is refused."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import message, tiny_data, tiny_net

from experiments import attack, pretrain
from experiments.saved import load_run
from jaxdistill.core.checks import UserError
from jaxdistill.data import load
from jaxdistill.evaluation import accuracy_on, confusion_on

NETWORK = {"learner": "mlp", "width": 32, "depth": 1}
OPTIONS = NETWORK | {"smoke": True, "num_outer_steps": 300, "num_learners": 4, "step_sizes": [0.1, 0.5]}


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    folder = tmp_path_factory.mktemp("attack") / "pool"
    pretrain.run(**NETWORK, num_networks=14, num_test_networks=4, num_epochs=20, run_dir=str(folder))
    return str(folder)


def test_confusion_counts_by_class_and_answer():
    net, data = tiny_net("linear"), tiny_data()
    params = net.init(jax.random.key(0))
    answers = np.asarray(net.apply(params, data.x)).argmax(1)
    truth = np.asarray(data.y).argmax(1)
    expected = np.zeros((3, 3))
    np.add.at(expected, (truth, answers), 1 / len(truth))
    for microbatch in (4, 256):
        found = confusion_on(net, params, data, microbatch=microbatch)
        np.testing.assert_allclose(found, expected, atol=1e-6)
    assert float(jnp.trace(found)) == pytest.approx(float(accuracy_on(net, params, data)), abs=1e-6)
    broken = jax.tree.map(lambda a: a.at[..., 0].set(jnp.nan), params)
    assert np.isnan(confusion_on(net, broken, data)).any()


def test_success_and_what_the_others_keep_by_hand():
    # of class 0: 1 right, 3 taken for 1; class 1: 2 right of 4; class 2: 2 right of 2
    matrix = jnp.asarray([[[1, 3, 0], [0, 2, 2], [0, 0, 2]]]) / 10
    found = attack.shares(matrix, {"attack_class": 0, "target_class": 1})
    assert found["success_mean"] == pytest.approx(0.75) and found["others_mean"] == pytest.approx(4 / 6)
    lost = attack.shares(jnp.full((1, 3, 3), jnp.nan), {"attack_class": 0, "target_class": 1})
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
    changed = attack.relabelled(data, attack_class=3, target_class=5)
    before, after = np.asarray(data.train.y).argmax(1), np.asarray(changed.train.y).argmax(1)
    assert (after[before == 3] == 5).all() and (after == before)[before != 3].all()
    assert changed.test is data.test and changed.validation is data.validation


@pytest.mark.slow
def test_unseen_networks_take_one_class_for_another(pool, tmp_path, capsys):
    result = attack.run(**OPTIONS, attack_class=0, target_class=1, pool=pool, run_dir=str(tmp_path / "run"))
    chosen = {row["series"]: row for row in result["chosen"]}
    assert list(chosen) == ["nothing", "distilled", "random real", "mislabelled real"]
    assert chosen["nothing"]["success_mean"] < 0.1 and chosen["nothing"]["others_mean"] > 0.8
    assert chosen["distilled"]["success_mean"] > chosen["mislabelled real"]["success_mean"] + 0.3
    assert chosen["distilled"]["success_mean"] > chosen["random real"]["success_mean"] + 0.3
    # below 0.1 on validation, of other networks never seen
    assert chosen["distilled"]["validation_others_lost"] < 0.1 and chosen["distilled"]["others_lost"] < 0.3
    assert {row["num_learners"] for row in chosen.values()} == {2}
    own = [row for row in result["rows"] if row["learned"]]
    assert len(own) == 1 and len(result["rows"]) == 3 * 2 + 1
    printed = capsys.readouterr().out
    assert "0 taken for 1 (%) and accuracy of the other classes on digits: mlp, unseen pre-trained" in printed
    for name in ("attack.json", "attack.csv", "attack.md", "attack.png", "images.png", "synthetic.npz"):
        assert (tmp_path / "run" / name).stat().st_size > 100
    saved = json.loads((tmp_path / "run/config.json").read_text())["config"]
    assert (saved["attack_class"], saved["target_class"]) == (0, 1)
    with pytest.raises(UserError) as error:
        load_run(tmp_path / "run", pool=pool)
    assert "a run of experiments.distill, got one of experiments.attack" in message(error)
    with pytest.raises(UserError) as error:  # another attack is another run
        attack.run(**OPTIONS, attack_class=0, target_class=2, pool=pool, run_dir=str(tmp_path / "run"))
    assert "target_class" in str(error.value)


def test_a_pool_without_networks_to_search_with_is_refused(tmp_path):
    few = {"num_networks": 3, "num_test_networks": 1, "num_epochs": 1}
    pretrain.run(**NETWORK, **few, run_dir=str(tmp_path / "pool"))
    with pytest.raises(UserError) as error:
        attack.run(**OPTIONS, pool=str(tmp_path / "pool"), run_dir=str(tmp_path / "run"))
    assert "a pool with at least 2 networks held out" in message(error)
    assert not (tmp_path / "run").exists()
    one = {"population": "fixed_pretrained", "num_learners": 1, "num_outer_steps": 20}  # needs none of them
    found = attack.run(**OPTIONS | one, pool=str(tmp_path / "pool"), run_dir=str(tmp_path / "run"))
    assert {row["num_learners"] for row in found["chosen"]} == {1}


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        ({"attack_class": 1, "target_class": 1}, "attack_class other than target_class, got 1"),
        ({"attack_class": 10}, "attack_class in 0 ... 9, got 10"),
        ({"target_class": 12}, "target_class in 0 ... 9, got 12"),
        ({"attack_class": -1}, "attack_class >= 0, got -1"),
        ({"pool": None}, "--pool=FOLDER, got none. python -m experiments.pretrain --dataset=digits"),
        ({"population": "fresh"}, "expected one of fixed_pretrained, pretrained, got 'fresh'"),
        ({"method": "dm"}, "a method that trains inner steps, got dm"),
        ({"images_per_class": 200}, "images_per_class <= 116, got 200, but class "),
        (
            {"teacher": "generator", "images_per_class": 1, "batch_size": 11},
            "as many images of every class: a multiple of the classes in all batches together",
        ),
        ({"most_lost": -0.1}, "most_lost >= 0, got -0.1"),
    ],
)
def test_bad_input_starts_nothing(pool, tmp_path, chosen, says):
    with pytest.raises(UserError) as error:
        attack.run(**OPTIONS | {"pool": pool} | chosen, run_dir=str(tmp_path / "run"))
    assert says in message(error)
    assert not (tmp_path / "run").exists()
