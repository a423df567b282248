"""Pools of pre-trained networks: made, gone on with, drawn from, tested on those held out, refused."""

import json

import jax
import numpy as np
import pytest
from helpers import message, tiny_data, tiny_net
from tiny_runs import tiny_run

from experiments import banks, distill, few_step, pretrain
from experiments.networks import evaluations, unseen_networks
from experiments.options import complete
from experiments.saved import load_run
from jaxdistill.core.checks import UserError
from jaxdistill.data import sample
from jaxdistill.evaluation import accuracy_on, as_they_are
from jaxdistill.populations import POPULATIONS
from jaxdistill.runtime.checkpoint import Checkpoints

KEY = jax.random.key(0)
NETWORK = {"learner": "mlp", "width": 8, "depth": 1}
POOL = NETWORK | {"num_networks": 5, "num_test_networks": 2, "num_epochs": 4, "learning_rate": 0.01}
RUN = NETWORK | {"population": "pretrained", "num_eval_learners": 5, "distill_epochs": 1}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(folder, result) of five tiny networks."""
    folder = tmp_path_factory.mktemp("pool") / "run"
    return folder, pretrain.run(**POOL, run_dir=str(folder))


def bank_of(folder, **chosen):
    config = complete(distill.GROUPS, RUN | {"pool": str(folder)} | chosen)
    data = distill.build.splits(config)
    return banks.load_bank(config, config, distill.build.learner(config, data.info), data.info), data


def test_networks_learn_and_some_are_held_out(made, capsys):
    folder, result = made
    bank, data = bank_of(folder)
    net = distill.build.learner(complete(distill.GROUPS, NETWORK), data.info)
    accuracies = [
        float(accuracy_on(net, jax.tree.map(lambda a, k=k: a[k], part), data.test))
        for part, count in ((bank.given, 3), (bank.held_out, 2))
        for k in range(count)
    ]
    np.testing.assert_allclose(result["test_accuracies"], accuracies, atol=1e-6)
    assert min(accuracies) > 0.3  # chance is 0.1
    assert pretrain.run(**POOL, run_dir=str(folder)) == result  # nothing is left to do
    printed = capsys.readouterr().out
    assert (
        "5 networks on digits: mlp, 4 epochs, cpu; " in printed and "test accuracy of 3 networks" in printed
    )


def test_a_network_is_the_same_in_any_group_and_after_a_stop(made, tmp_path, monkeypatch):
    save = Checkpoints.save

    def stop(self, step, state):
        if step == 2:
            raise KeyboardInterrupt
        save(self, step, state)

    chosen = POOL | {"group_size": 2, "strategy": "map", "run_dir": str(tmp_path / "run")}
    monkeypatch.setattr(Checkpoints, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        pretrain.run(**chosen)
    with pytest.raises(UserError) as error:
        bank_of(tmp_path / "run")
    assert "all 5 networks in" in message(error)
    monkeypatch.setattr(Checkpoints, "save", save)
    pretrain.run(**chosen)
    one_by_one, pairs = bank_of(made[0])[0], bank_of(tmp_path / "run")[0]
    for a, b in zip(jax.tree.leaves(one_by_one), jax.tree.leaves(pairs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)  # other programs: to rounding


def test_populations_draw_from_the_pool():
    net = tiny_net()
    bank = jax.vmap(net.init)(jax.random.split(KEY, 4))

    def rows(name, key, count):
        population = POPULATIONS[name]()
        drawn = population.context((), bank, key, count)
        kernel, every = (np.asarray(t["params"]["classifier"]["kernel"]) for t in (drawn, bank))
        return [int(np.flatnonzero([np.array_equal(one, each) for each in every])[0]) for one in kernel]

    assert set(rows("pretrained", KEY, 60)) == {0, 1, 2, 3}
    assert rows("pretrained", jax.random.key(1), 60) != rows("pretrained", KEY, 60)
    assert rows("fixed_pretrained", KEY, 3) == [0, 0, 0]
    for name in ("pretrained", "fixed_pretrained"):
        with pytest.raises(UserError) as error:
            POPULATIONS[name]().context((), None, KEY, 2)
        assert f"{name}: expected a bank of networks, got none" in message(error)


def test_a_default_that_is_spelled_out_is_the_same_network(made):
    bank, _ = bank_of(made[0], activation="relu")
    assert bank is not None
    with pytest.raises(UserError) as error:
        bank_of(made[0], activation="tanh")
    assert "activation: relu there, tanh here" in message(error)


def test_a_run_is_tested_on_networks_held_out(made, tmp_path):
    result, printed = tiny_run(tmp_path / "run", **RUN, pool=str(made[0]))
    assert result["num_learners"] == result["random_real_num_learners"] == 2  # that many are held out
    assert "unseen pre-trained networks" in printed
    assert len(result["config"]["pool_sha256"]) == 64 and "pool" not in result["config"]
    saved = load_run(tmp_path / "run", pool=str(made[0]))
    contexts = unseen_networks(saved.config, saved.learner, saved.state, saved.bank)
    found = jax.tree.leaves(contexts(KEY, 2))[0]
    held_out = jax.tree.leaves(saved.bank.held_out)[0]
    assert sorted(np.asarray(found).ravel()) == sorted(np.asarray(held_out).ravel())
    evaluation, _ = evaluations(saved.config, saved.data, saved.learner, saved.state, KEY, saved.bank)
    searching = jax.tree.leaves(evaluation.search_contexts(KEY, 30))[0]
    given = {leaf.tobytes() for leaf in np.asarray(jax.tree.leaves(saved.bank.given)[0])}
    assert {leaf.tobytes() for leaf in np.asarray(searching)} == given  # none of those held out
    with pytest.raises(UserError) as error:
        contexts(KEY, 3)
    assert "at most 2 networks, those held out of the pool, got 3" in message(error)
    with pytest.raises(UserError) as error:
        few_step.run(runs=[str(tmp_path / "run")], run_dir=str(tmp_path / "few"), num_learners=2)
    assert "--pool=FOLDER, with population=pretrained, got none" in message(error)


def test_one_pre_trained_network_is_kept_with_the_images(made, tmp_path):
    options = RUN | {"population": "fixed_pretrained", "num_learners": 1, "num_baseline_learners": 0}
    result, printed = tiny_run(tmp_path / "run", **options, pool=str(made[0]))
    assert result["num_learners"] == 1 and "the pre-trained network" in printed
    bank, _ = bank_of(made[0])
    with np.load(tmp_path / "run/synthetic.npz") as file:
        kept = {name: file[name] for name in file.files if name.startswith("start/")}
    first = np.asarray(bank.given["params"]["classifier"]["kernel"][0])
    assert any(np.array_equal(value, first) for value in kept.values())


def test_a_linear_solve_starts_from_the_last_on_one_network(made, tmp_path):
    options = RUN | {"population": "fixed_pretrained", "num_learners": 1, "num_baseline_learners": 0}
    options |= {"gradient": "implicit", "warm_start": True, "distill_epochs": None, "num_outer_steps": 5}
    result, _ = tiny_run(tmp_path / "run", **options, pool=str(made[0]))
    state = load_run(tmp_path / "run", pool=str(made[0])).state
    assert result["outer_steps"] == 5 and max(np.abs(a).max() for a in jax.tree.leaves(state.solver)) > 0


def test_a_network_that_diverges_is_not_kept(tmp_path):
    with pytest.raises(UserError) as error:
        pretrain.run(**POOL | {"learning_rate": 1e30}, run_dir=str(tmp_path / "run"))
    assert "networks with finite weights, got NaN. Lower learning_rate." in message(error)


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_networks_as_they_are(norm):
    data, net = tiny_data(counts=(20, 5, 5)), tiny_net("convnet", width=4, depth=1, norm=norm)
    params = jax.vmap(net.init)(jax.random.split(KEY, 2))
    found = as_they_are(net, params, data, data, KEY, batch_size=12, strategy="map")
    batch = sample(data, KEY, 12)
    for k in range(2):
        one = net.calibrate(jax.tree.map(lambda a, k=k: a[k], params), batch.x)
        np.testing.assert_allclose(found[k], accuracy_on(net, one, data), atol=1e-6)
    assert len(set(np.asarray(batch.y).argmax(1))) == 3  # not of one class, as the first of a split are


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        (
            {"pool": None},
            "pretrained: expected --pool=FOLDER, got none. python -m experiments.pretrain ",
        ),
        ({"pool": "nowhere"}, "a folder of experiments.pretrain, got nowhere"),
        ({"width": 9}, "width: 8 there, 9 here"),
        ({"image_size": 6}, "image_shape: [8, 8, 1] there, [6, 6, 1] here"),
        ({"pool_dataset": "usps"}, "dataset: digits there, usps here"),
        ({"population": "fresh"}, "pool left out with population=fresh"),
        ({"population": "fixed_pretrained"}, "num_learners 1, since all of them are equal, got 2"),
    ],
)
def test_bad_input_starts_nothing(made, tmp_path, chosen, says):
    options = RUN | {"pool": str(made[0]), "run_dir": str(tmp_path / "run"), "num_learners": 2} | chosen
    with pytest.raises(UserError) as error:
        distill.run(**options)
    assert says in message(error)
    assert not (tmp_path / "run").exists()


def test_another_pool_is_refused(made, tmp_path):
    tiny_run(tmp_path / "run", **RUN, num_outer_steps=5, num_baseline_learners=0, pool=str(made[0]))
    pretrain.run(**POOL | {"num_epochs": 1}, run_dir=str(tmp_path / "other"))
    with pytest.raises(UserError) as error:
        load_run(tmp_path / "run", pool=str(tmp_path / "other"))
    assert "the networks that " in message(error)


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        ({"num_test_networks": 5}, "num_test_networks < num_networks = 5, got 5"),
        ({"num_test_networks": 0}, "num_test_networks >= 1, got 0"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"learner": "mlpp"}, "expected one of"),
    ],
)
def test_a_bad_pool_is_refused(tmp_path, chosen, says):
    with pytest.raises(UserError) as error:
        pretrain.run(**POOL | chosen, run_dir=str(tmp_path / "run"))
    assert says in message(error)
    assert not (tmp_path / "run").exists()


def test_the_config_says_what_the_pool_is(made):
    saved = json.loads((made[0] / "config.json").read_text())["config"]
    assert saved["image_shape"] == [8, 8, 1] and saved["group_size"] == 1
