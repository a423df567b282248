"""The embedded set: 1,797 handwritten digits of 8x8 pixels, bundled with scikit-learn. No files, no network.

References:
  Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998.
"""

from functools import cache

import numpy as np

from jaxdistill.data.dataset import Raw


def split(y: np.ndarray, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's stratified `train_test_split`, so that users can repeat the split of `digits` exactly.

    Args:
      y: [N] integer labels.
      size: how many indices the second part has.
      seed: of the split.

    Returns:
      (kept, taken): indices, [N - size] and [size].
    """
    from sklearn.model_selection import train_test_split

    kept, taken = train_test_split(np.arange(len(y)), test_size=size, stratify=y, random_state=seed)
    return np.asarray(kept), np.asarray(taken)


@cache
def _images_and_labels() -> tuple[np.ndarray, np.ndarray]:
    """Read once: parsing its text takes three quarters of the time of a load."""
    from sklearn import datasets  # takes a second to import: only those who use it pay

    x, y = datasets.load_digits(return_X_y=True)
    found = np.asarray(x, np.uint8).reshape(-1, 8, 8, 1), np.asarray(y, np.int64)
    for array in found:
        array.flags.writeable = False
    return found


def load_digits(source: object = None) -> Raw:
    """All 1,797 images, 8x8x1 uint8 from 0 to 16; the set has no test part of its own, and needs no files."""
    x, y = _images_and_labels()
    return Raw(
        name="digits",
        x=x,
        y=y,
        class_names=tuple(map(str, range(10))),
        scale=16.0,
        split=split,
    )
