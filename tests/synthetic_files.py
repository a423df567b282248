"""A `synthetic.npz` as a run writes it, without a run."""

import numpy as np

from jaxdistill.data import DatasetInfo
from jaxdistill.runtime.export import write_synthetic

INFO = DatasetInfo("tiny", (8, 8, 1), 3, ("zebra", "ant/fly", "Ant"), 16.0, (0.25,), (0.5,))
SGD = {"inner_optimizer": "sgd", "weight_decay": 0.0, "shuffle": "none"}


def written(path, **changes):
    """A file as a run writes it: four images of three classes, in three steps of two."""
    info = changes.get("info", INFO)
    generator = np.random.default_rng(0)
    given = {
        "images": generator.normal(size=(4, *info.image_shape)).astype(np.float32),
        "labels": np.array([[0.75, 0.25, 0], [0, 1, 0], [0, 0, 1], [0.2, 0.2, 0.6]], np.float32),
        "order": np.array([[0, 1], [2, 3], [0, 2]], np.int32),
        "hyperparameters": {
            "learning_rate": np.array([0.3, 0.2, 0.1]),
            "momentum": np.array([0.0, 0.5, 0.9]),
        },
        "info": info,
        "method": "dd",
        "learner": {"learner": "linear"},
        "inner": SGD,
        "start": {"params": {"kernel": np.ones((2, 3), np.float32)}},
    }
    write_synthetic(path, **given | changes)
    return path
