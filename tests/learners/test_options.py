"""Every option of a learner builds, options change the network, and bad ones are refused."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import message

from jaxdistill.core.checks import UserError
from jaxdistill.learners import LEARNERS, learner, options_of
from jaxdistill.learners.adapter import from_flax
from jaxdistill.learners.linearized import linearized

BATCH = ("batch", "mean_only")
OPTIONS = [
    *[("convnet", {"norm": norm}) for norm in ("none", "group", "layer", "batch", "mean_only")],
    ("convnet", {"kernel": 5}),
    ("convnet", {"widths": (4, 8, 12), "norm": "group", "activation": "softplus60"}),
    *[("gtn", {"norm": norm, "width": 8}) for norm in ("mean_only", "none", "batch", "instance")],
    ("gtn", {"second_width": 3, "hidden": 5}),
    *[("convnet", {"pooling": pooling}) for pooling in ("none", "max")],
    *[("convnet", {"activation": name}) for name in ("leaky_relu", "sigmoid", "tanh", "gelu", "softplus")],
    *[("convnet", {"initialization": name}) for name in ("xavier", "he")],
    ("mlp", {"activation": "tanh", "depth": 1, "width": 3}),
    ("lenet", {"activation": "sigmoid", "initialization": "xavier"}),
    *[(name, {"norm": "batch", "width": 8}) for name in ("alexnet", "vgg11", "resnet18", "resnet18_ap")],
    *[(name, {"norm": "group", "width": 8}) for name in ("alexnet", "vgg11", "resnet18")],
    *[
        (name, {"initialization": "he", **width})
        for name, width in (("linear", {}), ("alexnet", {"width": 8}))
    ],
]


@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_every_option_builds(name, options, key):
    net = learner(name, image_shape=(28, 28, 1), num_classes=3, **options)
    x = jnp.zeros((2, 28, 28, 1))
    params = jax.eval_shape(net.init, key)
    known = options_of(name)
    assert set(options) <= set(known)
    calibrated = jax.eval_shape(net.calibrate, params, x)
    assert ("batch_stats" in calibrated) == ((known | options).get("norm") in BATCH)
    for each in (params, calibrated) if "batch_stats" in calibrated else (params,):
        assert jax.eval_shape(net.apply, each, x).shape == (2, 3)


def test_options_change_the_network(key):
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype(np.float32)
    seen = []
    for options in (
        {},
        {"norm": "group"},
        {"norm": "none"},
        {"pooling": "max"},
        {"activation": "tanh"},
        {"initialization": "he"},
    ):
        net = learner("convnet", image_shape=(8, 8, 1), num_classes=3, width=8, depth=1, **options)
        logits = jax.jit(lambda key, net=net: net.apply(net.init(key), x))(key)
        seen.append(np.asarray(logits))
    for i in range(len(seen)):
        for j in range(i):
            assert np.abs(seen[i] - seen[j]).max() > 1e-3


def test_the_same_arguments_give_the_same_network(monkeypatch):
    shape = {"image_shape": (8, 8, 1), "num_classes": 3}
    net = learner("mlp", **shape, width=4)
    assert learner("mlp", image_shape=[8, 8, 1], num_classes=3, width=4) is net
    for other in (learner("mlp", **shape, width=5), learner("mlp", **shape, width=4, depth=1)):
        assert other is not net
    assert learner("convnet", **shape, depth=2, widths=[2, 3]).init is not None  # a list has no hash
    monkeypatch.setitem(LEARNERS, "mlp", lambda image_shape, num_classes, *, width: net._replace(split=None))
    assert learner("mlp", **shape, width=4) is not net  # a name that is given anew


REFUSED = [
    ("convmet", (8, 8, 1), {}, r"learner: expected one of alexnet, convnet, .*vgg11, got 'convmet'"),
    ("mlp", (8, 8, 1), {"norm": "none"}, r"among activation, depth, initialization, width, got 'norm'"),
    ("convnet", (8, 8, 1), {"depth": 5}, r"depth <= 3 for images of 8x8x1, got 5\. Lower depth"),
    ("convnet", (28, 28, 1), {"depth": 6}, r"depth <= 5 for images of 28x28x1, got 6"),
    ("convnet", (28, 28, 3), {"depth": 5}, r"depth <= 4 for images of 28x28x3, got 5"),
    (
        "convnet",
        (8, 8, 1),
        {"norm": "instanse"},
        r"one of batch, group, instance, layer, mean_only, none, got 'instanse'",
    ),
    ("convnet", (8, 8, 1), {"norm": "group", "width": 6}, r"width divisible by 4 .* got 6"),
    ("convnet", (8, 8, 1), {"depth": 2, "widths": (4,)}, r"widths of 2 blocks, .* got 1\. Set depth=1"),
    ("convnet", (8, 8, 1), {"depth": 2, "widths": (4, 0)}, r"width >= 1, got 0"),
    ("convnet", (8, 8, 1), {"activation": "relo"}, r"one of gelu, .*tanh, got 'relo'"),
    ("convnet", (8, 8, 1), {"pooling": "mean"}, r"one of average, max, none, got 'mean'"),
    ("convnet", (8, 8, 1), {"initialization": "zero"}, r"one of he, torch_default, xavier, got 'zero'"),
    ("convnet", (8, 8, 1), {"width": 0}, r"width >= 1, got 0"),
    ("mlp", (8, 8, 1), {"depth": 1.5}, r"whole number depth >= 1, got 1.5"),
    ("mlp", (8, 8, 1), {"activation": "relo"}, r"got 'relo'"),
    ("lenet", (8, 8, 1), {}, r"lenet: expected images of at least 16x16 pixels, got 8x8"),
    ("alexnet", (8, 7, 1), {}, r"alexnet: expected images of at least 8x8 pixels, got 8x7"),
    ("alexnet", (8, 8, 1), {"width": 3}, r"an even width, got 3"),
    ("alexnet", (8, 8, 1), {"width": 4, "norm": "group"}, r"width divisible by 8"),
    ("vgg11", (28, 28, 3), {}, r"vgg11: expected images of at least 32x32 pixels, got 28x28"),
    ("resnet18", (8, 8, 1), {}, r"resnet18: expected images of at least 9x9 .*norm='group'"),
    ("resnet18_ap", (15, 16, 1), {}, r"resnet18_ap: expected images of at least 16x16"),
    ("resnet18_ap", (7, 7, 1), {"norm": "none"}, r"resnet18_ap: expected images of at least 8x8"),
    ("linear", (8, 8), {}, r"image_shape \(height, width, channels\), got \(8, 8\)"),
    ("linear", (8, 8, 0), {}, r"channels >= 1, got 0"),
]


@pytest.mark.parametrize(("name", "image_shape", "options", "message"), REFUSED)
def test_bad_input_is_refused_when_made(name, image_shape, options, message):
    with pytest.raises(UserError, match=message) as error:
        learner(name, image_shape=image_shape, num_classes=10, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("initialization", ["torch_default", "xavier"])
def test_compiled_init_equals_eager_init(initialization, key):
    # As populations call it, inside a compiled `lax.map`; up to the last bit of a product.
    net = learner("lenet", image_shape=(16, 16, 1), num_classes=3, initialization=initialization)
    keys = jax.random.split(key, 2)
    mapped = jax.jit(lambda keys: jax.lax.map(net.init, keys))(keys)
    single = net.init(keys[1])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[1], b, rtol=1e-5), mapped, single)


def test_a_flax_class_in_the_place_of_an_instance_is_refused():
    with pytest.raises(UserError) as error:
        from_flax(nn.Dense, (8, 8, 1))
    assert "from_flax: expected an instance of a Flax module, such as Net(), got " in message(error)


class Nnx(nnx.Module):
    """A network of NNX."""

    def __init__(self, *, rngs):
        self.hidden, self.classifier = nnx.Linear(16, 5, rngs=rngs), nnx.Linear(5, 3, rngs=rngs)

    def __call__(self, x, return_features=False):
        features = self.hidden(x.reshape(len(x), -1))
        return features if return_features else self.classifier(features)


def test_a_module_of_nnx_is_read_as_the_error_says(key):
    for module in (Nnx, Nnx(rngs=nnx.Rngs(0))):
        with pytest.raises(UserError) as error:
            from_flax(module, (4, 4, 1))
        assert "flax.nnx.bridge.to_linen(Net, ...) makes one of an NNX class" in message(error)
    net = from_flax(nnx.bridge.to_linen(Nnx), (4, 4, 1))
    params, x = net.init(key), jnp.ones((2, 4, 4, 1))
    assert net.apply(params, x).shape == (2, 3) and net.embed(params, x).shape == (2, 5)


class Flax(nn.Module):
    """A network of Flax's own layers: `what` it does between the first and the last."""

    what: str

    @nn.compact
    def __call__(self, x, train=True):
        x = nn.Conv(2, (2, 2))(x)
        if self.what == "batch_norm":
            x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
        if self.what == "dropout":
            x = nn.Dropout(0.5)(x, deterministic=not train)
        if self.what == "state":
            self.variable("cache", "count", lambda: jnp.zeros(())).value += 1
        return nn.Dense(3)(x.reshape(len(x), -1)) if self.what != "map" else x


