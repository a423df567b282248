"""DC, DSA and DM: the population that goes on, the recipes, runs, and what they refuse."""

import jax
import numpy as np
import pytest
from helpers import CLASSES, SHAPE, message, same_bits, tiny_net
from tiny_runs import tiny_run

from experiments import build, distill, experts
from experiments.options import complete
from jaxdistill.core.checks import Caution, UserError
from jaxdistill.core.types import Batch, Meta
from jaxdistill.data import load
from jaxdistill.evaluation import Evaluation, everything, published, random_of_each_class, tuned
from jaxdistill.inner.losses import inner_loss
from jaxdistill.learners import learner
from jaxdistill.methods.dc import SCHEDULES, images_per_class, schedule
from jaxdistill.populations.fresh import fresh
from jaxdistill.populations.persistent import persistent
from jaxdistill.teachers import images

KEY = jax.random.key(0)
NET = tiny_net()
TEACHER = images(image_shape=SHAPE, num_classes=CLASSES, images_per_class=2)
META = Meta(TEACHER.init(KEY), {})


def moved(a, b):
    return any(np.abs(x - y).max() > 1e-6 for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))


def test_networks_are_trained_between_matches_and_replaced_after_the_last():
    population = persistent(NET, TEACHER, matches=3, epochs=4, learning_rate=0.5)
    state = population.init(KEY)
    states = [state]
    for step in range(4):
        state = jax.jit(population.advance)(state, META, jax.random.key(step))
        states.append(state)
    assert [int(s.matches) for s in states] == [0, 1, 2, 0, 1]
    batch = jax.tree.map(lambda a: a[0], TEACHER.batches(META.teacher, KEY))
    loss = [float(inner_loss(NET)(META, jax.tree.map(lambda a: a[0], s.params), batch)) for s in states]
    assert loss[0] > loss[1] > loss[2] and loss[3] > loss[2] and loss[4] < loss[3]
    assert moved(states[3].params, states[0].params)  # new ones, not the first again


