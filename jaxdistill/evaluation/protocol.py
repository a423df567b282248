"""What a protocol is, and the step sizes that are tried under it."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from jaxdistill.augment import Mixing
from jaxdistill.core.keys import stream
from jaxdistill.core.types import Array, Augment, Batch, InnerOptimizer

STEP_SIZES: tuple[float, ...] = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
"""Default step sizes of the search for a baseline, on validation data, for training by SGD."""
FACTORS = (1 / 3, 1, 3, 10)
"""Default step sizes of the search for training by Adam, as multiples of the protocol's step size."""


class Changes(NamedTuple):
    """What becomes of a batch before a step. Called as `(key, batch) -> batch`."""

    augment: Augment | None
    mix: Mixing | None

    def __call__(self, key: Array, batch: Batch) -> Batch:
        if self.augment is not None:
            batch = batch._replace(x=self.augment(key, batch.x))
        return batch if self.mix is None else self.mix(stream(key, "mix"), batch)


class Protocol(NamedTuple):
    """One way to train on a set of N images for T steps."""

    name: str
    order: Callable[[Array], Array]
    """key -> [T, B] int32, the images of each step, indices into the N."""
    optimizer: InnerOptimizer
    values: dict[str, Array]
    """The optimiser's hyper-parameters, each [T] or [1]; `learning_rate` among them."""
    weight_decay: float
    restart: int
    """The step at which the optimiser's state starts anew; 0 for never."""
    augment: Augment | None
    """Applied to every batch."""
    loss: str = "cross_entropy"
    """What training lowers: `cross_entropy` or `squared`."""
    labels: str = "probabilities"
    """The kind of labels that it is given; what its loss takes of them says `jaxdistill.core.labels`."""
    temperature: float = 1.0
    """What logits are divided by."""
    peak: int = 0
    """The step whose step size stands for the whole schedule."""
    mix: Mixing | None = None
    """Applied to every batch after that, images and labels."""
    step_sizes: tuple[float, ...] = STEP_SIZES
    """Default step sizes of the search."""

    @property
    def changes(self) -> Changes | None:
        """What becomes of every batch; None for nothing."""
        return None if self.augment is None and self.mix is None else Changes(self.augment, self.mix)

    @property
    def step_size(self) -> np.floating:
        """The step size that a table names."""
        return np.asarray(self.values["learning_rate"])[self.peak]


def multiples(step_size: float) -> tuple[float, ...]:
    """The candidates around a step size, `FACTORS` times it: of a training whose own scale is not SGD's."""
    return tuple(factor * step_size for factor in FACTORS)


def candidates(protocol: Protocol, step_sizes: Sequence[float]) -> Sequence[float]:
    """The step sizes that are searched for a protocol: the chosen ones; its own in place of `STEP_SIZES`."""
    return protocol.step_sizes if tuple(step_sizes) == STEP_SIZES else step_sizes
