"""Scores, the search on validation, and the small sets that networks are compared on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import CLASSES, message, tiny_data, tiny_net

from jaxdistill.baselines.random_real import random_real
from jaxdistill.core.checks import UserError
from jaxdistill.core.types import Batch
from jaxdistill.data import labels
from jaxdistill.evaluation import (
    STEP_SIZES,
    Evaluation,
    accuracy_on,
    epochs,
    everything,
    published,
    random_of_each_class,
    regression,
    score,
    search,
    summarize,
    top_k_on,
    tuned,
    with_step_size,
)
from jaxdistill.runs.networks import new_networks

KEY = jax.random.key(0)


def test_accuracy_equals_numpy_with_a_last_partial_chunk():
    net, data = tiny_net("linear"), tiny_data()
    params = net.init(KEY)
    classifier = params["params"]["classifier"]
    logits = np.asarray(data.x).reshape(18, -1) @ np.asarray(classifier["kernel"])
    logits = logits + np.asarray(classifier["bias"])
    expected = np.mean(logits.argmax(-1) == np.asarray(labels(data)))
    assert 0 < expected < 1
    for microbatch in (4, 256):  # 18 images: not dividing, larger than the set
        found = float(accuracy_on(net, params, data, microbatch=microbatch))
        assert found == pytest.approx(expected, rel=1e-6)
    among_two = np.mean(
        [label in row.argsort()[-2:] for row, label in zip(logits, labels(data), strict=True)]
    )
    assert expected < among_two < 1
    measures = (accuracy_on, top_k_on(1), top_k_on(2), top_k_on(CLASSES))

    @jax.jit
    def every(params, data):
        return jnp.stack([measure(net, params, data, microbatch=4) for measure in measures])

    np.testing.assert_allclose(every(params, data), [expected, expected, among_two, 1.0], rtol=1e-6)
    broken = jax.tree.map(lambda a: np.where(np.arange(a.shape[-1]) == 0, np.nan, a), params)
    assert np.isnan(every(broken, data)).all()
    for k, made in ((0, lambda: top_k_on(0)), (4, lambda: top_k_on(4)(net, params, data))):
        with pytest.raises(UserError) as error:
            made()
        assert f"got {k}" in message(error)


def test_a_score_has_mean_std_and_every_network():
    found = summarize(jnp.asarray([0.5, 0.75, 1.0]), 4)
    assert found.mean == 0.75 and found.every == [0.5, 0.75, 1.0]
    assert found.std == pytest.approx(np.sqrt(2 * 0.25**2 / 3))
    assert found.num_diverged == 0
    # a network that diverged counts as chance, and is counted
    lost = summarize(jnp.asarray([0.5, jnp.nan]), 4)
    assert (lost.every, lost.num_diverged) == ([0.5, 0.25], 1)
    assert "per_class" not in found.as_row()  # not measured


def test_search_takes_the_first_of_the_best():
    values = {0.1: 0.5, 0.3: 0.75, 1.0: 0.75, 3.0: 0.25}
    assert search(tuple(values), values.__getitem__) == (0.3, values)
    assert len(STEP_SIZES) >= 5  # what the comparison promises its baselines


def test_search_goes_on_where_the_best_is_an_end():
    best, scores = search((0.1, 0.3), lambda value: -abs(np.log(value / 2.7)))
    assert best == pytest.approx(2.7) and len(scores) == 4
    best, scores = search((0.1, 0.3), lambda value: value)  # twice, not forever
    assert best == pytest.approx(2.7) and len(scores) == 4
    best, scores = search((0.1, 0.3), lambda value: -value)
    assert best == pytest.approx(0.1 / 9)
    assert search((0.1,), lambda value: value)[0] == 0.1  # one candidate is an order, not a search


# ---------------------------------------------------------------- tuned


@pytest.fixture(scope="module")
def setting():
    """Networks, and a test split whose labels say the opposite of validation's."""
    net, calls = tiny_net("linear"), []
    drawn = jax.jit(lambda key: jax.lax.map(net.init, jax.random.split(key, 3)))

    def contexts(key, count):
        calls.append((np.asarray(jax.random.key_data(key)).tobytes(), count))
        return drawn(key)

    validation, honest = tiny_data(1, (20, 20, 20)), tiny_data(2, (20, 20, 20))
    leaky = honest._replace(y=jnp.roll(honest.y, 1, axis=-1))
    evaluation = Evaluation(net, contexts, validation, leaky, KEY, num_learners=3, search_learners=3)
    return evaluation, honest, calls


