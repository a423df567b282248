"""Figures show the data."""

import math
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from helpers import message

from jaxdistill.core.checks import UserError
from jaxdistill.runtime import figures


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
