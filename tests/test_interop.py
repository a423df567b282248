"""Weights in PyTorch's layouts: the networks they make, in NumPy with channels first, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
from helpers import message

from jaxdistill.core.checks import UserError
from jaxdistill.core.types import Learner
from jaxdistill.interop import from_torch_weights, kernel_from_torch, kernel_to_torch
from jaxdistill.learners import LEARNERS, learner
from jaxdistill.learners.adapter import layers_of

GENERATOR = np.random.default_rng(0)
CLASSES = 5
# The smallest image of an odd kind each takes, and the fewest channels.
SMALLEST = {
    "alexnet": ((8, 8, 3), {"width": 4}),
    "convnet": ((8, 12, 3), {"width": 4, "depth": 2}),
    "gtn": ((8, 6, 3), {"width": 2, "norm": "batch"}),
    "lenet": ((16, 18, 3), {}),
    "linear": ((4, 6, 3), {}),
    "mlp": ((4, 6, 3), {"width": 8}),
    "resnet18": ((9, 9, 3), {"width": 2}),
    "resnet18_ap": ((16, 24, 3), {"width": 2}),
    "vgg11": ((32, 32, 3), {"width": 2}),
}


def draw(*shape):
    return 0.3 * GENERATOR.normal(size=shape)


def torch_state(names_and_shapes):
    """Weights that a PyTorch module of these entries would have."""
    return {name: draw(*shape) for name, shape in names_and_shapes.items()}


def conv(x, state, name, padding):
    """[B, C, H, W], correlated as PyTorch's `conv2d`."""
    weight = state[f"{name}.weight"]
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    maps = [[scipy.signal.correlate(image, kernel, mode="valid")[0] for kernel in weight] for image in x]
    return np.array(maps) + state[f"{name}.bias"][:, None, None]


def dense(x, state, name):
    return x.reshape(len(x), -1) @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def instance_norm(x, state, name):
    unit = (x - x.mean((2, 3), keepdims=True)) / np.sqrt(x.var((2, 3), keepdims=True) + 1e-5)
    return unit * state[f"{name}.weight"][:, None, None] + state[f"{name}.bias"][:, None, None]


def pool(x, reduce):
    return reduce([x[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)], axis=0)


def relu(x):
    return np.maximum(x, 0)


def lenet(state, x):
    x = pool(relu(conv(x, state, "features.0", 0)), np.max)
    x = pool(relu(conv(x, state, "features.3", 0)), np.max)
    x = relu(dense(x, state, "fc_1"))
    return dense(relu(dense(x, state, "fc_2")), state, "fc_3")


def mlp(state, x):
    x = relu(dense(x, state, "fc_1"))
    return dense(relu(dense(x, state, "fc_2")), state, "fc_3")


def convnet(state, x):
    for i in (0, 4):
        x = relu(instance_norm(conv(x, state, f"features.{i}", 1), state, f"features.{i + 1}"))
        x = pool(x, np.mean)
    return dense(x, state, "classifier")


def layer(name, *weight):
    return {f"{name}.weight": weight, f"{name}.bias": weight[:1]}


# The names and the order of the networks of Dataset Condensation.
THEIRS = {
    "lenet": (
        lenet,
        layer("features.0", 6, 3, 5, 5)
        | layer("features.3", 16, 6, 5, 5)
        | layer("fc_1", 120, 16 * 1 * 2)
        | layer("fc_2", 84, 120)
        | layer("fc_3", CLASSES, 84),
        (16, 20, 3),
    ),
    "mlp": (
        mlp,
        layer("fc_1", 8, 3 * 4 * 6) | layer("fc_2", 8, 8) | layer("fc_3", CLASSES, 8),
        (4, 6, 3),
    ),
    "convnet": (
        convnet,
        layer("features.0", 4, 3, 3, 3)
        | layer("features.1", 4)
        | layer("features.4", 4, 4, 3, 3)
        | layer("features.5", 4)
        | layer("classifier", CLASSES, 4 * 2 * 3),
        (8, 12, 3),
    ),
}


