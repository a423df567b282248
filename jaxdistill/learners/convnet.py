"""The ConvNet that most of the dataset distillation literature trains."""

import flax.linen as nn

from jaxdistill.core.checks import check_whole, fail, one_of
from jaxdistill.core.types import Array, Learner
from jaxdistill.layers.modules import ACTIVATIONS, POOLINGS, Conv, Dense, Norm, flatten
from jaxdistill.learners.adapter import adapted, check_norm, first_padding, first_size


class ConvNet(nn.Module):
    """A block of [convolution, norm, activation, pooling] per width, then a classifier."""

    num_classes: int
    widths: tuple[int, ...]
    norm: str
    activation: str
    pooling: str
    padding: int
    kernel: int

    @nn.compact
    def __call__(self, x: Array, return_features: bool = False) -> Array:
        for i, width in enumerate(self.widths, start=1):
            padding = self.padding if i == 1 else self.kernel // 2
            x = Conv(width, self.kernel, padding=padding, name=f"conv{i}")(x)
            x = Norm(self.norm, name=f"norm{i}")(x)
            x = POOLINGS[self.pooling](ACTIVATIONS[self.activation](x))
        x = flatten(x)
        if return_features:
            return x
        return Dense(self.num_classes, name="classifier")(x)


def convnet(
    image_shape: tuple[int, int, int],
    num_classes: int,
    *,
    depth: int = 3,
    width: int = 128,
    widths: tuple[int, ...] = (),
    norm: str = "instance",
    activation: str = "relu",
    pooling: str = "average",
    kernel: int = 3,
    initialization: str = "torch_default",
) -> Learner:
    """`depth` x [convolution, norm, activation, pool 2], then linear (317,706 parameters on MNIST).

    Deviations from the reference code: the first padding is 3 for one-channel 28x28 images only (it
    makes them 32x32), there for every one-channel image; `layer` has a scale and a bias per channel, there
    per pixel and channel.

    Args:
      image_shape: `(H, W, C)`.
      num_classes: number of logits.
      depth: blocks, >= 1; pooling halves the image in each.
      width: channels of every block, >= 1.
      widths: channels of each block in place of `width`, such as (128, 256, 512); empty for equal ones.
      norm: one of `layers.modules.NORMS`.
      activation: a key of `layers.modules.ACTIVATIONS`.
      pooling: a key of `layers.modules.POOLINGS`.
      kernel: side of the convolutions' kernels, odd, pixels.
      initialization: a key of `layers.initializers.INITIALIZATIONS`.

    Returns:
      A `Learner`; its features are the flattened last map, 2048 on MNIST.

    Raises:
      UserError: for an unknown name, a number out of range, another number of widths than blocks, or more
        poolings than the image has room for.

    References:
      Zhao, Mopuri & Bilen 2021, arXiv 2006.05929, section 4.1; Gidaris & Komodakis 2018, arXiv 1804.09458.
    """
    check_whole("convnet", depth=depth, width=width)
    if widths and len(widths) != depth:
        remedy = f"Set depth={len(widths)}."
        raise fail("convnet", f"widths of {depth} blocks, which is the depth", len(widths), remedy)
    channels = tuple(widths) or (width,) * depth
    for each in channels:
        check_whole("convnet", width=each)
        check_norm("convnet", norm, width=each)
    one_of("convnet", activation, ACTIVATIONS)
    one_of("convnet", pooling, POOLINGS)
    check_whole("convnet", kernel=kernel)
    if kernel % 2 == 0:
        raise fail("convnet", "an odd kernel", kernel)
    padding = first_padding(image_shape, mnist=kernel // 2 + 2, otherwise=kernel // 2)
    largest = min(first_size(image_shape, kernel=kernel, padding=padding)).bit_length() - 1
    if pooling != "none" and depth > largest:
        size = "x".join(map(str, image_shape))
        remedy = "Lower depth, or pass pooling='none'."
        raise fail("convnet", f"depth <= {largest} for images of {size}", depth, remedy)
    module = ConvNet(num_classes, channels, norm, activation, pooling, padding, kernel)
    return adapted(module, image_shape, initialization)
