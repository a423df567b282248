"""How networks are trained and tested by a protocol: restart, augmentation, one program for many."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import CLASSES, SHAPE, message, tiny_batch, tiny_data, tiny_net

from jaxdistill.core.checks import UserError
from jaxdistill.core.reporting import listening
from jaxdistill.core.types import Batch, Meta
from jaxdistill.data import from_arrays
from jaxdistill.evaluation import (
    as_distilled,
    confusion_on,
    dc,
    epochs,
    evaluator,
    everything,
    few_steps,
    in_turn,
    one_program,
    published,
    top_k_on,
    training,
    with_step_size,
)
from jaxdistill.inner.losses import inner_loss
from jaxdistill.inner.optimizers import sgd
from jaxdistill.inner.train import train

KEY = jax.random.key(0)


@functools.partial(jax.jit, static_argnums=(0, 1))
def starts(net, count):
    return jax.lax.map(net.init, jax.random.split(KEY, count))


def test_a_protocol_mixes_images_and_labels_after_the_augmentation():
    """The same in a program of all networks and one network after another."""
    images, net = tiny_batch(6), tiny_net("linear")
    params = jax.vmap(net.init)(jax.random.split(KEY, 1))
    plan = few_steps(6, num_steps=3, batch_size=6)._replace(
        augment=lambda key, x: x + 1, mix=lambda key, batch: Batch(-batch.x, batch.y[::-1])
    )

    @jax.jit
    def first_batch(images):
        steps, batch_of, _ = training(net, plan, images, jnp.arange(6), KEY)
        return batch_of(jax.tree.map(lambda a: a[0], steps)), steps[0][0]

    seen, rows = jax.device_get(first_batch(images))
    np.testing.assert_array_equal(seen.x, -(np.asarray(images.x) + 1)[rows])
    np.testing.assert_array_equal(seen.y, np.asarray(images.y)[rows][::-1])

    def logits(net, params, test):
        return net.apply(params, test.x)

    arguments = (images, jnp.arange(6)[None], plan.values, images, KEY)
    whole = evaluator(net, plan, measure=logits, strategy="vmap")(params, *arguments)
    in_turn = evaluator(net, plan, measure=logits)(params, *arguments)
    np.testing.assert_allclose(whole, in_turn, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("labels", ["probabilities", "free"])
def test_what_a_loss_is_given_of_labels(labels):
    """One step of training under each loss, against its gradient by hand on what the table of labels says."""
    images, net = tiny_batch(6), tiny_net("linear")
    params = net.init(KEY)
    x, y = np.asarray(images.x).reshape(6, -1), np.asarray(images.y)
    outputs = x @ params["params"]["classifier"]["kernel"] + params["params"]["classifier"]["bias"][None]
    softmax = np.exp(outputs) / np.exp(outputs).sum(-1, keepdims=True)
    wanted = {
        ("squared", "free"): outputs - y,
        ("squared", "probabilities"): outputs - np.sqrt(CLASSES / 10) * (y - 1 / CLASSES),
        ("cross_entropy", "free"): softmax - np.eye(CLASSES)[y.argmax(-1)],
        ("cross_entropy", "probabilities"): softmax - y,
    }
    for loss in ("squared", "cross_entropy"):
        plan = few_steps(6, num_steps=1, batch_size=6)._replace(loss=loss, labels=labels)

        @jax.jit
        def gradient_of(params, plan=plan):
            steps, _, value = training(net, plan, images, jnp.arange(6), KEY)
            return jax.grad(value)(params, jax.tree.map(lambda a: a[0], steps))

        gradient = gradient_of(params)
        by_hand = x.T @ wanted[loss, labels] / 6
        np.testing.assert_allclose(gradient["params"]["classifier"]["kernel"], by_hand, atol=1e-6)


# ---------------------------------------------------------------- training

PROBES = np.random.default_rng(7).normal(size=(600, *SHAPE)).astype(np.float32)


def run(net, protocol, params, images, test, values=None, **options):
    """[K] accuracies of networks trained on all of the images."""
    rows = everything(len(images.y))(KEY, len(jax.tree.leaves(params)[0]))
    values = protocol.values if values is None else values
    return np.asarray(evaluator(net, protocol, **options)(params, images, rows, values, test, KEY))


def named_by(logits):
    """A test set that holds what a network says of 540 probes, those nearest to its boundaries left out.

    Another network of the same weights to rounding gets all of it right.
    """
    logits = np.asarray(logits, np.float64)
    second, first = np.sort(logits, axis=-1)[:, -2:].T
    sure = np.argsort(second - first)[:540]
    assert (first - second)[sure].min() > 1e-3
    return from_arrays(PROBES[sure], logits[sure].argmax(-1), CLASSES)


def numpy_sgd(params, images, protocol, num_steps, restart):
    """Logits of softmax regression after full-batch SGD with momentum and weight decay, in float64."""
    classifier = params["params"]["classifier"]
    w, b = (np.asarray(classifier[name][0], np.float64) for name in ("kernel", "bias"))
    x, y = np.asarray(images.x, np.float64).reshape(len(images.y), -1), np.asarray(images.y)
    momentum, decay = float(protocol.values["momentum"][0]), protocol.weight_decay
    velocity_w, velocity_b = np.zeros_like(w), np.zeros_like(b)
    for t in range(num_steps):
        if t == restart:
            velocity_w, velocity_b = np.zeros_like(w), np.zeros_like(b)
        p = np.exp(x @ w + b)
        error = (p / p.sum(-1, keepdims=True) - y) / len(y)
        velocity_w = momentum * velocity_w + x.T @ error + decay * w
        velocity_b = momentum * velocity_b + error.sum(0) + decay * b
        rate = float(protocol.values["learning_rate"][t])
        w, b = w - rate * velocity_w, b - rate * velocity_b
    return PROBES.reshape(len(PROBES), -1) @ w + b


def test_dc_equals_numpy_with_its_restart_and_decay():
    net, images = tiny_net("linear"), tiny_batch(6)  # one batch an epoch, so the order plays no part
    params = starts(net, 1)
    protocol = dc(6, learning_rate=0.5, num_epochs=6)
    logits = numpy_sgd(params, images, protocol, 6, restart=3)
    assert run(net, protocol, params, images, named_by(logits))[0] == 1
    # without the restart, or without the decay, the probes would tell the networks apart
    flat = protocol._replace(values=protocol.values | {"learning_rate": jnp.full(6, 0.5)})
    for other in (
        numpy_sgd(params, images, protocol, 6, restart=0),
        numpy_sgd(params, images, flat, 6, restart=3),
    ):
        assert np.mean(other.argmax(-1) != logits.argmax(-1)) > 0.01


def test_as_distilled_is_the_training_of_the_inner_loop():
    net, images = tiny_net(), tiny_batch(6)
    order = np.asarray([[0, 1, 2], [3, 4, 5], [0, 1, 2], [5, 4, 3]])
    optimizer = sgd(
        num_steps=4, learning_rate=[1.0, 0.5, 2.0, 1.0], momentum=0.5, learned=("learning_rate", "momentum")
    )
    values = jax.device_get(optimizer.values(optimizer.init()))
    protocol = as_distilled(order, optimizer, values, weight_decay=0.01)
    params, images = starts(net, 1), jax.device_get(images)
    loss = inner_loss(net, weight_decay=0.01)

    @jax.jit
    def logits(batches):
        start = jax.tree.map(lambda a: a[0], params)
        trained, _ = train(lambda p, b: loss(Meta({}, {}), p, b), start, batches, optimizer, values)
        return net.apply(trained, PROBES)

    said, reversed_said = (logits(jax.tree.map(lambda a, o=o: a[o], images)) for o in (order, order[::-1]))
    assert run(net, protocol, params, images, named_by(said))[0] == 1
    assert np.mean(said.argmax(-1) != reversed_said.argmax(-1)) > 0.01  # the order matters, and is kept


def test_augmentation_is_applied_to_every_batch():
    net, images = tiny_net("linear"), tiny_batch(6)
    params = starts(net, 1)
    protocol = epochs(6, num_epochs=4, learning_rate=0.5, augment=lambda key, x: -x)
    logits = numpy_sgd(params, images._replace(x=-images.x), protocol, 4, restart=0)
    assert run(net, protocol, params, images, named_by(logits))[0] == 1
    assert np.mean(numpy_sgd(params, images, protocol, 4, restart=0).argmax(-1) != logits.argmax(-1)) > 0.01


def test_augmentation_draws_anew_at_every_step():
    """Half of the draws turn a batch's sign; with one draw for all, networks would see all turned or none."""
    net, images = tiny_net("linear"), tiny_batch(6)

    def turn(key, x):
        return jnp.where(jax.random.bernoulli(key), x, -x)

    protocol = epochs(6, num_epochs=9, learning_rate=0.5, momentum=0.0, weight_decay=0.0, augment=turn)
    params = starts(net, 1)
    run_once = evaluator(net, protocol)
    for sign in (1, -1):
        test = named_by(numpy_sgd(params, images._replace(x=sign * images.x), protocol, 9, restart=0))
        rows = everything(6)(KEY, 1)
        assert run_once(params, images, rows, protocol.values, test, KEY)[0] < 1