@pytest.mark.parametrize("name", sorted(THEIRS))
def test_logits_are_those_of_the_network_in_numpy(name):
    forward, entries, shape = THEIRS[name]
    options = SMALLEST[name][1]
    net = learner(name, image_shape=shape, num_classes=CLASSES, **options)
    state = torch_state(entries)
    params = from_torch_weights(net, state, image_shape=shape)
    x = GENERATOR.normal(size=(3, *shape)).astype(np.float32)
    expected = forward(state, x.transpose(0, 3, 1, 2).astype(np.float64))
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(jax.jit(net.apply)(params, x), expected, rtol=1e-4, atol=1e-4)  # float32 here
    started = jax.eval_shape(net.init, jax.random.key(0))
    assert jax.tree.structure(params) == jax.tree.structure(started)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))


def as_torch(net, shape, params):
    """The entries of a PyTorch module with these weights."""
    channels, state = shape[-1], {}
    for number, path in enumerate(layers_of(net, shape)):
        own = params["params"]
        for part in path:
            own = own[part]
        if "kernel" in own:
            weight = kernel_to_torch(own["kernel"], channels)
            channels = len(weight) if weight.ndim == 4 else 1
        else:
            weight = own["scale"]
        if "gain" in own:
            state[f"{number}.weight_g"] = own["gain"].reshape(-1, *[1] * (weight.ndim - 1))
        state[f"{number}.{'weight_v' if 'gain' in own else 'weight'}"] = weight
        if "bias" in own:
            state[f"{number}.bias"] = own["bias"]
    return state


@pytest.mark.parametrize("name", sorted(LEARNERS))
def test_every_learner_takes_its_own_weights_back(name):
    shape, options = SMALLEST[name]
    net = learner(name, image_shape=shape, num_classes=CLASSES, **options)
    shapes = jax.eval_shape(net.init, jax.random.key(0))
    params = jax.tree.map(lambda leaf: draw(*leaf.shape).astype(np.float32), shapes)
    found = from_torch_weights(net, as_torch(net, shape, params), image_shape=shape)
    jax.tree.map(np.testing.assert_array_equal, found, params)


def test_a_residual_network_by_the_names_of_its_code():
    """Blocks define conv1, bn1, conv2, bn2, shortcut; one that averages has a pooling in its shortcut."""
    width = 2
    entries = {"conv1.weight": (width, 3, 3, 3)} | layer("bn1", width)
    inputs = width
    for stage, multiple in enumerate((1, 2, 4, 8), start=1):
        for block in (0, 1):
            name, channels = f"layer{stage}.{block}", width * multiple
            entries |= {f"{name}.conv1.weight": (channels, inputs, 3, 3)} | layer(f"{name}.bn1", channels)
            entries |= {f"{name}.conv2.weight": (channels, channels, 3, 3)} | layer(f"{name}.bn2", channels)
            if inputs != channels:
                entries |= {f"{name}.shortcut.0.weight": (channels, inputs, 1, 1)}
                entries |= layer(f"{name}.shortcut.2", channels)
            inputs = channels
    entries |= layer("classifier", CLASSES, 8 * width * 2 * 3)
    shape, options = SMALLEST["resnet18_ap"]
    net = learner("resnet18_ap", image_shape=shape, num_classes=CLASSES, **options)
    state = torch_state(entries)
    params = from_torch_weights(net, state, image_shape=shape)["params"]
    kernel = params["stage3_block1"]["shortcut"]["kernel"]
    np.testing.assert_allclose(kernel[0, 0], state["layer3.0.shortcut.0.weight"][:, :, 0, 0].T, rtol=1e-6)
    scale = params["stage4_block2"]["norm2"]["scale"]
    np.testing.assert_allclose(scale, state["layer4.1.bn2.weight"], rtol=1e-6)


