"""Small sets that nobody learned: what they hold, and what is refused."""

import jax
import numpy as np
import pytest
from helpers import CLASSES, SHAPE, message, tiny_data, tiny_net

from jaxdistill.baselines import (
    average_real,
    k_means,
    kernel_herding,
    nearest_neighbors,
    optimized_real,
    random_real,
)
from jaxdistill.core.checks import UserError
from jaxdistill.core.types import Batch
from jaxdistill.data import from_arrays, labels
from jaxdistill.evaluation import Evaluation, epochs, everything, score
from jaxdistill.populations.fresh import fresh

KEY = jax.random.key(0)


def of_class(dataset, c):
    return np.asarray(dataset.x)[np.asarray(labels(dataset)) == c]


def test_the_average_of_a_class_and_of_its_parts():
    data = tiny_data()
    one = average_real(data, KEY)
    assert np.asarray(one.y).tolist() == np.eye(CLASSES).tolist()
    for c in range(CLASSES):
        np.testing.assert_allclose(one.x[c], of_class(data, c).mean(0), rtol=1e-5, atol=1e-6)
    two = average_real(data, KEY, 2)
    assert np.asarray(two.y).argmax(1).tolist() == [0, 0, 1, 1, 2, 2]
    # classes of 7, 5 and 6 images: parts of 4 and 3, 3 and 2, 3 and 3
    for c, sizes in enumerate([(4, 3), (3, 2), (3, 3)]):
        whole = np.average(two.x[2 * c : 2 * c + 2], axis=0, weights=sizes)
        np.testing.assert_allclose(whole, of_class(data, c).mean(0), rtol=1e-5, atol=1e-6)
    assert np.abs(two.x[0] - two.x[1]).max() > 0.01
    assert np.abs(average_real(data, jax.random.key(1), 2).x - two.x).max() > 0.01  # drawn with the key


def test_k_means_finds_the_clusters_of_a_class():
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(2, 2, *SHAPE)) * 10  # two clusters in each of two classes
    x = centres[:, :, None] + 0.01 * generator.normal(size=(2, 2, 8, *SHAPE))
    data = from_arrays(x.reshape(-1, *SHAPE), np.repeat([0, 1], 16), 2)
    found = k_means(data, KEY, 2)
    assert np.asarray(found.y).argmax(1).tolist() == [0, 0, 1, 1]
    for c in range(2):
        distance = np.abs(np.asarray(found.x)[2 * c : 2 * c + 2, None] - centres[c][None]).max((2, 3, 4))
        assert sorted(distance.argmin(1)) == [0, 1] and distance.min(1).max() < 0.05


def test_kernel_herding_takes_the_images_that_bring_the_mean_nearest():
    data, h = tiny_data(), 3.0
    found = kernel_herding(data, 3, bandwidth=h)
    assert np.asarray(found.y).argmax(1).tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    for c in range(CLASSES):
        own = of_class(data, c).reshape(len(of_class(data, c)), -1).astype(np.float64)
        kernel = np.exp(-((own[:, None] - own[None]) ** 2).sum(2) / (2 * h**2))
        chosen: list[int] = []
        for t in range(3):
            score = [kernel[i].mean() - kernel[i, chosen].sum() / (t + 1) for i in range(len(own))]
            chosen.append(max((i for i in range(len(own)) if i not in chosen), key=score.__getitem__))
        np.testing.assert_array_equal(
            np.asarray(found.x)[3 * c : 3 * c + 3].reshape(3, -1), own[chosen].astype(np.float32)
        )
    assert kernel_herding(data, 1).x.shape == (CLASSES, *SHAPE)  # the bandwidth is that of the images
    for options, says in (({"bandwidth": 0.0}, "bandwidth > 0"), ({"images_per_class": 99}, "got 99")):
        with pytest.raises(UserError) as error:
            kernel_herding(data, **{"images_per_class": 1} | options)
        assert says in message(error)


