"""Runs of a linear network on digits, and what they may be given in the place of either."""

from pathlib import Path

import numpy as np
import pytest
from helpers import message

import jaxdistill as jd
from jaxdistill.core.checks import UserError

SHORT = {
    "learner": "linear",
    "distill_epochs": 2,
    "num_outer_steps": 4,
    "chunk_length": 2,
    "num_learners": 2,
    "schedule": "constant",
    "real_batch_size": 16,
    "num_eval_learners": 2,
    "num_baseline_learners": 0,
}
QUIET = SHORT | {"progress": False}
OWN = {name: value for name, value in QUIET.items() if name != "learner"}
"""Options beside a network of the user's own."""


def network(side=8, classes=10):
    return jd.learner("linear", image_shape=(side, side, 1), num_classes=classes)


def refused(call, *arguments, **options) -> str:
    """The line of the error; nothing was written."""
    before = sorted(Path().rglob("*"))
    with pytest.raises(UserError) as error:
        call(*arguments, **options)
    assert sorted(Path().rglob("*")) == before
    return message(error)


def three_classes():
    """Sixty images of three classes, as large as digits."""
    generator = np.random.default_rng(0)
    y = np.arange(60) % 3
    x = (generator.normal(size=(60, 8, 8, 1)) + y[:, None, None, None]).astype(np.float32)
    return jd.splits(x, y, x[:12], y[:12])
