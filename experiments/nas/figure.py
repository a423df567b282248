"""The picture of a search: long training against few steps."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxdistill.runtime.figures import COLOURS, FAINT, row_of_panels, save_titled, style_panel


def rank_scatter(
    path: str | os.PathLike, rows: Sequence[Mapping[str, Any]], ways: Mapping[str, str], *, title: str = ""
) -> None:
    """Draws the accuracy of long training against that of few steps, with a panel per kind of few-step
    training.

    Args:
      path: the PNG.
      rows: one per architecture, with `long_validation` and `WAY_validation` in [0, 1].
      ways: name to what its panel is called.
      title: stands above.
    """
    figure, panels = row_of_panels(len(ways), 3.6 * len(ways) + 0.4, 3.8, share_y=True)
    truth = 100 * np.asarray([row["long_validation"] for row in rows])
    for i, (panel, (way, label)) in enumerate(zip(panels, ways.items(), strict=True)):
        scores = 100 * np.asarray([row[f"{way}_validation"] for row in rows])
        panel.scatter(scores, truth, s=22, color=COLOURS[i], alpha=0.8, lw=0)
        style_panel(panel, label, "validation accuracy after few steps, %")
    panels[0].set_ylabel("after long training, %", fontsize=8.5, color=FAINT)
    save_titled(path, figure, title)