def test_training_between_matches_is_gradient_descent_on_all_images():
    population = persistent(NET, TEACHER, matches=2, epochs=1, learning_rate=0.5, batch_size=256)
    state = population.init(KEY)
    after = population.advance(state, META, KEY)
    start = jax.tree.map(lambda a: a[0], state.params)
    batch = jax.tree.map(lambda a: a[0], TEACHER.batches(META.teacher, KEY))
    gradient = jax.grad(inner_loss(NET), argnums=1)(META, start, batch)
    expected = jax.tree.map(lambda p, g: p - 0.5 * g, start, gradient)
    for a, b in zip(
        jax.tree.leaves(jax.tree.map(lambda a: a[0], after.params)), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_networks_of_one_match_are_fresh_ones():
    population, new = persistent(NET, TEACHER, matches=1, num_learners=2), fresh(NET)
    state = population.advance(population.init(KEY), META, KEY)
    keys = jax.random.split(jax.random.fold_in(KEY, 0), 2)
    assert jax.tree.structure(state.params) == jax.tree.structure(new.context((), None, keys[0], 2))
    same_bits(population.context(state, None, KEY, 2), state.params)
    assert moved(state.params, population.init(KEY).params)
    with pytest.raises(UserError) as error:
        population.context(state, None, KEY, 3)
    assert "2 learners, as it was made for, got 3" in message(error)


def test_the_papers_numbers_by_images_per_class():
    assert [schedule(count) for count in (1, 9, 10, 49, 50, 100)] == [
        SCHEDULES[known] for known in (1, 1, 10, 40, 50, 50)
    ]
    assert images_per_class(TEACHER) == 2
    config = complete(distill.GROUPS, {"method": "dc", "images_per_class": 10})
    assert config["num_outer_steps"] == 10_000 and config["population"] == "persistent"
    assert complete(distill.GROUPS, {"method": "dc"})["num_outer_steps"] == 1000
    assert complete(distill.GROUPS, {"method": "dm"})["start"] == "real"
    for rate, chosen in (
        (0.1, {"method": "dc"}),
        (0.01, {"method": "dsa", "learner": "mlp"}),
        (1.0, {"method": "dm", "images_per_class": 50, "learner": "mlp"}),
        (10.0, {"method": "dm", "images_per_class": 100}),
    ):
        assert complete(distill.GROUPS, chosen)["outer_learning_rate"] == rate


def test_networks_see_augmented_images_between_matches():
    def state_after(augment):
        population = persistent(NET, TEACHER, matches=2, epochs=3, learning_rate=0.5, augment=augment)
        return population.advance(population.init(KEY), META, KEY).params

    same_bits(state_after(None), state_after(lambda key, x: x))
    mirrored = persistent(NET, TEACHER, matches=2, epochs=3, learning_rate=0.5)
    meta = Meta(jax.tree.map(lambda x: -x, META.teacher), {})
    same_bits(state_after(lambda key, x: -x), mirrored.advance(mirrored.init(KEY), meta, KEY).params)
    # a key of its own for every step
    noise = state_after(lambda key, x: x + jax.random.normal(key, ()))
    assert moved(noise, state_after(lambda key, x: x + jax.random.normal(KEY, ())))


def test_augmentation_by_default_is_that_of_the_data_set():
    config = complete(distill.GROUPS, {"method": "dsa"})
    digits = build.splits(config).info

    def draws(name, **chosen):
        made = build.augmentation(config | chosen, digits._replace(name=name))
        x = jax.random.normal(KEY, (1, 8, 8, 1))
        seen = [np.asarray(made.siamese(key, x)) for key in jax.random.split(KEY, 60)]
        return sum(np.array_equal(one, x[:, :, ::-1]) for one in seen)

    assert draws("mnist") == draws("a set of mine") == 0 and draws("cifar10") > 0
    with pytest.warns(Caution, match="flip makes mirror images, which are not of the classes of digits"):
        assert draws("digits", augment=["flip"]) > 10
    assert build.augmentation(config | {"augment": []}, digits) is None


SMALL = {
    "learner": "mlp",
    "width": 8,
    "depth": 1,
    "num_outer_steps": 10,
    "real_batch_size": 8,
    "distill_epochs": 1,
    "num_learners": 1,
}


@pytest.mark.parametrize(
    ("method", "protocol"), [pytest.param("dc", "dc", marks=pytest.mark.slow), ("dm", "dsa"), ("dsa", "dsa")]
)
def test_runs_are_evaluated_by_the_papers_protocol(tmp_path, method, protocol):
    result, printed = tiny_run(tmp_path / "run", **SMALL | {"method": method, "num_baseline_learners": 0})
    assert result["protocol"] == protocol and f"{protocol}, step size 0.01" in printed
    with np.load(tmp_path / "run/synthetic.npz") as file:
        assert file["x"].shape == (10, 8, 8, 1) and not any(name.startswith("hyper_") for name in file)


@pytest.mark.slow
@pytest.mark.parametrize("teacher", ["images", "generator"])
def test_matching_on_one_fixed_network(tmp_path, teacher):
    options = SMALL | {"method": "dc", "population": "fixed", "teacher": teacher, "start": "noise"}
    options |= {"num_baseline_learners": 0, "images_per_class": 2}
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
        experts.run(**network, learning_rate=0.1, num_experts=5, run_dir=str(tmp_path / "experts"))
        options["experts"] = str(tmp_path / "experts")
    short = {"num_eval_learners": 1, "num_baseline_learners": 0, "protocol": "dc"}
    distill.run(
        method=method, images_per_class=10, **network, **options, **short, run_dir=str(tmp_path / "run")
    )
    with np.load(tmp_path / "run/synthetic.npz") as file:
        images = Batch(jax.numpy.asarray(file["x_standardised"]), jax.numpy.asarray(file["y_soft"]))
    found = tuned_by(published("dc", 100), images, everything(100), digits)
    assert found > random + 0.02, (found, random)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "steps"), [("dc", 200), ("dsa", 200), ("dm", 500)])
