"""The gradient through training, against finite differences, closed forms and a hand-written truncation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import CLASSES, SHAPE, message, tiny_batch, tiny_net, to_float64

from jaxdistill.core.checks import UserError
from jaxdistill.core.types import Batch, Meta, Teacher
from jaxdistill.inner.losses import inner_loss
from jaxdistill.inner.optimizers import adam, sgd
from jaxdistill.inner.train import train
from jaxdistill.inner.unrolled import unrolled
from jaxdistill.objectives.validation import validation
from jaxdistill.teachers.images import images

pytestmark = pytest.mark.usefixtures("x64")
STEPS = 4
OPTIMIZERS = {
    "sgd": lambda: sgd(
        num_steps=STEPS,
        learning_rate=[0.3, 0.5, 0.2, 0.4],
        momentum=0.6,
        learned=("learning_rate", "momentum"),
    ),
    "adam, shared, exp": lambda: adam(
        num_steps=STEPS, learning_rate=0.05, eps_root=1e-3, per_step=False, positive="exp"
    ),
}


@functools.cache
def problem(name, weight_decay=0.0, **options):
    """(jitted meta -> (loss, gradient), meta) of the tiny net on two batches, gone over twice."""
    net, optimizer = tiny_net(), OPTIMIZERS[name]()
    teacher = images(
        image_shape=SHAPE,
        num_classes=CLASSES,
        images_per_class=2,
        distill_steps=2,
        distill_epochs=2,
        soft_labels=True,
    )
    solve = unrolled(teacher, inner_loss(net, weight_decay=weight_decay), optimizer, **options)
    objective = validation(net, solve)
    key = jax.random.key(1)
    params = to_float64(net.init(key))
    meta = to_float64(Meta(teacher.init(key), optimizer.init()))
    real = tiny_batch(9)

    @jax.jit
    def value_and_grad(meta):
        return jax.value_and_grad(lambda m: objective(m, params, real, None, key)[0])(meta)

    return value_and_grad, meta


@pytest.mark.parametrize(("name", "weight_decay"), [("sgd", 0.05), ("adam, shared, exp", 0.0)])
def test_hypergradient_equals_central_differences(name, weight_decay):
    value_and_grad, meta = problem(name, weight_decay)
    _, gradient = value_and_grad(meta)
    leaves, structure = jax.tree.flatten(jax.device_get(meta))
    generator = np.random.default_rng(0)
    for i, path in enumerate(path for path, _ in jax.tree.leaves_with_path(meta)):  # each part by itself
        direction = [np.zeros_like(leaf) for leaf in leaves]
        direction[i] = generator.normal(size=leaves[i].shape)

        def moved(size, direction=direction):
            return structure.unflatten([a + size * d for a, d in zip(leaves, direction, strict=True)])

        slope = float(np.vdot(jax.tree.leaves(gradient)[i], direction[i]))
        eps = 1e-5  # truncation eps^2 and rounding 1e-16 / eps are both about 1e-10
        numeric = float(value_and_grad(moved(eps))[0] - value_and_grad(moved(-eps))[0]) / (2 * eps)
        assert abs(slope) > 1e-4, path  # or the comparison would say nothing
        assert slope == pytest.approx(numeric, rel=1e-5), path


def test_remat_leaves_the_hypergradient_alone():
    plain, meta = problem("sgd", 0.05)
    other, _ = problem("sgd", 0.05, remat="sqrt")
    # the same operations in float64, at most in another order
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-11), other(meta), plain(meta))


def test_truncation_reaches_the_solve():
    full, meta = problem("sgd", 0.05)
    last, _ = problem("sgd", 0.05, backprop_last=2)
    (value, exact), (truncated_value, truncated) = full(meta), last(meta)
    assert truncated_value == pytest.approx(float(value), rel=1e-12)
    rates = truncated.inner["learning_rate"]
    np.testing.assert_array_equal(rates[:2], 0)
    assert np.abs(rates[2:]).min() > 0
    # what the last two steps see of their own step sizes is exact
    np.testing.assert_allclose(rates[2:], exact.inner["learning_rate"][2:], rtol=1e-11)


# A quadratic learner compiles in no time; its steps are coupled through a tanh, momentum and the optimiser.


def bowl(params, item):
    return 0.5 * jnp.sum((jnp.tanh(params) - item) ** 2)


@functools.cache
def run_bowl(num_steps, **options):
    optimizer = sgd(num_steps=num_steps, learning_rate=0.4, momentum=0.5)
    generator = np.random.default_rng(3)
    steps = jnp.asarray(generator.normal(size=(num_steps, 5)))
    start, target = jnp.asarray(generator.normal(size=(2, 5)))

    def outer(start, steps, raw):
        values = optimizer.values(raw)
        params, losses = train(bowl, start, steps, optimizer, values, **options)
        return jnp.sum((params - target) ** 2), (params, losses)

    gradient = jax.jit(jax.value_and_grad(outer, (0, 1, 2), has_aux=True))
    return gradient(start, steps, to_float64(optimizer.init()))


@pytest.mark.parametrize(
    ("remat", "num_steps"),  # sqrt: one segment, a square, with a rest
    [("step", 5), ("sqrt", 1), ("sqrt", 4), ("sqrt", 5)],
)
def test_remat_changes_memory_alone(remat, num_steps):
    other, plain = run_bowl(num_steps, remat=remat), run_bowl(num_steps)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-12), other, plain)


def test_a_window_of_all_steps_truncates_nothing():
    other, plain = run_bowl(4, backprop_last=4), run_bowl(4)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-12), other, plain)


@pytest.mark.parametrize("remat", ["none", "sqrt"])
def test_truncation_is_a_stop_gradient_before_the_window(remat):
    num_steps, window = 5, 3
    optimizer = sgd(num_steps=num_steps, learning_rate=0.4, momentum=0.5)
    generator = np.random.default_rng(3)
    steps = jnp.asarray(generator.normal(size=(num_steps, 5)))
    start, target = jnp.asarray(generator.normal(size=(2, 5)))

    def by_hand(start, steps, raw):
        rates = jax.nn.softplus(raw["learning_rate"])
        params, velocity = start, jnp.zeros_like(start)
        for t in range(num_steps):
            if t == num_steps - window:
                params, velocity = jax.lax.stop_gradient((params, velocity))
            velocity = jax.grad(bowl)(params, steps[t]) + 0.5 * velocity
            params = params - rates[t] * velocity
        return jnp.sum((params - target) ** 2)

    expected = jax.jit(jax.value_and_grad(by_hand, (0, 1, 2)))(start, steps, to_float64(optimizer.init()))
    (value, _), gradient = run_bowl(num_steps, backprop_last=window, remat=remat)
    # the same operations; the momentum, 0.5, is exact in the float32 that it is kept in
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-11), (value, gradient), expected)
    np.testing.assert_array_equal(gradient[0], 0)


def test_training_for_a_traced_length_is_truncation_at_its_end():
    num_steps, window = 4, 2
    optimizer = sgd(num_steps=num_steps, learning_rate=0.4, momentum=0.5)
    generator = np.random.default_rng(4)
    steps = jnp.asarray(generator.normal(size=(num_steps, 5)))
    start = jnp.asarray(generator.normal(size=5))
    raw = to_float64(optimizer.init())

    def outer(steps, raw, size, length):
        values = {name: value[:size] for name, value in optimizer.values(raw).items()}
        params, losses = train(
            bowl, start, steps[:size], optimizer, values, backprop_last=window, length=length
        )
        return jnp.sum(params**2), losses

    both = jax.value_and_grad(outer, (0, 1), has_aux=True)
    drawn = jax.jit(lambda length: both(steps, raw, num_steps, length))
    at = jax.jit(both, static_argnums=2)
    for length in range(window, num_steps + 1):
        (value, losses), gradient = drawn(jnp.asarray(length))
        (expected, all_losses), expected_gradient = at(steps, raw, length, None)
        assert value == pytest.approx(float(expected), rel=1e-12)
        np.testing.assert_allclose(losses[:length], all_losses, rtol=1e-12)
        np.testing.assert_array_equal(losses[length:], losses[length - 1])
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-11), gradient, expected_gradient)


def test_a_window_of_adam_is_autodiff_from_a_stopped_state():
    """Two steps in the middle of five, from weights and averages that are constants."""
    num_steps, window, length = 5, 2, 4
    optimizer = adam(num_steps=num_steps, learning_rate=0.1, eps_root=1e-3)
    generator = np.random.default_rng(5)
    steps, start = jnp.asarray(generator.normal(size=(num_steps, 3))), jnp.asarray(generator.normal(size=3))
    raw = to_float64(optimizer.init())

    def by_hand(steps, raw):
        rates = optimizer.values(raw)["learning_rate"]
        params, state = start, optimizer.build({"learning_rate": rates[0]}).init(start)
        for t in range(length):
            if t == length - window:
                params, state = jax.lax.stop_gradient((params, state))
            rule = optimizer.build({"learning_rate": rates[t]})
            updates, state = rule.update(jax.grad(bowl)(params, steps[t]), state, params)
            params = params + updates
        return jnp.sum(params**2)

    def windowed(steps, raw, length):
        values = optimizer.values(raw)
        return jnp.sum(
            train(bowl, start, steps, optimizer, values, backprop_last=window, length=length)[0] ** 2
        )

    expected = jax.jit(jax.value_and_grad(by_hand, (0, 1)))(steps, raw)
    found = jax.jit(jax.value_and_grad(windowed, (0, 1)))(steps, raw, jnp.asarray(length))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-13), found, expected)
    outside = np.r_[: length - window, length:num_steps]
    np.testing.assert_array_equal(found[1][0][outside], 0)
    assert np.abs(found[1][0][length - window : length]).min() > 0


def test_a_random_window_ends_anywhere_and_calibrates_on_its_last_batch():
    num_steps, window = 4, 2
    net = tiny_net()
    teacher = images(
        image_shape=SHAPE, num_classes=CLASSES, images_per_class=num_steps, distill_steps=num_steps
    )
    meta = to_float64(Meta(teacher.init(jax.random.key(0)), sgd(num_steps=num_steps).init()))
    solve = unrolled(
        teacher,
        inner_loss(net),
        sgd(num_steps=num_steps),
        calibrate=lambda params, x: x,
        backprop_last=window,
        random_window=True,
    )
    params = to_float64(net.init(jax.random.key(1)))
    last = jax.jit(lambda key: solve(meta, params, None, key)[0])
    batches = np.asarray(teacher.batches(meta.teacher, jax.random.key(0)).x)
    ends = set()
    for seed in range(16):
        x = np.asarray(last(jax.random.key(seed)))
        (end,) = [t for t in range(num_steps) if (batches[t] == x).all()]
        ends.add(end + 1)
    assert ends == {2, 3, 4}  # sixteen draws of three ends; the seeds are fixed


@pytest.mark.parametrize("backprop_last", [0, 6, -1])
def test_a_window_that_does_not_fit_is_refused(backprop_last):
    with pytest.raises(UserError) as error:
        run_bowl(5, backprop_last=backprop_last)
    assert "backprop_last in 1 ... 5 (inner steps)" in message(error)


def test_unknown_options_are_refused():
    with pytest.raises(UserError) as error:
        run_bowl(2, remat="all")
    assert "one of none, sqrt, step" in message(error)
    with pytest.raises(UserError) as error:
        problem("sgd", random_window=True)
    assert "backprop_last with random_window" in message(error)


def test_gradient_descent_on_a_bowl_in_closed_form():
    """theta_T = s + prod(1 - eta_t) (theta_0 - s) for the loss |theta - s|^2 / 2 at every step."""
    rates = jnp.asarray([0.5, 0.25, 0.125])  # exact in float32
    optimizer = sgd(num_steps=3, learning_rate=rates, positive="exp")
    teacher = Teacher(
        init=lambda key: jnp.zeros(2),
        batches=lambda phi, key: Batch(jnp.broadcast_to(phi[None], (3, 2)), jnp.zeros((3, 1))),
        by_class=None,
    )
    solve = unrolled(teacher, lambda meta, params, batch: 0.5 * jnp.sum((params - batch.x) ** 2), optimizer)
    source, start, real = jnp.asarray([[1.0, -2.0], [3.0, 0.5], [0.25, 4.0]])
    key = jax.random.key(0)

    def outer(meta):
        params, info = solve(meta, start, None, key)
        return 0.5 * jnp.sum((params - real) ** 2), (params, info.losses)

    meta = Meta(source, {"learning_rate": jnp.log(rates)})
    gradient, (params, losses) = jax.jit(jax.grad(outer, has_aux=True))(meta)
    left = np.cumprod(1 - np.asarray(rates))
    np.testing.assert_allclose(params, source + left[-1] * (start - source), rtol=1e-12)
    before = np.concatenate([[1.0], left[:-1]])
    np.testing.assert_allclose(losses, 0.5 * before**2 * np.sum((start - source) ** 2), rtol=1e-12)
    np.testing.assert_allclose(gradient.teacher, (1 - left[-1]) * (params - real), rtol=1e-12)
    # d theta_T / d eta_t = -prod of the other factors (theta_0 - s), and d eta / d raw = eta
    slope = -left[-1] / (1 - rates) * jnp.sum((params - real) * (start - source)) * rates
    np.testing.assert_allclose(gradient.inner["learning_rate"], slope, rtol=1e-12)
