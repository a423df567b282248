"""The weight-normalised CNN that Generative Teaching Networks train."""

import functools

import flax.linen as nn
import jax

from jaxdistill.core.checks import check_whole
from jaxdistill.core.types import Array, Learner
from jaxdistill.layers.modules import Conv, Dense, Norm, flatten
from jaxdistill.layers.pool import overlapping_max_pool
from jaxdistill.learners.adapter import adapted, check_norm, check_smallest

_leaky_relu = functools.partial(jax.nn.leaky_relu, negative_slope=0.1)


class GTNLearner(nn.Module):
    """Two blocks of [convolution, max-pool 3/2, norm, LReLU], a hidden layer, a classifier."""

    num_classes: int
    width: int
    second_width: int
    hidden: int
    norm: str

    @nn.compact
    def __call__(self, x: Array, return_features: bool = False) -> Array:
        bias = self.norm == "none"  # the norm's own is in the same place
        for i, width in enumerate((self.width, self.second_width), start=1):
            x = Conv(width, use_bias=bias, weight_norm=True, name=f"conv{i}")(x)
            x = _leaky_relu(Norm(self.norm, name=f"norm{i}")(overlapping_max_pool(x)))
        x = Dense(self.hidden, use_bias=bias, weight_norm=True, name="dense1")(flatten(x))
        x = Norm(self.norm, name="norm3")(x[:, None, None, :])[:, 0, 0, :]
        x = _leaky_relu(x)
        return x if return_features else Dense(self.num_classes, weight_norm=True, name="classifier")(x)


def gtn(
    image_shape: tuple[int, int, int],
    num_classes: int,
    *,
    width: int = 64,
    second_width: int | None = None,
    hidden: int | None = None,
    norm: str = "mean_only",
    initialization: str = "he",
) -> Learner:
    """Convolution 3x3, max-pool 3/2, mean-only batch norm, LReLU .1, twice; linear, the same; linear.

    All weights are normalised (1,683,412 parameters on MNIST). While it trains, its norms subtract the means
    of its own batch; for real and test data those of its last inner batch, see `Learner.calibrate`. The
    authors' code takes a running mean over the last inner batches there.

    Args:
      image_shape: `(H, W, C)`, sides of at least 4 pixels.
      num_classes: number of logits.
      width: channels of the first convolution, >= 1.
      second_width: of the second; 2 * width when None.
      hidden: units of the hidden layer; 4 * width when None.
      norm: `mean_only`, or another of `layers.modules.NORMS`.
      initialization: a key of `layers.initializers.INITIALIZATIONS`.

    Returns:
      A `Learner`; its features are the hidden units.

    Raises:
      UserError: for an unknown name, a number out of range, or an image too small.

    References: Such et al. 2019, appendix A; Salimans & Kingma 2016, section 2.3 (mean-only batch norm).
    """
    second_width = 2 * width if second_width is None else second_width
    hidden = 4 * width if hidden is None else hidden
    check_whole("gtn", width=width, second_width=second_width, hidden=hidden)
    for channels in (width, second_width, hidden):
        check_norm("gtn", norm, width=channels)
    check_smallest("gtn", image_shape, 4)
    return adapted(GTNLearner(num_classes, width, second_width, hidden, norm), image_shape, initialization)
