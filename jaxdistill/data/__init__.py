"""Data sets: loading, splits, standardisation, sampling."""

from jaxdistill.data.arrays import load_npz, read_npz
from jaxdistill.data.dataset import (
    DatasetInfo,
    Splits,
    from_arrays,
    labels,
    standardise,
    to_pixels,
)
from jaxdistill.data.registry import DATASETS, MIRRORS, load, splits
from jaxdistill.data.sampling import check_per_class, choose_per_class, sample, sample_per_class, take

__all__ = [
    "DATASETS",
    "MIRRORS",
    "DatasetInfo",
    "Splits",
    "check_per_class",
    "choose_per_class",
    "from_arrays",
    "labels",
    "load",
    "load_npz",
    "read_npz",
    "sample",
    "sample_per_class",
    "splits",
    "standardise",
    "take",
    "to_pixels",
]