def test_the_test_split_selects_nothing(setting):
    evaluation, _, calls = setting
    train = tiny_data()
    images = Batch(train.x, train.y)
    protocols = [epochs(6, num_epochs=3, momentum=momentum, name=f"m{momentum}") for momentum in (0.0, 0.5)]
    rates = (1e-6, 1e-2, 0.3)
    calls.clear()
    subsets = random_of_each_class(train, 2)
    found = tuned(evaluation, protocols, images, subsets, step_sizes=rates)
    # by validation the networks have to learn; by this test split they had better not
    assert found.step_size >= 0.3
    assert set(found.searched) == {"m0.0", "m0.5"} and set(found.searched["m0.5"]) >= set(rates)
    best = max((v, p, r) for p, scores in found.searched.items() for r, v in scores.items())
    assert found.searched[found.protocol][found.step_size] == best[0] > 0.9
    assert found.score.mean < 0.1 and len(found.score.every) == 3
    assert [count for _, count in calls] == [3, 3]
    assert calls[0][0] != calls[1][0]  # other networks for the search than for the test


def test_a_protocol_of_adam_is_searched_around_its_own_step_size(setting):
    evaluation, _, _ = setting
    images, subsets = Batch(tiny_data().x, tiny_data().y), random_of_each_class(tiny_data(), 2)
    plan = regression(6, num_steps=2, learning_rate=0.02)

    def searched(**chosen):
        return set(tuned(evaluation, [plan], images, subsets, **chosen).searched["regression"])

    assert set(plan.step_sizes) <= searched() and not {*STEP_SIZES} & searched()
    assert searched(step_sizes=(0.5,)) == {0.5}
    for rate, name in ((1e-4, "rcig"), (3e-4, "frepo")):
        assert published(name, 10).step_sizes == pytest.approx((rate / 3, rate, 3 * rate, 10 * rate))
    assert published("dc", 10).step_sizes == epochs(6, num_epochs=3).step_sizes == STEP_SIZES


def test_a_score_searches_nothing(setting):
    evaluation, honest, _ = setting
    train = tiny_data()
    protocol = epochs(6, num_epochs=3)

    def found(step_size):
        plan = with_step_size(protocol, step_size)
        return score(evaluation._replace(test=honest), plan, Batch(train.x, train.y), subsets)

    subsets = random_of_each_class(train, 2)
    low = found(1e-6)
    assert found(0.3).mean > 0.9 and low.mean < 0.7
    assert low.balanced_mean == pytest.approx(low.mean)  # these classes are of one size
    assert low.as_row()["per_class"] == low.per_class and len(low.per_class) == CLASSES


# ---------------------------------------------------------------- small sets


@pytest.mark.parametrize("images_per_class", [1, 3, 5])  # 5: all of the smallest class
def test_random_subsets_are_balanced_distinct_and_new_for_each_network(images_per_class):
    data = tiny_data()
    rows = np.asarray(random_of_each_class(data, images_per_class)(KEY, 40))
    assert rows.shape == (40, CLASSES * images_per_class) and rows.dtype == np.int32
    expected = np.repeat(np.arange(CLASSES), images_per_class)
    for subset in rows:
        np.testing.assert_array_equal(np.asarray(labels(data))[subset], expected)
        assert len(set(subset.tolist())) == len(subset)
    # 18 images of which at least 1 in 7 is drawn 40 times: missing one has a chance of 18 (6/7)^40 = 4%
    assert set(rows.reshape(-1).tolist()) == set(range(18))
    assert len({tuple(sorted(subset.tolist())) for subset in rows}) > 1


@pytest.mark.parametrize(("count", "says"), [(0, "images_per_class >= 1"), (6, "images_per_class <= 5")])
def test_random_subsets_of_too_many_are_refused(count, says):
    with pytest.raises(UserError) as error:
        random_of_each_class(tiny_data(), count)
    assert says in message(error)


def test_everything_is_everything():
    np.testing.assert_array_equal(everything(4)(KEY, 3), np.tile(np.arange(4), (3, 1)))


def test_new_networks_do_not_depend_on_how_many_are_drawn_at_once():
    net = tiny_net("linear")
    draw = new_networks(net)
    some, more = draw(KEY, 2), draw(KEY, 3)
    for leaf, other in zip(jax.tree.leaves(some), jax.tree.leaves(more), strict=True):
        np.testing.assert_array_equal(leaf, other[:2])
    together = jax.jit(lambda key: draw(key, 3))(KEY)  # traced: all in one program
    for leaf, other in zip(jax.tree.leaves(together), jax.tree.leaves(more), strict=True):
        np.testing.assert_array_equal(leaf, other)


def test_random_real_images_are_distinct_and_class_by_class():
    data = tiny_data()
    batch = random_real(data, KEY, 5)
    np.testing.assert_array_equal(batch.y.argmax(-1), np.repeat(np.arange(CLASSES), 5))
    images = {np.asarray(image).tobytes() for image in batch.x}
    assert len(images) == 15 and images <= {np.asarray(image).tobytes() for image in data.x}
    assert (np.asarray(random_real(data, jax.random.key(1), 5).x) != np.asarray(batch.x)).any()
    for count, expected in ((0, "images_per_class >= 1"), (6, "class 1 has 5 images")):
        with pytest.raises(UserError) as error:
            random_real(data, KEY, count)
        assert expected in message(error)
