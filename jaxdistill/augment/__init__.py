"""Differentiable augmentation."""

from jaxdistill.augment.augmentations import (
    DSA,
    OPERATIONS,
    WITHOUT_FLIP,
    Augmentation,
    dc_evaluation,
    dsa,
    operation,
    with_parameters,
)
from jaxdistill.augment.mixing import Mixing, cutmix

__all__ = [
    "DSA",
    "OPERATIONS",
    "WITHOUT_FLIP",
    "Augmentation",
    "Mixing",
    "cutmix",
    "dc_evaluation",
    "dsa",
    "operation",
    "with_parameters",
]
