"""Generative Teaching Networks: its learner, random shapes, losses on the way, and the method's defaults."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.signal
from helpers import message, tiny_batch, tiny_data, tiny_net

from experiments import distill
from experiments.options import BY_METHOD, complete
from jaxdistill.core.checks import UserError
from jaxdistill.core.types import Data, Meta
from jaxdistill.inner.losses import inner_loss
from jaxdistill.inner.optimizers import rmsprop, sgd
from jaxdistill.inner.train import train
from jaxdistill.inner.unrolled import unrolled
from jaxdistill.layers.pool import overlapping_max_pool
from jaxdistill.learners import learner
from jaxdistill.learners.shapes import SHAPES, random_shapes
from jaxdistill.methods.gtn import gtn
from jaxdistill.objectives.validation import validation
from jaxdistill.teachers import generator, images

KEY = jax.random.key(0)


# ---------------------------------------------------------------- the learner


def test_overlapping_pooling_equals_scipys_maximum():
    x = np.random.default_rng(0).normal(size=(2, 8, 7, 3)).astype(np.float32)
    for padding in (0, 1):
        margin = (padding, padding)
        padded = np.pad(x, ((0, 0), margin, margin, (0, 0)), constant_values=-np.inf)
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))[:, ::2, ::2]
        ours = overlapping_max_pool(jnp.asarray(x), padding=padding)
        np.testing.assert_array_equal(ours, windows.max((-1, -2)))
    with pytest.raises(UserError) as error:
        overlapping_max_pool(jnp.ones((1, 2, 5, 1)), padding=0)
    assert "at least 3x3, got 2x5" in message(error)


def normalised(layer):
    flat = layer["kernel"].reshape(-1, layer["kernel"].shape[-1])
    return (flat / np.linalg.norm(flat, axis=0) * layer["gain"]).reshape(layer["kernel"].shape)


def forward(p, x):
    """The learner in NumPy, its norms with the means of this batch."""
    for i in (1, 2):
        kernel = normalised(p[f"conv{i}"])
        x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        units = range(kernel.shape[-1])
        maps = [
            [scipy.signal.correlate(image, kernel[..., o], mode="valid")[..., 0] for o in units]
            for image in x
        ]
        x = np.moveaxis(np.asarray(maps), 1, -1)
        x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
        x = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))[:, ::2, ::2].max((-1, -2))
        x = x - x.mean((0, 1, 2)) + p[f"norm{i}"]["bias"]
        x = np.where(x > 0, x, 0.1 * x)
    x = x.reshape(len(x), -1) @ normalised(p["dense1"])
    x = x - x.mean(0) + p["norm3"]["bias"]
    return np.where(x > 0, x, 0.1 * x) @ normalised(p["classifier"]) + p["classifier"]["bias"]


@pytest.mark.usefixtures("x64")
def test_the_learner_equals_an_independent_computation():
    net = learner("gtn", image_shape=(8, 8, 2), num_classes=3, width=3)
    noise = np.random.default_rng(0)
    params = jax.tree.map(
        lambda a: np.asarray(a, np.float64) + 0.1 * noise.normal(size=a.shape), net.init(KEY)
    )
    x = noise.normal(size=(4, 8, 8, 2))
    np.testing.assert_allclose(net.apply(params, jnp.asarray(x)), forward(params["params"], x), rtol=1e-9)


def test_test_data_see_the_means_of_the_last_inner_batch():
    net = learner("gtn", image_shape=(8, 8, 1), num_classes=3, width=4)
    params, x = net.init(KEY), jax.random.normal(KEY, (12, 8, 8, 1))
    calibrated = net.calibrate(params, x)
    np.testing.assert_allclose(net.apply(calibrated, x), net.apply(params, x), rtol=1e-5, atol=1e-6)
    alone = net.apply(calibrated, x[:1])  # whatever the batch it comes in
    np.testing.assert_allclose(alone, net.apply(calibrated, x)[:1], rtol=1e-4, atol=1e-5)
    assert float(jnp.abs(net.apply(params, x[:1]) - alone).max()) > 1e-3


def test_random_shapes_lie_in_the_papers_ranges():
    drawn = random_shapes("gtn", {"width": 64}, count=300, seed=0)
    for name, low, high in (("width", 32, 127), ("second_width", 64, 255), ("hidden", 64, 255)):
        values = [options[name] for options in drawn]
        assert low <= min(values) < low + 10 and high - 10 < max(values) <= high
    drawn = random_shapes("convnet", {"width": 16, "depth": 3}, count=100, seed=0)
    assert {options["depth"] for options in drawn} == {1, 2, 3}
    assert drawn == random_shapes("convnet", {"width": 16, "depth": 3}, count=100, seed=0)
    assert drawn != random_shapes("convnet", {"width": 16, "depth": 3}, count=100, seed=1)
    for name in SHAPES:
        given = {"width": 8, "depth": 2} if name != "gtn" else {"width": 8}
        for options in random_shapes(name, given, count=3, seed=0):
            learner(name, image_shape=(8, 8, 1), num_classes=3, **options)
    with pytest.raises(UserError) as error:
        random_shapes("lenet", {}, count=2, seed=0)
    assert "one of convnet, gtn, mlp, got 'lenet'" in message(error)


# ---------------------------------------------------------------- inner loop


def test_rmsprop_is_its_definition():
    optimizer = rmsprop(num_steps=3, learning_rate=0.1, learned=())
    target = jnp.asarray([1.0, 3.0, 5.0])
    end, _ = train(lambda w, t: 0.5 * (w - t) ** 2, jnp.asarray(0.0), target, optimizer, optimizer.values({}))
    w, v = 0.0, 0.0
    for t in (1.0, 3.0, 5.0):
        g = w - t
        v = 0.9 * v + 0.1 * g * g
        w -= 0.1 * g / np.sqrt(v + 1e-5)
    assert float(end) == pytest.approx(w, rel=1e-5)


@pytest.mark.parametrize("remat", ["none", "step", "sqrt"])
def test_weights_on_the_way_are_those_of_shorter_training(remat):
    optimizer = sgd(num_steps=6, learning_rate=0.1, momentum=0.7, learned=())
    targets = jnp.arange(6.0)

    def run(steps, **options):
        start, values = jnp.asarray(0.5), optimizer.values({})
        return train(lambda w, t: (w - t) ** 4, start, targets[:steps], optimizer, values, **options)

    kept, losses = run(6, keep_every=2, remat=remat)
    np.testing.assert_allclose(kept, [run(steps)[0] for steps in (2, 4, 6)], rtol=1e-6)
    np.testing.assert_allclose(losses, run(6)[1], rtol=1e-6)
    refused = {"a divisor of the 6": {"keep_every": 4}, "no back": {"keep_every": 2, "backprop_last": 1}}
    for says, options in refused.items():
        with pytest.raises(UserError) as error:
            run(6, **options)
        assert says in message(error)


def test_the_outer_loss_on_the_way_is_the_mean_over_shorter_trainings():
    net, real = tiny_net(), tiny_batch(9)
    losses = []
    for steps in (2, 4):
        teacher = images(image_shape=(4, 4, 1), num_classes=3, distill_epochs=steps)
        optimizer = sgd(num_steps=steps, learning_rate=0.3, learned=())
        meta, params = Meta(teacher.init(KEY), {}), net.init(KEY)
        solve = unrolled(teacher, inner_loss(net), optimizer)
        losses.append(validation(net, solve)(meta, params, real, None, KEY)[0])
    way = unrolled(teacher, inner_loss(net), optimizer, keep_every=2)
    loss, metrics = validation(net, way, intermediate=True)(meta, params, real, None, KEY)
    assert float(loss) == pytest.approx(float(sum(losses)) / 2, rel=1e-5)
    whole, told = validation(net, solve)(meta, params, real, None, KEY)
    assert metrics["accuracy"] == told["accuracy"] and float(whole) != pytest.approx(float(loss), rel=1e-3)


# ---------------------------------------------------------------- the method


def test_the_recipe_has_the_papers_inner_optimiser():
    small = {"batch_size": 4, "distill_steps": 3, "generator_width": 4, "generator_hidden": 5}
    teacher = generator(image_shape=(4, 4, 1), num_classes=3, **small)
    method = gtn(tiny_net(), teacher, real_batch_size=6, outer_optimizer=optax.sgd(0.1))
    state = method.init(KEY)
    values = method.hyperparameters(state)
    np.testing.assert_allclose(values["learning_rate"], np.full(3, 0.02), rtol=1e-6)
    np.testing.assert_allclose(values["momentum"], np.full(3, 0.5), rtol=1e-6)
    new, _ = jax.jit(method.update)(state, Data(tiny_data(), None), KEY)
    for name in ("learning_rate", "momentum"):
        assert np.abs(new.meta.inner[name] - state.meta.inner[name]).max() > 0


def test_a_method_brings_its_defaults():
    def config(**chosen):
        return complete(distill.GROUPS, chosen)

    plain, paper = config(), config(method="gtn")
    assert {name: paper[name] for name in BY_METHOD["gtn"]} == BY_METHOD["gtn"]
    assert config(method="gtn", batch_size=8)["batch_size"] == 8
    other = config(method="gtn", teacher="images")
    assert other["batch_size"] is None and other["distill_steps"] == 1 and other["learner"] == "gtn"
    assert config(method="gtn", learner="mlp")["learner"] == "mlp"
    implicit = config(method="gtn", gradient="implicit")
    assert implicit["learned"] is None and implicit["inner_momentum"] is None
    assert plain == config(method="dd")
