"""What every member of every registry owes: pure, jit equals eager, vmap equals loop, stable, finite.

Learners have their own table in `test_learners.py`. A new teacher gets a line in `OPTIONS`; inner
optimisers, populations and methods are picked up from the registries.
"""

import functools
import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import CLASSES, SHAPE, same_bits, tiny_data, tiny_net

from jaxdistill.core.types import Data, Meta, Segment
from jaxdistill.inner.optimizers import INNER_OPTIMIZERS
from jaxdistill.inner.train import train
from jaxdistill.methods import METHODS
from jaxdistill.populations import POPULATIONS
from jaxdistill.teachers import TEACHERS

KEY = jax.random.key(0)
STEPS = 2
START = jnp.linspace(-1, 1, CLASSES * 2 * np.prod(SHAPE)).reshape(CLASSES, 2, *SHAPE)
OPTIONS = {
    "images": {"distill_epochs": 2},
    "images: soft labels": {"images_per_class": 2, "distill_steps": 2, "soft_labels": True},
    "generator": {"batch_size": 4, "distill_steps": 2, "generator_width": 4, "generator_hidden": 5},
    "generator: soft labels": {
        "batch_size": 3,
        "distill_epochs": 2,
        "architecture": "compact",
        "generator_width": 4,
        "soft_labels": True,
        "noise_size": 3,
        "weight_norm": True,
    },
    "generator: fresh noise": {
        "batch_size": 4,
        "distill_steps": 2,
        "generator_width": 4,
        "generator_hidden": 5,
        "noise": "fresh",
        "steps_at_once": 1,
        "weight_norm": False,
    },
    "images: from real ones": {"images_per_class": 2, "distill_steps": 2, "start": START},
}


# float32, one operation fused another way
close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)


def check(function, *arguments):
    """Pure, and compiled over a new leading axis the same as eagerly one at a time.

    Arguments are repeated along that axis, but each row has keys of its own. Returns what the function
    gives for the arguments.
    """
    rows = [arguments, tuple(jax.random.fold_in(a, 1) if is_key(a) else a for a in arguments)]
    stacked = jax.tree.map(lambda *leaves: (jnp.stack if is_key(leaves[0]) else np.stack)(leaves), *rows)
    before = jax.tree.map(copy, stacked)
    mapped = jax.jit(jax.vmap(function))
    out = mapped(*stacked)
    same_bits(jax.tree.map(copy, stacked), before)
    same_bits(mapped(*stacked), out)
    out = jax.device_get(out)
    for i, row in enumerate(rows):
        one, eager = jax.tree.map(lambda a, i=i: a[i], out), function(*row)
        chex.assert_trees_all_equal_shapes_and_dtypes(one, jax.device_get(eager))
        jax.tree.map(close, one, eager)
    return jax.tree.map(lambda a: a[0], out)


def is_key(argument):
    return isinstance(argument, jax.Array) and jnp.issubdtype(argument.dtype, jax.dtypes.prng_key)


def copy(leaf):
    return np.array(jax.random.key_data(leaf) if is_key(leaf) else leaf)


def assert_finite_and_felt(gradient):
    for path, leaf in jax.tree.leaves_with_path(gradient):
        assert np.isfinite(leaf).all(), path
        assert np.abs(leaf).max() > 0, path