def test_running_statistics_come_along_where_they_are_asked_for():
    shape, options = (8, 8, 3), {"width": 4, "depth": 1, "norm": "batch"}
    net = learner("convnet", image_shape=shape, num_classes=CLASSES, **options)
    entries = layer("0", 4, 3, 3, 3) | layer("1", 4) | {"1.running_mean": (4,)}
    state = torch_state(entries) | {"1.running_var": np.arange(1.0, 5.0), "1.num_batches_tracked": 7}
    state |= torch_state(layer("2", CLASSES, 4 * 4 * 4))
    trained = from_torch_weights(net, state, image_shape=shape, statistics=True)
    x = GENERATOR.normal(size=(3, *shape)).astype(np.float32)
    y = conv(x.transpose(0, 3, 1, 2), state, "0", 1)
    mean, deviation = state["1.running_mean"], np.sqrt(state["1.running_var"] + 1e-5)
    unit = (y - mean[:, None, None]) / deviation[:, None, None]
    y = relu(unit * state["1.weight"][:, None, None] + state["1.bias"][:, None, None])
    expected = dense(pool(y, np.mean), state, "2")
    np.testing.assert_allclose(jax.jit(net.apply)(trained, x), expected, rtol=1e-4, atol=1e-4)
    bare = from_torch_weights(net, state, image_shape=shape)
    assert set(bare) == {"params"}
    jax.tree.map(np.testing.assert_array_equal, bare["params"], trained["params"])
    plain = learner("convnet", image_shape=shape, num_classes=CLASSES, width=4, depth=1)  # instance norm
    with pytest.raises(UserError) as error:
        from_torch_weights(plain, state, image_shape=shape)
    assert "norm1 of weight (4,), bias (4,), got 1 of weight (4,), bias (4,), mean (4,)" in message(error)


@pytest.mark.parametrize("channels", [1, 3])
def test_kernels_go_there_and_back(channels):
    for shape in ((5, 3, 2, 4), (24, 7)):
        kernel = draw(*shape)
        there = kernel_to_torch(kernel, channels)
        assert there.shape[0] == shape[-1]
        np.testing.assert_array_equal(kernel_from_torch(there, channels), kernel)
    with pytest.raises(UserError) as error:
        kernel_from_torch(draw(7, 25), 3)
    assert "inputs a multiple of the 3 channels, got 25" in message(error)


SHAPE = (4, 6, 3)
MLP = torch_state(THEIRS["mlp"][1])


def without(*names):
    return {name: value for name, value in MLP.items() if name not in names}


@pytest.mark.parametrize(
    ("state", "says"),
    [
        (without("fc_3.weight", "fc_3.bias"), "classifier of weight (5, 8), bias (5,), got no more entries"),
        (MLP | {"fc_4.bias": draw(3)}, "no more than the 3 layers of the network, got fc_4"),
        (without("fc_2.bias"), "dense2 of weight (8, 8), bias (8,), got fc_2 of weight (8, 8)."),
        (
            MLP | {"fc_1.weight": draw(8, 70)},
            "dense1 of weight (8, 72), bias (8,), got fc_1 of weight (8, 70)",
        ),
        (dict(sorted(MLP.items(), reverse=True)), "dense1 of weight (8, 72), bias (8,), got fc_3 of weight"),
        (MLP | {"fc_1.scales": draw(8)}, "entries named weight, bias, weight_g"),
        ({}, "dense1 of weight (8, 72), bias (8,), got no more entries"),
    ],
    ids=["missing layer", "extra layer", "missing bias", "shape", "order", "odd entry", "nothing"],
)
def test_what_does_not_fit_is_named(state, says):
    net = learner("mlp", image_shape=SHAPE, num_classes=CLASSES, width=8)
    with pytest.raises(UserError) as error:
        from_torch_weights(net, state, image_shape=SHAPE)
    assert says in message(error) and "Give the entries in the order" in message(error)


def test_a_network_of_another_make_is_refused():
    plain = Learner(
        init=lambda key: {"w": jnp.zeros(3)},
        apply=lambda params, x: x.sum((1, 2)) * params["w"][None],
        embed=lambda params, x: x,
        calibrate=lambda params, x: params,
    )
    with pytest.raises(UserError) as error:
        from_torch_weights(plain, {"w": np.zeros(3)}, image_shape=SHAPE)
    assert "a network made of Flax modules" in message(error)
