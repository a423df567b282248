"""Flax layers over the pure ones: they only create weights, the arithmetic is elsewhere.

Norms, activations and poolings are chosen by name, so a network's definition is plain text and can be
compared, printed and saved with a configuration. A module's own `init` starts from PyTorch's default
weights; learners start from a named scheme, drawn at once (`layers.initializers.draw_params`).
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdistill.core.types import Array
from jaxdistill.layers import norms
from jaxdistill.layers.conv import Layout, conv2d, upsampled_conv2d
from jaxdistill.layers.initializers import fan_in, torch_default
from jaxdistill.layers.pool import average_pool, max_pool


def sharp_softplus(x: Array, *, sharpness: float) -> Array:
    """log(1 + exp(s x)) / s, which tends to the ReLU as the sharpness s grows, and is smooth."""
    return jax.nn.softplus(sharpness * x) / sharpness


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "leaky_relu": functools.partial(jax.nn.leaky_relu, negative_slope=0.01),
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "softplus": jax.nn.softplus,
    "softplus60": functools.partial(sharp_softplus, sharpness=60.0),
    "swish": jax.nn.swish,
}

POOLINGS: dict[str, Callable[[Array], Array]] = {
    "none": lambda x: x,
    "max": max_pool,
    "average": average_pool,
}
"""Non-overlapping windows of two; an odd last row or column is dropped."""

NORMS: tuple[str, ...] = ("none", "instance", "group", "layer", "batch", "mean_only")


def _kernel(key: Array, shape: tuple[int, ...]) -> Array:
    return torch_default.kernel(shape) * torch_default.draw(key, shape)


def _bias(key: Array, shape: tuple[int, ...], inputs: int) -> Array:
    return torch_default.bias(inputs) * torch_default.draw(key, shape)


def _weights(module: nn.Module, shape: tuple[int, ...], weight_norm: bool) -> Array:
    """The kernel of a layer; with weight normalisation a direction and a gain, that start equal to it."""
    kernel = module.param("kernel", _kernel, shape)
    if not weight_norm:
        return kernel
    gain = module.param("gain", lambda key: norms.unit_lengths(kernel))
    return norms.weight_norm(kernel, gain)


class Conv(nn.Module):
    """Convolution of `[B, H, W, in]` to `[B, H', W', features]` with symmetric zero padding.

    With `layout="CHWB"` images are batch minor, `[in, H, W, B]` to `[features, H', W', B]`; the weights are
    the same. With `weight_norm` the kernel is reparametrised, see `layers.norms.weight_norm`.
    """

    features: int
    size: int = 3
    stride: int = 1
    padding: int = 1
    use_bias: bool = True
    layout: Layout = "NHWC"
    weight_norm: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        inputs = x.shape[0] if self.layout == "CHWB" else x.shape[-1]
        shape = (self.size, self.size, inputs, self.features)
        kernel = _weights(self, shape, self.weight_norm)
        y = conv2d(x, kernel, stride=self.stride, padding=self.padding, layout=self.layout)
        if not self.use_bias:
            return y
        bias = self.param("bias", _bias, (self.features,), fan_in(shape))
        return y + (bias[:, None, None, None] if self.layout == "CHWB" else bias[None, None, None, :])


class UpsamplingConv(nn.Module):
    """3x3 convolution of `[B, H, W, in]` to `[B, 2H, 2W, features]`: each pixel is repeated before it.

    The larger image is reflected at its border, see `layers.conv.upsampled_conv2d`.
    """

    features: int
    use_bias: bool = True
    weight_norm: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (3, 3, x.shape[-1], self.features)
        y = upsampled_conv2d(x, _weights(self, shape, self.weight_norm))
        if not self.use_bias:
            return y
        return y + self.param("bias", _bias, (self.features,), fan_in(shape))[None, None, None, :]


class Dense(nn.Module):
    """Affine map of `[B, in]` to `[B, features]`."""

    features: int
    use_bias: bool = True
    weight_norm: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (x.shape[-1], self.features)
        kernel = _weights(self, shape, self.weight_norm)
        if not self.use_bias:
            return x @ kernel
        bias = self.param("bias", _bias, (self.features,), fan_in(shape))
        return x @ kernel + bias[None, :]


class Norm(nn.Module):
    """One of `NORMS` on `[B, H, W, C]`, with a scale (1) and a bias (0) per channel; `none` has neither.

    `group` has 4 groups of channels, `layer` is one group. `batch` uses the statistics in the collection
    `batch_stats` where there are some, and those of its own batch otherwise; applied with that
    collection mutable, it uses those of its own batch and stores them. `mean_only` is a batch norm that
    subtracts the mean alone, for networks whose weights are normalised; it has no scale.
    """

    kind: str

    @nn.compact
    def __call__(self, x: Array) -> Array:
        if self.kind == "none":
            return x
        channels = x.shape[-1]
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        if self.kind == "mean_only":
            mean, _ = self._batch_statistics(x)
            return (x + (bias - mean)[None, None, None, :]).astype(x.dtype)
        scale = self.param("scale", nn.initializers.ones, (channels,), jnp.float32)
        if self.kind == "instance":
            return norms.instance_norm(x, scale, bias)
        if self.kind == "group":
            return norms.group_norm(x, scale, bias, groups=norms.GROUPS)
        if self.kind == "layer":
            return norms.group_norm(x, scale, bias, groups=1)
        return norms.batch_norm(x, scale, bias, *self._batch_statistics(x))

    def _batch_statistics(self, x: Array) -> tuple[Array, Array]:
        remember = self.is_mutable_collection("batch_stats")
        if self.has_variable("batch_stats", "mean") and not remember:
            return self.get_variable("batch_stats", "mean"), self.get_variable("batch_stats", "variance")
        mean, variance = norms.batch_moments(x)
        if remember:
            self.put_variable("batch_stats", "mean", mean)
            self.put_variable("batch_stats", "variance", variance)
        return mean, variance


def flatten(x: Array) -> Array:
    """`[B, ...]` to `[B, F]`, channels last."""
    return x.reshape(x.shape[0], -1)


def change_layout(x: Array, layout: Layout) -> Array:
    """From `[B, H, W, C]` to `layout`, and back: the transposition is its own inverse."""
    return x.transpose(3, 1, 2, 0) if layout == "CHWB" else x
