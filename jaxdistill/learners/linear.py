"""Softmax regression on pixels."""

import flax.linen as nn

from jaxdistill.core.types import Array, Learner
from jaxdistill.layers.modules import Dense, flatten
from jaxdistill.learners.adapter import adapted


class Linear(nn.Module):
    """One dense layer."""

    num_classes: int

    @nn.compact
    def __call__(self, x: Array, return_features: bool = False) -> Array:
        x = flatten(x)
        if return_features:
            return x
        return Dense(self.num_classes, name="classifier")(x)


def linear(
    image_shape: tuple[int, int, int], num_classes: int, *, initialization: str = "torch_default"
) -> Learner:
    """Multinomial logistic regression: `logits = W x + b`; its features are the pixels themselves.

    Args:
      image_shape: `(H, W, C)`.
      num_classes: number of logits.
      initialization: a key of `layers.initializers.INITIALIZATIONS`.

    Returns:
      A `Learner`.

    Raises:
      UserError: for an unknown initialisation.
    """
    return adapted(Linear(num_classes), image_shape, initialization)
