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

__all__ = [
    "DSA",
    "OPERATIONS",
    "WITHOUT_FLIP",
    "Augmentation",
    "dc_evaluation",
    "dsa",
    "operation",
    "with_parameters",
]
