"""Augmentation of whole batches, which mixes images and with them their labels.

As an operation of one image, it has two halves: `draw(key, shape)` depends on the key and the batch's shape
alone, `apply(parameters, batch)` takes parameters from anywhere.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxdistill.augment.operations import Parameters, within
from jaxdistill.core.keys import stream
from jaxdistill.core.types import Array, Batch


@dataclass(frozen=True)
class Mixing:
    """An augmentation of a batch. Called as `(key, batch) -> batch`: applied with what the key draws."""

    draw: Callable[[Array, tuple[int, ...]], Parameters]
    """(key, (B, H, W, C)) -> parameters."""
    apply: Callable[[Parameters, Batch], Batch]
    """(parameters, Batch [B, ...]) -> Batch [B, ...]."""

    def __call__(self, key: Array, batch: Batch) -> Batch:
        return self.apply(self.draw(key, batch.x.shape), batch)


def cutmix(*, probability: float = 0.5) -> Mixing:
    """Copies a window of another image into every image, and mixes the labels; one window a batch.

    x' = x outside of the window and x[order] inside; y' = (1 - s) y + s y[order], where s is the share of the
    pixels inside. The window has sqrt(u) of the sides of the image, u ~ U(0, 1), in whole pixels rounded
    down, and is centred on any pixel: what reaches outside is cut off, and does not count.

    Parameters: `order` [B] int32, whose window each image gets; `low` and `high` [2] int32, (row, column):
    the window holds the pixels low <= p < high.

    Args:
      probability: of a batch to be mixed at all, in [0, 1]; in one that is not, the window is empty.

    Raises:
      UserError: a probability out of range.

    Example:
      >>> images = Batch(jnp.stack([jnp.zeros((4, 4, 1)), jnp.ones((4, 4, 1))]), jnp.eye(2))
      >>> quarter = {"order": jnp.array([1, 0]), "low": jnp.array([0, 0]), "high": jnp.array([2, 2])}
      >>> cutmix().apply(quarter, images).y[0].tolist()
      [0.75, 0.25]

    References: Yun et al. 2019, "CutMix: Regularization Strategy to Train Strong Classifiers", section 3.
    """
    within("cutmix", "probability", probability, 0.0, 1.0)

    def draw(key: Array, shape: tuple[int, ...]) -> Parameters:
        sides = jnp.asarray(shape[1:3])
        size = (sides * jnp.sqrt(jax.random.uniform(stream(key, "share")))).astype(jnp.int32)
        center = jax.random.randint(stream(key, "center"), (2,), 0, sides)
        mixed = jax.random.uniform(stream(key, "mixed")) < probability
        low = jnp.clip(center - size // 2, 0, sides)
        high = jnp.clip(center - size // 2 + size, 0, sides)
        order = jax.random.permutation(stream(key, "order"), shape[0]).astype(jnp.int32)
        return {"order": order, "low": low, "high": jnp.where(mixed, high, low)}

    def apply(parameters: Parameters, batch: Batch) -> Batch:
        order, low, high = (jnp.asarray(parameters[name]) for name in ("order", "low", "high"))
        height, width = batch.x.shape[1:3]
        rows, columns = (
            (low[i] <= jnp.arange(side)) & (jnp.arange(side) < high[i])
            for i, side in enumerate((height, width))
        )
        window = (rows[:, None] & columns[None, :])[None, :, :, None]
        share = jnp.mean(window.astype(batch.y.dtype))
        return Batch(
            jnp.where(window, batch.x[order], batch.x), (1 - share) * batch.y + share * batch.y[order]
        )

    return Mixing(draw, apply)
