"""Every registered learner keeps the contract; sizes by hand arithmetic; values against NumPy and SciPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
from conformance import SMALLEST

from jaxdistill.learners import LEARNERS, learner, num_params
from jaxdistill.learners.resnet import Block

CLASSES, IMAGES, NETS = 5, 3, 2
BIG = {"alexnet", "vgg11", "resnet18", "resnet18_ap"}
"""Many layers, which cost seconds to compile: what takes more than one program is in the slow tier."""
SIBLINGS = {"resnet18", "vgg11", "alexnet"}
"""Of the blocks of other networks, in which gradients reach every weight: their own are in the slow tier."""


def slow_of(names):
    """All learners, some of them in the slow tier."""
    return [pytest.param(n, marks=pytest.mark.slow) if n in names else n for n in sorted(LEARNERS)]


class Case:
    """One learner with two sets of parameters, and the one program that most tests read."""

    def __init__(self, name):
        self.name = name
        self.image_shape, options = SMALLEST.get(name, ((8, 8, 2), {}))
        self.net = learner(name, image_shape=self.image_shape, num_classes=CLASSES, **options)
        self.keys = jax.random.split(jax.random.key(1), NETS)
        self.init = jax.jit(jax.vmap(self.net.init))
        self.params = jax.device_get(self.init(self.keys))
        self.x = np.random.default_rng(0).normal(size=(IMAGES, *self.image_shape)).astype(np.float32)

    def params_of(self, i):
        return jax.tree.map(lambda leaf: leaf[i], self.params)

    @functools.cached_property
    def run(self):
        """Jitted (params, x) -> gradients of a loss by both, (logits, features, features of every block)."""

        def loss(params, x):
            logits = self.net.apply(params, x)
            return -jnp.mean(jax.nn.log_softmax(logits)[:, 0]), logits

        @jax.jit
        def run(params, x):  # features outside of what is differentiated, whose trace is the longest
            gradients, logits = jax.grad(loss, (0, 1), has_aux=True)(params, x)
            return gradients, (logits, self.net.embed(params, x), self.net.embed_all(params, x))

        return run

    @functools.cached_property
    def forward(self):
        """Jitted (params, x) -> (logits, features, features of every block)."""
        if self.name not in SIBLINGS:
            return lambda params, x: self.run(params, x)[1]
        net = self.net
        return jax.jit(
            lambda params, x: (net.apply(params, x), net.embed(params, x), net.embed_all(params, x))
        )


@pytest.fixture(scope="module")
def cases():
    return {}


@pytest.fixture
def case(name, cases):
    if name not in cases:
        cases[name] = Case(name)
    return cases[name]


everyone = pytest.mark.parametrize("name", sorted(LEARNERS))


def close(a, b):
    # Sums in another order: float32 through ten normalised layers keeps four digits.
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


@everyone
def test_init_is_pure_and_follows_its_key(case):
    swapped = case.init(case.keys[::-1])
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b[::-1]), case.params, swapped)
    first = case.params_of(0)
    assert set(first) == {"params"}
    for leaf in jax.tree.leaves(first):
        assert leaf.dtype == jnp.float32
    kernel = case.params["params"]["classifier"]["kernel"]
    assert np.abs(kernel[0] - kernel[1]).max() > 0.01


@everyone
def test_shapes_and_dtypes(case):
    params = jax.eval_shape(case.net.init, case.keys[0])
    logits = jax.eval_shape(case.net.apply, params, case.x)
    assert (logits.shape, logits.dtype) == ((IMAGES, CLASSES), jnp.float32)
    features = jax.eval_shape(case.net.embed, params, case.x)
    inputs = params["params"]["classifier"]["kernel"].shape[0]
    assert (features.shape, features.dtype) == ((IMAGES, inputs), jnp.float32)


@pytest.mark.parametrize("name", slow_of({*BIG, "lenet"}))
def test_jit_of_vmap_equals_the_eager_loop(case):
    mapped = jax.jit(jax.vmap(case.net.apply, (0, None)))(case.params, case.x)
    for i in range(NETS):
        close(mapped[i], case.net.apply(case.params_of(i), case.x))


@pytest.mark.parametrize("name", slow_of(SIBLINGS))
def test_gradients_are_finite_and_reach_every_weight(case):
    gradients, _ = case.run(case.params_of(0), case.x)
    for path, leaf in jax.tree.leaves_with_path(gradients):
        assert np.isfinite(leaf).all(), path
        assert leaf.dtype == jnp.float32
    for path, leaf in jax.tree.leaves_with_path(gradients[0]):
        if path[-1].key == "kernel":
            assert np.abs(leaf).max() > 0, path
    assert np.abs(gradients[1]).max() > 0


@pytest.mark.parametrize("name", sorted(set(LEARNERS) - {"gtn"}))
def test_calibrate_is_the_identity_without_batch_norm(case):
    params = case.params_of(0)
    assert jax.jit(case.net.calibrate).eval_shape(params, case.x).keys() == {"params"}


@everyone
def test_features_after_every_block_end_with_those_of_the_classifier(case, name):
    params = case.params_of(0)
    logits, features, every = jax.device_get(case.forward(params, case.x))
    assert all(inputs.ndim == 2 and len(inputs) == IMAGES for inputs in every)
    np.testing.assert_allclose(every[-1], features, rtol=1e-5, atol=1e-5)
    classifier = params["params"]["classifier"]
    close(logits, features @ classifier["kernel"] + classifier["bias"])
    blocks = {"alexnet": 5, "convnet": 3, "gtn": 3, "lenet": 4, "linear": 1, "mlp": 2, "vgg11": 8}
    # a residual network: stem and first block's input, then the inside of a block and its output, 8 times
    assert len(every) == blocks.get(name, 17)
    if name != "gtn":  # whose norms are of the batch: an image's features come from that image alone
        others = np.where(np.arange(IMAGES)[:, None, None, None] == 1, case.x, -2 * case.x)
        _, _, beside_others = case.forward(params, others)
        for inputs, found in zip(every, beside_others, strict=True):
            close(found[1], inputs[1])
            assert np.abs(found[0] - inputs[0]).max() > 1e-3


@everyone
def test_a_classifier_is_replaced_and_nothing_else(case):
    before = case.params_of(0)
    _, features, _ = jax.device_get(case.forward(before, case.x))
    generator = np.random.default_rng(3)
    kernel = generator.normal(size=(features.shape[1], CLASSES)).astype(np.float32)
    bias = generator.normal(size=CLASSES).astype(np.float32)
    after = jax.device_get(case.net.with_classifier(before, kernel, bias))
    assert jax.tree.structure(after) == jax.tree.structure(before)
    logits, same, _ = jax.device_get(case.forward(after, case.x))
    np.testing.assert_array_equal(same, features)
    np.testing.assert_allclose(logits, features @ kernel + bias, rtol=1e-3, atol=1e-3 * np.abs(logits).max())


@everyone
def test_wrong_images_are_refused(case):
    params = jax.eval_shape(case.net.init, case.keys[0])
    height, width, channels = case.image_shape
    wrong = (IMAGES, height + 1, width, channels)
    for shape in (wrong, case.image_shape, (IMAGES, height, width, channels + 1)):
        x = jax.ShapeDtypeStruct(shape, jnp.float32)
        for function in (case.net.apply, case.net.embed, case.net.calibrate):
            with pytest.raises(AssertionError):
                jax.eval_shape(function, params, x)


def conv(inputs, outputs, size=3, bias=True):
    return size * size * inputs * outputs + bias * outputs


def resnet18(features):
    """[2, 2, 2, 2] blocks without biases; a norm has two numbers per channel."""
    norm = 2
    total = conv(1, 64, bias=False) + norm * 64
    total += 4 * (conv(64, 64, bias=False) + norm * 64)  # stage 1: two blocks, no shortcut convolution
    for channels in (128, 256, 512):
        half = channels // 2
        total += conv(half, channels, bias=False) + 3 * conv(channels, channels, bias=False)
        total += conv(half, channels, size=1, bias=False)  # the shortcut of the stage's first block
        total += 5 * norm * channels
    return total + features * 10 + 10


# On MNIST; the last number is the input of the classifier.
MNIST = {
    # 28 * 28 pixels
    "linear": (784 * 10 + 10, 784),
    "mlp": (784 * 128 + 128 + 128 * 128 + 128 + 128 * 10 + 10, 128),
    # 28 -> 28 -> 14 -> 10 -> 5: 16 * 5 * 5 = 400
    "lenet": (conv(1, 6, 5) + conv(6, 16, 5) + 400 * 120 + 120 + 120 * 84 + 84 + 84 * 10 + 10, 84),
    # padding 3: 28 -> 32 -> 16 -> 8 -> 4: 128 * 4 * 4 = 2048; three norms
    "convnet": (conv(1, 128) + 2 * conv(128, 128) + 3 * 256 + 2048 * 10 + 10, 2048),
    # padding 4: 28 -> 32 -> 16 -> 8 -> 4: 192 * 4 * 4 = 3072; no norm
    "alexnet": (
        conv(1, 128, 5)
        + conv(128, 192, 5)
        + conv(192, 256)
        + conv(256, 192)
        + conv(192, 192)
        + 3072 * 10
        + 10,
        3072,
    ),
    # padding 3: 28 -> 32 -> 1; norms after 64, 128, 2 x 256, 4 x 512 channels
    "vgg11": (
        conv(1, 64)
        + conv(64, 128)
        + conv(128, 256)
        + conv(256, 256)
        + conv(256, 512)
        + 3 * conv(512, 512)
        + 2 * (64 + 128 + 2 * 256 + 4 * 512)
        + 512 * 10
        + 10,
        512,
    ),
    "resnet18": (resnet18(512), 512),
    # 28 -> 14 -> 7: 128 * 7 * 7 = 6272; a gain per unit, biases in the norms
    "gtn": (9 * 64 + 2 * 64 + 9 * 64 * 128 + 2 * 128 + 6272 * 256 + 2 * 256 + 256 * 10 + 20, 256),
    # poolings round down: 28 -> 14 -> 7 -> 3: 512 * 3 * 3
    "resnet18_ap": (resnet18(4608), 4608),
}


@pytest.mark.parametrize("name", sorted(MNIST))
def test_sizes_on_mnist(name, key):
    net = learner(name, image_shape=(28, 28, 1), num_classes=10)
    params = jax.eval_shape(net.init, key)
    count, features = MNIST[name]
    assert num_params(params) == count
    assert jax.eval_shape(net.embed, params, jnp.zeros((2, 28, 28, 1))).shape == (2, features)


def test_published_sizes():
    assert [MNIST[name][0] for name in ("convnet", "lenet", "mlp")] == [317_706, 61_706, 118_282]


@pytest.mark.parametrize("name", ["convnet", "alexnet", "vgg11", "resnet18", "resnet18_ap", "lenet"])
def test_features_on_cifar(name, key):
    # 32x32 without wider padding: the same maps as MNIST's 28x28 with it; LeNet 32 -> 28 -> 14 -> 10 -> 5.
    net = learner(name, image_shape=(32, 32, 3), num_classes=10)
    inputs = jax.eval_shape(net.init, key)["params"]["classifier"]["kernel"].shape[0]
    assert inputs == {"resnet18_ap": 512 * 4 * 4}.get(name, MNIST[name][1])


# Independent forward passes, in float64.


def np_conv(x, layer, padding):
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    kernel = np.asarray(layer["kernel"])
    maps = [
        [scipy.signal.correlate(image, kernel[..., o], mode="valid")[..., 0] for o in range(kernel.shape[-1])]
        for image in x
    ]
    return np.moveaxis(np.array(maps), 1, -1) + np.asarray(layer["bias"])


def np_pool(x, reduce):
    height, width = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
    x = x[:, :height, :width]
    return reduce([x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)], axis=0)


def np_dense(x, layer):
    return x.reshape(len(x), -1) @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])


def np_instance_norm(x, layer):
    unit = (x - x.mean((1, 2), keepdims=True)) / np.sqrt(x.var((1, 2), keepdims=True) + 1e-5)
    return unit * np.asarray(layer["scale"]) + np.asarray(layer["bias"])


def relu(x):
    return np.maximum(x, 0)


def np_linear(x, p):
    return np_dense(x, p["classifier"])


def np_mlp(x, p):
    return np_dense(relu(np_dense(relu(np_dense(x, p["dense1"])), p["dense2"])), p["classifier"])


def np_lenet(x, p):
    first_padding = 2 if x.shape[1:] == (28, 28, 1) else 0
    x = np_pool(relu(np_conv(x, p["conv1"], first_padding)), np.max)
    x = np_pool(relu(np_conv(x, p["conv2"], 0)), np.max)
    return np_dense(relu(np_dense(relu(np_dense(x, p["dense1"])), p["dense2"])), p["classifier"])


def np_convnet(x, p):
    first_padding = 3 if x.shape[1:] == (28, 28, 1) else 1
    for i in (1, 2):
        x = np_conv(x, p[f"conv{i}"], first_padding if i == 1 else 1)
        x = np_pool(relu(np_instance_norm(x, p[f"norm{i}"])), np.mean)
    return np_dense(x, p["classifier"])


def np_plain_convnet(x, p):
    for i in (1, 2):
        x = np_pool(np.logaddexp(60 * np_conv(x, p[f"conv{i}"], 1), 0) / 60, np.mean)
    return np_dense(x, p["classifier"])


def np_block(x, p, stride, pool):
    def convolve(x, name, padding):
        return np_conv(x, {**p[name], "bias": 0.0}, padding)

    y = convolve(x, "conv1", 1)[:, ::stride, ::stride]
    y = relu(np_instance_norm(y, p["norm1"]))
    y = convolve(np_pool(y, np.mean) if pool else y, "conv2", 1)
    y = np_instance_norm(y, p["norm2"])
    if "shortcut" in p:
        x = convolve(x, "shortcut", 0)[:, ::stride, ::stride]
        x = np_instance_norm(np_pool(x, np.mean) if pool else x, p["shortcut_norm"])
    return relu(y + x)


@pytest.mark.parametrize(
    ("halve", "average", "channels"), [(False, False, 3), (True, False, 4), (True, True, 4), (True, True, 3)]
)
def test_residual_block_values(halve, average, channels, x64):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 5, 6, 3))
    block = Block(channels, halve, average, "instance")
    shapes = jax.eval_shape(block.init, jax.random.key(0), jnp.asarray(x))
    params = jax.tree.map(lambda s: rng.normal(size=s.shape), shapes)
    expected = np_block(x, params["params"], 2 if halve and not average else 1, halve and average)
    np.testing.assert_allclose(jax.jit(block.apply)(params, x), expected, rtol=1e-9, atol=1e-9)


FORWARD = [
    ("linear", np_linear, (8, 8, 2), {}),
    ("mlp", np_mlp, (8, 8, 2), {"width": 8}),
    ("lenet", np_lenet, (28, 28, 1), {}),
    ("lenet", np_lenet, (17, 16, 3), {}),
    ("convnet", np_convnet, (9, 8, 3), {"width": 4, "depth": 2}),
    ("convnet", np_convnet, (28, 28, 1), {"width": 4, "depth": 2}),
    (
        "convnet",
        np_plain_convnet,
        (8, 8, 1),
        {"widths": (2, 3), "depth": 2, "norm": "none", "activation": "softplus60"},
    ),
]


@pytest.mark.parametrize(("name", "reference", "image_shape", "options"), FORWARD)
def test_forward_values(name, reference, image_shape, options, key, x64):
    net = learner(name, image_shape=image_shape, num_classes=CLASSES, **options)
    rng = np.random.default_rng(0)
    # Weights at random, so that norms have scales and biases too.
    params = jax.tree.map(lambda s: rng.normal(size=s.shape), jax.eval_shape(net.init, key))
    x = rng.normal(size=(2, *image_shape))
    logits = jax.jit(net.apply)(params, x)
    assert logits.dtype == jnp.float64
    np.testing.assert_allclose(logits, reference(x, params["params"]), rtol=1e-9, atol=1e-9)
