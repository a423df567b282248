"""Stopped in whatever way, a run is resumed and ends with the bits of the uninterrupted one."""

import signal
import subprocess
from pathlib import Path

import pytest
from helpers import message
from tiny_runs import ALONE, TINY, command, flags, lighter, tiny_run, wait_until

from jaxdistill.config.option import UNSET
from jaxdistill.core.checks import UserError
from jaxdistill.runtime.metrics import read_metrics

LONG = ALONE | {"learner": "linear", "width": UNSET, "depth": UNSET, "distill_epochs": 1, "num_learners": 1}
LONG |= {"num_outer_steps": 100}
"""Twenty checkpoints: seconds of outer steps, in which a signal finds its moment."""


@pytest.fixture(scope="module", autouse=True)
def light():
    with lighter(one_size=False):
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(path, result) of the uninterrupted run."""
    path = tmp_path_factory.mktemp("whole") / "run"
    return path, tiny_run(path, **LONG, checkpoint_every=100)[0]


def start(path: Path) -> subprocess.Popen:
    return command("-m", "experiments.distill", *flags(**(TINY | LONG), run_dir=str(path)), wait=False)


def steps(path: Path) -> list[int]:
    """Of the checkpoints that are there, whole ones."""
    return sorted(int(item.name) for item in (path / "checkpoints").glob("*") if item.name.isdigit())


def same_run(path: Path, whole) -> None:
    """Equal images, to the bit, and equal metrics, time aside."""
    assert (path / "synthetic.npz").read_bytes() == (whole[0] / "synthetic.npz").read_bytes()
    rows, expected = (read_metrics(p / "metrics.jsonl") for p in (path, whole[0]))
    assert [row | {"seconds": 0} for row in rows] == [row | {"seconds": 0} for row in expected]
    assert rows[-1]["seconds"] > 0


@pytest.fixture
def children():
    """Processes that are ended with the test, however it ends."""
    started: list[subprocess.Popen] = []
    yield started
    for child in started:
        child.kill()
        child.communicate()


def test_a_run_is_stopped_then_resumed(tmp_path, whole, children):
    """A process of its own; while it lives nobody else may write into its folder."""
    path = tmp_path / "run"
    children.append(stopped := start(path))
    wait_until(lambda: bool(steps(path)), stopped)
    stopped.send_signal(signal.SIGSTOP)
    with pytest.raises(UserError) as error:
        tiny_run(path, **LONG)
    assert f"held by another live run (pid {stopped.pid})" in message(error)
    stopped.send_signal(signal.SIGTERM)
    stopped.send_signal(signal.SIGCONT)
    out, err = stopped.communicate(timeout=120)
    assert stopped.returncode == 143
    (line,) = err.splitlines()
    saved = steps(path)[-1]
    assert line == f"stopped after outer step {saved}, saved; run the same command again to resume"
    assert 0 < saved < 100 and "Traceback" not in out
    assert not (path / "result.json").exists() and not (path / "synthetic.npz").exists()

    result, printed = tiny_run(path, **LONG)
    assert f"resumes from outer step {saved}" in printed and "100/100" in printed
    same_run(path, whole)
    assert result["test_accuracies"] == whole[1]["test_accuracies"]


@pytest.mark.slow
def test_kill_at_three_moments(tmp_path, whole, children):
    """Before the first checkpoint; in the middle; after the last outer step, before the result."""
    path = tmp_path / "run"
    moments = [
        lambda: (path / "config.json").exists(),
        lambda: bool(steps(path)) and steps(path)[-1] >= 50,
        lambda: (path / "synthetic.npz").exists(),
    ]
    for moment in moments:
        children.append(child := start(path))
        wait_until(moment, child)
        child.kill()
        child.communicate(timeout=120)
        assert child.returncode == -signal.SIGKILL
        assert not (path / "result.json").exists()
    children.append(child := start(path))
    out, err = child.communicate(timeout=300)
    assert (child.returncode, err) == (0, "")
    assert "distilled images" in out
    same_run(path, whole)
    assert not [item.name for item in path.rglob("*") if "tmp" in item.name]


@pytest.mark.slow
def test_a_run_that_diverges_is_one_line_and_an_exit_code(tmp_path):
    wild = {"outer_learning_rate": 1e38, "clip": 0.0, "max_inner_learning_rate": 0.0}
    ended = command("-m", "experiments.distill", *flags(**(TINY | wild), run_dir=str(tmp_path / "run")))
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line.startswith("distill: expected finite numbers, got ") and "at outer step 2." in line
    assert "Lower outer_learning_rate" in line and line.endswith("There was no checkpoint yet.")
    assert not (tmp_path / "run/result.json").exists() and not (tmp_path / "run/synthetic.npz").exists()