def test_nearest_neighbours_by_hand():
    x = np.asarray([[0.0, 0.0], [4.0, 0.0], [3.0, 3.0]], np.float32).reshape(3, 1, 2, 1)
    small = Batch(jax.numpy.asarray(x), jax.numpy.eye(3))
    points = np.asarray([[1.0, 0.0], [3.9, 2.2], [6.0, 3.0]], np.float32).reshape(3, 1, 2, 1)
    split = from_arrays(points, np.asarray([0, 1, 2]), 3)
    # the second point is 2.20 from the second image and 1.20 from the third
    assert nearest_neighbors(small, split) == pytest.approx(2 / 3)
    for k in (0, 4):
        with pytest.raises(UserError) as error:
            nearest_neighbors(small, split, k=k)
        assert f"got {k}" in message(error)
    with pytest.raises(UserError) as error:
        nearest_neighbors(small, split, p=0.5)
    assert "p >= 1, got 0.5" in message(error)


def test_the_norm_and_the_vote_matter():
    # from the origin: a 2.5 in the 1-norm and 2.5 in the 2-norm; b 2.8 and 1.98
    x = np.asarray([[2.5, 0.0], [1.4, 1.4], [9.0, 9.0], [9.0, 8.0]], np.float32).reshape(4, 1, 2, 1)
    small = Batch(jax.numpy.asarray(x), jax.numpy.eye(2)[np.asarray([0, 1, 1, 1])])
    origin = from_arrays(np.zeros((1, 1, 2, 1), np.float32), np.asarray([0]), 1)
    split = origin._replace(y=jax.numpy.eye(2)[:1])
    assert nearest_neighbors(small, split, p=1.0) == 1.0 and nearest_neighbors(small, split, p=2.0) == 0.0
    assert nearest_neighbors(small, split, p=1.0, k=3) == 0.0


def test_optimised_real_images_are_the_best_of_the_random_sets():
    net, generator = tiny_net("linear"), np.random.default_rng(0)
    y = np.repeat(np.arange(CLASSES), 20)
    means = generator.normal(size=(CLASSES, *SHAPE))
    data = from_arrays(means[y] + 1.5 * generator.normal(size=(60, *SHAPE)), y, CLASSES)
    population = fresh(net)
    contexts = jax.jit(lambda key, count: population.context((), None, key, count), static_argnums=1)
    evaluation = Evaluation(net, contexts, data, data, KEY, search_learners=3)
    plan = epochs(3, num_epochs=20, learning_rate=0.1)
    every = optimized_real(data, KEY, 1, evaluation=evaluation, protocol=plan, num_sets=10, keep=1.0)
    best = optimized_real(data, KEY, 1, evaluation=evaluation, protocol=plan, num_sets=10, keep=0.2)
    assert every.x.shape == (30, *SHAPE) and best.x.shape == (6, *SHAPE)
    np.testing.assert_array_equal(best.x, every.x[:6])  # the same order, best first
    real = {image.tobytes() for image in np.asarray(data.x)}
    assert all(image.tobytes() in real for image in np.asarray(every.x))

    def on_training_images(k):  # of other networks than those that chose
        rows = jax.tree.map(lambda a: a[3 * k : 3 * k + 3], every)
        return score(evaluation._replace(num_learners=10), plan, rows, everything(3)).mean

    scores = [on_training_images(k) for k in range(10)]
    assert np.mean(scores[:3]) > np.mean(scores[-3:]) + 0.02
    with pytest.raises(UserError) as error:
        optimized_real(data, KEY, 1, evaluation=evaluation, protocol=plan, keep=1.5)
    assert "keep <= 1, got 1.5" in message(error)


@pytest.mark.parametrize("make", [random_real, average_real, k_means])
def test_a_class_that_is_too_small_is_named(make):
    for count, says in ((6, "got 6, but class 1 has 5 images"), (0, "images_per_class >= 1, got 0")):
        with pytest.raises(UserError) as error:
            make(tiny_data(), KEY, count)
        assert says in message(error)
