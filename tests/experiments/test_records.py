"""`experiments.records`: a row is made once, and a damaged one is named."""

import pytest

from experiments.records import Damaged, kept, note_of
from jaxdistill.runtime.rundir import open_run


def test_a_row_is_made_once_and_a_damaged_one_is_named(tmp_path):
    with open_run(tmp_path / "run", {}, experiment="test") as directory:
        file = directory.path / "rows/a.json"
        assert kept(directory, file, lambda: {"mean": 0.5}) == {"mean": 0.5}
        assert kept(directory, file, lambda: {"mean": 0.7}) == {"mean": 0.5}
        for damaged in (b"{", b"\xff"):
            file.write_bytes(damaged)
            with pytest.raises(Damaged, match=r"saved results: expected a readable .*a\.json") as error:
                kept(directory, file, dict)
            assert "Delete it" in str(error.value)


def test_the_note_of_an_error_is_a_line_that_says_something():
    assert note_of(ValueError("no\n  room")) == "no room" and note_of(MemoryError()) == "MemoryError"
