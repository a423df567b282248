"""Dataset Distillation learns: on digits, against a baseline under the same evaluator."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill.core.keys import stream
from jaxdistill.core.types import Batch, Data
from jaxdistill.data import load, sample_per_class
from jaxdistill.evaluation import (
    Evaluation,
    as_distilled,
    dc,
    epochs,
    evaluator,
    everything,
    random_of_each_class,
    score,
    tuned,
)
from jaxdistill.inner.optimizers import adam as inner_adam
from jaxdistill.inner.optimizers import sgd
from jaxdistill.inner.unrolled import unrolled
from jaxdistill.learners import learner
from jaxdistill.methods.dd import dd
from jaxdistill.methods.outer import outer_adam, outer_schedule
from jaxdistill.teachers.images import images

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def digits():
    return load("digits")


def settings(num_outer_steps, *, distill_epochs=10, net=None, teacher=None, optimizer=None, **options):
    """(net, optimiser, method) for one digit of each class, with what `experiments.distill` defaults to."""
    shape = {"image_shape": (8, 8, 1), "num_classes": 10}
    net = learner(**({"name": "mlp"} | (net or {})), **shape)
    optimizer = sgd(num_steps=distill_epochs, learning_rate=0.05) if optimizer is None else optimizer
    rate = outer_schedule("cosine", learning_rate=options.pop("rate", 0.01), num_steps=num_outer_steps)
    method = dd(
        net,
        images(**shape, distill_epochs=distill_epochs, **(teacher or {})),
        inner_optimizer=optimizer,
        outer_optimizer=outer_adam(learning_rate=rate, clip=1.0, max_inner_learning_rate=1.0),
        **({"num_learners": 8, "real_batch_size": 256} | options),
    )
    return net, optimizer, method


def run(method, digits, num_outer_steps):
    """(first state, last state, metrics [steps])."""

    @functools.partial(jax.jit, static_argnums=2)
    def chunk(state, data, length):
        return jax.lax.scan(lambda state, _: method.update(state, data, KEY), state, None, length=length)

    first = jax.jit(method.init)(KEY)
    last, metrics = chunk(first, Data(digits.train, None), num_outer_steps)
    return first, last, metrics


def plan(method, optimizer, state, count=10):
    """The images of a state, and how they were meant to be trained on."""
    batches = method.synthesize(state, KEY)
    order = np.tile(np.arange(count), (batches.x.shape[0], 1))
    batch = jax.tree.map(lambda a: a[0], batches)  # one distinct batch
    return batch, as_distilled(order, optimizer, method.hyperparameters(state))


def accuracies(net, batch, protocol, test, count=10):
    """[K] accuracies of fresh networks."""
    params = jax.lax.map(net.init, jax.random.split(stream(KEY, "unseen"), count))
    return evaluator(net, protocol)(
        params, batch, everything(len(batch.y))(KEY, count), protocol.values, test, KEY
    )


def test_sixty_steps_teach_a_tiny_net(digits):
    net, optimizer, method = settings(
        60,
        distill_epochs=4,
        net={"width": 16, "depth": 1},
        optimizer=sgd(num_steps=4, learning_rate=0.2),
        num_learners=2,
        real_batch_size=128,
        rate=0.05,
    )
    first, last, metrics = run(method, digits, 60)
    assert np.mean(metrics["loss"][-10:]) < 0.8 * np.mean(metrics["loss"][:3])
    found = [plan(method, optimizer, state) for state in (first, last)]
    protocol = found[0][1]  # one program for both: the values are its arguments
    before, after = (
        float(np.mean(accuracies(net, batch, protocol._replace(values=own.values), digits.validation)))
        for batch, own in found
    )
    # noise images teach nothing: chance is 10%
    assert before < 0.25 and after > before + 0.3


def rows(net, method, optimizer, state, digits):
    """(distilled, random real) test scores of 20 fresh networks, the baseline tuned on validation."""
    evaluation = Evaluation(
        net,
        lambda key, count: jax.lax.map(net.init, jax.random.split(key, count)),
        digits.validation,
        digits.test,
        KEY,
    )
    batch, protocol = plan(method, optimizer, state)
    steps = protocol.order(KEY).shape[0]
    random = tuned(
        evaluation,
        [epochs(10, num_epochs=steps, momentum=0.0, weight_decay=0.0, name="equal steps"), dc(10)],
        Batch(digits.train.x, digits.train.y),
        random_of_each_class(digits.train, 1),
    )
    return score(evaluation, protocol, batch, everything(10)), random.score


@pytest.mark.slow
def test_digits_beat_random_real_images_by_fifteen_points(digits):
    net, optimizer, method = settings(600)
    _, last, _ = run(method, digits, 600)
    distilled, random = rows(net, method, optimizer, last, digits)
    assert len(distilled.every) == len(random.every) == 20
    assert distilled.mean > random.mean + 0.15


@pytest.mark.slow
def test_a_small_convnet_beats_random_real_images(digits):
    options = {"name": "convnet", "width": 16, "depth": 2}
    net, optimizer, method = settings(300, net=options, num_learners=4, real_batch_size=128, rate=0.02)
    _, last, _ = run(method, digits, 300)
    distilled, random = rows(net, method, optimizer, last, digits)
    assert distilled.mean > random.mean + 0.05


VARIANTS = {
    "soft labels": {"teacher": {"soft_labels": True}},
    "start from real": {"teacher": {"start": "real"}},
    "inner adam": {"optimizer": inner_adam(num_steps=10, learning_rate=0.01)},
    "momentum": {"optimizer": sgd(num_steps=10, momentum=0.5, learned=("learning_rate", "momentum"))},
    "remat step": {"solve": functools.partial(unrolled, remat="step")},
    "remat sqrt": {"solve": functools.partial(unrolled, remat="sqrt")},
    "truncated": {"solve": functools.partial(unrolled, backprop_last=5)},
    "random window": {"solve": functools.partial(unrolled, backprop_last=5, random_window=True)},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_every_option_learns(digits, name):
    options = dict(VARIANTS[name])
    if name == "start from real":
        start = sample_per_class(digits.train, stream(KEY, "start"), 1).x
        options["teacher"] = {"start": start}
    net, optimizer, method = settings(150, **options, num_learners=4, real_batch_size=128, rate=0.03)
    first, last, metrics = run(method, digits, 150)
    assert np.isfinite(metrics["loss"]).all()
    before, after = (
        float(jnp.mean(accuracies(net, *plan(method, optimizer, state), digits.validation)))
        for state in (first, last)
    )
    # ten points over the images and schedule it started from (real images start high)
    assert after > before + 0.1
    assert np.mean(metrics["loss"][-10:]) < np.mean(metrics["loss"][:3])
