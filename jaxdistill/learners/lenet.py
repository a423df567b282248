"""LeNet-5 as the dataset distillation papers use it."""

import flax.linen as nn

from jaxdistill.core.checks import one_of
from jaxdistill.core.platform import choices
from jaxdistill.core.types import Array, Learner
from jaxdistill.layers.modules import ACTIVATIONS, Conv, Dense, change_layout, flatten
from jaxdistill.layers.pool import max_pool
from jaxdistill.learners.adapter import adapted, check_smallest, first_padding


class LeNet(nn.Module):
    """Two convolutions with max-pooling, three dense layers."""

    num_classes: int
    activation: str
    padding: int

    @nn.compact
    def __call__(self, x: Array, return_features: bool = False) -> Array:
        activate = ACTIVATIONS[self.activation]
        layout = choices().few_channel_layout
        x = change_layout(x, layout)
        x = max_pool(activate(Conv(6, 5, padding=self.padding, layout=layout, name="conv1")(x)))
        x = max_pool(activate(Conv(16, 5, padding=0, layout=layout, name="conv2")(x)))
        x = flatten(change_layout(x, layout))
        x = activate(Dense(120, name="dense1")(x))
        x = activate(Dense(84, name="dense2")(x))
        if return_features:
            return x
        return Dense(self.num_classes, name="classifier")(x)


def lenet(
    image_shape: tuple[int, int, int],
    num_classes: int,
    *,
    activation: str = "relu",
    initialization: str = "torch_default",
) -> Learner:
    """conv6 5x5, max-pool, conv16 5x5, max-pool, 120 - 84 - classes (61,706 parameters on MNIST).

    The first convolution has padding 2 for one-channel 28x28 images, none otherwise. Dataset
    Distillation trains it with `initialization="xavier"`.

    Args:
      image_shape: `(H, W, C)`, sides >= 16.
      num_classes: number of logits.
      activation: a key of `layers.modules.ACTIVATIONS`.
      initialization: a key of `layers.initializers.INITIALIZATIONS`.

    Returns:
      A `Learner`; its features are the last hidden layer, `[B, 84]`.

    Raises:
      UserError: for an unknown name, or an image too small.

    References:
      LeCun et al. 1998; Wang et al. 2018, arXiv 1811.10959, section 4.
    """
    one_of("lenet", activation, ACTIVATIONS)
    check_smallest("lenet", image_shape, 16)
    padding = first_padding(image_shape, mnist=2, otherwise=0)
    return adapted(LeNet(num_classes, activation, padding), image_shape, initialization)