def test_a_sequence_of_layers_has_the_features_of_its_last_one(key):
    net = from_flax(
        nn.Sequential([lambda x: x.reshape(len(x), -1), nn.Dense(5), nn.relu, nn.Dense(3)]), (4, 4, 1)
    )
    params, x = net.init(key), jnp.ones((2, 4, 4, 1))
    assert net.apply(params, x).shape == (2, 3) and net.embed(params, x).shape == (2, 5)


def test_the_classifier_behind_a_batch_normalisation_is_replaced(key):
    net = from_flax(Flax("batch_norm"), (4, 4, 1))
    params, x = net.init(key), jnp.ones((2, 4, 4, 1))
    changed = net.with_classifier(params, jnp.zeros((32, 3)), jnp.arange(3.0))
    np.testing.assert_array_equal(net.apply(changed, x), np.tile(np.arange(3.0), (2, 1)))
    with pytest.raises(UserError) as error:
        jax.eval_shape(linearized(net).calibrate, linearized(net).init(key), x)
    assert "another one than batch for a linearised network" in message(error)


class Head(nn.Module):
    """A classifier whose input is not what the module calls its features."""

    between: bool

    @nn.compact
    def __call__(self, x, return_features=False):
        features = nn.Dense(6)(x.reshape(len(x), -1)) - 0.5
        if return_features:
            return features
        return nn.Dense(3)(nn.relu(features) if self.between else features)


