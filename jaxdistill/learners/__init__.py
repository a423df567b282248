"""Learners: the networks that are trained on synthetic data, by name.

A new architecture is one new file with a factory `(image_shape, num_classes, *, options) -> Learner`
and one line in `LEARNERS`.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from jaxdistill.core.checks import fail, lookup
from jaxdistill.core.types import Learner
from jaxdistill.learners.adapter import check_whole, from_flax, num_params
from jaxdistill.learners.alexnet import alexnet
from jaxdistill.learners.convnet import convnet
from jaxdistill.learners.gtn import gtn
from jaxdistill.learners.lenet import lenet
from jaxdistill.learners.linear import linear
from jaxdistill.learners.mlp import mlp
from jaxdistill.learners.resnet import resnet18, resnet18_ap
from jaxdistill.learners.vgg import vgg11

__all__ = ["LEARNERS", "from_flax", "learner", "num_params", "options_of"]

LEARNERS: dict[str, Callable[..., Learner]] = {
    "alexnet": alexnet,
    "convnet": convnet,
    "gtn": gtn,
    "lenet": lenet,
    "linear": linear,
    "mlp": mlp,
    "resnet18": resnet18,
    "resnet18_ap": resnet18_ap,
    "vgg11": vgg11,
}


def learner(name: str, *, image_shape: Sequence[int], num_classes: int, **options: Any) -> Learner:
    """The learner of that name, for images of one shape.

    Args:
      name: a key of `LEARNERS`.
      image_shape: `(H, W, C)` of the images, pixels and channels, each >= 1.
      num_classes: number of logits, >= 1.
      **options: what the learner's own factory takes beyond these, see `options_of(name)`.

    Returns:
      A `Learner`; its parameters are pytrees of float32 arrays.

    Raises:
      UserError: for an unknown name or option, an option out of range, an image too small for the network.

    Example:
      >>> net = learner("convnet", image_shape=(28, 28, 1), num_classes=10, depth=3, width=128)
      >>> params = net.init(jax.random.key(0))
      >>> net.apply(params, jnp.zeros((5, 28, 28, 1))).shape
      (5, 10)
    """
    factory = lookup("learner", name, LEARNERS)
    known = options_of(name)
    for option in options:
        if option not in known:
            raise fail(f"learner {name}", f"options among {', '.join(known)}", repr(option))
    if len(image_shape) != 3:
        raise fail("learner", "image_shape (height, width, channels)", tuple(image_shape))
    height, width, channels = image_shape
    check_whole("learner", height=height, width=width, channels=channels, num_classes=num_classes)
    return factory((int(height), int(width), int(channels)), int(num_classes), **options)


def options_of(name: str) -> dict[str, Any]:
    """The options of a learner with their defaults, such as `{"width": 128, ...}`."""
    parameters = inspect.signature(lookup("learner", name, LEARNERS)).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
