"""Pictures of a run: the synthetic images, and its curves.

Matplotlib is imported when a picture is made, with its off-screen backend and no global state.
"""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxdistill.core.checks import fail
from jaxdistill.runtime import fonts
from jaxdistill.runtime.atomic import atomic_write

INK, FAINT, RULE = "#1f2328", "#6e7781", "#d8dee4"
COLOURS = ("#0b6bcb", "#d1490c", "#1a7f5a", "#7a4fbf", "#b8860b", "#c2185b")
MARKERS = "osD^v<>"
DPI = 160
MOST_PER_CLASS = 20
"""The maximum number of images of one class in a figure."""
MOST_CLASSES, MOST_ROWS = 200, 50
"""The maximum number of classes in a figure: with one image each, and with a row each."""


def image_grid(
    path: str | os.PathLike,
    pixels: Any,
    labels: Any,
    class_names: Sequence[str],
    *,
    title: str = "",
    scale: float | None = None,
) -> None:
    """Draws labelled images: a row per class in their order, or a block where each class has one image.

    Learned images leave the range of real ones. Grey and colour are shown between the 1st and the 99th
    percentile of all pixels, widened to the range of real pixels where they stay inside it, so that all
    images of a figure share one scale; the caption says which. Of many classes and images it shows some,
    evenly along their order; the caption says how many. A name that no font of the machine can show becomes
    the class's number.

    Args:
      path: the PNG.
      pixels: [N, H, W, C], C of 1 or 3, in raw pixel units.
      labels: [N] integers, or [N, classes] probabilities.
      class_names: a name per class.
      title: stands above.
      scale: the pixel value of white, if known.
    """
    pixels, labels = np.asarray(pixels, np.float32), np.asarray(labels)
    if pixels.ndim != 4 or pixels.shape[-1] not in (1, 3) or len(pixels) == 0:
        raise fail("image_grid", "images [N, H, W, C] with 1 or 3 channels", pixels.shape)
    labels = labels.argmax(axis=-1) if labels.ndim == 2 else labels
    if labels.shape != pixels.shape[:1] or labels.min() < 0 or labels.max() >= len(class_names):
        raise fail("image_grid", f"{len(pixels)} labels in 0..{len(class_names) - 1}", labels[:8].tolist())
    low, high, caption = display_range(pixels, scale)
    shown = np.clip((pixels - low) / (high - low), 0, 1)
    groups = [np.flatnonzero(labels == c) for c in range(len(class_names))]
    groups = [(c, rows) for c, rows in enumerate(groups) if len(rows)]
    most = min(MOST_PER_CLASS, max(len(rows) for _, rows in groups))
    if most < max(len(rows) for _, rows in groups):
        caption += f"; {MOST_PER_CLASS} of each class, evenly along their order"
    kept = _evenly(len(groups), MOST_CLASSES if most == 1 else MOST_ROWS)
    if len(kept) < len(groups):
        caption += f"; {len(kept)} of {len(groups)} classes, evenly along their order"
    groups = [
        (fonts.shown(str(class_names[c]), f"class {c}"), rows[_evenly(len(rows), most)])
        for c, rows in (groups[i] for i in kept)
    ]
    if most == 1:
        _block(path, [(name, shown[rows[0]]) for name, rows in groups], title, caption)
    else:
        _rows(path, [(name, shown[rows]) for name, rows in groups], most, title, caption)


