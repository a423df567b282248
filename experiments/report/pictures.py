"""Pictures of a report: accuracy against its cost, the images of one cell, the images of all cells."""

import base64
import io
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxdistill.core.checks import fail
from jaxdistill.runtime.figures import COLOURS, MARKERS, display_range

MOST_PER_CLASS = 10
WITHOUT_VERSION: Any = {"Software": None}
LIGHT = {"ink": "#1f2328", "faint": "#59636e", "rule": "#d8dee4"}
DARK = {"ink": "#e6edf3", "faint": "#9198a1", "rule": "#3d444d"}
MORE_COLOURS = (*COLOURS, "#5f8a00", "#8c6d5c", "#3aa0a8", "#a05195")


class Point(NamedTuple):
    """A cell of a study in the plane of cost and accuracy."""

    colour: str
    """The gradient; points of one gradient share a colour."""
    marker: str
    """The teacher; points of one teacher share a marker."""
    cost: float
    accuracy: float
    """In [0, 1]."""
    std: float


def trade_off(
    points: Sequence[Point],
    *,
    cost: str,
    accuracy: str = "test accuracy, %",
    title: str = "",
    dark: bool = False,
    format: str = "svg",
) -> bytes:
    """Accuracy (mean and one deviation) against a cost on a logarithmic axis.

    Args:
      points: at least one, their costs positive.
      cost: name of the cost, with its unit.
      accuracy: name of the accuracy.
      title: stands above.
      dark: for a dark page; the picture has no background of its own.
      format: `svg` or `png`.

    Returns:
      The picture.

    Raises:
      UserError: no points, or a cost that is not positive.
    """
    if not points or min(point.cost for point in points) <= 0:
        raise fail("trade_off", "points of positive cost", [point.cost for point in points][:3])
    import matplotlib
    from matplotlib import ticker
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    look = DARK if dark else LIGHT
    colours = {name: MORE_COLOURS[i % len(MORE_COLOURS)] for i, name in enumerate(_names(points, "colour"))}
    markers = {name: MARKERS[i % len(MARKERS)] for i, name in enumerate(_names(points, "marker"))}
    figure = Figure(figsize=(6.4, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for point in points:
        mean, std, colour = 100 * point.accuracy, 100 * point.std, colours[point.colour]
        axis.errorbar(point.cost, mean, yerr=std, color=colour, elinewidth=1, alpha=0.5)
        axis.plot(point.cost, mean, color=colour, marker=markers[point.marker], ms=7, lw=0)
    axis.set_xscale("log")
    costs = [point.cost for point in points]
    few = max(costs) < 100 * min(costs)
    axis.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5) if few else (1,)))
    axis.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_locator(ticker.NullLocator())
    axis.set_xlim(min(costs) / 1.3, max(costs) * 1.3)
    axis.set_xlabel(cost, fontsize=9, color=look["faint"])
    axis.set_ylabel(accuracy, fontsize=9, color=look["faint"])
    axis.tick_params(labelsize=8.5, colors=look["faint"], length=0, which="both")
    axis.grid(color=look["rule"], lw=0.7)
    axis.set_axisbelow(True)
    axis.set_facecolor("none")
    for side, spine in axis.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(look["rule"])
    if title:
        axis.set_title(title, loc="left", fontsize=10, color=look["ink"], parse_math=False)
    handles = [Line2D([], [], color=c, marker="o", lw=0, label=name) for name, c in colours.items()]
    if len(markers) > 1:
        handles += [Line2D([], [], color=look["ink"], marker=m, lw=0, label=n) for n, m in markers.items()]
    columns = min(3, math.ceil(len(handles) / 3))
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=columns,
        fontsize=8.5,
        frameon=False,
        labelcolor=look["ink"],
    )
    out = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "jaxdistill"}):  # equal figures give equal bytes
        background = "none" if format == "svg" else "white"
        metadata = {"Date": None} if format == "svg" else WITHOUT_VERSION
        figure.savefig(out, format=format, facecolor=background, metadata=metadata, dpi=140)
    return out.getvalue()


def _names(points: Sequence[Point], field: str) -> list[str]:
    return list(dict.fromkeys(getattr(point, field) for point in points))


def picture(pixels: np.ndarray, labels: np.ndarray, *, scale: float | None = None) -> bytes:
    """Images side by side, a pixel each, as PNG: a column per class, at most ten of each below one another.

    Args:
      pixels: [N, H, W, C], C of 1 or 3.
      labels: [N] integers.
      scale: the pixel value of white, if known; all images share one range, see `figures.image_grid`.

    Returns:
      The PNG.

    Raises:
      UserError: images of another shape, or none.
    """
    from matplotlib import image

    pixels = np.asarray(pixels, np.float32)
    if pixels.ndim != 4 or pixels.shape[-1] not in (1, 3) or not len(pixels):
        raise fail("picture", "images [N, H, W, C] with 1 or 3 channels", pixels.shape)
    low, high, _ = display_range(pixels, scale)
    shown = np.clip((pixels - low) / (high - low), 0, 1)
    groups = [np.flatnonzero(labels == label)[:MOST_PER_CLASS] for label in np.unique(labels)]
    height, width = pixels.shape[1:3]
    rows = max(len(group) for group in groups)
    canvas = np.ones((rows * (height + 1) - 1, len(groups) * (width + 1) - 1, 3), np.float32)
    for column, group in enumerate(groups):
        for row, index in enumerate(group):
            y, x = row * (height + 1), column * (width + 1)
            canvas[y : y + height, x : x + width] = shown[index]
    out = io.BytesIO()
    image.imsave(out, canvas, format="png", metadata=WITHOUT_VERSION)
    return out.getvalue()


def encoded(pixels: np.ndarray, labels: np.ndarray, scale: float | None) -> str | None:
    """A picture of images as a data URI; None where they are neither grey nor of three colours.

    Args:
      pixels: [N, H, W, C].
      labels: [N, classes], the likeliest class counts.
      scale: as for `picture`.
    """
    if pixels.shape[-1] not in (1, 3):
        return None
    made = picture(pixels, labels.argmax(axis=-1), scale=scale)
    return f"data:image/png;base64,{base64.b64encode(made).decode()}"


def decoded(picture: str) -> bytes:
    """The PNG in a data URI."""
    return base64.b64decode(picture.partition(",")[2])


def side_by_side(pictures: Sequence[tuple[str, bytes]], *, columns: int = 2) -> bytes:
    """Several pictures, each under its name, as one PNG.

    Args:
      pictures: (name, PNG), at least one.
      columns: how many stand beside one another.

    Raises:
      UserError: no pictures.
    """
    if not pictures:
        raise fail("side_by_side", "at least one picture", "none")
    from matplotlib import image
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [(name, image.imread(io.BytesIO(content))) for name, content in pictures]
    columns = min(columns, len(shown))
    rows = math.ceil(len(shown) / columns)
    ratios = [made.shape[0] / made.shape[1] for _, made in shown]
    heights = [4.2 * max(ratios[i * columns : (i + 1) * columns]) + 0.35 for i in range(rows)]
    figure = Figure(figsize=(4.4 * columns, sum(heights)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = np.ravel(figure.subplots(rows, columns, squeeze=False, height_ratios=heights))
    for axis in axes:
        axis.set_axis_off()
    for axis, (name, made) in zip(axes, shown, strict=False):
        axis.imshow(made, interpolation="nearest")
        axis.set_title(name, loc="left", fontsize=9, color=LIGHT["ink"], parse_math=False)
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata=WITHOUT_VERSION, dpi=140)
    return out.getvalue()
