"""Memory of a program against the number of inner steps, and the memory of the chips."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from experiments.compile_for.chips import CHIPS
from experiments.measure import Row
from jaxdistill.core.sizes import format_bytes
from jaxdistill.runtime.atomic import atomic_write


def draw(path: Path, rows: Sequence[Row]) -> None:
    """A panel per chip, a line per gradient (images, K = 1), a dashed line where the chip's memory ends."""
    shown = [row for row in rows if row["kind"] == "memory" and row["program"].count("/") == 1]
    chips = [chip for chip in CHIPS if any(row["chip"] == chip for row in shown)]
    if not chips:
        return
    figure = Figure(figsize=(4.6 * len(chips) + 2.2, 4.0), layout="constrained")
    panels = figure.subplots(1, len(chips), squeeze=False, sharey=True)[0]
    names = list(dict.fromkeys(row["program"].partition("/")[0] for row in shown))
    colours = matplotlib.colormaps["tab10"].colors  # pyright: ignore[reportAttributeAccessIssue]
    for panel, chip in zip(panels, chips, strict=True):
        for i, name in enumerate(names):
            mine = [r for r in shown if (r["chip"], r["program"].partition("/")[0]) == (chip, name)]
            points = sorted((r["T"], r["all_bytes"] / 1e9) for r in mine if r.get("all_bytes"))
            style = "--" if name.startswith("implicit") else "-"
            panel.plot(
                *zip(*points, strict=True),
                style,
                marker="os^Dv"[i % 5],
                ms=4,
                lw=1.4,
                c=colours[i],
                label=name.replace("_", " "),
            )
        panel.axhline(CHIPS[chip].memory / 1e9, color="0.4", lw=1, ls=":")
        panel.text(
            1,
            CHIPS[chip].memory / 1e9,
            f"{format_bytes(CHIPS[chip].memory)} of a chip",
            va="bottom",
            fontsize=8,
            color="0.4",
        )
        panel.set(xscale="log", yscale="log", xlabel="inner steps T", title=CHIPS[chip].title)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("memory of an outer step, GB")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=8, frameon=False)
    atomic_write(path, lambda file: figure.savefig(file, format="png", dpi=150))
