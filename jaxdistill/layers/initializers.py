"""Initial weights: the schemes of the papers' code, by name.

With `fan_in` = height * width * in and `fan_out` = height * width * out of a kernel
`[height, width, in, out]` (for a dense layer height = width = 1):

| name | kernel | bias |
| --- | --- | --- |
| `torch_default` | uniform, +- 1/sqrt(fan_in) | uniform, +- 1/sqrt(fan_in) |
| `xavier` | normal, deviation sqrt(2 / (fan_in + fan_out)) | 0 |
| `he` | normal, deviation sqrt(2 / fan_in) | 0 |

Norms start with scale 1 and bias 0. Normals are not truncated.

Fresh networks are drawn inside every compiled outer loop, and on a CPU a draw takes about 0.2 s to
compile: `draw_params` makes ONE for all the layers of a network (LeNet: 0.5 s in place of 2.5 s).
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdistill.core.checks import fail
from jaxdistill.core.types import Array, Params
from jaxdistill.layers.norms import unit_lengths


class Initialization(NamedTuple):
    """Initial weights are a factor times noise of unit size."""

    draw: Callable[[Array, tuple[int, ...]], Array]
    """(key, shape) -> float32 noise, from U(-1, 1) or N(0, 1)."""
    kernel: Callable[[tuple[int, ...]], float]
    """shape of a kernel (outputs last) -> factor of its weights."""
    bias: Callable[[int], float]
    """fan_in of the layer -> factor of its biases."""


def fan_in(shape: tuple[int, ...]) -> int:
    """Inputs of one output unit, for a kernel `[..., in, out]`."""
    return math.prod(shape[:-1])


def fan_out(shape: tuple[int, ...]) -> int:
    """Outputs that one input unit reaches, for a kernel `[..., in, out]`."""
    return math.prod(shape[:-2]) * shape[-1]


def _uniform(key: Array, shape: tuple[int, ...]) -> Array:
    return jax.random.uniform(key, shape, jnp.float32, -1.0, 1.0)


def _normal(key: Array, shape: tuple[int, ...]) -> Array:
    return jax.random.normal(key, shape, jnp.float32)


torch_default = Initialization(
    draw=_uniform,
    kernel=lambda shape: 1 / math.sqrt(fan_in(shape)),
    bias=lambda inputs: 1 / math.sqrt(inputs),
)
"""PyTorch's default for convolutions and dense layers, which the reference networks start from."""

xavier = Initialization(
    draw=_normal,
    kernel=lambda shape: math.sqrt(2 / (fan_in(shape) + fan_out(shape))),
    bias=lambda inputs: 0.0,
)
"""Glorot & Bengio 2010, equation 12, with a normal in place of the uniform."""

he = Initialization(
    draw=_normal,
    kernel=lambda shape: math.sqrt(2 / fan_in(shape)),
    bias=lambda inputs: 0.0,
)
"""He et al. 2015, arXiv 1502.01852, equation 10."""

INITIALIZATIONS: dict[str, Initialization] = {
    "torch_default": torch_default,
    "xavier": xavier,
    "he": he,
}


def draw_params(key: Array, shapes: Params, scheme: Initialization) -> Params:
    """The initial weights of a whole network from one draw of noise.

    Args:
      key: typed PRNG key, scalar.
      shapes: nested dicts of arrays or of their shapes. A dict with a `kernel` (and perhaps a `bias`) is a
        convolution or a dense layer, of normalised weights where it has a `gain`; one with a `scale` and a
        `bias`, or a `bias` alone, is a norm.
      scheme: a member of `INITIALIZATIONS`.

    Returns:
      The same nested dicts of float32 arrays.

    Raises:
      UserError: for a weight that is none of these.
    """
    noise = scheme.draw(key, (sum(leaf.size for leaf in jax.tree.leaves(shapes)),))
    used = 0

    def take(shape: tuple[int, ...], factor: float) -> Array:
        nonlocal used
        if not factor:
            return jnp.zeros(shape, jnp.float32)
        start, used = used, used + math.prod(shape)
        return factor * noise[start:used].reshape(shape)

    def fill(path: str, node: Any) -> Params:
        if not isinstance(node, Mapping):
            remedy = "Initialise such a module by its own initialisers."
            raise fail("draw_params", "weights named kernel, scale or bias", path, remedy)
        names = set(node)
        if names == {"scale", "bias"}:
            ones = jnp.ones(node["scale"].shape, jnp.float32)
            return {"scale": ones, "bias": jnp.zeros_like(ones)}
        if names == {"bias"}:
            return {"bias": jnp.zeros(node["bias"].shape, jnp.float32)}
        if "kernel" in names and names <= {"kernel", "bias", "gain"}:
            shape = node["kernel"].shape
            filled = {"kernel": take(shape, scheme.kernel(shape))}
            if "gain" in names:
                filled["gain"] = unit_lengths(filled["kernel"])
            if "bias" in names:
                filled["bias"] = take(node["bias"].shape, scheme.bias(fan_in(shape)))
            return filled
        return {name: fill(f"{path}/{name}", node[name]) for name in sorted(names)}

    return fill("", shapes)
