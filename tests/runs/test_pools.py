"""Pools through the engine: drawn from, tested on those held out, refused where they do not fit."""

import json
import shutil

import jax
import numpy as np
import pytest
from helpers import message, same_bits, tiny_net
from tiny_runs import TINY

from jaxdistill.config.option import UNSET
from jaxdistill.config.table import Config
from jaxdistill.core.checks import UserError
from jaxdistill.populations import POPULATIONS
from jaxdistill.populations.source import source_of
from jaxdistill.runs.bank_training import PretrainOptions, pretrain
from jaxdistill.runs.distill import distill
from jaxdistill.runs.export import export
from jaxdistill.runs.networks import evaluations, unseen_networks
from jaxdistill.runs.plan import planned
from jaxdistill.runs.run import load_run
from jaxdistill.runtime.progress import silent

KEY = jax.random.key(0)
NETWORK = {"learner": "mlp", "width": 8, "depth": 1}
POOL = NETWORK | {"num_networks": 5, "num_test_networks": 2, "num_epochs": 1}
RUN = NETWORK | {"population": "pretrained", "distill_epochs": 1, "num_outer_steps": 5}
ONE = RUN | {"population": "fixed_pretrained", "num_learners": 1}


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """The folder of five tiny networks."""
    folder = tmp_path_factory.mktemp("pool") / "run"
    with silent():
        pretrain(PretrainOptions(**POOL, run_dir=folder))
    return folder


def test_populations_draw_from_a_pool():
    net = tiny_net()
    bank = jax.vmap(net.init)(jax.random.split(KEY, 4))

    def rows(name, key, count):
        population = source_of(POPULATIONS[name]).make()
        drawn = population.context((), bank, key, count)
        kernel, every = (np.asarray(t["params"]["classifier"]["kernel"]) for t in (drawn, bank))
        return [int(np.flatnonzero([np.array_equal(one, each) for each in every])[0]) for one in kernel]

    assert set(rows("pretrained", KEY, 60)) == {0, 1, 2, 3}
    assert rows("pretrained", jax.random.key(1), 60) != rows("pretrained", KEY, 60)
    assert rows("fixed_pretrained", KEY, 3) == [0, 0, 0]
    for name in ("pretrained", "fixed_pretrained"):
        with pytest.raises(UserError) as error:
            source_of(POPULATIONS[name]).make().context((), None, KEY, 2)
        assert f"{name}: expected a bank of networks, got none" in message(error)


def test_a_default_that_is_spelled_out_is_the_same_network(pool):
    assert planned(Config(**RUN, pool=pool, activation="relu"), opening=True).bank is not None
    with pytest.raises(UserError) as error:
        planned(Config(**RUN, pool=pool, activation="tanh"), opening=True)
    assert "activation: relu there, tanh here" in message(error)


def test_a_pool_of_another_test_part_is_refused(pool, tmp_path):
    shutil.copytree(pool, tmp_path / "pool")
    file = tmp_path / "pool/config.json"
    saved = json.loads(file.read_text())
    saved["config"]["test_fraction"] = 0.05
    file.write_text(json.dumps(saved))
    with pytest.raises(UserError) as error:
        planned(Config(**RUN, pool=tmp_path / "pool"), opening=True)
    assert "test_fraction: 0.05 there, None here" in message(error)


def test_a_run_has_the_network_of_its_pool(pool):
    options = {name: value for name, value in RUN.items() if name not in NETWORK}
    plan = planned(Config(**options, pool=pool), opening=True)
    assert {name: getattr(plan.config, name) for name in NETWORK} == NETWORK
    assert "width" not in plan.chosen.chosen()  # the user did not choose it
    with pytest.raises(UserError) as error:
        planned(Config(**options, pool=pool, width=16), opening=True)
    assert "width: 8 there, 16 here" in message(error) and "depth" not in message(error).split(".")[0]