def test_strategies_agree_and_networks_differ():
    net, images, test = tiny_net(), tiny_batch(9), tiny_data(1, (40, 40, 40))
    protocol = epochs(9, num_epochs=3, batch_size=4, learning_rate=0.5, decay_at_half=True)
    params = starts(net, 5)
    scores = [
        run(net, protocol, params, images, test, strategy=strategy, learner_chunk=chunk)
        for strategy, chunk in (("vmap", None), ("map", 2))
    ]
    assert len(set(scores[0].tolist())) > 1
    # at most one of 120 images may lie on a boundary to rounding
    np.testing.assert_allclose(scores[0], scores[1], atol=1.01 / 120)


def test_networks_in_turn_are_those_of_one_program(monkeypatch):
    """Slices end at the restart and inside an epoch; each network has its own images, order and draws."""
    monkeypatch.setattr(in_turn, "SLICE", 4)
    net, images, test = tiny_net("linear"), tiny_batch(9), tiny_batch(40, seed=1)

    def turn(key, x):
        return jnp.where(jax.random.bernoulli(key), x, 2 * x)

    protocol = epochs(6, num_epochs=7, batch_size=3, learning_rate=0.3, decay_at_half=True, augment=turn)
    arguments = (starts(net, 3), images, jnp.array([[0, 1, 2, 3, 4, 5], [8, 7, 6, 5, 4, 3], [0] * 6]))
    arguments = (*arguments, protocol.values, test, KEY)

    def logits(net, params, split):
        return net.apply(params, split.x)

    told = []
    with listening(lambda what, done, total: told.append((done, total))):
        found = evaluator(net, protocol, measure=logits)(*arguments)
    together = evaluator(net, protocol, measure=logits, learner_chunk=3)(*arguments)
    np.testing.assert_allclose(found, together, rtol=1e-4, atol=1e-5)  # sums of a batch, in another order
    assert [done for done, _ in told[:7]] == [1, 3, 6, 10, 14, 14, 18]  # the restart is after 6
    assert told[-1] == (42, 42)
    squared = protocol._replace(loss="squared", labels="free", temperature=2.0)  # another loss, in both
    pair = [evaluator(net, squared, measure=logits, learner_chunk=chunk)(*arguments) for chunk in (None, 3)]
    np.testing.assert_allclose(*pair, rtol=1e-4, atol=1e-5)
    alone = one_program(net, protocol)(*arguments)  # one after another, too
    np.testing.assert_array_equal(evaluator(net, protocol)(*arguments), alone)


