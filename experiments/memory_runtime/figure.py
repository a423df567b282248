"""The picture of a comparison: memory and time against the number of inner steps."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxdistill.runtime.figures import (
    COLOURS,
    INK,
    MARKERS,
    legend_beside,
    logarithmic_y,
    row_of_panels,
    save_titled,
    style_panel,
)

PANELS = (
    ("program_bytes", "memory of the program, MiB", 2.0**-20),
    ("seconds_median", "time, ms", 1e3),
)
"""(column, title, factor) of each panel."""


def memory_and_time(path: str | os.PathLike, rows: Sequence[Mapping[str, Any]], *, title: str = "") -> None:
    """Draws memory and time of hypergradients against the number of inner steps, both logarithmic.

    A line per estimator; learners K by line style. A panel without a value is left out.

    Args:
      path: the PNG.
      rows: with `estimator`, `K`, `T`, and any of `program_bytes` and `seconds_median`.
      title: stands above.
    """
    measured = [panel for panel in PANELS if any(row.get(panel[0]) is not None for row in rows)]
    estimators = list(dict.fromkeys(row["estimator"] for row in rows))
    learners = sorted({row["K"] for row in rows})
    count = max(1, len(measured))
    figure, panels = row_of_panels(count, 4.4 * count + 1.9, 3.8)
    for panel, (name, label, factor) in zip(panels, measured, strict=False):
        shown = [row for row in rows if row.get(name) is not None]
        for i, estimator in enumerate(estimators):
            for k, group in enumerate(learners):
                own = [row for row in shown if (row["estimator"], row["K"]) == (estimator, group)]
                line = sorted((row["T"], row[name]) for row in own)
                steps, values = np.asarray(line, float).reshape(-1, 2).T
                text = estimator.replace("_", " ") if len(learners) == 1 else f"{estimator}, K = {group}"
                style: dict[str, Any] = {"ls": ("-", "--", ":", "-.")[k % 4], "lw": 1.4, "ms": 4}
                style |= {"marker": MARKERS[i % len(MARKERS)]}
                colour = COLOURS[i] if i < len(COLOURS) else INK
                panel.plot(steps, values * factor, color=colour, label=text, **style)
        panel.set_xscale("log")
        logarithmic_y(panel, factor * np.asarray([row[name] for row in shown], float))
        style_panel(panel, label, "inner steps T")
    if measured:
        legend_beside(figure, panels[0])
    save_titled(path, figure, title)
