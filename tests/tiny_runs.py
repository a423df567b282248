"""Runs of the experiments, as small as they can be, in this process and as commands."""

import contextlib
import io
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conftest import CACHE

from experiments import distill
from experiments.cli import as_flags
from jaxdistill.config.option import UNSET

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
    "num_search_learners": 1,
    "step_sizes": [0.1],
    "full_data_epochs": 0,
}
"""Options of `experiments.distill`: 20 outer steps on digits."""
ALONE = {"num_eval_learners": 1, "num_baseline_learners": 0}
"""The cheapest evaluation: one network on the distilled images, no baselines."""


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
