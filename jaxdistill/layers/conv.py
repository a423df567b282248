"""One convolution, three formulations, chosen by platform.

A convolution `y = conv(x, k)` is bilinear, and so are its two gradients. The three maps

    conv(x, k) -> y,    input_gradient(dy, k) -> dx,    kernel_gradient(x, dy) -> dk

are closed under differentiation: the gradient of each is made of the other two. That is all that
derivatives of any order need, and it leaves the choice of how each map is computed:

- `lax`: these maps by `lax.conv_general_dilated`, tied by custom VJPs. JAX's own derivatives are the
  same convolutions, but under `vmap` on a mesh of devices they do not trace. Right for accelerators.
- `hybrid`: the same, with the kernel gradient by im2col (shifted slices and one matrix product). On the CPU,
  XLA's own kernel gradient is ruinous in second order and inside `lax.scan` or `lax.map`; this one is not.
- `im2col`: all of it by shifted slices and one matrix product. Best on the CPU for few channels, and where
  the kernel is larger than the image or the result, which XLA has no fast way for (gradients
  by `lax` take 25 times as long for 512 channels of 2x2 pixels: `experiments.benchmark --what=conv`).

`upsampled_conv2d` convolves an image of twice the size without making it: its outputs over one pixel are
channels of a convolution of the small image.

`lax` and `hybrid` are differentiated in reverse mode only.

Layouts: `NHWC` everywhere; `CHWB` (batch minor) for networks of few channels on the CPU, where it
vectorises over images (1.5x faster for LeNet, im2col only).
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from jaxdistill.core.checks import fail, one_of
from jaxdistill.core.platform import Layout, choices
from jaxdistill.core.types import Array

FORMULATIONS = ("lax", "hybrid", "im2col")
LAYOUTS = ("NHWC", "CHWB")
FEW_INPUTS = 150
"""Up to this many inputs per output value (kernel area x channels), im2col beats XLA on the CPU."""
_PHASES = (((1, 0, 0), (0, 1, 1), (0, 0, 0)), ((0, 0, 0), (1, 1, 0), (0, 0, 1)))
"""[2, 3, 3]: what of three taps falls on the pixel before, the pixel, and the one after, for the first and
the second output over a pixel."""


def default_formulation(kernel_shape: tuple[int, ...], *sizes: tuple[int, int]) -> str:
    """What a convolution is computed by on the platform that it is traced for.

    Args:
      kernel_shape: [h, w, in, out].
      sizes: (height, width) of the image and of the result, pixels.
    """
    if not choices().convolution_by_size:
        return "lax"
    h, w, inputs = kernel_shape[:3]
    small = any(h > height or w > width for height, width in sizes)
    return "im2col" if small or h * w * inputs <= FEW_INPUTS else "hybrid"


def conv2d(
    x: Array,
    kernel: Array,
    *,
    stride: int = 1,
    padding: int = 0,
    formulation: str | None = None,
    layout: Layout = "NHWC",
) -> Array:
    """Two-dimensional cross-correlation, without bias.

    Args:
      x: [B, H, W, C_in], or [C_in, H, W, B] with layout `CHWB`.
      kernel: [h, w, C_in, C_out].
      stride: step between output positions, pixels.
      padding: zeros on each side, pixels.
      formulation: one of `FORMULATIONS`; by platform, kernel and sizes when None.
      layout: of `x` and of the result; `CHWB` is computed by im2col.

    Returns:
      [B, H', W', C_out] (or [C_out, H', W', B]) with H' = floor((H + 2 padding - h) / stride) + 1.

    Raises:
      UserError: an unknown formulation or layout, or a kernel that does not fit the padded image.
    """
    one_of("conv2d layout", layout, LAYOUTS)
    wide = jnp.result_type(x, kernel)  # `lax` promotes nothing
    x, kernel = x.astype(wide), kernel.astype(wide)
    height, width = x.shape[1] + 2 * padding, x.shape[2] + 2 * padding
    if kernel.shape[0] > height or kernel.shape[1] > width:
        expected = f"an image of at least {kernel.shape[:2]} with its padding"
        raise fail("conv2d", expected, f"{(height, width)}")
    result = (height - kernel.shape[0]) // stride + 1, (width - kernel.shape[1]) // stride + 1
    default = default_formulation(kernel.shape, (x.shape[1], x.shape[2]), result)
    chosen = one_of("conv2d formulation", formulation or default, FORMULATIONS)
    if layout == "CHWB":
        return _im2col_batch_minor(x, kernel, stride, padding)
    if chosen == "im2col":
        return _patches(x, kernel.shape, stride, padding) @ kernel.reshape(-1, kernel.shape[-1])
    return _conv(x, kernel, stride, padding, chosen == "hybrid")


def upsampled_conv2d(x: Array, kernel: Array) -> Array:
    """A 3x3 convolution of `x` at twice its height and width, each pixel repeated, reflected at the border.

    Nothing is made at the larger size but the result: the four outputs over a pixel see it and its eight
    neighbours only, so they are channels of one convolution of `x` itself, whose patches are a quarter in
    memory. A reflection about the border of repeated pixels repeats the outermost one.

    Args:
      x: [B, H, W, C_in].
      kernel: [3, 3, C_in, C_out].

    Returns:
      [B, 2 H, 2 W, C_out].

    Raises:
      UserError: a kernel of another size.
    """
    if kernel.shape[:2] != (3, 3):
        raise fail("upsampled_conv2d", "a 3x3 kernel", f"{kernel.shape[0]}x{kernel.shape[1]}")
    batch, height, width, _ = x.shape
    inputs, outputs = kernel.shape[2:]
    fold = jnp.asarray(_PHASES, kernel.dtype)
    phases = jnp.einsum("poa,qrb,abcf->orcpqf", fold, fold, kernel).reshape(3, 3, inputs, 4 * outputs)
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    y = conv2d(padded, phases).reshape(batch, height, width, 2, 2, outputs)
    return y.transpose(0, 1, 3, 2, 4, 5).reshape(batch, 2 * height, 2 * width, outputs)


def _shifts(x: Array, kernel_shape: tuple[int, ...], stride: int, padding: int) -> list[Array]:
    """The image once per kernel position, shifted so: h * w arrays; axes 1 and 2 are space."""
    h, w = kernel_shape[:2]
    if padding:
        x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    rows, columns = (x.shape[1] - h) // stride + 1, (x.shape[2] - w) // stride + 1
    return [
        x[:, i : i + stride * (rows - 1) + 1 : stride, j : j + stride * (columns - 1) + 1 : stride, :]
        for i in range(h)
        for j in range(w)
    ]


def _patches(x: Array, kernel_shape: tuple[int, ...], stride: int, padding: int) -> Array:
    """[B, H', W', h * w * C_in]."""
    return jnp.concatenate(_shifts(x, kernel_shape, stride, padding), axis=-1)


def _im2col_batch_minor(x: Array, kernel: Array, stride: int, padding: int) -> Array:
    patches = jnp.stack(_shifts(x, kernel.shape, stride, padding))  # [h * w, C_in, H', W', B]
    rows, columns, batch = patches.shape[2:]
    outputs = kernel.shape[-1]
    y = kernel.reshape(-1, outputs).T @ patches.reshape(-1, rows * columns * batch)
    return y.reshape(outputs, rows, columns, batch)


# The three bilinear maps, each with the other two as its gradients. `unfold`: kernel gradients by im2col.


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _conv(x: Array, kernel: Array, stride: int, padding: int, unfold: bool) -> Array:
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), [(padding, padding)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4, 5))
def _input_gradient(
    dy: Array, kernel: Array, size: tuple[int, int], stride: int, padding: int, unfold: bool
) -> Array:
    """[B, *size, C_in]: the transpose of `conv` in its image."""
    flipped = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
    margins = []
    for axis in (0, 1):
        dilated = (dy.shape[1 + axis] - 1) * stride + 1
        low = kernel.shape[axis] - 1 - padding
        margins.append((low, size[axis] - dilated - low + kernel.shape[axis] - 1))
    return lax.conv_general_dilated(
        dy,
        flipped,
        (1, 1),
        margins,
        lhs_dilation=(stride, stride),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4, 5))
def _kernel_gradient(
    x: Array, dy: Array, size: tuple[int, int], stride: int, padding: int, unfold: bool
) -> Array:
    """[*size, C_in, C_out]: the transpose of `conv` in its kernel."""
    if unfold:
        patches = _patches(x, size, stride, padding)
        flat = patches.reshape(-1, patches.shape[-1]).T @ dy.reshape(-1, dy.shape[-1])
        return flat.reshape(*size, x.shape[-1], dy.shape[-1])
    margins = []
    for axis in (0, 1):
        dilated = (dy.shape[1 + axis] - 1) * stride + 1
        margins.append((padding, size[axis] + dilated - 1 - x.shape[1 + axis] - padding))
    return lax.conv_general_dilated(  # images are its channels, channels its images
        x,
        dy,
        (1, 1),
        margins,
        rhs_dilation=(stride, stride),
        dimension_numbers=("CHWN", "IHWO", "HWNC"),
    )


def _conv_forward(x, kernel, stride, padding, unfold):
    return _conv(x, kernel, stride, padding, unfold), (x, kernel)


def _conv_backward(stride, padding, unfold, residuals, dy):
    x, kernel = residuals
    return (
        _input_gradient(dy, kernel, x.shape[1:3], stride, padding, unfold),
        _kernel_gradient(x, dy, kernel.shape[:2], stride, padding, unfold),
    )


def _input_gradient_forward(dy, kernel, size, stride, padding, unfold):
    return _input_gradient(dy, kernel, size, stride, padding, unfold), (dy, kernel)


def _input_gradient_backward(size, stride, padding, unfold, residuals, dx):
    dy, kernel = residuals
    return (
        _conv(dx, kernel, stride, padding, unfold),
        _kernel_gradient(dx, dy, kernel.shape[:2], stride, padding, unfold),
    )


def _kernel_gradient_forward(x, dy, size, stride, padding, unfold):
    return _kernel_gradient(x, dy, size, stride, padding, unfold), (x, dy)


def _kernel_gradient_backward(size, stride, padding, unfold, residuals, dk):
    x, dy = residuals
    return (
        _input_gradient(dy, dk, x.shape[1:3], stride, padding, unfold),
        _conv(x, dk, stride, padding, unfold),
    )


_conv.defvjp(_conv_forward, _conv_backward)
_input_gradient.defvjp(_input_gradient_forward, _input_gradient_backward)
_kernel_gradient.defvjp(_kernel_gradient_forward, _kernel_gradient_backward)