def test_a_run_is_tested_on_networks_held_out(pool, tmp_path):
    distill(Config(**TINY | RUN, pool=pool), run_dir=tmp_path / "run", progress=False)
    run = load_run(tmp_path / "run", pool=pool)
    assert export(load_run(tmp_path / "run"), tmp_path / "set.npz", to="npz", progress=False).is_file()
    assert len(run.plan.identity["pool_sha256"]) == 64 and "pool" not in run.plan.identity
    contexts = unseen_networks(run.config, run.learner, run.state, run.bank)
    found = jax.tree.leaves(contexts(KEY, 2))[0]
    held_out = jax.tree.leaves(run.bank.held_out)[0]
    assert sorted(np.asarray(found).ravel()) == sorted(np.asarray(held_out).ravel())
    five = run.config.replace(num_eval_learners=5, num_baseline_learners=5)  # more than there are
    evaluation, baselines = evaluations(five, run.data, run.learner, run.state, KEY, run.bank)
    assert evaluation.num_learners == baselines.num_learners == 2
    searching = jax.tree.leaves(evaluation.search_contexts(KEY, 30))[0]
    given = {leaf.tobytes() for leaf in np.asarray(jax.tree.leaves(run.bank.given)[0])}
    assert {leaf.tobytes() for leaf in np.asarray(searching)} == given  # none of those held out
    with pytest.raises(UserError) as error:
        contexts(KEY, 3)
    assert "at most 2 networks, which the pool holds out, got 3" in message(error)
    with pytest.raises(UserError) as error:
        load_run(tmp_path / "run").score(2)
    assert "pool=FOLDER, with population=pretrained, got none" in message(error)
    other = shutil.copytree(pool, tmp_path / "other")
    file = other / "config.json"
    file.write_text(file.read_text().replace('"num_test_networks": 2', '"num_test_networks": 1'))
    with pytest.raises(UserError) as error:
        load_run(tmp_path / "run", pool=other)
    assert "the networks that " in message(error)


def test_one_pre_trained_network_is_saved_with_the_images(pool, tmp_path):
    run = distill(Config(**TINY | ONE, pool=pool), run_dir=tmp_path / "run", progress=False)
    first = jax.tree.map(lambda a: a[0], run.bank.given)
    evaluation, _ = evaluations(run.config, run.data, run.learner, run.state, KEY, run.bank)
    assert evaluation.num_learners == 1
    same_bits(jax.tree.map(lambda a: a[0], evaluation.contexts(KEY, 1)), first)
    with np.load(tmp_path / "run/synthetic.npz") as file:
        saved = [file[name] for name in file.files if name.startswith("start/")]
    assert any(np.array_equal(value, first["params"]["classifier"]["kernel"]) for value in saved)


@pytest.mark.slow
def test_a_linear_solve_starts_from_the_last_on_one_network(pool):
    state = distill(Config(**TINY | ONE, gradient="implicit", warm_start=True, pool=pool)).state
    assert max(np.abs(a).max() for a in jax.tree.leaves(state.solver)) > 0


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        ({"pool": UNSET}, "pretrained: expected --pool=FOLDER, got none. python -m experiments.pretrain "),
        ({"pool": "nowhere"}, "a folder of experiments.pretrain, got nowhere"),
        ({"width": 9}, "width: 8 there, 9 here"),
        ({"image_size": 6}, "image_shape: [8, 8, 1] there, [6, 6, 1] here"),
        ({"pool_dataset": "usps"}, "dataset: digits there, usps here"),
        ({"population": "fresh"}, "no pool with population=fresh"),
        ({"population": "fixed_pretrained"}, "num_learners 1, since all of them are equal, got 2"),
    ],
)
def test_a_pool_that_does_not_fit_is_refused(pool, chosen, says):
    with pytest.raises(UserError) as error:
        planned(Config(**RUN | {"pool": pool, "num_learners": 2} | chosen))
    assert says in message(error)
