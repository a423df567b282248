"""One rule for every path: text or `pathlib.Path`, `~` expanded, no bytes that are no text."""

from pathlib import Path

import jax
import pytest
from helpers import message

from jaxdistill import export, load, load_run
from jaxdistill.config.table import Config
from jaxdistill.core.checks import UserError
from jaxdistill.core.paths import as_path
from jaxdistill.runs.given_images import content
from jaxdistill.runtime.checkpoint import Checkpoints
from jaxdistill.runtime.export import read_synthetic
from jaxdistill.runtime.rundir import open_run

LATIN = "caf\udce9"
"""What Python makes of the bytes `caf\\xe9` on a command line."""
TAKERS = {
    "run_dir": lambda path: Config(run_dir=path),
    "experts": lambda path: Config(experts=path),
    "data_dir": lambda path: load("digits", data_dir=path),
    "manual_dir": lambda path: load("mnist", manual_dir=path),
    "dataset": lambda path: load(path),
    "npz": lambda path: load(f"{path}.npz"),
    "load_run": load_run,
    "evaluate": content,
    "export": lambda path: export(path, "there.npz", to="npz"),
    "read_synthetic": read_synthetic,
    "open_run": lambda path: open_run(path, {}, experiment="distill"),
    "checkpoints": Checkpoints,
}


@pytest.mark.parametrize("taker", TAKERS)
@pytest.mark.parametrize(("name", "said"), [(LATIN, r"'caf\udce9'"), ("a\0b", r"'a\x00b'")])
def test_bytes_that_are_no_text_are_refused_before_anything_is_made(taker, name, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        TAKERS[taker](name)
    assert said.removesuffix("'") in message(error)
    assert not list(tmp_path.iterdir())


def test_home_folders_are_expanded_everywhere(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert as_path("test", Path("~/x")) == tmp_path / "x" == as_path("test", "~/x")
    assert Config(run_dir=Path("~/x")).run_dir == str(tmp_path / "x")
    with open_run(Path("~/run"), {"a": 1}, experiment="distill") as run:
        assert run.path == tmp_path / "run"
    with Checkpoints("~/run/checkpoints") as checkpoints:
        checkpoints.save(1, {"x": jax.numpy.ones(2)})
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "checkpoints",
        "config.json",
        "lock",
    ]
    assert not (tmp_path / "~").exists()


def test_an_error_about_a_name_with_a_line_break_is_one_line(tmp_path):
    with pytest.raises(UserError) as error:
        load_run(tmp_path / "a\nb")
    assert "a b" in message(error)


@pytest.mark.parametrize("value", ["~nobody-has-this-name/x", b"x", 3])
def test_what_is_no_path_is_one_line(value):
    with pytest.raises(UserError) as error:
        as_path("load_run", value)
    assert message(error).startswith("load_run: expected ")
