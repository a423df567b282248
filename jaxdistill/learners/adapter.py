"""From a Flax module to a `Learner`, and the checks that every learner's factory makes."""

import contextlib
import functools
import inspect
from collections.abc import Callable
from typing import Any

import chex
import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdistill.core.checks import UserError, fail, lookup, one_of
from jaxdistill.core.linalg import widened
from jaxdistill.core.types import Array, Learner, Params
from jaxdistill.layers.conv import Layout
from jaxdistill.layers.initializers import INITIALIZATIONS, draw_params
from jaxdistill.layers.modules import NORMS, Conv, Dense, change_layout, flatten
from jaxdistill.layers.norms import GROUPS, unit_lengths, weight_norm

FROM_NNX = "flax.nnx.bridge.to_linen(Net, ...) makes one of an NNX class whose calls take return_features."
CLOSE = 1e-2
"""Relative difference of logits that are computed twice; bfloat16 products differ by as much."""
WEIGHTED = (Conv, Dense, nn.Conv, nn.Dense)
MNIST_SHAPE = (28, 28, 1)
"""The image shape for which the reference networks widen the padding of their first convolution."""


def from_flax(
    module: nn.Module, image_shape: tuple[int, int, int], initialization: str | None = None
) -> Learner:
    """The pure functions of a Flax module.

    Args:
      module: called as `module(x)` it returns logits `[B, classes]`, as `module(x, return_features=True)`
        the input of its classifier, `[B, F]`. The `embed` of a module without that argument is the input of
        the last convolution or dense layer that it calls, ours or Flax's, flattened; `embed_all` are the
        inputs of all of them but the first. `with_classifier` wants logits that are the output of a dense
        layer of the features. `nn.BatchNorm` normalises by its own batch, or by the statistics of
        `calibrate`, whatever its `use_running_average` says. Nothing may be drawn at random: dropout has to
        be `deterministic`. `flax.nnx.bridge.to_linen` makes such a module of an NNX class that takes
        `return_features`.
      image_shape: `(H, W, C)`.
      initialization: a key of `layers.initializers.INITIALIZATIONS`, for modules of the layers in
        `layers.modules` alone; None leaves it to the module's own initialisers (slower to compile).

    Returns:
      A `Learner`. Parameters are `{"params": ...}`, float32. For a module with batch normalisation
      `calibrate` returns parameters that also have `"batch_stats"`; they are meant for `apply` and `embed`,
      and are not to be trained further. `calibrate` replaces statistics that are there already. The dtype
      of logits follows the parameters and images.

    Raises:
      UserError: for an unknown initialisation, or a module that cannot be called so, draws at random, or has
        state other than the statistics of batch normalisation.
      AssertionError: when traced with images of another shape.
    """
    if not isinstance(module, nn.Module):
        from flax import nnx

        got = repr(module) if isinstance(module, type) else type(module).__name__
        kind = module if isinstance(module, type) else type(module)
        remedy = FROM_NNX if issubclass(kind, nnx.Module) else ""
        raise fail("from_flax", "an instance of a Flax module, such as Net()", got, remedy)
    net = adapted(module, image_shape, initialization, foreign=True)
    image = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
    try:
        params = jax.eval_shape(net.init, jax.random.key(0))
        found = [jax.eval_shape(net.apply, params, image), jax.eval_shape(net.embed, params, image)]
        jax.eval_shape(net.calibrate, params, image)
    except UserError:
        raise
    except Exception as error:  # of the user's own code: anything
        random = isinstance(error, flax.errors.InvalidRngError)
        remedy = "Leave dropout out: nn.Dropout(rate, deterministic=True)." if random else ""
        what = "one that draws at random" if random else _first_line(error)
        raise fail(
            "from_flax", "a module that maps images alone to logits, as module(x)", what, remedy
        ) from error
    for name, array in zip(("logits", "features"), found, strict=True):
        if getattr(array, "ndim", None) != 2 or array.shape[0] != 2:
            shape = getattr(array, "shape", type(array).__name__)
            raise fail("from_flax", f"{name} [B, ...] of two axes", f"{shape} for 2 images")
    return net


