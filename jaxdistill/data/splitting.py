"""Splits a set into disjoint parts that have every class."""

import numpy as np


def stratified_split(y: np.ndarray, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two disjoint sets of indices with the same class proportions, the second of `size` elements.

    Shares are rounded by largest remainder, so the sizes are exact and every class is within one image of its
    share; but both sets have an image of every class that has two, which changes the size where it has to.

    Args:
      y: [N] integer labels in range(classes).
      size: how many indices the second part has.
      seed: of the split; the same seed gives the same split.

    Returns:
      (kept, taken): [N - size] and [size], each sorted.
    """
    counts = np.bincount(y)
    take = _within(_shares(counts, size), counts, size)
    generator = np.random.default_rng(seed)
    parts = [generator.permutation(np.flatnonzero(y == c))[:n] for c, n in enumerate(take)]
    taken = np.sort(np.concatenate(parts))
    return np.setdiff1d(np.arange(len(y)), taken, assume_unique=True), taken


def _shares(counts: np.ndarray, size: int) -> np.ndarray:
    """How many images of each class are taken, by largest remainder."""
    share = counts * size / counts.sum()
    take = np.floor(share).astype(int)
    order = np.argsort(take - share, kind="stable")
    take[order[: size - take.sum()]] += 1
    return take


def _within(take: np.ndarray, counts: np.ndarray, size: int) -> np.ndarray:
    """The same, at least one image and all but one of every class that has two."""
    low, high = np.minimum(1, counts // 2), np.maximum(counts - 1, 0)
    found = np.clip(take, low, high)
    for _ in range(int(abs(found.sum() - size))):
        if found.sum() > size and (found > low).any():
            found[np.argmax(np.where(found > low, found, -1))] -= 1
        elif found.sum() < size and (found < high).any():
            found[np.argmax(np.where(found < high, high - found, -1))] += 1
    return found
