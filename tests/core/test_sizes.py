"""Sizes in bytes, as texts and as numbers."""

import numpy as np
import pytest
from helpers import message

from jaxdistill.core.checks import UserError
from jaxdistill.core.sizes import format_bytes, parse_bytes


@pytest.mark.parametrize(
    ("text", "size"),
    [
        *(("2GB", 2 * 10**9), ("1.5 GiB", 3 * 2**29), ("512m", 512 * 10**6)),
        *(("70000", 70000), ("1e6", 10**6), (70000, 70000), (2e9, 2 * 10**9), (np.int64(5), 5)),
    ],
)
def test_sizes_are_read(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize(
    "text", ["", "GB", "0", "2XB", "1e999", "-1GB", "nan", "1..5GB", "i", 0, -1, float("nan"), True, [1]]
)
def test_sizes_that_are_none(text):
    with pytest.raises(UserError) as error:
        parse_bytes(text)
    assert "2GB" in message(error)


def test_sizes_are_shown():
    assert [format_bytes(n) for n in (999, 1000, 14_230_000, 1_620_000_000)] == [
        "999 B",
        "1 kB",
        "14.2 MB",
        "1.62 GB",
    ]