def adapted(
    module: nn.Module,
    image_shape: tuple[int, int, int],
    initialization: str | None = None,
    *,
    foreign: bool = False,
) -> Learner:
    """As `from_flax`, unchecked, for the networks of this package.

    Args:
      module, image_shape, initialization: as there.
      foreign: whether the module may have Flax's own batch normalisation.
    """
    scheme = None if initialization is None else lookup("learner", initialization, INITIALIZATIONS)
    collections = ["params", "batch_stats"] if foreign else ["params"]
    features = _takes_return_features(module, image_shape) if foreign else True

    def module_init(key: Array) -> Params:
        found = module.init(key, jnp.zeros((1, *image_shape)), mutable=collections)
        if others := found.keys() - {*collections}:
            raise fail("from_flax", "a module without state", f"one with {', '.join(sorted(others))}")
        return {"params": found.get("params", {})}

    def called(params: Params, x: Array, **options: Any) -> Any:
        """The module's result; batches are normalised by given statistics, or else by their own."""
        if not foreign or "batch_stats" in params:
            with nn.intercept_methods(_batch_norm_of(params)) if foreign else contextlib.nullcontext():
                return module.apply(params, x, **options)
        with nn.intercept_methods(_batch_norm_of(params)):
            return module.apply(params, x, mutable=["batch_stats"], **options)[0]

    @functools.cache
    def shapes() -> Params:
        return jax.eval_shape(module_init, jax.random.key(0))

    def init(key: Array) -> Params:
        return widened(module_init(key) if scheme is None else draw_params(key, shapes(), scheme))

    def apply(params: Params, x: Array) -> Array:
        chex.assert_shape(x, (None, *image_shape))
        return called(params, x)

    def embed(params: Params, x: Array) -> Array:
        chex.assert_shape(x, (None, *image_shape))
        return called(params, x, return_features=True) if features else layer_inputs(params, x)[-1]

    def calibrate(params: Params, x: Array) -> Params:
        chex.assert_shape(x, (None, *image_shape))
        own = {"params": params["params"]}
        with nn.intercept_methods(_batch_norm_of(own)) if foreign else contextlib.nullcontext():
            _, statistics = module.apply(own, x, mutable=["batch_stats"])
        return {"params": params["params"], **statistics} if statistics else params

    def layer_inputs(params: Params, x: Array) -> list[Array]:
        """[B, F] per layer with weights, in the order in which they are called."""
        inputs: list[Array] = []

        def remember(call: Callable, arguments: Any, options: Any, context: Any) -> Any:
            if isinstance(context.module, WEIGHTED) and all(arguments[0] is not seen for seen in inputs):
                inputs.append(arguments[0])
                layouts.append(getattr(context.module, "layout", "NHWC"))
            return call(*arguments, **options)

        layouts: list[Layout] = []
        with nn.intercept_methods(remember):
            called(params, x)
        if not inputs:
            raise fail("from_flax", "a module with a convolution or a dense layer", "none")
        return [
            flatten(change_layout(*each) if each[0].ndim == 4 else each[0])
            for each in zip(inputs, layouts, strict=True)
        ]

    def embed_all(params: Params, x: Array) -> list[Array]:
        chex.assert_shape(x, (None, *image_shape))
        every = layer_inputs(params, x)
        return every[1:] or every  # the first layer's are the images, which are features of `linear` alone

    @functools.cache
    def classifier() -> tuple[str, ...]:
        """The place of the dense layer whose input are the features and whose output are the logits."""
        outputs: list[tuple[tuple[str, ...], Array]] = []

        def remember(call: Callable, arguments: Any, options: Any, context: Any) -> Any:
            output = call(*arguments, **options)
            if isinstance(context.module, (Dense, nn.Dense)):
                outputs.append((context.module.path, output))
            return output

        def places(params: Params, x: Array) -> Array:
            with nn.intercept_methods(remember):
                logits = called(params, x)
            found.extend(path for path, output in outputs if output is logits and path)
            return logits  # pyright: ignore[reportReturnType]

        found: list[tuple[str, ...]] = []
        one = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
        jax.eval_shape(places, shapes(), one)
        if not found:
            name = type(module).__name__
            raise fail("learner", "a network whose logits are the output of a dense layer", name)
        if foreign and not same_logits(found[0]):
            expected = "features that are the input of the dense layer whose output are the logits"
            raise fail("learner", expected, f"others of {type(module).__name__}")
        return found[0]

    def same_logits(place: tuple[str, ...]) -> bool:
        """Whether the dense layer at that place makes logits of the features: tried on two random images."""

        def distance(key: Array) -> Array:
            params = module_init(key)
            layer = functools.reduce(lambda tree, name: tree[name], place, params["params"])
            x = jax.random.normal(key, (2, *image_shape))
            kernel = weight_norm(layer["kernel"], layer["gain"]) if "gain" in layer else layer["kernel"]
            features = embed(params, x)
            if features.shape[1] != kernel.shape[0]:
                return jnp.array(jnp.inf)
            expected = called(params, x)
            bias = layer.get("bias", jnp.zeros(kernel.shape[1]))
            apart = jnp.max(jnp.abs(features @ kernel + bias[None] - expected))
            return apart / jnp.maximum(jnp.max(jnp.abs(expected)), jnp.finfo(jnp.float32).tiny)

        with jax.ensure_compile_time_eval():
            return float(jax.jit(distance)(jax.random.key(0))) < CLOSE

    def with_classifier(params: Params, kernel: Array, bias: Array | None) -> Params:
        *way, last = classifier()
        layer = functools.reduce(lambda tree, name: tree[name], way, params["params"])[last]
        if kernel.shape != layer["kernel"].shape:
            expected = f"a classifier of shape {layer['kernel'].shape}"
            raise fail("learner", expected, f"features and classes {kernel.shape}")
        if bias is not None and "bias" not in layer:
            raise fail("learner", "a classifier with a bias", "one without")
        new = {"kernel": kernel}
        if "bias" in layer:
            new["bias"] = jnp.zeros_like(layer["bias"]) if bias is None else bias
        if "gain" in layer:  # the normalised weights times their lengths are the weights
            new["gain"] = unit_lengths(kernel)
        return {**params, "params": _replaced(params["params"], (*way, last), new)}

    return Learner(init, apply, embed, calibrate, embed_all, with_classifier=with_classifier)


