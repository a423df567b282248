"""A disk without room, and several threads: one line, the state safe, the process as it was."""

import contextlib
import errno
import logging
import os
import resource
import sys
import warnings

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import message

from jaxdistill.core.checks import UserError
from jaxdistill.runtime import figures
from jaxdistill.runtime.atomic import atomic_folder, atomic_write
from jaxdistill.runtime.checkpoint import Checkpoints, _quiet
from jaxdistill.runtime.machine import writing
from jaxdistill.runtime.metrics import MetricsLog, read_metrics


@contextlib.contextmanager
def no_room(size: int = 0):
    """Inside, the system refuses files of more than so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


WRITERS = {
    "file": lambda folder: atomic_write(folder / "x", lambda file: file.write(b"x" * 9)),
    "arrays": lambda folder: atomic_write(folder / "x", lambda file: np.savez(file, x=np.ones(9))),
    "folder": lambda folder: atomic_folder(folder / "x", lambda new: (new / "y").write_bytes(b"x" * 9)),
    "picture": lambda folder: figures.image_grid(folder / "x", np.zeros((1, 2, 2, 1)), [0], ["a"]),
    "metrics": lambda folder: MetricsLog(folder / "x").write(1, {"loss": 1.0}),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_no_room_is_one_line_that_names_the_file(writer, tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError) as error, no_room():
        WRITERS[writer](tmp_path / "folder")
    said = message(error)
    assert f"expected to write {tmp_path / 'folder' / 'x'}, got File too large." in said
    left = [path.name for path in (tmp_path / "folder").iterdir()]
    assert left == (["x"] if writer == "metrics" else [])


@pytest.mark.parametrize(
    ("number", "remedy"), [(errno.ENOSPC, "Make room, and "), (errno.EACCES, "Check its permissions or ")]
)
def test_the_line_says_what_to_do(number, remedy):
    with pytest.raises(UserError) as error, writing("test", "there", "The checkpoint of step 1 is kept."):
        raise OSError(number, os.strerror(number))
    assert f"{os.strerror(number)}. The checkpoint of step 1 is kept. {remedy}" in message(error)
    with pytest.raises(KeyError), writing("test", "there"):
        raise KeyError("a bug is no error of the machine")


@pytest.mark.filterwarnings("ignore:.*persistent compilation cache.*")
def test_no_room_for_a_checkpoint_keeps_the_one_before(tmp_path):
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(1, {"x": jnp.ones(5000)})
        with pytest.raises(UserError) as error, no_room(1000):
            checkpoints.save(2, {"x": jnp.asarray(np.random.default_rng(0).normal(size=5000))})
        assert "File too large. The checkpoint of step 1 is kept." in message(error)
    with Checkpoints(tmp_path / "c") as checkpoints:
        restored = checkpoints.restore({"x": jnp.ones(5000)})
        assert restored is not None and restored[1] == 1
        checkpoints.save(2, {"x": jnp.zeros(5000)})
        assert checkpoints.latest_step() == 2


def test_metrics_cut_by_a_full_disk_are_read_and_written_again(tmp_path):
    file = tmp_path / "metrics.jsonl"
    with MetricsLog(file) as log:
        log.write(1, {"loss": 1.0})
    size = file.stat().st_size
    with pytest.raises(UserError), no_room(size + 5), MetricsLog(file, 1) as log:
        log.write(2, {"loss": 2.0})
    assert [row["step"] for row in read_metrics(file)] == [1]
    with MetricsLog(file, 1) as log:
        log.write(2, {"loss": 2.0})
    assert [row["loss"] for row in read_metrics(file)] == [1.0, 2.0]


def test_threads_that_save_leave_the_process_as_it_was():
    logger = logging.getLogger("absl")
    before = sys.excepthook, sys.unraisablehook, logger.level, warnings.filters[:]
    first, second = _quiet(), _quiet()  # of two threads: the second ends last
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert logger.level == logging.CRITICAL  # the second is not done
    second.__exit__(None, None, None)
    assert (sys.excepthook, sys.unraisablehook, logger.level, warnings.filters) == before
