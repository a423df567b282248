"""The picture of a scaling study: time, rate and memory against the number of devices."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxdistill.runtime.figures import COLOURS, FAINT, INK, MARKERS, _axes, _figure, _finish, _logarithmic

PANELS = (
    ("seconds_median", "time of an outer step, ms", 1e3),
    ("images_per_second", "real images per second", 1.0),
    ("program_bytes", "memory of a device, MiB", 2.0**-20),
)


def scaling(path: str | os.PathLike, rows: Sequence[Mapping[str, Any]], *, title: str = "") -> None:
    """Draws time, rate and memory of an outer step against the number of devices, a line per kind of work.

    Dotted lines are the ideal, from the fewest devices: of fixed work half of the time on twice the devices,
    of fixed work per device the same.

    Args:
      path: the PNG.
      rows: with `work`, `devices`, and what `PANELS` names.
      title: stands above.
    """
    kinds = list(dict.fromkeys(row["work"] for row in rows))
    figure = _figure(4.0 * len(PANELS) + 1.0, 3.6)
    axes = np.ravel(figure.subplots(1, len(PANELS), squeeze=False))
    for axis, (name, label, factor) in zip(axes, PANELS, strict=True):
        shown = []
        for i, kind in enumerate(kinds):
            line = sorted((row["devices"], factor * row[name]) for row in rows if row["work"] == kind)
            devices, values = np.asarray(line, float).T
            colour = COLOURS[i % len(COLOURS)]
            axis.plot(devices, values, color=colour, label=f"work {kind}", lw=1.4, marker=MARKERS[i], ms=4)
            ideal = values[0] * _ideal(name, kind, devices / devices[0])
            axis.plot(devices, ideal, color=FAINT, lw=0.9, ls=":")
            shown += [values, ideal]
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        _logarithmic(axis, np.concatenate(shown))
        _axes(axis, label, "devices")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=7.5, frameon=False, labelcolor=INK)
    _finish(path, figure, title)


def _ideal(name: str, kind: str, times: np.ndarray) -> np.ndarray:
    if name == "images_per_second":
        return times
    return np.ones_like(times) if "per device" in kind else 1 / times
