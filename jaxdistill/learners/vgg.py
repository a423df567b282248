"""VGG11 of the cross-architecture evaluation."""

import flax.linen as nn
import jax

from jaxdistill.core.checks import check_whole
from jaxdistill.core.types import Array, Learner
from jaxdistill.layers.modules import Conv, Dense, Norm, flatten
from jaxdistill.layers.pool import max_pool
from jaxdistill.learners.adapter import (
    MNIST_SHAPE,
    adapted,
    check_norm,
    check_smallest,
    first_padding,
)

STAGES = ((1,), (2,), (4, 4), (8, 8), (8, 8))
"""Channels of the convolutions of each stage, in units of the width; a max-pooling ends a stage."""


class VGG(nn.Module):
    """Stages of [convolution, norm, ReLU], each ended by a max-pooling, then a classifier."""

    num_classes: int
    width: int
    norm: str
    padding: int

    @nn.compact
    def __call__(self, x: Array, return_features: bool = False) -> Array:
        i = 0
        for stage in STAGES:
            for multiple in stage:
                i += 1
                padding = self.padding if i == 1 else 1
                channels = self.width * multiple
                conv = Conv(channels, padding=padding, name=f"conv{i}")
                x = jax.nn.relu(Norm(self.norm, name=f"norm{i}")(conv(x)))
            x = max_pool(x)
        x = flatten(x)
        if return_features:
            return x
        return Dense(self.num_classes, name="classifier")(x)


def vgg11(
    image_shape: tuple[int, int, int],
    num_classes: int,
    *,
    width: int = 64,
    norm: str = "instance",
    initialization: str = "torch_default",
) -> Learner:
    """64 M 128 M 256 256 M 512 512 M 512 512 M, all 3x3, then one linear layer.

    The first padding is 3 for one-channel 28x28 images (it makes them 32x32), 1 otherwise.

    Args:
      image_shape: `(H, W, C)`, sides >= 32, or exactly `(28, 28, 1)`.
      num_classes: number of logits.
      width: channels of the first convolution, >= 1; the others keep their ratio to it.
      norm: one of `layers.modules.NORMS`, after each convolution.
      initialization: a key of `layers.initializers.INITIALIZATIONS`.

    Returns:
      A `Learner`; its features are the flattened last map, 512 on MNIST.

    Raises:
      UserError: for an unknown name, a width out of range, or an image too small.

    References:
      Zhao, Mopuri & Bilen 2021, arXiv 2006.05929, section 4.1; Simonyan & Zisserman 2015, arXiv
      1409.1556, table 1, configuration A.
    """
    check_whole("vgg11", width=width)
    check_norm("vgg11", norm, width=width)
    if image_shape != MNIST_SHAPE:
        remedy = "One-channel images may also be 28x28."
        check_smallest("vgg11", image_shape, 32, remedy)
    padding = first_padding(image_shape, mnist=3, otherwise=1)
    return adapted(VGG(num_classes, width, norm, padding), image_shape, initialization)
