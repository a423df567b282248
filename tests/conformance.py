"""What every member of every registry owes: pure, jit equals eager, vmap equals loop, stable, finite.

Each check takes the name of a member. A teacher may have rows of options in `OPTIONS`; without one it is
checked with its defaults. Learners have their own table in `test_learners.py`.
"""

import inspect
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from helpers import CLASSES, SHAPE, conforming, same_bits, tiny_data, tiny_net

from jaxdistill.augment import dsa
from jaxdistill.core.registry import options_of
from jaxdistill.core.types import Data, Meta, Segment
from jaxdistill.inner.optimizers import INNER_OPTIMIZERS
from jaxdistill.inner.train import train
from jaxdistill.methods import METHODS
from jaxdistill.methods.recipe import recipe_of
from jaxdistill.populations import POPULATIONS
from jaxdistill.populations.ages import ages
from jaxdistill.populations.source import source_of
from jaxdistill.teachers import TEACHERS
from jaxdistill.teachers.decoders import DECODERS

KEY = jax.random.key(0)
STEPS = 2
START = np.linspace(-1, 1, CLASSES * 2 * np.prod(SHAPE), dtype=np.float32).reshape(CLASSES, 2, *SHAPE)
OPTIONS: dict[str, dict[str, Any]] = {
    "images": {"distill_epochs": 2},
    "images: soft labels": {"images_per_class": 2, "distill_steps": 2, "soft_labels": True},
    "generator": {
        "upsamplings": 1,
        "batch_size": 4,
        "distill_steps": 2,
        "steps_at_once": 2,  # its images are one program where the rest is eager
        "generator_width": 4,
        "generator_hidden": 5,
    },
    "generator: soft labels": {
        "batch_size": 3,
        "distill_epochs": 2,
        "steps_at_once": 1,
        "architecture": "compact",
        "generator_width": 4,
        "soft_labels": True,
        "noise_size": 3,
    },
    "generator: fresh noise": {
        "batch_size": 4,
        "distill_steps": 2,
        "generator_width": 4,
        "generator_hidden": 5,
        "upsamplings": 1,
        "noise": "fresh",
        "steps_at_once": 1,
        "weight_norm": False,
        "labels": "free",
    },
    "images: decoded": {
        "images_per_class": 2,
        "decoder": DECODERS["bases"](image_shape=SHAPE, num_bases=2),
        "stored_as": "uint8",
    },
    "images: free labels": {"images_per_class": 2, "labels": "free"},
    "images: from real ones": {"images_per_class": 2, "distill_steps": 2, "start": START},
}

SMALLEST: dict[str, tuple[tuple[int, int, int], dict[str, Any]]] = {
    "alexnet": ((8, 8, 2), {"width": 4}),
    "convnet": ((8, 8, 2), {"width": 4}),
    "lenet": ((16, 16, 2), {}),
    "mlp": ((8, 8, 2), {"width": 8}),
    "resnet18": ((9, 9, 2), {"width": 2}),
    "resnet18_ap": ((16, 16, 2), {"width": 2}),
    "vgg11": ((28, 28, 1), {"width": 2}),
}
"""By learner: the smallest image that it accepts, and the options of a narrow one; 8x8 pixels otherwise."""


def teacher_rows() -> list[str]:
    """The rows of `OPTIONS`, and teachers that have none."""
    named = {row.partition(":")[0] for row in OPTIONS}
    return sorted([*OPTIONS, *(name for name in TEACHERS if name not in named)])


def assert_finite_and_felt(gradient):
    for path, leaf in jax.tree.leaves_with_path(gradient):
        assert np.isfinite(leaf).all(), path
        assert np.abs(leaf).max() > 0, path


def check_inner_optimizer(name: str) -> None:
    optimizer = INNER_OPTIMIZERS[name](num_steps=STEPS, learning_rate=0.1)
    raw = optimizer.init()
    params = {"w": jnp.asarray([1.0, -0.5, 2.0]), "b": jnp.asarray([[0.25]])}
    targets = jnp.asarray([1.0, 3.0])

    def loss(params, target):
        return jnp.sum((params["w"] - target) ** 4) + jnp.sum(params["b"] ** 2)

    def run(raw, params):
        return train(loss, params, targets, optimizer, optimizer.values(raw))

    trained, losses = conforming(run, raw, params)
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


