"""Losses, the one training loop in NumPy and the K axis."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import CLASSES, message, tiny_batch, tiny_net, to_float64

from jaxdistill.core.checks import UserError
from jaxdistill.core.types import Meta
from jaxdistill.inner.losses import (
    accuracy,
    cross_entropy,
    inner_loss,
    kl_divergence,
    label_margin,
    top_k_accuracy,
)
from jaxdistill.inner.optimizers import adam, sgd, with_temperature
from jaxdistill.inner.over_learners import over_learners
from jaxdistill.inner.train import train

GENERATOR = np.random.default_rng(0)


# ---------------------------------------------------------------- losses


def test_cross_entropy_and_accuracy_of_soft_labels(x64):
    logits, y = GENERATOR.normal(size=(6, CLASSES)), tiny_batch(6).y
    expected = np.mean(
        [-np.sum(p * (row - np.log(np.exp(row).sum()))) for row, p in zip(logits, np.asarray(y), strict=True)]
    )
    assert float(cross_entropy(jnp.asarray(logits), y)) == pytest.approx(expected, rel=1e-12)
    right = np.mean(logits.argmax(-1) == np.asarray(y).argmax(-1))
    assert 0 < right < 1
    assert float(accuracy(jnp.asarray(logits), y)) == right


def test_cross_entropy_survives_large_logits():
    logits = jnp.asarray([[1e4, 0.0], [0.0, 1e4]])
    assert float(cross_entropy(logits, jnp.eye(2))) == 0.0
    assert float(cross_entropy(logits, jnp.eye(2)[::-1])) == pytest.approx(1e4)


@pytest.mark.parametrize("loss", ["squared", "platt"])
def test_the_gauss_newton_product_of_a_linear_network_is_the_hessian(loss, x64):
    net, batch = tiny_net("linear"), tiny_batch(4)
    params = to_float64(net.init(jax.random.key(0)))
    optimizer = with_temperature(sgd(num_steps=1, learned=()))
    assert optimizer.values(optimizer.init()).keys() == {"learning_rate", "momentum"}
    meta = Meta((), {"log_temperature": optimizer.init()["log_temperature"] + 0.7})
    of = inner_loss(net, loss=loss, weight_decay=0.1)

    @jax.jit
    def both(params):
        u = jax.tree.map(jnp.cos, params)
        _, pull = jax.vjp(lambda p: jax.grad(of, argnums=1)(meta, p, batch), params)
        return of.gauss_newton(meta, params, batch)(u), pull(u)[0]

    found, expected = both(params)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-10), found, expected)
    logits = net.apply(params, batch.x)
    if loss == "platt":  # the temperature is exp(-0.7), and is learned
        value = of(meta, params, batch) - of(meta, params, batch._replace(y=0 * batch.y))
        assert float(value) == pytest.approx(float(cross_entropy(logits, batch.y, temperature=np.exp(-0.7))))
        assert abs(float(jax.grad(of)(meta, params, batch).inner["log_temperature"][0])) > 1e-3


def test_a_margin_is_asked_of_labels_that_lack_it():
    labels = jnp.asarray([[0.9, 0.1, -0.5], [0.1, 0.3, 0.25]])
    value, slope = jax.value_and_grad(label_margin)(labels, gap=0.2)
    assert float(value) == pytest.approx((0.0 + 0.15) / 2)
    np.testing.assert_allclose(slope, [[0, 0, 0], [0, -0.5, 0.5]])


@pytest.mark.parametrize("loss", ["cross_entropy", "platt"])
def test_free_labels_are_for_a_squared_loss(loss):
    with pytest.raises(UserError) as error:
        inner_loss(tiny_net(), loss=loss, labels="free")
    assert f"inner_loss {loss}: expected labels=probabilities, got labels=free" in message(error)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_divergence_of_soft_labels(temperature, x64):
    """In NumPy; zero, with zero gradient, where the network gives the labels; a class of probability 0."""
    logits, y = GENERATOR.normal(size=(6, CLASSES)), np.array(tiny_batch(6).y)
    y[0] = [0.0, 1.0, 0.0]
    scaled = np.exp(logits / temperature)
    p = scaled / scaled.sum(-1, keepdims=True)
    entropy = -np.sum(np.where(y > 0, y * np.log(np.where(y > 0, y, 1)), 0), axis=-1)
    crossed = -np.sum(y * np.log(p), axis=-1)
    found = cross_entropy(jnp.asarray(logits), jnp.asarray(y), temperature=temperature)
    assert float(found) == pytest.approx(crossed.mean(), rel=1e-12)
    divergence = functools.partial(kl_divergence, temperature=temperature)
    found = divergence(jnp.asarray(logits), jnp.asarray(y))
    assert float(found) == pytest.approx((crossed - entropy).mean(), rel=1e-12) and float(found) > 0.1
    # both have the derivative (p - y) / (B tau); p - y shrinks as 1 / tau too where y is of that temperature
    for loss in (divergence, functools.partial(cross_entropy, temperature=temperature)):
        slope = jax.grad(loss)(jnp.asarray(logits), jnp.asarray(y))
        np.testing.assert_allclose(slope, (p - y) / (6 * temperature), rtol=1e-10, atol=1e-15)
    assert np.isfinite(jax.grad(divergence, argnums=1)(jnp.asarray(logits), jnp.asarray(y))).all()
    assert float(divergence(jnp.asarray(logits), jnp.asarray(p))) == pytest.approx(0, abs=1e-15)
    flat = jax.grad(divergence)(jnp.asarray(logits), jnp.asarray(p))
    np.testing.assert_allclose(flat, 0, atol=1e-15)


def test_accuracy_of_the_k_largest():
    logits, y = jnp.asarray(GENERATOR.normal(size=(40, 6))), jnp.eye(6)[GENERATOR.integers(0, 6, 40)]
    place = (np.argsort(-np.asarray(logits)) == np.asarray(y).argmax(-1)[:, None]).argmax(-1)
    compiled = jax.jit(top_k_accuracy, static_argnums=2)
    for k in (1, 2, 5, 6):
        assert float(compiled(logits, y, k)) == pytest.approx(np.mean(place < k))
    ties = jnp.zeros((6, 6))  # of equal logits the first are the largest, as for `accuracy`
    assert (
        float(top_k_accuracy(ties, jnp.eye(6), 1))
        == float(accuracy(ties, jnp.eye(6)))
        == pytest.approx(1 / 6)
    )
    for k in (0, 7):
        with pytest.raises(UserError) as error:
            top_k_accuracy(logits, y, k)
        assert f"k in 1 ... 6, the classes, got {k}" in message(error)


def test_the_inner_loss_takes_a_temperature(x64):
    net, batch = tiny_net(), tiny_batch(5)
    params = to_float64(net.init(jax.random.key(0)))

    @jax.jit
    def both(params):
        expected = cross_entropy(net.apply(params, batch.x) / 3.0, batch.y)
        return inner_loss(net, temperature=3.0)(Meta({}, {}), params, batch), expected

    found, expected = both(params)
    assert float(found) == pytest.approx(float(expected), rel=1e-12)
    with pytest.raises(UserError) as error:
        inner_loss(net, temperature=0.0)
    assert "temperature > 0" in message(error)
    # a linear network's Hessian is its Gauss-Newton matrix
    net = tiny_net("linear")
    params, u = (to_float64(net.init(jax.random.key(seed))) for seed in (0, 1))
    loss = inner_loss(net, temperature=3.0, weight_decay=0.1)
    by_params = jax.grad(lambda p: loss(Meta({}, {}), p, batch))

    @jax.jit
    def products(params, u):
        return loss.gauss_newton(Meta({}, {}), params, batch)(u), jax.jvp(by_params, (params,), (u,))[1]

    found, expected = products(params, u)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-14), found, expected)


def test_weight_decay_is_half_the_squared_norm(x64):
    net, batch = tiny_net(), tiny_batch(5)
    params = to_float64(net.init(jax.random.key(0)))
    plain, decayed = (
        jax.device_get(
            jax.jit(jax.grad(inner_loss(net, weight_decay=w), argnums=1))(Meta({}, {}), params, batch)
        )
        for w in (0.0, 0.1)
    )
    # PyTorch's weight_decay adds decay * theta to every gradient, biases too
    jax.tree.map(
        lambda a, b, p: np.testing.assert_allclose(b, a + 0.1 * np.asarray(p), rtol=1e-10, atol=1e-14),
        plain,
        decayed,
        params,
    )
    for weight_decay in (-1e-3, float("nan")):
        with pytest.raises(UserError) as error:
            inner_loss(net, weight_decay=weight_decay)
        assert "weight_decay >= 0" in message(error)


# ---------------------------------------------------------------- the loop, on linear least squares


def least_squares(params, item):
    a, b = item
    return 0.5 * jnp.sum((a @ params["w"] - b) ** 2)


def least_squares_run(optimizer, num_steps):
    a, b = GENERATOR.normal(size=(num_steps, 4, 3)), GENERATOR.normal(size=(num_steps, 4))
    start = GENERATOR.normal(size=3)
    values = optimizer.values(optimizer.init())
    params, losses = jax.jit(functools.partial(train, least_squares, optimizer=optimizer))(
        {"w": jnp.asarray(start)}, (jnp.asarray(a), jnp.asarray(b)), values=values
    )
    rates = np.broadcast_to(np.asarray(values["learning_rate"], np.float64), num_steps)
    return a, b, start, rates, params["w"], losses


@pytest.mark.parametrize("learned", [(), ("learning_rate", "momentum")])
def test_sgd_equals_a_numpy_loop(x64, learned):
    optimizer = sgd(
        num_steps=6, learning_rate=[0.1, 0.05, 0.2, 0.1, 0.02, 0.1], momentum=0.5, learned=learned
    )
    a, b, theta, rates, params, losses = least_squares_run(optimizer, 6)
    momentum = np.asarray(optimizer.values(optimizer.init())["momentum"], np.float64)[0]
    assert momentum == pytest.approx(0.5, rel=1e-6)  # through float32 softplus where it is learned
    velocity, expected = np.zeros(3), []
    for t in range(6):
        residual = a[t] @ theta - b[t]
        expected.append(0.5 * residual @ residual)
        velocity = a[t].T @ residual + momentum * velocity
        theta = theta - rates[t] * velocity
    np.testing.assert_allclose(losses, expected, rtol=1e-10)
    np.testing.assert_allclose(params, theta, rtol=1e-10)


def test_adam_equals_its_formula(x64):
    optimizer = adam(num_steps=5, learning_rate=0.1, b1=0.8, b2=0.95, eps=1e-3, eps_root=1e-2, learned=())
    a, b, theta, rates, params, _ = least_squares_run(optimizer, 5)
    first, second = np.zeros(3), np.zeros(3)
    for t in range(5):
        gradient = a[t].T @ (a[t] @ theta - b[t])
        first = 0.8 * first + 0.2 * gradient
        second = 0.95 * second + 0.05 * gradient**2
        corrected = second / (1 - 0.95 ** (t + 1))
        theta = theta - rates[t] * first / (1 - 0.8 ** (t + 1)) / (np.sqrt(corrected + 1e-2) + 1e-3)
    # optax computes the bias corrections b^t in float32
    np.testing.assert_allclose(params, theta, rtol=1e-5)


def test_adam_at_a_dead_unit_has_a_finite_gradient():
    """A gradient of exactly zero: the derivative of the square root there is infinite without eps_root."""
    optimizer = adam(num_steps=2, learning_rate=0.1)

    def outer(start):
        params, _ = train(
            lambda p, item: jnp.sum(jax.nn.relu(p) * item),
            start,
            jnp.ones((2, 2)),
            optimizer,
            optimizer.values(optimizer.init()),
        )
        return jnp.sum(params**2)

    gradient = jax.jit(jax.grad(outer))(jnp.asarray([-1.0, 1.0]))
    assert np.isfinite(gradient).all() and float(gradient[0]) == -2.0


# ---------------------------------------------------------------- the K axis


@pytest.mark.parametrize(
    ("strategy", "chunk"),  # of 5 learners: not dividing, all, more than there are
    [("auto", None), ("vmap", None), ("vmap", 2), ("map", None), ("map", 2), ("map", 5), ("map", 7)],
)
def test_every_strategy_gives_the_same_numbers(strategy, chunk):
    params = {"w": GENERATOR.normal(size=(5, 3, 2)).astype(np.float32)}
    keys = jax.random.split(jax.random.key(0), 5)

    def one(params, key):
        x = jax.random.normal(key, (4, 3))
        return jnp.tanh(x @ params["w"]), {"norm": jnp.sum(params["w"] ** 2)}

    out, aux = jax.device_get(over_learners(one, strategy=strategy, chunk=chunk)(params, keys))
    alone = jax.jit(one)
    for k in range(5):
        expected, expected_aux = alone({"w": params["w"][k]}, keys[k])
        np.testing.assert_allclose(out[k], expected, rtol=1e-5, atol=1e-6)  # float32 products
        np.testing.assert_allclose(aux["norm"][k], expected_aux["norm"], rtol=1e-6)


def test_bad_strategies_are_refused():
    with pytest.raises(UserError) as error:
        over_learners(lambda a: a, strategy="pmap")
    assert "one of auto, map, vmap" in message(error)
    with pytest.raises(UserError) as error:
        over_learners(lambda a: a, chunk=0)
    assert "chunk >= 1" in message(error)
