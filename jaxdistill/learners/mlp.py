"""The multilayer perceptron of the dataset condensation papers."""

import flax.linen as nn

from jaxdistill.core.checks import check_whole, one_of
from jaxdistill.core.types import Array, Learner
from jaxdistill.layers.modules import ACTIVATIONS, Dense, flatten
from jaxdistill.learners.adapter import adapted


class MLP(nn.Module):
    """`depth` hidden layers of `width` units."""

    num_classes: int
    width: int
    depth: int
    activation: str

    @nn.compact
    def __call__(self, x: Array, return_features: bool = False) -> Array:
        x = flatten(x)
        for i in range(self.depth):
            x = Dense(self.width, name=f"dense{i + 1}")(x)
            x = ACTIVATIONS[self.activation](x)
        if return_features:
            return x
        return Dense(self.num_classes, name="classifier")(x)


def mlp(
    image_shape: tuple[int, int, int],
    num_classes: int,
    *,
    width: int = 128,
    depth: int = 2,
    activation: str = "relu",
    initialization: str = "torch_default",
) -> Learner:
    """Pixels - 128 - 128 - classes by default (118,282 parameters on MNIST).

    Args:
      image_shape: `(H, W, C)`.
      num_classes: number of logits.
      width: units of a hidden layer, >= 1.
      depth: hidden layers, >= 1.
      activation: a key of `layers.modules.ACTIVATIONS`.
      initialization: a key of `layers.initializers.INITIALIZATIONS`.

    Returns:
      A `Learner`; its features are the last hidden layer, `[B, width]`.

    Raises:
      UserError: for an unknown name or a number out of range.

    References:
      Zhao, Mopuri & Bilen 2021, arXiv 2006.05929, section 4.1.
    """
    check_whole("mlp", width=width, depth=depth)
    one_of("mlp", activation, ACTIVATIONS)
    return adapted(MLP(num_classes, width, depth, activation), image_shape, initialization)
