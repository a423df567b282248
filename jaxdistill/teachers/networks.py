"""Networks that make images from noise and labels: what a generator learns the weights of."""

import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdistill.core.checks import fail, lookup
from jaxdistill.core.types import Array
from jaxdistill.layers.modules import Conv, Dense, UpsamplingConv
from jaxdistill.layers.norms import EPSILON

_leaky_relu = functools.partial(jax.nn.leaky_relu, negative_slope=0.1)


class StepNorm(nn.Module):
    """Batch normalisation of `[S * B, ..., C]` with the statistics of each of S steps of its own."""

    steps: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        rows = x.reshape(self.steps, -1, channels)
        deviation = rows - jnp.mean(rows, 1, keepdims=True)
        variance = jnp.mean(jnp.square(deviation), 1, keepdims=True)
        unit = deviation * jax.lax.rsqrt(variance + EPSILON)
        return (unit * scale[None, None, :] + bias[None, None, :]).reshape(x.shape)


class Upsampling(nn.Module):
    """Two dense layers, then a convolution after each upsampling (Such et al. 2019).

    The norms of the dense layers are per unit; layers before a norm have no bias of their own.
    """

    image_shape: tuple[int, int, int]
    width: int
    hidden: int
    upsamplings: int
    weight_norm: bool
    scale: float

    @nn.compact
    def __call__(self, x: Array, steps: int) -> Array:
        height, width, channels = self.image_shape
        rows, columns = height >> self.upsamplings, width >> self.upsamplings
        first = 2 * self.width
        dense = functools.partial(Dense, weight_norm=self.weight_norm)
        x = dense(self.hidden, use_bias=False, name="dense1")(x)
        x = _leaky_relu(StepNorm(steps, name="norm1")(x))
        x = dense(rows * columns * first, use_bias=False, name="dense2")(x)
        x = _leaky_relu(StepNorm(steps, name="norm2")(x)).reshape(-1, rows, columns, first)
        for i in range(1, self.upsamplings + 1):
            last = i == self.upsamplings
            features = channels if last else self.width
            x = UpsamplingConv(features, use_bias=last, weight_norm=self.weight_norm, name=f"conv{i}")(x)
            if not last:
                x = _leaky_relu(StepNorm(steps, name=f"norm{i + 2}")(x))
        return self.scale * jnp.tanh(x)


class Compact(nn.Module):
    """Two dense layers to the full image size, two convolutions (Medvedev & D'yakonov 2022)."""

    image_shape: tuple[int, int, int]
    width: int
    weight_norm: bool
    scale: float

    @nn.compact
    def __call__(self, x: Array, steps: int) -> Array:
        height, width, channels = self.image_shape
        maps = self.width // 2
        layer = functools.partial(Dense, weight_norm=self.weight_norm)
        x = layer(self.width, name="dense1")(x)
        x = _leaky_relu(StepNorm(steps, name="norm1")(x))
        x = layer(height * width * maps, name="dense2")(x).reshape(-1, height, width, maps)
        x = _leaky_relu(StepNorm(steps, name="norm2")(x))
        x = Conv(self.width // 4, weight_norm=self.weight_norm, name="conv1")(x)
        x = _leaky_relu(StepNorm(steps, name="norm3")(x))
        x = Conv(channels, weight_norm=self.weight_norm, name="conv2")(x)
        return self.scale * jnp.tanh(_leaky_relu(StepNorm(steps, name="norm4")(x)))


class Architecture(NamedTuple):
    """A generator's network and the defaults of its paper."""

    width: int
    noise_size: int
    noise: str
    weight_norm: bool
    scale: float


ARCHITECTURES: dict[str, Architecture] = {
    "upsampling": Architecture(64, 128, "gaussian", True, 2.0),
    "compact": Architecture(64, 64, "uniform", False, 1.0),
}
"""By name: the generator of Such et al. 2019, and that of Medvedev & D'yakonov 2022."""


def network(
    name: str,
    image_shape: tuple[int, int, int],
    *,
    width: int,
    hidden: int,
    upsamplings: int,
    weight_norm: bool,
    scale: float,
) -> nn.Module:
    """The module of that name: `module(inputs [S * B, F], steps=S) -> images [S * B, H, W, C]`.

    Raises:
      UserError: an unknown name, an image side that `upsamplings` doublings do not reach.
    """
    lookup("generator architecture", name, ARCHITECTURES)
    if name == "compact":
        if width < 4:
            raise fail("generator", "generator_width >= 4 for architecture=compact", width)
        return Compact(image_shape, width, weight_norm, scale)
    factor = 2**upsamplings
    if image_shape[0] % factor or image_shape[1] % factor:
        expected = f"image sides that are multiples of {factor} (upsamplings={upsamplings})"
        size = f"{image_shape[0]}x{image_shape[1]}"
        raise fail("generator", expected, size, "Lower upsamplings, or resize with image_size.")
    return Upsampling(image_shape, width, hidden, upsamplings, weight_norm, scale)
