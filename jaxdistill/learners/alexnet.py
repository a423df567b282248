"""The small AlexNet of the cross-architecture evaluation."""

import flax.linen as nn
import jax

from jaxdistill.core.checks import check_whole, fail
from jaxdistill.core.types import Array, Learner
from jaxdistill.layers.modules import Conv, Dense, Norm, flatten
from jaxdistill.layers.norms import GROUPS
from jaxdistill.layers.pool import max_pool
from jaxdistill.learners.adapter import adapted, check_norm, check_smallest, first_padding


class AlexNet(nn.Module):
    """Five convolutions, three max-poolings, a classifier."""

    num_classes: int
    width: int
    norm: str
    padding: int

    @nn.compact
    def __call__(self, x: Array, return_features: bool = False) -> Array:
        wider = self.width * 3 // 2
        # channels, kernel size, padding, pooling
        blocks = (
            (self.width, 5, self.padding, True),
            (wider, 5, 2, True),
            (self.width * 2, 3, 1, False),
            (wider, 3, 1, False),
            (wider, 3, 1, True),
        )
        for i, (channels, size, padding, pool) in enumerate(blocks, 1):
            conv = Conv(channels, size, 1, padding, name=f"conv{i}")
            x = jax.nn.relu(Norm(self.norm, name=f"norm{i}")(conv(x)))
            if pool:
                x = max_pool(x)
        x = flatten(x)
        if return_features:
            return x
        return Dense(self.num_classes, name="classifier")(x)


def alexnet(
    image_shape: tuple[int, int, int],
    num_classes: int,
    *,
    width: int = 128,
    norm: str = "none",
    initialization: str = "torch_default",
) -> Learner:
    """conv128 5x5, pool, conv192 5x5, pool, conv256, conv192, conv192 3x3, pool, linear.

    The first padding is 4 for one-channel 28x28 images (it makes them 32x32), 2 otherwise.

    Args:
      image_shape: `(H, W, C)`, sides >= 8.
      num_classes: number of logits.
      width: channels of the first convolution, even; the others keep their ratio to it.
      norm: one of `layers.modules.NORMS`, after each convolution.
      initialization: a key of `layers.initializers.INITIALIZATIONS`.

    Returns:
      A `Learner`; its features are the flattened last map, 3072 on MNIST.

    Raises:
      UserError: for an unknown name, a width out of range, or an image too small.

    References:
      Zhao, Mopuri & Bilen 2021, arXiv 2006.05929, section 4.1; Krizhevsky et al. 2012.
    """
    check_whole("alexnet", width=width)
    if width % 2:
        raise fail("alexnet", "an even width", width)
    check_norm("alexnet", norm, width=width, multiple=2 * GROUPS)
    check_smallest("alexnet", image_shape, 8)
    padding = first_padding(image_shape, mnist=4, otherwise=2)
    return adapted(AlexNet(num_classes, width, norm, padding), image_shape, initialization)
