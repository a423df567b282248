"""Figures show the data."""

import math
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from helpers import message
from matplotlib.font_manager import fontManager

from jaxdistill.core.checks import UserError
from jaxdistill.runtime import figures, fonts


@pytest.mark.parametrize(("count", "channels"), [(1, 1), (1, 3), (3, 3)])
def test_image_grid_shows_the_pixels(tmp_path, count, channels):
    pixels = np.zeros((2 * count, 8, 8, channels), np.float32)
    pixels[0, :, :, 0] = 16
    labels = np.repeat([0, 1], count)
    figures.image_grid(tmp_path / "a.png", pixels, labels, ["a $x", "b"], title="t", scale=16)
    image = matplotlib.image.imread(tmp_path / "a.png")[..., :3]
    black, red = (
        int((np.abs(image - np.asarray(colour)).max(axis=-1) < 0.01).sum())
        for colour in ([0, 0, 0], [1, 0, 0])
    )
    assert black > 5000 * (2 * count - 1)
    if channels == 3:  # every image is as large as every other
        assert red * (2 * count - 1) == pytest.approx(black, rel=0.02)


def test_image_grid_says_its_scale_and_checks():
    learned = np.linspace(-10, 30, 640).reshape(10, 8, 8, 1)
    low, high, caption = figures.display_range(learned, 16)
    assert low == pytest.approx(-9.6, abs=0.1) and high == pytest.approx(29.6, abs=0.1)
    assert "percentile" in caption
    assert figures.display_range(np.full((1, 2, 2, 1), 40.0), None)[1] > 40
    for pixels, labels in [(np.zeros((2, 8, 8, 2)), [0, 1]), (np.zeros((2, 8, 8, 1)), [0, 2])]:
        with pytest.raises(UserError) as error:
            figures.image_grid("never.png", pixels, labels, ["a", "b"])
        assert "image_grid" in message(error)
    assert not Path("never.png").exists()


def test_curves(tmp_path):
    rows = [
        {
            "step": t,
            "loss": 10.0**-t,
            "validation_accuracy": t / 4,
            "learning_rate": [0.1, 0.2 * t],
            "momentum": 0.5,
        }
        for t in range(4)
    ]
    rows += [{"step": 4, "loss": math.nan}]
    figures.curves(tmp_path / "a.png", rows, title="t")
    height, width = matplotlib.image.imread(tmp_path / "a.png").shape[:2]
    assert width > 4 * height * 0.9
    with pytest.raises(UserError) as error:
        figures.curves(tmp_path / "b.png", [{"step": 1}])
    assert "rows with a loss" in message(error) and not (tmp_path / "b.png").exists()


@pytest.mark.filterwarnings("error")
def test_names_in_other_scripts_are_shown_or_become_numbers(tmp_path, monkeypatch):
    stix = next(font.fname for font in fontManager.ttflist if font.name == "STIXGeneral")
    only = chr(min(fonts._characters(stix) - fonts._characters(dict(fonts._fonts())[fonts.FIRST])))
    two = [fonts._fonts()[0], ("STIXGeneral", stix)]
    monkeypatch.setattr(fonts, "_fonts", lambda: two)
    fonts._font_of.cache_clear()
    try:
        assert fonts.families(f"cat {only}") == [fonts.FIRST, "STIXGeneral"]
        assert fonts.shown(f"a{only}\uffff") == f"a{only}?" and fonts.shown("\uffffa", "class 1") == "class 1"
        names = [f"cat {only}", "\uffff\U0010fffd"]
        figures.image_grid(tmp_path / "a.png", np.zeros((2, 4, 4, 1)), [0, 1], names, title="\U0010fffd")
        figures.curves(tmp_path / "b.png", [{"step": 1, "loss": 1.0}], title="\U0010fffd")
    finally:
        fonts._font_of.cache_clear()


@pytest.mark.filterwarnings("error")
def test_names_are_no_formulas(tmp_path):
    """A folder or class may be called so: Matplotlib reads what is between dollars as TeX."""
    odd = "$\\nope{$\t"
    series = [{"series": name, "steps": i + 1, "m": 0.1, "s": 0.1} for i, name in enumerate((odd, "b"))]
    figures.lines(
        tmp_path / "a.png", series, x="steps", x_label="steps", panels={f"{odd}, %": ("m", "s")}, title=odd
    )
    figures.image_grid(tmp_path / "b.png", np.zeros((1, 4, 4, 1)), [0], [odd], title=odd)
    assert (tmp_path / "a.png").exists() and (tmp_path / "b.png").exists()


@pytest.mark.parametrize("per_class", [1, 2])
def test_many_classes_are_a_stated_sample(tmp_path, monkeypatch, per_class):
    written = []
    monkeypatch.setattr(figures, "_caption", lambda path, figure, x, text: written.append((figure, text)))
    labels = np.repeat(np.arange(600), per_class)
    pixels = np.broadcast_to(labels[:, None, None, None] / 600, (len(labels), 2, 2, 1))
    monkeypatch.setattr(figures, "MOST_CLASSES", 20)
    monkeypatch.setattr(figures, "MOST_ROWS", 8)
    figures.image_grid(tmp_path / "a.png", pixels, labels, [f"c{i}" for i in range(600)])
    ((figure, caption),) = written
    kept = 20 if per_class == 1 else 8
    assert caption.endswith(f"; {kept} of 600 classes, evenly along their order")
    assert len(figure.axes) == kept * per_class
    shown = [text.get_text() for text in figure.texts]
    assert shown[0] == "c0" and shown[-1] == "c599"
    assert figure.get_size_inches()[1] * figures.DPI < 3000
