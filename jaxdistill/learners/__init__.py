"""Learners: the networks that are trained on synthetic data, by name.

A new architecture is one new file with a factory `(image_shape, num_classes, *, options) -> Learner`, and one
line in `LEARNERS`.
"""

from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import jax

from jaxdistill.core import registry
from jaxdistill.core.checks import check_whole, fail
from jaxdistill.core.registry import Registry
from jaxdistill.core.types import Learner, Params

if TYPE_CHECKING:
    from jaxdistill.learners.adapter import from_flax

__all__ = ["LEARNERS", "from_flax", "learner", "num_params", "options_of"]

LEARNERS: Registry[Callable[..., Learner]] = Registry(
    "learner",
    {
        "alexnet": "jaxdistill.learners.alexnet:alexnet",
        "convnet": "jaxdistill.learners.convnet:convnet",
        "gtn": "jaxdistill.learners.gtn:gtn",
        "lenet": "jaxdistill.learners.lenet:lenet",
        "linear": "jaxdistill.learners.linear:linear",
        "mlp": "jaxdistill.learners.mlp:mlp",
        "resnet18": "jaxdistill.learners.resnet:resnet18",
        "resnet18_ap": "jaxdistill.learners.resnet:resnet18_ap",
        "vgg11": "jaxdistill.learners.vgg:vgg11",
    },
)


def learner(name: str, *, image_shape: Sequence[int], num_classes: int, **options: Any) -> Learner:
    """The learner of that name, for images of one shape.

    Args:
      name: a key of `LEARNERS`.
      image_shape: `(H, W, C)` of the images, pixels and channels, each >= 1.
      num_classes: number of logits, >= 1.
      **options: what the learner's own factory takes beyond these, see `options_of(name)`.

    Returns:
      A `Learner`; its parameters are pytrees of float32 arrays. The same arguments give the same object,
      so that what was compiled for it is reused.

    Raises:
      UserError: for an unknown name or option, an option out of range, an image too small for the network.

    Example:
      >>> net = learner("convnet", image_shape=(8, 8, 1), num_classes=10, depth=2, width=16)
      >>> params = net.init(jax.random.key(0))
      >>> jax.jit(net.apply)(params, jnp.zeros((5, 8, 8, 1))).shape
      (5, 10)
    """
    if len(image_shape) != 3:
        raise fail("learner", "image_shape (height, width, channels)", tuple(image_shape))
    height, width, channels = image_shape
    check_whole("learner", height=height, width=width, channels=channels, num_classes=num_classes)
    shape = int(height), int(width), int(channels)
    factory = registry.find(LEARNERS, name)
    hashed = all(isinstance(value, Hashable) for value in options.values())
    make = _made if hashed else _made.__wrapped__
    return make(factory, name, shape, int(num_classes), **options)


@lru_cache(maxsize=64, typed=True)
def _made(
    factory: Callable[..., Learner],
    name: str,
    shape: tuple[int, int, int],
    num_classes: int,
    /,
    **options: Any,
) -> Learner:
    """One object per factory, which a name may be given anew, and arguments."""
    del factory
    return registry.make(LEARNERS, name, shape, num_classes, **options)


def options_of(name: str) -> dict[str, Any]:
    """The options of a learner with their defaults, such as `{"width": 128, ...}`."""
    return registry.options_of(registry.find(LEARNERS, name))


def num_params(params: Params) -> int:
    """How many numbers a pytree of arrays (or of their shapes) holds."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def __getattr__(name: str) -> Any:
    """What takes Flax is imported when it is asked for."""
    if name == "from_flax":
        from jaxdistill.learners.adapter import from_flax

        return from_flax
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
