"""Runs of the experiments, as small as they can be, in this process and as commands."""

import contextlib
import io
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import CACHE

import jaxdistill as jd
from experiments import distill
from experiments.cli import as_flags
from jaxdistill.config.option import UNSET
from jaxdistill.config.table import Config
from jaxdistill.data import parts
from jaxdistill.runs.run import Run
from jaxdistill.runtime import figures

ROOT = Path(__file__).resolve().parents[1]
TINY = {
    "width": 8,
    "depth": 1,
    "distill_epochs": 2,
    "num_outer_steps": 20,
    "chunk_length": 5,
    "checkpoint_every": 5,
    "num_learners": 2,
    "schedule": "constant",  # the compiled programs are those of any number of outer steps
    "real_batch_size": 32,
    "num_eval_learners": 2,
    "num_baseline_learners": 2,
    "num_search_learners": 2,  # as many as are tested: one program searches and tests
    "step_sizes": [0.1],
    "full_data_epochs": 0,
}
"""Options of `experiments.distill`: 20 outer steps on digits."""
SMALL = {
    "learner": "linear",
    "distill_epochs": 1,
    "num_learners": 1,
    "real_batch_size": 16,
    "num_eval_learners": 2,
}
"""Options of `jd.distill` on any small data set, with images or with a generator."""
EVALUATION = {"num_epochs": 2, "num_learners": 2, "num_search_learners": 2, "step_sizes": [0.1]}
"""Options of `jd.evaluate`."""
ALONE = {"num_eval_learners": 1, "num_search_learners": 1, "num_baseline_learners": 0}
"""The cheapest evaluation: one network on the distilled images, no baselines."""

PICTURES = {name: getattr(figures, name) for name in ("image_grid", "curves")}
"""What draws the pictures of a run."""


@contextlib.contextmanager
def lighter(*, one_size: bool = True) -> Iterator[None]:
    """Runs that cost less: of digits validation and test are of one size, so that one program tests on both;
    pictures are coarse, and those of images, which take longer than a tiny run, show one; those of a run are
    not drawn.

    Args:
      one_size: False where a process of its own has the same digits.
    """
    with pytest.MonkeyPatch.context() as patch:
        if one_size:
            patch.setattr(parts, "TEST_FRACTION", 1 / 7)  # then a sixth of the rest is as much
        patch.setattr(figures, "DPI", 40)
        for name in PICTURES:
            patch.setattr(figures, name, FEWER[name])
        yield


def _few_image_grid(path: Path, pixels: Any, labels: Any, *arguments: Any, **options: Any) -> None:
    if path.name != "images.png":
        PICTURES["image_grid"](path, pixels[:1], labels[:1], *arguments, **options)


def _few_curves(path: Path, *arguments: Any, **options: Any) -> None:
    if path.name != "curves.png":
        PICTURES["curves"](path, *arguments, **options)


FEWER = {"image_grid": _few_image_grid, "curves": _few_curves}
"""What draws them inside `lighter`."""


@contextlib.contextmanager
def drawn(*names: str) -> Iterator[None]:
    """Inside `lighter`: all pictures, or those of some names, are drawn."""
    with pytest.MonkeyPatch.context() as patch:
        for name in names or PICTURES:
            patch.setattr(figures, name, PICTURES[name])
        yield


@contextlib.contextmanager
def small_by_default() -> Iterator[None]:
    """`jd.distill` and `jd.evaluate` are small where a call says nothing else; a `Config` is as it is."""
    distilled = jd.distill

    def distill_small(config: Config | None = None, **options: Any) -> Run:
        return distilled(config, **options) if config else distilled(**SMALL | options)

    with lighter(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(jd, "distill", distill_small)
        for name, value in EVALUATION.items():
            patch.setitem(jd.evaluate.__kwdefaults__, name, value)
        yield


def tiny_run(path: Path, **options: Any) -> tuple[dict[str, Any], str]:
    """(result, what was printed) of a run in `path`, in this process."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        result = distill.run(distill.Options(**(TINY | {"run_dir": str(path)} | options)))
    return result, out.getvalue()


def flags(**options: Any) -> list[str]:
    """The flags that say the same as keyword arguments do."""
    return as_flags({name: value for name, value in options.items() if value is not UNSET})


def command(*arguments: str, wait: bool = True, **environment: str) -> Any:
    """Runs `python ARGUMENTS` beside the checkout, the compile cache shared with the tests.

    Returns:
      The process: ended, with `stdout` and `stderr`, or alive if not `wait`.
    """
    settings: dict[str, Any] = {
        "env": os.environ
        | {"PYTHONPATH": str(ROOT), "JAX_COMPILATION_CACHE_DIR": CACHE, "JAXDISTILL_HUGE_PAGES": "0"}
        | environment,
        "cwd": ROOT,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
    }
    if wait:
        return subprocess.run([sys.executable, *arguments], timeout=300, check=False, **settings)
    return subprocess.Popen([sys.executable, *arguments], **settings)


def wait_until(happened: Callable[[], bool], process: subprocess.Popen, seconds: float = 240) -> None:
    """Polls; a process that ends before fails the test."""
    end = time.monotonic() + seconds
    while not happened():
        assert process.poll() is None, f"ended early, exit {process.returncode}: {process.communicate()}"
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.005)