def _evenly(count: int, most: int) -> np.ndarray:
    """A given number of indices below `count`, the first and the last among them."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(int)


def curves(path: str | os.PathLike, rows: Sequence[Mapping[str, Any]], *, title: str = "") -> None:
    """Draws the metrics of a file against the outer step: losses, accuracies, learned step sizes.

    Scalars are grouped by name: `*accuracy*` in per cent, `*loss*` (logarithmic where it spans a decade),
    and learned step sizes `*learning_rate*`, `*step_size*` or `*momentum*`; arrays give one line per
    inner step.

    Args:
      path: the PNG.
      rows: as `read_metrics` gives them.
      title: stands above.
    """
    panels = [("loss", _series(rows, "loss")), ("accuracy, %", _series(rows, "accuracy", factor=100))]
    panels.append(("step size", _series(rows, "learning_rate", "step_size")))
    panels.append(("momentum", _series(rows, "momentum")))
    panels = [(name, series) for name, series in panels if series]
    if not panels:
        raise fail("curves", "rows with a loss or an accuracy", f"{len(rows)} rows without")
    figure, axes = row_of_panels(len(panels), 4.6 * len(panels) + 0.4, 3.6)
    for axis, (name, series) in zip(axes, panels, strict=True):
        _panel(axis, name, series)
    save_titled(path, figure, title)


def lines(
    path: str | os.PathLike,
    rows: Sequence[Mapping[str, Any]],
    *,
    x: str,
    x_label: str,
    panels: Mapping[str, tuple[str, str]],
    base: int = 2,
    title: str = "",
) -> None:
    """Draws accuracies against a number, a line and a band of one deviation per series.

    Args:
      path: the PNG.
      rows: with `series`, the number and the columns of the panels (accuracies in [0, 1]).
      x: the column of the number, drawn logarithmically.
      x_label: what it is.
      panels: what each shows, to its columns of means and of deviations.
      base: of the logarithm.
      title: stands above.
    """
    from matplotlib import ticker

    figure, axes = row_of_panels(len(panels), 6.4 if len(panels) == 1 else 4.6 * len(panels), 4.2)
    for axis, (label, (mean_of, std_of)) in zip(axes, panels.items(), strict=True):
        for i, series in enumerate(dict.fromkeys(row["series"] for row in rows)):
            own = sorted((r[x], r[mean_of], r[std_of]) for r in rows if r["series"] == series)
            at, mean, std = np.asarray(own, float).T * [[1], [100], [100]]
            colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
            axis.plot(at, mean, color=colour, marker=marker, ms=4, lw=1.5, label=series)
            low, high = (np.clip(mean + sign * std, 0, 100) for sign in (-1, 1))
            axis.fill_between(at, low, high, color=colour, alpha=0.15, lw=0)
        axis.set_xscale("log", base=base)
        axis.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
        style_panel(axis, label, x_label)
    _legend(axes[0], loc="best")
    save_titled(path, figure, title)


def display_range(pixels: np.ndarray, scale: float | None) -> tuple[float, float, str]:
    """(black, white, both in words), see `image_grid`."""
    low, high = (float(v) for v in np.percentile(pixels, (1, 99)))
    if scale is not None and low >= -0.02 * scale and high <= 1.02 * scale:
        return 0.0, float(scale), f"black 0, white {scale:g}"
    if high - low < 1e-6:
        return low - 0.5, low + 0.5, "all pixels are equal"
    return low, high, f"black {low:.3g}, white {high:.3g} (1st and 99th percentile of all pixels)"


def _block(path: Any, cells: list[tuple[str, np.ndarray]], title: str, caption: str) -> None:
    """One image per class, in the most even rows of at most ten."""
    columns = (
        len(cells)
        if len(cells) <= 4
        else min(10, math.ceil(len(cells) / max(1, round(len(cells) ** 0.5 / 1.6))))
    )
    lines = math.ceil(len(cells) / columns)
    size, gap, label = _snap(1.15, cells[0][1]), 16 / DPI, 38 / DPI
    width, height = columns * (size + gap) + gap, lines * (size + label + gap)
    figure, left, top = _canvas(max(width, 3.2), height, width, title)
    for i, (name, image) in enumerate(cells):
        row, column = divmod(i, columns)
        x = left + gap + column * (size + gap)
        y = top + row * (size + label + gap)
        _place(figure, image, x, y, size)
        _write(figure, _shorten(name, 16), x + size / 2, y + size + 0.05, 8.5, INK, "center", "top")
    _caption(path, figure, left + gap, caption)


def _rows(path: Any, groups: list[tuple[str, np.ndarray]], most: int, title: str, caption: str) -> None:
    """A row per class, its name on the left."""
    size, gap = _snap(0.72 if most <= 12 else 0.52, groups[0][1][0]), (7 if most <= 12 else 5) / DPI
    longest = max(len(_shorten(name, 16)) for name, _ in groups)
    margin = 0.26 + 0.075 * longest
    width, height = margin + most * (size + gap) + 0.1, len(groups) * (size + gap)
    figure, left, top = _canvas(max(width, 3.2), height, width, title)
    for row, (name, images) in enumerate(groups):
        y = top + row * (size + gap)
        _write(figure, _shorten(name, 16), left + margin - 0.11, y + size / 2, 9, INK, "right", "center")
        for column, image in enumerate(images):
            _place(figure, image, left + margin + column * (size + gap), y, size)
    _caption(path, figure, left + margin, caption)


def _snap(size: float, image: np.ndarray) -> float:
    """The size, in inches, near `size` at which every pixel of the image covers as many of the figure's."""
    longest = max(image.shape[:2])
    return max(1, round(size * DPI / longest)) * longest / DPI


