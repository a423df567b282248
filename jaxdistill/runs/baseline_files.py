"""Output of a comparison with baselines: a table, a picture of the sets, a file per set."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxdistill.core.types import Batch
from jaxdistill.data import DatasetInfo, to_pixels
from jaxdistill.runs.classes import tested_unevenly
from jaxdistill.runs.run import Run
from jaxdistill.runtime.export import write_synthetic

LISTS = ("every", "validation", "per_class")
"""The fields of a row that are lists; tables in files leave them out."""


def table(result: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """(columns, cells), a line per row of `jaxdistill.runs.baselines.rows_of`, under `rows` of a result."""
    balanced = tested_unevenly(result)
    more = ["balanced"] if balanced else []
    columns = ["trained on", "mean", "std", *more, "K", "trained by", "nearest neighbours"]
    lines = [
        [
            each["set"],
            f"{100 * each['mean']:.1f}",
            f"{100 * each['std']:.1f}",
            *([f"{100 * each['balanced_mean']:.1f}"] if balanced else []),
            str(each["num_learners"]),
            each["trained_by"],
            _neighbors_cell(each),
        ]
        for each in result["rows"]
    ]
    return columns, lines


def draw(path: Path, sets: Mapping[str, Batch], run: Run) -> None:
    """A row of images per set, each of another class."""
    from jaxdistill.runtime import figures  # imports matplotlib

    info = run.data.info
    count = min(info.num_classes, 10)
    first = [jax.tree.map(np.asarray, each) for each in sets.values()]
    chosen = [np.flatnonzero(each.y.argmax(axis=1) == c)[0] for each in first for c in range(count)]
    x = np.stack([each.x[chosen[i * count + c]] for i, each in enumerate(first) for c in range(count)])
    if info.image_shape[-1] in (1, 3):
        rows = np.repeat(np.arange(len(first)), count)
        title = f"{info.name}: what {run.config.learner} is trained on"
        figures.image_grid(path, to_pixels(x, info), rows, list(sets), title=title, scale=info.scale)


def save_sets(folder: Path, sets: Mapping[str, Batch], info: DatasetInfo, reading: Mapping[str, Any]) -> None:
    """Writes the sets that are not learned as files for `experiments.evaluate`.

    Args:
      folder: an existing one.
      sets: name to images and labels.
      info: of the data set that they stand for.
      reading: how it was read, see `jaxdistill.runs.distill.reading_of`.
    """
    for name, batch in sets.items():
        if name == "distilled":
            continue  # the run's own synthetic.npz
        write_synthetic(
            folder / f"{name.replace(' ', '_')}.npz",
            images=batch.x,
            labels=batch.y,
            order=np.arange(len(batch.y))[None],
            hyperparameters={},
            info=info,
            method=name,
            learner={},
            inner={},
            reading=reading,
        )


def _neighbors_cell(row: Mapping[str, Any]) -> str:
    if "neighbors_mean" not in row:
        return "-"
    std = f" ± {100 * row['neighbors_std']:.1f}" if row["neighbors_sets"] > 1 else ""
    return f"{100 * row['neighbors_mean']:.1f}{std} (k {row['neighbors_k']}, p {row['neighbors_p']:g})"