def test_one_image_per_class_beats_random_real_ones(tmp_path, method, steps):
    result = distill.run(
        method=method,
        width=16,
        depth=2,
        num_outer_steps=steps,
        real_batch_size=64,
        num_eval_learners=10,
        num_baseline_learners=10,
        step_sizes=[0.01, 0.03, 0.1],
        full_data_epochs=0,
        run_dir=str(tmp_path / "run"),
    )
    assert result["test_accuracy_mean"] > result["random_real_mean"] + 0.1, result


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        (
            {"method": "dc", "gradient": "implicit"},
            "gradient left out with method=dc, got implicit. It trains no",
        ),
        ({"method": "dm", "inner_learning_rate": 0.1}, "inner_learning_rate left out with method=dm"),
        ({"method": "dm", "distill_epochs": 2}, "distill_epochs left out with method=dm, got 2"),
        ({"method": "dc", "distance": "l3"}, "distance: expected one of cosine, l2, layerwise"),
        ({"method": "dm", "distance": "l2"}, "distance left out with method=dm, got l2."),
        ({"method": "dd", "distance": "l2"}, "distance left out with method=dd, got l2"),
        (
            {"method": "dc", "outer_optimizer": "adam", "outer_momentum": 0.9},
            "outer_momentum left out with adam, got 0.9",
        ),
        ({"method": "dc", "matches": 0}, "matches >= 1, got 0"),
        ({"method": "dm", "matches": 3}, "matches left out with population=fresh, got 3"),
        (
            {"method": "dm", "match_learning_rate": 0.1},
            "match_learning_rate left out with population=fresh, got 0.1",
        ),
        (
            {"method": "dc", "match_learning_rate": 0.0},
            "options: expected match_learning_rate > 0, got 0.0",
        ),
        (
            {"method": "dc", "protocol": "as_distilled"},
            "one of dc, dc_augmented, dsa with method=dc, which trains no inner",
        ),
        ({"method": "dsa", "augment": ["crop", "kutout"]}, "cutout, flip, rotate, scale, got 'kutout'"),
        ({"method": "dsa", "augment": []}, "at least one operation to augment with, with method=dsa"),
        ({"method": "dsa", "augment_strength": 3}, "augment_strength <= 2, got 3"),
        ({"method": "dd", "augment": ["crop"]}, "augment left out with method=dd"),
        ({"method": "dd", "augment_strength": 0.5}, "augment_strength left out with method=dd, got 0.5"),
        ({"method": "dc", "feature_layers": "all"}, "feature_layers left out with method=dc, got all"),
        ({"method": "dm", "feature_layers": "first"}, "feature_layers: expected one of all, last"),
        ({"method": "dm", "outer_momentum": 1.5}, "momentum in [0, 1), got 1.5"),
        (
            {"method": "dc", "teacher": "generator", "batch_size": 4, "start": "noise"},
            "at least one synthetic image of every class",
        ),
    ],
)
def test_bad_input_starts_nothing(tmp_path, chosen, says):
    small = {name: value for name, value in SMALL.items() if name != "distill_epochs"}
    with pytest.raises(UserError) as error:
        distill.run(**small | {"run_dir": str(tmp_path / "run")} | chosen)
    assert says in message(error)
    assert not (tmp_path / "run").exists()


def test_numbers_that_are_not_finite_name_options_of_the_method(tmp_path):
    chosen = {"method": "dc", "matches": 2, "match_epochs": 1, "match_learning_rate": 1e30}
    small = {name: value for name, value in SMALL.items() if name != "distill_epochs"}
    with pytest.raises(UserError) as error:
        distill.run(**small | chosen, run_dir=str(tmp_path / "run"))
    assert (
        "Lower outer_learning_rate or match_learning_rate, or bound the outer gradient with clip."
        in message(error)
    )


def test_a_batch_beyond_a_class_is_told(tmp_path):
    with pytest.warns(Caution, match="300 are drawn with replacement"):
        tiny_run(
            tmp_path / "run", **SMALL | {"method": "dm", "real_batch_size": 300, "num_baseline_learners": 0}
        )