def check_teacher(name: str) -> None:
    teacher = TEACHERS[name.partition(":")[0]](
        image_shape=SHAPE, num_classes=CLASSES, **OPTIONS.get(name, {})
    )
    init = jax.jit(teacher.init)
    phi = init(KEY)
    same_bits(init(KEY), phi)
    ways = [way for way in (teacher.batches, teacher.by_class) if way is not None]
    batches, *others = conforming(lambda phi, key: [way(phi, key) for way in ways], phi, KEY)
    assert batches.x.ndim == 5 and batches.x.shape[2:] == SHAPE and batches.x.dtype == jnp.float32
    assert batches.y.shape == (*batches.x.shape[:2], CLASSES) and batches.y.dtype == jnp.float32
    sums = 0 if teacher.labels == "free" else 1  # free ones are centred at the start
    np.testing.assert_allclose(batches.y.sum(-1), sums, rtol=1e-6, atol=1e-6)

    def total(phi):
        batch = teacher.batches(phi, KEY)
        return jnp.sum(batch.x**3) + jnp.sum(batch.y[..., 0] ** 2)

    assert_finite_and_felt(jax.jit(jax.grad(total))(phi))
    for by_class in others:
        assert by_class.x.shape == (CLASSES, by_class.x.shape[1], *SHAPE)
        assert (by_class.y.argmax(-1) == np.arange(CLASSES)[:, None]).all()


def trajectories(net, snapshots=30):
    """Weights of two experts, [2, snapshots, ...]."""
    return jax.jit(jax.vmap(jax.vmap(net.init)))(jax.random.split(KEY, (2, snapshots)))


def pool(net):
    """Weights of three networks, [3, ...]."""
    return jax.jit(jax.vmap(net.init))(jax.random.split(KEY, 3))


BANKS = {"trajectories": trajectories, "pool": pool, None: lambda net: None}
"""By what a population draws from: networks that nobody trained."""


def check_population(name: str) -> None:
    net, source = tiny_net(), source_of(POPULATIONS[name])
    teacher = TEACHERS["images"](image_shape=SHAPE, num_classes=CLASSES)
    options = {"learner": net, "teacher": teacher, "num_learners": 2, "epochs": 2}
    options |= {"start_epochs": 2, "expert_epochs": 1}
    taken = inspect.signature(source.make).parameters
    population = source.make(**{n: v for n, v in options.items() if n in taken})
    bank = BANKS[source.bank](net)
    init = jax.jit(population.init)
    state = init(KEY)
    same_bits(init(KEY), state)
    contexts = conforming(lambda state, key: population.context(state, bank, key, 2), state, KEY)
    one = jax.eval_shape(net.init, KEY)
    one = Segment(one, one) if source.segments else one
    chex.assert_trees_all_equal_shapes_and_dtypes(jax.tree.map(lambda a: a[0], contexts), one)
    assert {leaf.shape[0] for leaf in jax.tree.leaves(contexts)} == {2}
    meta = Meta(teacher.init(KEY), {})
    chex.assert_trees_all_equal_shapes_and_dtypes(population.advance(state, meta, None, KEY), state)


def check_method(name: str, *, eagerly: bool = True) -> None:
    """As the module says; without `eagerly` an outer step is compiled alone, which takes half the time."""
    net, recipe = tiny_net("linear"), recipe_of(METHODS[name])
    teacher = TEACHERS["images"](image_shape=SHAPE, num_classes=CLASSES)
    taken = options_of(recipe.make)
    options: dict[str, Any] = {"real_batch_size": 6} if "real_batch_size" in taken else {}
    if "augmentation" in taken and recipe.augments and recipe.defaults.get("augment") != ():
        options["augmentation"] = dsa(["crop"])  # six operations, the default, take seconds to compile
    options |= {"num_learners": 2} if "num_learners" in taken else {}
    if recipe.defaults.get("population") == "ages" and "distance" in taken:  # one step of training, not eight
        options["population"] = ages(net, teacher, num_learners=2, pool_size=2, age_data="real")
    method = recipe.make(net, teacher, **options)
    banks = {source_of(POPULATIONS[population]).bank for population in recipe.populations} or {None}
    data = Data(tiny_data(), BANKS[min(banks, key=str)](net))
    init = jax.jit(method.init)
    state = init(KEY)
    if eagerly:
        new, metrics = conforming(lambda state, key: method.update(state, data, key), state, KEY)
    else:
        update, before = jax.jit(method.update), jax.device_get(state)
        new, metrics = jax.device_get(update(state, data, KEY))
        same_bits(update(state, data, KEY), (new, metrics))
        same_bits(state, before)
    chex.assert_trees_all_equal_shapes_and_dtypes(new, state)
    assert int(new.step) == 1
    assert all(value.shape == () for value in metrics.values())
    chex.assert_tree_all_finite((new.meta, metrics))
    same_bits(init(KEY), state)
    batch = conforming(method.synthesize, state, KEY)
    assert batch.x.shape[1:] == (CLASSES, *SHAPE) and batch.y.shape[1:] == (CLASSES, CLASSES)
    steps = batch.x.shape[0]
    assert all(value.shape in ((1,), (steps,)) for value in method.hyperparameters(state).values())