def _figure(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def row_of_panels(
    count: int, width: float, height: float, *, share_y: bool = False
) -> tuple[Any, np.ndarray]:
    """A blank figure with panels beside each other.

    Args:
      count: panels, at least one.
      width, height: of the figure, in inches.
      share_y: whether all panels have the y axis of the first.

    Returns:
      (the figure, its panels [count]).
    """
    figure = _figure(width, height)
    return figure, np.ravel(figure.subplots(1, count, squeeze=False, sharey=share_y))


def legend_beside(figure: Any, panel: Any) -> None:
    """Puts the legend of a panel to the right of all panels."""
    handles, labels = panel.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=7.5, frameon=False, labelcolor=INK)


def _canvas(width: float, height: float, content: float, title: str) -> tuple[Any, float, float]:
    """A figure with room for the title above and the caption below; (figure, left, top), inches."""
    top = 76 / DPI if title else 22 / DPI
    figure = _figure(width, top + height + 0.28)
    left = round((width - content) / 2 * DPI) / DPI
    if title:
        _write(figure, title, 0.12, 0.16, 11, INK, "left", "top", weight="bold")
    return figure, left, top


def _place(figure: Any, image: np.ndarray, x: float, y: float, size: float) -> None:
    """Draws one image, its upper left corner at (x, y) inches from the figure's."""
    width, height = figure.get_size_inches()
    axis = figure.add_axes((x / width, 1 - (y + size) / height, size / width, size / height))
    grey = image.shape[-1] == 1
    axis.imshow(
        image[..., 0] if grey else image,
        cmap="gray" if grey else None,
        vmin=0,
        vmax=1,
        interpolation="nearest",
    )
    axis.set_axis_off()


def _write(
    figure: Any, text: str, x: float, y: float, size: float, colour: str, ha: str, va: str, **style: Any
) -> None:
    width, height = figure.get_size_inches()
    style |= {"fontsize": size, "color": colour, "ha": ha, "va": va, "parse_math": False}
    text = fonts.shown(text)
    figure.text(x / width, 1 - y / height, text, fontfamily=fonts.families(text), **style)


def _legend(axis: Any, **style: Any) -> None:
    """A legend whose labels are text, whatever characters they have."""
    for label in axis.legend(fontsize=7.5, frameon=False, labelcolor=INK, **style).get_texts():
        text = fonts.shown(label.get_text())
        label.set(text=text, fontfamily=fonts.families(text), parse_math=False)


def _caption(path: Any, figure: Any, x: float, caption: str) -> None:
    height = figure.get_size_inches()[1]
    _write(figure, caption, x, height - 0.1, 6.5, FAINT, "left", "bottom")
    _save(path, figure)