def test_a_network_that_diverged_is_not_hidden():
    net, images = tiny_net(), tiny_batch(4)
    protocol = epochs(4, num_epochs=3, batch_size=4, learning_rate=0.1)
    values = protocol.values | {"learning_rate": jnp.full(3, 3e38)}
    scores = run(net, protocol, starts(net, 2), images, tiny_data(), values)
    assert np.isnan(scores).all()


# ---------------------------------------------------------------- on the way, shuffled, one part each


def test_the_same_choices_are_compiled_once():
    net, plan, images = tiny_net("linear"), epochs(4, num_epochs=3), tiny_batch(4)
    test = tiny_batch(32, seed=1)
    made = evaluator(net, plan)
    assert evaluator(net, with_step_size(plan, 0.5)) is made
    for other in (
        evaluator(tiny_net(), plan),
        evaluator(net, plan._replace(weight_decay=0.1)),
        evaluator(net, plan, at=[1, 2]),
        evaluator(net, plan, measure=confusion_on),
        evaluator(net, plan, measure=top_k_on(2)),
        evaluator(net, plan, strategy="vmap"),
        evaluator(net, plan, learner_chunk=1),
    ):
        assert other is not made
    measured = [evaluator(net, plan, measure=top_k_on(k)) for k in (1, 2, 2, CLASSES)]
    assert measured[1] is measured[2]
    arguments = (starts(net, 2), images, everything(4)(KEY, 2), plan.values, test, KEY)
    one, two, _, all_of_them = (function(*arguments) for function in measured)
    np.testing.assert_allclose(one, made(*arguments), atol=1e-6)
    assert (one < two).all() and (two < all_of_them).all() and (all_of_them == 1).all()
    traced = []

    def mean(net, params, split):
        traced.append(split)
        return jnp.mean(net.apply(params, split.x)[:, 0])  # that of all classes hardly moves

    mean_logit = evaluator(net, plan, measure=mean)
    seen = [
        mean_logit(starts(net, 2), batch, everything(4)(KEY, 2), with_step_size(plan, rate).values, test, KEY)
        for rate in (0.01, 0.5)
        for batch in (images, images._replace(x=-images.x))
    ]
    assert len({float(value[0]) for value in seen}) == 4  # neither is part of the program
    assert len(traced) == 1
    assert published("dc", 10) is published("dc", 10)


def test_accuracy_on_the_way_is_that_of_shorter_training():
    net, data = tiny_net("linear"), tiny_data()
    images, count = tiny_batch(12), 3

    def plan(steps):
        return few_steps(12, num_steps=steps, batch_size=4, learning_rate=0.3, momentum=0.5)

    rows = everything(12)(KEY, count)
    whole = plan(4)
    way = evaluator(net, whole, at=(1, 4))(starts(net, count), images, rows, whole.values, data, KEY)
    assert way.shape == (count, 2)
    for i, steps in enumerate((1, 4)):
        short = plan(steps)
        alone = evaluator(net, short)(starts(net, count), images, rows, short.values, data, KEY)
        np.testing.assert_allclose(way[:, i], alone, atol=1e-6)
    for at in ((), (0,), (5,)):
        with pytest.raises(UserError) as error:
            evaluator(net, whole, at=at)(starts(net, count), images, rows, whole.values, data, KEY)
        assert "steps to test at" in message(error)
