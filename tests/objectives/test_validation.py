"""The loss of a trained learner on real data."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import CLASSES, images_teacher, message, tiny_batch, tiny_net, to_float64

from jaxdistill.core.checks import UserError
from jaxdistill.core.keys import stream
from jaxdistill.core.types import Meta, Solve, SolveInfo
from jaxdistill.inner.losses import accuracy, cross_entropy
from jaxdistill.objectives.validation import validation


@Solve
def shift(meta, params, probe, key):
    """A solve that is easy to see through: parameters + meta."""
    return jax.tree.map(lambda p: p + meta, params), SolveInfo(jnp.asarray([3.0, 2.0]), {})


def test_it_is_the_cross_entropy_of_what_the_solve_returns(x64):
    net, real = tiny_net(), tiny_batch(6)
    params = to_float64(net.init(jax.random.key(0)))
    objective = validation(net, shift)
    key = jax.random.key(0)
    loss, metrics = jax.jit(objective)(jnp.asarray(0.25), params, real, None, key)
    logits = jax.jit(net.apply)(jax.tree.map(lambda p: np.asarray(p) + 0.25, params), real.x)
    assert float(loss) == pytest.approx(float(cross_entropy(logits, real.y)), rel=1e-12)
    assert {name: float(value) for name, value in metrics.items()} == pytest.approx(
        {"loss": float(loss), "accuracy": float(accuracy(logits, real.y)), "inner_loss": 2.0}, rel=1e-12
    )
    to_real = jax.grad(lambda x: objective(jnp.zeros(()), params, real._replace(x=x), None, key)[0])
    np.testing.assert_array_equal(jax.jit(to_real)(real.x), 0)


def test_the_real_batch_is_augmented_with_the_key_of_the_learner():
    net, real = tiny_net("linear"), tiny_batch(6)
    params = net.init(jax.random.key(0))

    def noisy(key, x):
        return x + jax.random.normal(key, ())

    objective = jax.jit(validation(net, shift, augment=noisy))
    keys = jax.random.split(jax.random.key(1))
    losses = [float(objective(jnp.zeros(()), params, real, None, key)[0]) for key in keys]
    added = [jax.random.normal(stream(key, "augment"), ()) for key in keys]
    expected = [float(cross_entropy(net.apply(params, real.x + noise), real.y)) for noise in added]
    assert losses == pytest.approx(expected, rel=1e-5) and abs(losses[0] - losses[1]) > 1e-3


def test_other_losses_on_real_data_and_the_margin_of_labels(x64):
    net, real, key = tiny_net(), tiny_batch(6), jax.random.key(0)
    params = to_float64(net.init(key))
    teacher = images_teacher(soft_labels=False, labels="free")
    labels = np.array([[0.1, 0.0, 0.0], [0.0, 0.5, 0.0]] * 3)
    meta = Meta({"x": jnp.zeros((1, 6, 4, 4, 1)), "y": labels[None]}, {"log_temperature": jnp.array([0.5])})

    @Solve
    def still(meta, params, probe, key):
        return params, SolveInfo(jnp.asarray([0.0]), {})

    def found(**options):
        return jax.jit(validation(net, still, microbatch=4, **options))(meta, params, real, None, key)

    logits = net.apply(params, real.x)
    squares = 0.5 * np.mean(np.sum((logits - np.sqrt(0.3) * (real.y - 1 / 3)) ** 2, axis=-1))
    loss, metrics = found(loss="squared", margin=0.6, teacher=teacher)
    assert float(loss) == pytest.approx(float(squares) + 0.05, rel=1e-12)
    assert float(metrics["label_margin"]) == pytest.approx(0.05)
    loss, metrics = found(loss="platt")
    assert float(loss) == pytest.approx(float(cross_entropy(np.exp(0.5) * logits, real.y)), rel=1e-12)
    assert float(metrics["temperature"]) == pytest.approx(np.exp(-0.5))
    assert float(metrics["diverged_temperatures"]) == 0
    _, inner_alone = found(loss="cross_entropy")
    assert float(inner_alone["temperature"]) == pytest.approx(np.exp(-0.5))
    objective = validation(net, still, loss="platt", microbatch=4)
    slope = jax.jit(jax.grad(lambda m: objective(m, params, real, None, key)[0]))(meta).inner
    expected = jax.grad(lambda t: cross_entropy(jnp.exp(t) * logits, real.y))(0.5)
    assert float(slope["log_temperature"][0]) == pytest.approx(float(expected), rel=1e-10)
    with pytest.raises(UserError) as error:
        validation(net, still, margin=0.1)
    assert "the teacher, with a margin of its labels" in message(error)


def test_the_body_of_a_network_costs_no_backward_pass_where_the_head_alone_is_learned():
    """In parts, as on a CPU: what nothing learned moves is not differentiated."""
    net, real, key = tiny_net(depth=2), tiny_batch(6), jax.random.key(0)
    params, solve = (
        net.init(key),
        Solve(lambda meta, params, probe, key: (meta(params), SolveInfo(jnp.zeros(1), {}))),
    )
    objective = validation(net, solve, microbatch=3)

    def products(learned):
        def loss(a):
            return objective(lambda params: learned(params, a), params, real, None, key)[0]

        return str(jax.make_jaxpr(jax.grad(loss))(jnp.ones((4, CLASSES)))).count("dot_general")

    head = products(lambda params, a: net.with_classifier(params, a, None))
    whole = products(lambda params, a: jax.tree.map(lambda p: p * a[0, 0], params))
    assert whole - head == 4  # by the weights and the inputs of two layers, less the inputs of the first


def test_microbatches_do_not_change_the_hypergradient(x64):
    net, real, key = tiny_net(), tiny_batch(7), jax.random.key(0)
    params = to_float64(net.init(key))

    def gradient(microbatch):
        objective = validation(net, shift, microbatch=microbatch)
        both = jax.value_and_grad(lambda m: objective(m, params, real, None, key), has_aux=True)
        return jax.jit(both)(jnp.asarray(0.25))

    whole, parts = gradient(7), gradient(3)
    assert abs(float(whole[1])) > 1e-3
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-10), parts, whole)


def test_bad_microbatches_are_refused():
    with pytest.raises(UserError) as error:
        validation(tiny_net(), shift, microbatch=0)
    assert "microbatch >= 1" in message(error)
