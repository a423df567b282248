"""Norms, initial weights and Flax layers, against NumPy in float64."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill.core.checks import UserError
from jaxdistill.layers import norms
from jaxdistill.layers.initializers import INITIALIZATIONS, draw_params, fan_in, fan_out
from jaxdistill.layers.modules import ACTIVATIONS, POOLINGS, Conv, Dense, Norm, change_layout
from jaxdistill.learners import from_flax

SHAPE = (3, 4, 5, 8)
AXES = {"instance": (1, 2), "batch": (0, 1, 2)}


def numpy_norm(kind, x, scale, bias):
    """The definition, image by image and group by group."""
    if kind in AXES:
        mean, variance = x.mean(AXES[kind], keepdims=True), x.var(AXES[kind], keepdims=True)
        return (x - mean) / np.sqrt(variance + 1e-5) * scale + bias
    y = np.empty_like(x)
    groups = 4 if kind == "group" else 1
    size = x.shape[-1] // groups
    for image in range(len(x)):
        for c in range(0, x.shape[-1], size):
            part = x[image, :, :, c : c + size]
            y[image, :, :, c : c + size] = (part - part.mean()) / np.sqrt(part.var() + 1e-5)
    return y * scale + bias


@pytest.mark.parametrize("kind", ["instance", "group", "layer", "batch"])
def test_norm_is_its_definition(kind, x64):
    rng = np.random.default_rng(0)
    x = 3 + 2 * rng.normal(size=SHAPE)
    scale, bias = rng.normal(size=8), rng.normal(size=8)
    params = {"params": {"scale": jnp.asarray(scale), "bias": jnp.asarray(bias)}}
    y = jax.jit(Norm(kind).apply)(params, x)
    np.testing.assert_allclose(y, numpy_norm(kind, x, scale, bias), rtol=1e-12, atol=1e-12)


def test_no_norm_has_no_weights(key):
    x = jnp.ones(SHAPE)
    assert Norm("none").init(key, x) == {}
    assert Norm("none").apply({}, x) is x


def test_variance_does_not_cancel():
    # In float32 E[x^2] - mean^2 of values near 1000 with deviation 0.1 is off by more than the variance.
    rng = np.random.default_rng(0)
    x = (1000 + 0.1 * rng.normal(size=(1, 16, 16, 2))).astype(np.float32)
    y = norms.instance_norm(jnp.asarray(x), jnp.ones(2), jnp.zeros(2))
    # float32 keeps 1000 to 3e-5, so a mean is good to about 1e-4 and a unit of y to about 1e-3.
    expected = numpy_norm("instance", x.astype(np.float64), 1.0, 0.0)
    np.testing.assert_allclose(y, expected, atol=5e-3)


def test_gradient_of_a_constant_map_is_finite():
    def loss(x):
        return jnp.sum(norms.instance_norm(x, jnp.ones(2), jnp.zeros(2)) ** 2)

    @jax.jit
    def gradients(x):
        return jax.grad(loss)(x), jax.grad(lambda x: jnp.sum(jax.grad(loss)(x) ** 2))(x)

    assert all(np.isfinite(gradient).all() for gradient in gradients(jnp.ones((1, 3, 3, 2))))


class BatchNormed(nn.Module):
    """The smallest network that has statistics to remember."""

    @nn.compact
    def __call__(self, x, return_features=False):
        features = jnp.mean(jnp.tanh(Norm("batch", name="norm")(x)), (1, 2))
        return features if return_features else Dense(3, name="classifier")(features)


def test_calibrated_batch_norm_ignores_the_test_batch(key):
    net = from_flax(BatchNormed(), (4, 4, 2))
    apply, calibrate = jax.jit(lambda *a: (net.apply(*a), net.embed(*a))), jax.jit(net.calibrate)
    params = jax.jit(net.init)(key)
    train, test = (np.random.default_rng(0).normal(size=(2, 6, 4, 4, 2)) * 2 + 1).astype(np.float32)
    remembered = calibrate(params, train)
    # On the batch it was calibrated on, nothing changes.
    np.testing.assert_allclose(apply(remembered, train)[0], apply(params, train)[0], rtol=1e-5, atol=1e-6)
    whole, features = apply(remembered, test)
    parts = np.concatenate([apply(remembered, test[i : i + 1])[0] for i in range(6)])
    np.testing.assert_allclose(parts, whole, rtol=1e-5, atol=1e-6)
    # Without memory the batch matters: the assertion above could fail.
    assert np.abs(apply(params, test[:1])[0] - whole[:1]).max() > 1e-2
    np.testing.assert_allclose(apply(remembered, test[:1])[1], features[:1], rtol=1e-5)
    # Calibrating anew forgets the batch before.
    jax.tree.map(np.testing.assert_array_equal, calibrate(remembered, test), calibrate(params, test))


def test_calibrated_statistics_are_those_of_the_batch(key):
    net = from_flax(BatchNormed(), (4, 4, 2))
    x = (np.random.default_rng(0).normal(size=(6, 4, 4, 2)) + 3).astype(np.float32)
    statistics = jax.jit(net.calibrate)(jax.jit(net.init)(key), x)["batch_stats"]["norm"]
    np.testing.assert_allclose(statistics["mean"], x.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(statistics["variance"], x.var((0, 1, 2)), rtol=1e-4)


def test_fans():
    assert fan_in((3, 3, 16, 32)) == 144 and fan_out((3, 3, 16, 32)) == 288
    assert fan_in((100, 7)) == 100 and fan_out((100, 7)) == 7


SHAPES = {
    "conv": {"kernel": jax.ShapeDtypeStruct((3, 3, 16, 200), jnp.float32)},
    "dense": {
        "kernel": jax.ShapeDtypeStruct((100, 300), jnp.float32),
        "bias": jax.ShapeDtypeStruct((300,), jnp.float32),
    },
    "norm": {
        "bias": jax.ShapeDtypeStruct((5,), jnp.float32),
        "scale": jax.ShapeDtypeStruct((5,), jnp.float32),
    },
}


@pytest.mark.parametrize("name", INITIALIZATIONS)
def test_initial_distribution(name, key):
    draw = jax.jit(lambda key: draw_params(key, {"params": SHAPES}, INITIALIZATIONS[name]))
    params = jax.device_get(draw(key))["params"]
    conv, dense = params["conv"]["kernel"], params["dense"]["kernel"]
    assert conv.dtype == dense.dtype == np.float32
    np.testing.assert_array_equal(params["norm"]["scale"], np.ones(5))
    np.testing.assert_array_equal(params["norm"]["bias"], np.zeros(5))
    # N draws have a mean within 4 deviations / sqrt(N) and a deviation within 4 / sqrt(2N) of it: 1.7%.
    for kernel, inputs, outputs in ((conv, 144, 1800), (dense, 100, 300)):
        if name == "torch_default":
            assert 0.999 / math.sqrt(inputs) < np.abs(kernel).max() <= 1 / math.sqrt(inputs)
            deviation = 1 / math.sqrt(3 * inputs)
        elif name == "xavier":
            deviation = math.sqrt(2 / (inputs + outputs))
        else:
            deviation = math.sqrt(2 / inputs)
        assert abs(kernel.mean()) < 4 * deviation / math.sqrt(kernel.size)
        np.testing.assert_allclose(kernel.std(), deviation, rtol=0.017)
        if name != "torch_default":  # the tails are there: not uniform, not truncated at 2 deviations
            assert np.abs(kernel).max() > 3 * deviation
    bias = params["dense"]["bias"]
    if name == "torch_default":
        assert bias.std() > 0.05 / 10 and np.abs(bias).max() <= 0.1
    else:
        np.testing.assert_array_equal(bias, np.zeros(300))
    # No part of the noise is used twice.
    assert abs(np.corrcoef(conv.ravel()[:20000], dense.ravel()[:20000])[0, 1]) < 0.05


def test_unknown_weights_are_refused(key):
    with pytest.raises(UserError, match="named kernel, scale or bias, got /params/gain"):
        draw_params(key, {"params": {"gain": jnp.ones(3)}}, INITIALIZATIONS["he"])


def test_modules_start_from_the_torch_default(key):
    params = jax.jit(Conv(64).init)(key, jnp.zeros((1, 5, 5, 4)))["params"]
    assert 0.98 / 6 < np.abs(params["kernel"]).max() <= 1 / 6  # fan_in 36
    assert 0.9 / 6 < np.abs(params["bias"]).max() <= 1 / 6
    without = jax.eval_shape(Conv(2, use_bias=False).init, key, jnp.zeros((1, 5, 5, 4)))
    assert set(without["params"]) == {"kernel"}


def test_batch_minor_convolution_has_the_same_weights(key):
    x = np.random.default_rng(0).normal(size=(2, 6, 5, 3)).astype(np.float32)

    @jax.jit
    def both(key, x):
        params = Conv(4).init(key, x)
        minor = Conv(4, layout="CHWB").apply(params, change_layout(x, "CHWB"))
        return change_layout(minor, "CHWB"), Conv(4).apply(params, x)

    minor, expected = both(key, x)
    assert minor.shape == (2, 6, 5, 4) and np.abs(expected).max() > 0.1
    np.testing.assert_allclose(minor, expected, rtol=1e-5, atol=1e-6)


def test_activations_are_their_definitions():
    x = np.linspace(-3, 3, 13)
    expected = {
        "relu": np.maximum(x, 0),
        "leaky_relu": np.where(x > 0, x, 0.01 * x),
        "sigmoid": 1 / (1 + np.exp(-x)),
        "tanh": np.tanh(x),
        "gelu": x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2,
        "softplus": np.log1p(np.exp(x)),
        "softplus60": np.log1p(np.exp(60 * x)) / 60,
        "swish": x / (1 + np.exp(-x)),
    }
    assert set(expected) == set(ACTIVATIONS)
    found = jax.jit(lambda x: {name: function(x) for name, function in ACTIVATIONS.items()})(x)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=1e-6)


def test_poolings_drop_an_odd_last_row():
    x = np.arange(2 * 5 * 4 * 3.0).reshape(2, 5, 4, 3)
    windows = np.stack([x[:, i:4:2, j::2] for i in (0, 1) for j in (0, 1)])
    np.testing.assert_allclose(POOLINGS["max"](jnp.asarray(x)), windows.max(0))
    np.testing.assert_allclose(POOLINGS["average"](jnp.asarray(x)), windows.mean(0), rtol=1e-6)
    assert POOLINGS["none"](x) is x
