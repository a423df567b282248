"""USPS from the text files of The Elements of Statistical Learning: made up, and real where they are.

Real files are looked for in `$JAXDISTILL_DATA/usps`, by default `../shared/data/usps` beside the checkout.
"""

import gzip
import os
from pathlib import Path

import numpy as np
import pytest
from helpers import message

from jaxdistill import data
from jaxdistill.core.checks import UserError
from jaxdistill.data import to_pixels

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(os.environ.get("JAXDISTILL_DATA") or ROOT.parent / "shared" / "data") / "usps"


def lines(count, seed=0):
    """As the files have them: the label as 6.0000, grey values with up to three decimals."""
    generator = np.random.default_rng(seed)
    grey = np.round(generator.uniform(-1, 1, (count, 256)), 3)
    return "".join(f"{i % 10}.0000 {' '.join(f'{v:g}' for v in row)} \n" for i, row in enumerate(grey)), grey


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "zip.train.gz").write_bytes(gzip.compress(lines(60)[0].encode()))
    (tmp_path / "zip.test").write_text(lines(20, seed=1)[0])
    return tmp_path


def test_text_becomes_images_row_by_row(folder):
    splits = data.load("usps", manual_dir=folder)
    info = splits.info
    assert info.image_shape == (16, 16, 1) and info.num_classes == 10 and info.scale == 1
    assert [len(part.y) for part in splits[:3]] == [50, 10, 20]
    # ten classes of two, sorted by class: image 3 is the second of class 1, line 11 of the file
    found = np.asarray(to_pixels(splits.test.x[3], info)).reshape(256)
    np.testing.assert_allclose(found, (lines(20, seed=1)[1][11] + 1) / 2, atol=1e-6)
    assert data.load("usps", manual_dir=folder, image_size=28).info.image_shape == (28, 28, 1)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "zip.test.gz or zip.test in "),
        ("1.0 0.5 0.5\n", "lines of a label and 256 grey values, got 3 numbers per line"),
        (lines(10)[0].replace("3.0000", "11.000"), "labels 0 to 9, got 11"),
        ("1.0 " + "0.5 " * 255 + "1.5\n", "grey values from -1 to 1, got 1.5"),
        ("1.0 " + "0.5 " * 255 + "nan\n", "grey values from -1 to 1, got nan"),
        ("label\n", "lines of numbers, got a damaged or different file"),
    ],
)
def test_other_files_are_refused(folder, content, says):
    (folder / "zip.test").unlink()
    if content is not None:
        (folder / "zip.test").write_text(content)
    with pytest.raises(UserError) as error:
        data.load("usps", manual_dir=folder)
    assert says in message(error)


def test_a_damaged_archive_and_no_folder_are_refused(folder):
    (folder / "zip.train.gz").write_bytes((folder / "zip.train.gz").read_bytes()[:100])
    with pytest.raises(UserError) as error:
        data.load("usps", manual_dir=folder)
    assert "damaged" in message(error)
    with pytest.raises(UserError) as error:
        data.load("usps")
    assert "manual_dir, a folder with zip.train and zip.test (.gz), got none" in message(error)


# the licence of the files is not known: they are no part of the project
@pytest.mark.skipif(not (FOLDER / "zip.train.gz").is_file(), reason=f"the USPS files are not in {FOLDER}")
def test_the_real_files():
    splits = data.load("usps", manual_dir=FOLDER)
    counts = np.asarray(splits.train.counts + splits.validation.counts)
    assert counts.tolist() == [1194, 1005, 731, 658, 652, 556, 664, 645, 542, 644]  # as zip.info.txt has them
    assert splits.test.counts.tolist() == [359, 264, 198, 166, 200, 160, 170, 147, 166, 177]
    assert abs(float(splits.train.x.mean())) < 1e-3 and abs(float(splits.train.x.std()) - 1) < 1e-3