class Beside(nn.Module):
    """Another layer is called after the classifier."""

    @nn.compact
    def __call__(self, x):
        features = nn.Dense(6)(x.reshape(len(x), -1))
        logits = nn.Dense(3)(features)
        nn.Dense(3)(nn.relu(features))
        return logits


def test_a_classifier_of_other_inputs_than_the_features_is_refused(key):
    fits = from_flax(Head(between=False), (4, 4, 1))
    assert fits.with_classifier(fits.init(key), jnp.ones((6, 3)), None)
    for module in (Head(between=True), Beside()):
        net = from_flax(module, (4, 4, 1))
        with pytest.raises(UserError) as error:
            jax.eval_shape(lambda net=net: net.with_classifier(net.init(key), jnp.ones((6, 3)), None))
        assert "features that are the input of the dense layer" in message(error)


def test_batch_normalisation_of_flax_follows_its_batch_or_its_calibration(key):
    net = from_flax(Flax("batch_norm"), (4, 4, 1))
    params = net.init(key)
    assert params.keys() == {"params"}
    x = (np.random.default_rng(0).normal(size=(6, 4, 4, 1)) * 2 + 1).astype(np.float32)
    calibrated = net.calibrate(params, x)
    np.testing.assert_allclose(net.apply(calibrated, x), net.apply(params, x), rtol=1e-5, atol=1e-6)
    alone = net.apply(calibrated, x[:1])
    np.testing.assert_allclose(alone, net.apply(params, x)[:1], rtol=1e-5, atol=1e-6)
    assert np.abs(alone - net.apply(params, x[:1])).max() > 1e-3  # without statistics the batch matters
    layers = calibrated["params"]
    assert net.embed(calibrated, x).shape == (6, layers["Dense_0"]["kernel"].shape[0])
    features = net.embed(calibrated, x) @ layers["Dense_0"]["kernel"] + layers["Dense_0"]["bias"][None]
    np.testing.assert_allclose(features, net.apply(calibrated, x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("dropout", "got one that draws at random. Leave dropout out: nn.Dropout(rate, deterministic=True)."),
        ("state", "got ScopeCollectionNotFound: "),
        ("map", "from_flax: expected logits [B, ...] of two axes, got (2, 4, 4, 2) for 2 images."),
    ],
)
def test_a_flax_module_that_is_no_function_of_images_is_refused_when_made(what, said):
    with pytest.raises(UserError) as error:
        from_flax(Flax(what), (4, 4, 1))
    assert said in message(error)