def _replaced(tree: Params, path: tuple[str, ...], value: Params) -> Params:
    """The nested dict with `value` at a place."""
    if not path:
        return value
    return {**tree, path[0]: _replaced(tree[path[0]], path[1:], value)}


def _batch_norm_of(params: Params) -> Callable:
    """An interceptor that gives Flax's batch norms the statistics in `params`, or else the batch's.

    Momentum is 0 while one is called: what it then stores is the statistics of this batch alone.
    """

    def normalised(call: Callable, arguments: Any, options: Any, context: Any) -> Any:
        norm = context.module
        if not isinstance(norm, nn.BatchNorm) or context.method_name != "__call__":
            return call(*arguments, **options)
        before = {name: getattr(norm, name) for name in ("use_running_average", "momentum")}
        now = {"use_running_average": "batch_stats" in params, "momentum": 0.0}
        options = {name: value for name, value in options.items() if name != "use_running_average"}
        try:
            for name, value in now.items():  # Flax freezes the instance, which lives for this call of the net
                object.__setattr__(norm, name, value)
            return call(*arguments[:1], **options)
        finally:
            for name, value in before.items():
                object.__setattr__(norm, name, value)

    return normalised


def _takes_return_features(module: nn.Module, image_shape: tuple[int, int, int]) -> bool:
    """Whether calls of a module have that argument; one that takes any, such as `nn.Sequential`, is tried."""
    known = inspect.signature(type(module).__call__).parameters.values()
    if any(each.name == "return_features" for each in known):
        return True
    if all(each.kind != each.VAR_KEYWORD for each in known):
        return False
    try:
        call = functools.partial(module.init_with_output, return_features=True)
        jax.eval_shape(call, jax.random.key(0), jnp.zeros((1, *image_shape)))
    except Exception:  # of the user's own code: anything
        return False
    return True


def _first_line(error: Exception) -> str:
    text = f"{type(error).__name__}: {error}".splitlines()[0]
    return text if len(text) <= 200 else text[:199] + "…"


def layers_of(net: Learner, image_shape: tuple[int, int, int]) -> list[tuple[str, ...]]:
    """The layers of a network that have weights, in the order in which it first applies them.

    Args:
      net: a learner that `from_flax` made.
      image_shape: `(H, W, C)`.

    Returns:
      Their places in `params["params"]`, such as `("stage1_block1", "conv1")`; empty for another learner.

    Example:
      >>> layers_of(jd.learner("mlp", image_shape=(8, 8, 1), num_classes=10), (8, 8, 1))
      [('dense1',), ('dense2',), ('classifier',)]
    """
    shapes = jax.eval_shape(net.init, jax.random.key(0))
    places = {
        tuple(part.key for part in path[1:-1]): None
        for path, _ in jax.tree.leaves_with_path(shapes)
        if all(hasattr(part, "key") for part in path)
    }
    called: dict[tuple[str, ...], None] = {}

    def remember(call: Callable, arguments: Any, options: Any, context: Any) -> Any:
        called[context.module.path] = None
        return call(*arguments, **options)

    one = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    with nn.intercept_methods(remember):
        jax.eval_shape(lambda params, x: net.apply(params, x), shapes, one)  # a new function: none is cached
    return [path for path in called if path in places]


def first_padding(image_shape: tuple[int, int, int], *, mnist: int, otherwise: int) -> int:
    """Padding of the first convolution: `mnist` for one-channel 28x28 images, `otherwise` for all others.

    The reference code widens it for every one-channel image, because MNIST is the only such set there.
    """
    return mnist if tuple(image_shape) == MNIST_SHAPE else otherwise


def first_size(image_shape: tuple[int, int, int], *, kernel: int, padding: int) -> tuple[int, int]:
    """Height and width after the first convolution (stride 1)."""
    height, width, _ = image_shape
    return height + 2 * padding - kernel + 1, width + 2 * padding - kernel + 1


def check_norm(where: str, norm: str, *, width: int, multiple: int = GROUPS) -> None:
    """Raises unless `norm` is known and, for the group norm, `width` a multiple of `multiple`."""
    one_of(where, norm, NORMS)
    if norm == "group" and width % multiple:
        raise fail(where, f"a width divisible by {multiple} for norm='group'", width)


def check_smallest(where: str, image_shape: tuple[int, int, int], smallest: int, remedy: str = "") -> None:
    """Raises unless both sides of the image are at least `smallest` pixels."""
    height, width, _ = image_shape
    if min(height, width) < smallest:
        expected = f"images of at least {smallest}x{smallest} pixels"
        raise fail(where, expected, f"{height}x{width}", remedy or "Use larger images or another learner.")
