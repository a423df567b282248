"""The folders of scripts without a config.json: their own, empty or new, and never made too early."""

import pytest
from helpers import message

from experiments.tables import OWN, writable
from jaxdistill.core.checks import UserError


@pytest.mark.parametrize("where", OWN)
def test_a_script_writes_into_its_own_folder_alone(where, tmp_path):
    assert writable(where, tmp_path / "new/run") == tmp_path / "new/run"
    assert not any(tmp_path.iterdir())
    (tmp_path / "images").mkdir()  # of a data set
    (tmp_path / "images/cat.png").write_bytes(b"")
    with pytest.raises(UserError) as error:
        writable(where, tmp_path)
    assert (
        f"{where}: expected a run_dir that is new, empty or its own, got {tmp_path} with images"
        in message(error)
    )
    assert writable(where, tmp_path, own=False) == tmp_path  # what is written about lies there
    for pattern in OWN[where]:
        file = tmp_path / pattern.replace("*", "1")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("")
        assert writable(where, tmp_path) == tmp_path
        file.unlink()


def test_a_name_that_no_folder_can_have_is_one_line(tmp_path):
    with pytest.raises(UserError) as error:
        writable("evaluate", tmp_path / ("a" * 300) / "run")
    assert "a run_dir to write to" in message(error)