def save_titled(path: str | os.PathLike, figure: Any, title: str) -> None:
    """Writes a figure of panels to a PNG, with a title above them unless it is empty."""
    if title:
        title = fonts.shown(title)
        figure.suptitle(
            title,
            fontfamily=fonts.families(title),
            x=0.06 / figure.get_size_inches()[0],
            ha="left",
            fontsize=11,
            fontweight="bold",
            color=INK,
            parse_math=False,
        )
    figure.set_layout_engine("constrained", h_pad=0.1, w_pad=0.08)
    _save(path, figure)


def _save(path: Any, figure: Any) -> None:
    atomic_write(path, lambda file: figure.savefig(file, format="png", metadata={"Software": None}))


def _shorten(name: str, most: int) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def _series(
    rows: Sequence[Mapping[str, Any]], *words: str, factor: float = 1
) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """[(name, steps [n], values [n] or [n, T])] of every metric with one of the words in its name."""
    names = dict.fromkeys(name for row in rows for name in row if any(word in name for word in words))
    series = []
    for name in names:
        pairs = [(row["step"], np.asarray(row[name], float)) for row in rows if name in row]
        shape = pairs[-1][1].shape
        pairs = [(step, value) for step, value in pairs if value.shape == shape and len(shape) <= 1]
        if pairs and np.isfinite(values := np.asarray([value for _, value in pairs])).any():
            series.append((name, np.asarray([step for step, _ in pairs]), values * factor))
    return series


def _panel(axis: Any, name: str, series: list[tuple[str, np.ndarray, np.ndarray]]) -> None:
    for i, (label, steps, values) in enumerate(series):
        label, marker = label.replace("_", " "), "o" if len(steps) <= 40 else ""
        style: dict[str, Any] = {"lw": 1.5, "marker": marker, "ms": 3}
        if values.ndim == 1 or values.shape[1] == 1:
            axis.plot(steps, values.reshape(-1), color=COLOURS[i % len(COLOURS)], label=label, **style)
            continue
        last = values.shape[1] - 1
        for t in range(last + 1):
            shown = f"{label}, inner step {t + 1}" if t in (0, last) else None
            axis.plot(steps, values[:, t], color=_shade(t / last), label=shown, **style)
    finite = np.concatenate([values[np.isfinite(values)] for _, _, values in series])
    if not name.startswith("accuracy") and finite.min() > 0 and finite.max() > 10 * finite.min():
        logarithmic_y(axis, finite)
    style_panel(axis, name, "outer step")
    if len(axis.get_legend_handles_labels()[1]) > 1:
        _legend(axis)


def style_panel(axis: Any, title: str, x_label: str) -> None:
    """Gives a panel its title, the label of its x axis and the look that all panels share."""
    title = fonts.shown(title)
    style = {"fontfamily": fonts.families(title), "parse_math": False}
    axis.set_title(title, loc="left", fontsize=9.5, color=INK, **style)
    axis.set_xlabel(x_label, fontsize=8.5, color=FAINT)
    axis.tick_params(labelsize=8, colors=FAINT, length=0, which="both")
    axis.grid(color=RULE, lw=0.7)
    axis.set_axisbelow(True)
    for side, spine in axis.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(RULE)


def logarithmic_y(axis: Any, values: np.ndarray) -> None:
    """Makes the y axis logarithmic with plain numbers, such as 0.05, 0.1, 0.2 if it spans few decades.

    Args:
      axis: the panel.
      values: what it shows, above 0, of any shape.
    """
    from matplotlib import ticker

    few = values.max() < 300 * values.min()
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5) if few else (1,)))
    axis.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_locator(ticker.NullLocator())


def _shade(fraction: float) -> tuple[float, float, float, float]:
    import matplotlib

    return matplotlib.colormaps["viridis"](0.05 + 0.85 * fraction)