@pytest.mark.parametrize("name", sorted(INNER_OPTIMIZERS))
def test_inner_optimizers(name):
    optimizer = INNER_OPTIMIZERS[name](num_steps=STEPS, learning_rate=0.1)
    raw = optimizer.init()
    params = {"w": jnp.asarray([1.0, -0.5, 2.0]), "b": jnp.asarray([[0.25]])}
    targets = jnp.asarray([1.0, 3.0])

    def loss(params, target):
        return jnp.sum((params["w"] - target) ** 4) + jnp.sum(params["b"] ** 2)

    def run(raw, params):
        return train(loss, params, targets, optimizer, optimizer.values(raw))

    trained, losses = check(run, raw, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(trained, params)
    assert losses.shape == (STEPS,) and float(loss(trained, targets[1])) < float(loss(params, targets[1]))

    def end(raw, params):
        trained, losses = run(raw, params)
        return losses[-1] + trained["b"][0, 0]

    assert_finite_and_felt(jax.jit(jax.grad(end, (0, 1)))(raw, params))
    step = optimizer.build({key: value[0] for key, value in optimizer.values(raw).items()})
    state = step.init(params)
    updates, after = step.update(params, state, params)
    chex.assert_trees_all_equal_shapes_and_dtypes((updates, after), (params, state))
    assert all(value.shape in ((STEPS,), (1,)) for value in optimizer.values(raw).values())


def test_every_teacher_has_a_row():
    assert {name.partition(":")[0] for name in OPTIONS} == set(TEACHERS)


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_teachers(name):
    teacher = TEACHERS[name.partition(":")[0]](image_shape=SHAPE, num_classes=CLASSES, **OPTIONS[name])
    phi = teacher.init(KEY)
    chex.assert_trees_all_equal_shapes_and_dtypes(jax.eval_shape(teacher.init, KEY), phi)
    same_bits(teacher.init(KEY), phi)
    batches = check(teacher.batches, phi, KEY)
    assert batches.x.ndim == 5 and batches.x.shape[2:] == SHAPE and batches.x.dtype == jnp.float32
    assert batches.y.shape == (*batches.x.shape[:2], CLASSES) and batches.y.dtype == jnp.float32
    np.testing.assert_allclose(batches.y.sum(-1), 1, rtol=1e-6)

    def total(phi):
        batch = teacher.batches(phi, KEY)
        return jnp.sum(batch.x**3) + jnp.sum(batch.y[..., 0] ** 2)

    assert_finite_and_felt(jax.jit(jax.grad(total))(phi))
    if teacher.by_class is not None:
        by_class = check(teacher.by_class, phi, KEY)
        assert by_class.x.shape == (CLASSES, by_class.x.shape[1], *SHAPE)
        assert (by_class.y.argmax(-1) == np.arange(CLASSES)[:, None]).all()


def trajectories(net, snapshots=30):
    """Weights of two experts, [2, snapshots, ...]."""
    return jax.vmap(jax.vmap(net.init))(jax.random.split(KEY, (2, snapshots)))


def pool(net):
    """Weights of three networks, [3, ...]."""
    return jax.vmap(net.init)(jax.random.split(KEY, 3))


@pytest.mark.parametrize("name", sorted(POPULATIONS))
def test_populations(name):
    net = tiny_net()
    teacher = TEACHERS["images"](image_shape=SHAPE, num_classes=CLASSES)
    options = {"learner": net, "teacher": teacher, "num_learners": 2, "epochs": 2}
    options |= {"start_epochs": 2, "expert_epochs": 1}
    taken = inspect.signature(POPULATIONS[name]).parameters
    population = POPULATIONS[name](**{n: v for n, v in options.items() if n in taken})
    banks = {"experts": trajectories(net)} | dict.fromkeys(("pretrained", "fixed_pretrained"), pool(net))
    bank = banks.get(name)
    state = jax.jit(population.init)(KEY)
    same_bits(jax.jit(population.init)(KEY), state)
    contexts = check(lambda state, key: population.context(state, bank, key, 2), state, KEY)
    one = jax.eval_shape(net.init, KEY)
    one = Segment(one, one) if name == "experts" else one
    chex.assert_trees_all_equal_shapes_and_dtypes(jax.tree.map(lambda a: a[0], contexts), one)
    assert {leaf.shape[0] for leaf in jax.tree.leaves(contexts)} == {2}
    meta = Meta(teacher.init(KEY), {})
    chex.assert_trees_all_equal_shapes_and_dtypes(population.advance(state, meta, KEY), state)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_methods(name):
    net = tiny_net("linear")
    teacher = TEACHERS["images"](image_shape=SHAPE, num_classes=CLASSES)
    size = {} if name == "mtt" else {"real_batch_size": 6}
    method = METHODS[name](net, teacher, num_learners=2, **size)
    data = Data(tiny_data(), trajectories(net) if name == "mtt" else None)
    state = method.init(KEY)
    new, metrics = check(lambda state, key: method.update(state, data, key), state, KEY)
    chex.assert_trees_all_equal_shapes_and_dtypes(new, state)
    assert int(new.step) == 1
    assert all(value.shape == () for value in metrics.values())
    chex.assert_tree_all_finite((new.meta, metrics))
    same_bits(jax.jit(method.init)(KEY).meta, state.meta)
    batch = check(method.synthesize, state, KEY)
    assert batch.x.shape[1:] == (CLASSES, *SHAPE) and batch.y.shape[1:] == (CLASSES, CLASSES)
    steps = batch.x.shape[0]
    assert all(value.shape in ((1,), (steps,)) for value in method.hyperparameters(state).values())
