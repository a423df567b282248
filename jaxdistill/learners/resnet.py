"""ResNet18 of the cross-architecture evaluation, and its variant with average pooling."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdistill.core.checks import check_whole
from jaxdistill.core.types import Array, Learner
from jaxdistill.layers.modules import Conv, Dense, Norm, flatten
from jaxdistill.layers.pool import average_pool
from jaxdistill.learners.adapter import adapted, check_norm, check_smallest

STAGES = ((1, False), (2, True), (4, True), (8, True))
"""Channels in units of the width, and whether the stage's first block halves the image; two blocks each."""


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut; `halve` halves the image, by stride or by average pooling."""

    channels: int
    halve: bool
    average: bool
    norm: str

    @nn.compact
    def __call__(self, x: Array) -> Array:
        stride = 2 if self.halve and not self.average else 1
        pool = self.halve and self.average
        y = Conv(self.channels, 3, stride, use_bias=False, name="conv1")(x)
        y = jax.nn.relu(Norm(self.norm, name="norm1")(y))
        y = average_pool(y) if pool else y
        y = Conv(self.channels, use_bias=False, name="conv2")(y)
        y = Norm(self.norm, name="norm2")(y)
        if self.halve or x.shape[-1] != self.channels:
            x = Conv(self.channels, 1, stride, padding=0, use_bias=False, name="shortcut")(x)
            x = average_pool(x) if pool else x
            x = Norm(self.norm, name="shortcut_norm")(x)
        return jax.nn.relu(y + x)


class ResNet(nn.Module):
    """A 3x3 stem, four stages of two blocks, a classifier on the mean over pixels (`average`: on all)."""

    num_classes: int
    width: int
    average: bool
    norm: str

    @nn.compact
    def __call__(self, x: Array, return_features: bool = False) -> Array:
        x = Conv(self.width, use_bias=False, name="stem")(x)
        x = jax.nn.relu(Norm(self.norm, name="stem_norm")(x))
        for i, (multiple, halve) in enumerate(STAGES, 1):
            channels = self.width * multiple
            x = Block(channels, halve, self.average, self.norm, name=f"stage{i}_block1")(x)
            x = Block(channels, False, self.average, self.norm, name=f"stage{i}_block2")(x)
        x = flatten(x) if self.average else jnp.mean(x, (1, 2))
        if return_features:
            return x
        return Dense(self.num_classes, name="classifier")(x)


def resnet18(
    image_shape: tuple[int, int, int],
    num_classes: int,
    *,
    width: int = 64,
    norm: str = "instance",
    initialization: str = "torch_default",
) -> Learner:
    """ResNet18 for small images: 3x3 stem, no max-pooling, stages [2, 2, 2, 2], global average pooling.

    Convolutions have no bias; padding is 1 for every image, one-channel ones too.

    Args:
      image_shape: `(H, W, C)`; with instance norm sides >= 9 (below, the last map is one pixel, which
        instance norm makes constant).
      num_classes: number of logits.
      width: channels of the stem, >= 1; the stages have 1, 2, 4 and 8 times as many.
      norm: one of `layers.modules.NORMS`, after each convolution.
      initialization: a key of `layers.initializers.INITIALIZATIONS`.

    Returns:
      A `Learner`; its features are the mean of the last map over pixels, `[B, 8 * width]`.

    Raises:
      UserError: for an unknown name, a width out of range, or an image too small.

    References:
      Zhao, Mopuri & Bilen 2021, arXiv 2006.05929, section 4.1; He et al. 2016, arXiv 1512.03385, table 1.
    """
    # Three convolutions of stride 2 round up: 8 -> 1 pixel, 9 -> 2.
    smallest = 9 if norm == "instance" else 1
    return _resnet("resnet18", image_shape, num_classes, smallest, width, False, norm, initialization)


def resnet18_ap(
    image_shape: tuple[int, int, int],
    num_classes: int,
    *,
    width: int = 64,
    norm: str = "instance",
    initialization: str = "torch_default",
) -> Learner:
    """`resnet18` with average pooling in place of stride 2, and a classifier on the whole last map.

    Args:
      image_shape: `(H, W, C)`, sides >= 8; with instance norm >= 16 (below, the last map is one pixel).
      num_classes: number of logits.
      width: channels of the stem, >= 1; the stages have 1, 2, 4 and 8 times as many.
      norm: one of `layers.modules.NORMS`, after each convolution.
      initialization: a key of `layers.initializers.INITIALIZATIONS`.

    Returns:
      A `Learner`; its features are the flattened last map, 512 * 3 * 3 on MNIST, 512 * 4 * 4 at 32x32.

    Raises:
      UserError: for an unknown name, a width out of range, or an image too small.

    References:
      The cross-architecture table of Zhao & Bilen 2021, arXiv 2102.08259, by its code.
    """
    # Three poolings round down: 8 -> 1 pixel, 15 -> 1, 16 -> 2.
    smallest = 16 if norm == "instance" else 8
    return _resnet("resnet18_ap", image_shape, num_classes, smallest, width, True, norm, initialization)


def _resnet(
    where: str,
    image_shape: tuple[int, int, int],
    num_classes: int,
    smallest: int,
    width: int,
    average: bool,
    norm: str,
    initialization: str,
) -> Learner:
    check_whole(where, width=width)
    check_norm(where, norm, width=width)
    remedy = "Use larger images, or pass norm='group'." if norm == "instance" else ""
    check_smallest(where, image_shape, smallest, remedy)
    return adapted(ResNet(num_classes, width, average, norm), image_shape, initialization)
