"""Trajectory matching: the loss by hand, the accumulated gradient, experts, student's batches, the recipe."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import (
    CLASSES,
    SHALLOW,
    SHAPE,
    fixed_sgd,
    images_teacher,
    message,
    tiny_data,
    tiny_net,
    to_float64,
)

from jaxdistill.core.checks import UserError
from jaxdistill.core.linalg import cosine, squared_norm
from jaxdistill.core.types import Data, Made, Meta, Segment
from jaxdistill.inner.accumulated import accumulated
from jaxdistill.inner.losses import inner_loss
from jaxdistill.inner.optimizers import adam, sgd
from jaxdistill.inner.train import train
from jaxdistill.inner.unrolled import unrolled
from jaxdistill.methods.mtt import mtt
from jaxdistill.methods.outer import outer_sgd
from jaxdistill.objectives.trajectory_matching import trajectory_matching
from jaxdistill.populations.experts import experts
from jaxdistill.teachers import augmented, generator, images, minibatches

KEY = jax.random.key(0)
NET = tiny_net()
LOSS = inner_loss(NET, weight_decay=0.01)
gradient_of_a_step = jax.jit(jax.grad(LOSS, argnums=1))
x64 = pytest.mark.usefixtures("x64")


def problem(num_steps, per_step=True):
    """(teacher, optimiser, meta, start, target) in float64."""
    teacher = images_teacher(distill_epochs=num_steps)
    optimizer = sgd(num_steps=num_steps, learning_rate=0.4, per_step=per_step)
    meta = to_float64(Meta(teacher.init(KEY), optimizer.init()))
    start, target = (to_float64(NET.init(jax.random.key(seed))) for seed in (1, 2))
    return teacher, optimizer, meta, start, target


@functools.cache
def bank(count=3, epochs=4):
    """Weights [count, epochs + 1, ...] of networks trained on the tiny data, an epoch a step."""
    data = tiny_data()
    keys = jax.random.split(KEY, count)

    def of_one(key):
        start = NET.init(key)
        steps = jnp.zeros((epochs, 1))
        kept, _ = train(
            lambda p, _: LOSS(Meta({}, {}), p, data),
            start,
            steps,
            fixed_sgd(0.5),
            fixed_sgd(0.5).values({}),
            keep_every=1,
        )
        return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), start, kept)

    return jax.jit(jax.vmap(of_one))(keys)


# ---------------------------------------------------------------- the loss


@x64
def test_the_loss_equals_the_formula_by_hand():
    teacher, optimizer, meta, start, target = problem(3)
    batches = jax.device_get(teacher.batches(meta.teacher, KEY))
    rates = np.asarray(optimizer.values(meta.inner)["learning_rate"])
    student = jax.tree.map(np.asarray, start)
    for t in range(3):
        gradient = gradient_of_a_step(meta, student, jax.tree.map(lambda a, t=t: a[t], batches))
        student = jax.tree.map(lambda p, g, t=t: p - rates[t] * np.asarray(g), student, gradient)

    def squared(a, b):
        return sum(
            np.sum((np.asarray(x) - np.asarray(y)) ** 2)
            for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True)
        )

    objective = trajectory_matching(unrolled(teacher, LOSS, optimizer))
    loss, metrics = jax.jit(objective)(meta, Segment(start, target), None, None, KEY)
    assert float(loss) == pytest.approx(squared(student, target) / squared(start, target), rel=1e-6)
    assert metrics["loss"] == loss and 0.5 < float(metrics["inner_loss"]) < 3


@x64
def test_a_student_that_stays_has_a_loss_of_one_and_one_that_arrives_none():
    teacher, _, meta, start, _ = problem(2)
    optimizer = fixed_sgd(0.5, num_steps=2)
    solve = unrolled(teacher, LOSS, optimizer)
    arrived, _ = jax.jit(solve.run)(meta, start, None, KEY)
    still = unrolled(teacher, LOSS, fixed_sgd(1e-12, num_steps=2))
    losses = [
        float(jax.jit(trajectory_matching(each))(meta, Segment(start, arrived), None, None, KEY)[0])
        for each in (solve, still)
    ]
    assert losses == [pytest.approx(0, abs=1e-20), pytest.approx(1, rel=1e-6)]


@x64
def test_its_gradient_equals_central_differences():
    teacher, optimizer, meta, start, target = problem(4)
    objective = trajectory_matching(unrolled(teacher, LOSS, optimizer, remat="step"))
    run = jax.jit(
        jax.value_and_grad(lambda meta: objective(meta, Segment(start, target), None, None, KEY)[0])
    )
    rng, meta = np.random.default_rng(0), jax.device_get(meta)
    direction = jax.tree.map(lambda a: rng.normal(size=a.shape), meta)
    slope = sum(jax.tree.leaves(jax.tree.map(np.vdot, jax.device_get(run(meta)[1]), direction)))
    ends = [run(jax.tree.map(lambda a, d, s=s: a + s * 1e-6 * d, meta, direction))[0] for s in (1, -1)]
    assert abs(float(slope)) > 1e-3
    assert float(slope) == pytest.approx(float(ends[0] - ends[1]) / 2e-6, rel=1e-5)


# ---------------------------------------------------------------- TESLA's gradient


def detached(teacher, optimizer, num_steps):
    """Autodiff through a loop in which every step starts from weights that are constants."""

    def run(meta, params):
        batches = teacher.batches(meta.teacher, KEY)
        rates = jnp.broadcast_to(optimizer.values(meta.inner)["learning_rate"], (num_steps,))
        total = params
        for t in range(num_steps):
            here = jax.lax.stop_gradient(total)
            gradient = jax.grad(LOSS, argnums=1)(meta, here, jax.tree.map(lambda a, t=t: a[t], batches))
            total = jax.tree.map(lambda p, g, t=t: p - rates[t] * g, total, gradient)
        return total

    return run


@x64
@pytest.mark.parametrize("per_step", [True, False])
def test_accumulation_is_autodiff_with_detached_weights(per_step):
    teacher, optimizer, meta, start, target = problem(3, per_step)
    solve = accumulated(teacher, LOSS, optimizer)

    def miss(run):
        def loss(meta, start):
            gaps = jax.tree.map(lambda a, b: jnp.sum((a - b) ** 2), run(meta, start), target)
            return sum(jax.tree.leaves(gaps))

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(meta, start)

    ours = miss(lambda meta, start: solve(meta, start, None, KEY)[0])
    reference = miss(detached(teacher, optimizer, 3))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(reference), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
    assert float(optax.tree.norm(ours[1][0].inner)) > 1e-3  # step sizes are felt


@x64
def test_accumulation_trains_as_unrolled_does_and_is_exact_for_one_step():
    cosines = []
    for num_steps in (1, 16):
        teacher, optimizer, meta, start, target = problem(num_steps)
        gradients, ends = [], []
        for make in (unrolled, accumulated):
            solve = make(teacher, LOSS, optimizer)

            def loss(meta, solve=solve, start=start, target=target):
                end, info = solve(meta, start, None, KEY)
                return squared_norm(jax.tree.map(jnp.subtract, end, target)), (end, info)

            gradient, end = jax.jit(jax.grad(loss, has_aux=True))(meta)
            gradients.append(gradient)
            ends.append(end)
        for a, b in zip(*map(jax.tree.leaves, ends), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12)
        exact, ours = gradients
        cosines.append(float(cosine(exact.teacher, ours.teacher)))
    assert cosines[0] == pytest.approx(1, abs=1e-12)
    assert 0.5 < cosines[1] < 0.9999  # an approximation


def test_accumulation_refuses_what_does_not_add_up():
    for optimizer in (fixed_sgd(momentum=0.5), adam(num_steps=1)):
        with pytest.raises(UserError) as error:
            accumulated(images_teacher(), LOSS, optimizer)
        assert "sgd without momentum" in message(error)


# ---------------------------------------------------------------- experts, the student's batches


def test_segments_are_pieces_of_the_bank():
    shape = (4, 6)  # experts, snapshots
    told = {"w": jnp.arange(24.0).reshape(shape)}
    population = experts(start_epochs=3, expert_epochs=2)
    found = population.context((), told, KEY, 300)
    starts, targets = np.asarray(found.start["w"]), np.asarray(found.target["w"])
    np.testing.assert_array_equal(targets, starts + 2)
    assert set(starts) == {6.0 * who + when for who in range(4) for when in range(3)}
    for chosen, says in (
        ({"start_epochs": 5, "expert_epochs": 2}, "start_epochs + expert_epochs <= 6, the snapshots of an"),
        ({"start_epochs": 0}, "start_epochs >= 1, got 0"),
        ({"expert_epochs": 0}, "expert_epochs >= 1, got 0"),
    ):
        with pytest.raises(UserError) as error:
            experts(**chosen).context((), told, KEY, 1)
        assert says in message(error)
    with pytest.raises(UserError) as error:
        population.context((), None, KEY, 1)
    assert "a bank of trajectories, got none" in message(error)


@pytest.mark.parametrize("kind", ["images", "generator"])
def test_minibatches_take_every_image_in_turn(kind):
    if kind == "images":
        teacher = images(image_shape=SHAPE, num_classes=CLASSES, images_per_class=2, distill_epochs=5)
    else:
        small = SHALLOW | {"batch_size": 3, "distill_steps": 2}
        teacher = generator(image_shape=SHAPE, num_classes=CLASSES, **small, distill_epochs=3)
    phi = jax.jit(teacher.init)(KEY)
    by_class = jax.device_get(jax.jit(teacher.by_class)(phi, KEY))
    every = by_class.x.reshape(6, *SHAPE)
    made = jax.jit(minibatches(teacher, 4).batches)(phi, jax.random.key(3))
    steps = jax.eval_shape(teacher.batches, phi, KEY).x.shape[0]
    assert made.x.shape == (steps, 4, *SHAPE) and made.y.shape == (steps, 4, CLASSES)
    flat = np.asarray(made.x).reshape(-1, *SHAPE)
    found = [int(np.abs(every - one).max((1, 2, 3)).argmin()) for one in flat]
    for start in range(0, len(found) - 5, 6):
        assert sorted(found[start : start + 6]) == list(range(6))
    assert found[:6] != found[6:12]  # shuffled anew
    labels = by_class.y.reshape(6, CLASSES)
    np.testing.assert_array_equal(np.asarray(made.y).reshape(-1, CLASSES), labels[found])
    if kind == "generator":  # from images that were made once
        again = jax.jit(lambda phi, key: minibatches(teacher, 4).batches(Made(teacher.make(phi, KEY)), key))
        seen = again(phi, jax.random.key(3))
        np.testing.assert_allclose(seen.x, made.x, atol=1e-5)
    with pytest.raises(UserError) as error:
        minibatches(teacher, 0)
    assert "batch_size >= 1, got 0" in message(error)


def test_every_step_is_augmented_with_a_key_of_its_own():
    teacher = images(image_shape=SHAPE, num_classes=CLASSES, distill_epochs=4)
    phi = teacher.init(KEY)
    noisy = augmented(teacher, lambda key, x: x + jax.random.normal(key, ()))
    added = np.asarray(noisy.batches(phi, KEY).x - teacher.batches(phi, KEY).x)
    by_step = added.reshape(4, -1)
    assert np.ptp(by_step, axis=1).max() < 1e-5 and np.unique(by_step[:, 0].round(4)).size == 4
    assert np.abs(noisy.batches(phi, jax.random.key(1)).x - noisy.batches(phi, KEY).x).max() > 1e-3


# ---------------------------------------------------------------- the recipe


def test_a_learned_step_size_has_its_own_rate_and_stays_positive():
    optimizer = outer_sgd(learning_rate=10.0, momentum=0.0, hyper_learning_rate=0.5, positive="projected")
    meta = Meta({"x": jnp.ones(2)}, {"learning_rate": jnp.full(1, 0.01)})
    gradient = Meta({"x": jnp.ones(2)}, {"learning_rate": jnp.full(1, 0.01)})
    updates, state = optimizer.update(gradient, optimizer.init(meta), meta)
    moved = optax.apply_updates(meta, updates)
    np.testing.assert_allclose(moved.teacher["x"], 1 - 10.0)
    np.testing.assert_allclose(moved.inner["learning_rate"], 0.01 - 0.5 * 0.01, rtol=1e-5)
    far = Meta({"x": jnp.ones(2)}, {"learning_rate": jnp.ones(1)})
    updates, _ = optimizer.update(far, state, moved)
    np.testing.assert_allclose(optax.apply_updates(moved, updates).inner["learning_rate"], 1e-6, rtol=1e-3)


@pytest.mark.parametrize("kind", ["generator", "accumulated over minibatches"])
def test_any_teacher_and_gradient_follows_experts(kind):
    small = {"image_shape": SHAPE, "num_classes": CLASSES}
    teacher = images(**small, images_per_class=2, distill_epochs=4)
    if kind == "generator":
        more = SHALLOW | {"batch_size": 6, "distill_steps": 4}
        teacher = generator(**small, **more)
    options = {}
    if kind == "accumulated over minibatches":
        options = {"solve": accumulated, "inner_batch_size": 3}
    method = mtt(
        NET,
        teacher,
        population=experts(start_epochs=2, expert_epochs=2),
        inner_optimizer=sgd(num_steps=4, learning_rate=0.2, per_step=False, positive="projected"),
        outer_optimizer=optax.adam(0.02),
        augmentation=None,
        num_learners=2,
        **options,
    )
    data, state = Data(None, bank()), jax.jit(method.init)(KEY)  # no real data are seen

    @jax.jit
    def run(state):
        return jax.lax.scan(lambda state, _: method.update(state, data, KEY), state, None, length=80)

    state, metrics = run(state)
    losses = np.asarray(metrics["loss"])
    share = 0.9 if kind == "generator" else 0.8  # it learns slowly
    assert losses[-15:].mean() < share * losses[:5].mean(), losses
    assert method.hyperparameters(state)["learning_rate"].shape == (1,)
