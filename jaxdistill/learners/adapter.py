"""From a Flax module to a `Learner`, and the checks that every learner's factory makes."""

import functools
from collections.abc import Callable
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdistill.core.checks import fail, lookup, one_of
from jaxdistill.core.linalg import widened
from jaxdistill.core.types import Array, Learner, Params
from jaxdistill.layers.conv import Layout
from jaxdistill.layers.initializers import INITIALIZATIONS, draw_params
from jaxdistill.layers.modules import NORMS, Conv, Dense, change_layout, flatten
from jaxdistill.layers.norms import GROUPS, unit_lengths

WEIGHTED = (Conv, Dense, nn.Conv, nn.Dense)
MNIST_SHAPE = (28, 28, 1)
"""The image shape for which the reference networks widen the padding of their first convolution."""


def from_flax(
    module: nn.Module, image_shape: tuple[int, int, int], initialization: str | None = None
) -> Learner:
    """The pure functions of a Flax module.

    Args:
      module: called as `module(x)` it returns logits `[B, classes]`, as `module(x, return_features=True)`
        the input of its classifier, `[B, F]`. `embed_all` are the inputs of its convolutions and dense
        layers, ours or Flax's, without the first. `with_classifier` wants logits that are the output of a
        dense layer of the features.
      image_shape: `(H, W, C)`.
      initialization: a key of `layers.initializers.INITIALIZATIONS`, for modules of the layers in
        `layers.modules` alone; None leaves it to the module's own initialisers (slower to compile).

    Returns:
      A `Learner`. Parameters are `{"params": ...}`, float32; those that `calibrate` returns for a module
      with batch normalisation also have `"batch_stats"`, are meant for `apply` and `embed`, and are not to
      be trained further. `calibrate` replaces statistics that are there already. The dtype of logits
      follows the parameters and images.

    Raises:
      UserError: for an unknown initialisation.
      AssertionError: when traced with images of another shape.
    """
    if not isinstance(module, nn.Module):
        raise fail("from_flax", "an instance of a Flax module, such as Net()", repr(module))
    scheme = None if initialization is None else lookup("learner", initialization, INITIALIZATIONS)

    def module_init(key: Array) -> Params:
        return module.init(key, jnp.zeros((1, *image_shape)), mutable=["params"])

    @functools.cache
    def shapes() -> Params:
        return jax.eval_shape(module_init, jax.random.key(0))

    def init(key: Array) -> Params:
        return widened(module_init(key) if scheme is None else draw_params(key, shapes(), scheme))

    def apply(params: Params, x: Array) -> Array:
        chex.assert_shape(x, (None, *image_shape))
        return module.apply(params, x)  # pyright: ignore[reportReturnType]

    def embed(params: Params, x: Array) -> Array:
        chex.assert_shape(x, (None, *image_shape))
        return module.apply(params, x, return_features=True)  # pyright: ignore[reportReturnType]

    def calibrate(params: Params, x: Array) -> Params:
        chex.assert_shape(x, (None, *image_shape))
        _, statistics = module.apply({"params": params["params"]}, x, mutable=["batch_stats"])
        return {"params": params["params"], **statistics} if statistics else params

    def embed_all(params: Params, x: Array) -> list[Array]:
        chex.assert_shape(x, (None, *image_shape))
        inputs: list[Array] = []

        def remember(call: Callable, arguments: Any, options: Any, context: Any) -> Any:
            if isinstance(context.module, WEIGHTED) and all(arguments[0] is not seen for seen in inputs):
                inputs.append(arguments[0])
                layouts.append(getattr(context.module, "layout", "NHWC"))
            return call(*arguments, **options)

        layouts: list[Layout] = []
        with nn.intercept_methods(remember):
            module.apply(params, x)
        every = [
            flatten(change_layout(*each) if each[0].ndim == 4 else each[0])
            for each in zip(inputs, layouts, strict=True)
        ]
        return every[1:] or every  # the first layer's are the images, which are features of `linear` alone

    @functools.cache
    def classifier() -> tuple[str, ...]:
        """The place of the dense layer whose input are the features and whose output are the logits."""
        called: list[tuple[tuple[str, ...], Array]] = []

        def remember(call: Callable, arguments: Any, options: Any, context: Any) -> Any:
            output = call(*arguments, **options)
            if isinstance(context.module, (Dense, nn.Dense)):
                called.append((context.module.path, output))
            return output

        def places(params: Params, x: Array) -> Array:
            with nn.intercept_methods(remember):
                logits = module.apply(params, x)
            found.extend(path for path, output in called if output is logits and path)
            return logits  # pyright: ignore[reportReturnType]

        found: list[tuple[str, ...]] = []
        one = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
        jax.eval_shape(places, shapes(), one)
        if not found:
            name = type(module).__name__
            raise fail("learner", "a network whose logits are the output of a dense layer", name)
        return found[0]

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

    return Learner(init, apply, embed, calibrate, embed_all, with_classifier)


def _replaced(tree: Params, path: tuple[str, ...], value: Params) -> Params:
    """The nested dict with `value` at a place."""
    if not path:
        return value
    return {**tree, path[0]: _replaced(tree[path[0]], path[1:], value)}


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
