"""The architectures that a search is over: which fit the images, and which are drawn."""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxdistill.core.checks import UserError, fail
from jaxdistill.core.types import Learner
from jaxdistill.data import DatasetInfo
from jaxdistill.learners import learner

SPACE: dict[str, tuple[Any, ...]] = {
    "depth": (1, 2, 3),
    "width": (2, 4, 8, 16, 32),
    "norm": ("none", "instance", "batch"),
    "activation": ("relu", "tanh"),
    "kernel": (3, 5),
    "pooling": ("average", "max"),
}
"""The options of a candidate; depths that the image has no room for are left out."""


def space(info: DatasetInfo) -> list[dict[str, Any]]:
    """Every architecture that fits the images."""
    fitting = []
    for values in itertools.product(*SPACE.values()):
        network = dict(zip(SPACE, values, strict=True))
        try:
            made(info, network)
        except UserError:
            continue
        fitting.append(network)
    return fitting


def made(info: DatasetInfo, network: Mapping[str, Any]) -> Learner:
    """The ConvNet of those options, for images of that kind."""
    return learner("convnet", image_shape=info.image_shape, num_classes=info.num_classes, **network)


def drawn(info: DatasetInfo, count: int, seed: int) -> list[dict[str, Any]]:
    """`count` different architectures of the space."""
    every = space(info)
    if count > len(every):
        raise fail("nas", f"num_candidates <= {len(every)}, the architectures that fit", count)
    order = np.random.default_rng(seed).permutation(len(every))[:count]
    return [every[i] for i in order]


def name_of(network: Mapping[str, Any]) -> str:
    """Such as `depth3-width16-instance-relu-kernel3-average`."""
    return "depth{depth}-width{width}-{norm}-{activation}-kernel{kernel}-{pooling}".format(**network)
