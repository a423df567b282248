"""Peak memory of one hypergradient in a process of its own."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import jax

from experiments.measure import Row
from experiments.memory_runtime.estimators import estimator, problem
from experiments.memory_runtime.options import Options
from jaxdistill.runs.plan import splits

WORKER = "from experiments.memory_runtime import processes; processes.worker()"


def in_processes(options: Options, names: Sequence[str], num_learners: int, num_steps: int) -> dict[str, Row]:
    """Peak memory of a new process per estimator, all at once; a note where one does not end well.

    None of them outlives this one.
    """
    root = str(Path(__file__).resolve().parents[2])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    # a program that is read from the cache takes less memory than one that is compiled
    environment |= {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    limit, shared = options.process_time_limit, {"num_learners": num_learners, "num_steps": num_steps}
    started: dict[str, subprocess.Popen] = {}
    try:
        for name in names:
            task = json.dumps({"options": options.chosen(), "name": name, **shared})
            command = [sys.executable, "-c", WORKER, task]
            started[name] = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
            )
        return {name: _peak_of(process, limit) for name, process in started.items()}
    finally:
        for process in started.values():
            process.kill()


def _peak_of(process: subprocess.Popen, limit: float) -> Row:
    try:
        out, err = process.communicate(timeout=limit)
        if process.returncode:
            last = (err.strip().splitlines() or [""])[-1][:120]
            return {"note": f"its own process ended with {process.returncode}: {last}"}
        return json.loads(out.splitlines()[-1])
    except subprocess.TimeoutExpired:
        return {"note": f"its own process took more than {limit:g} s"}
    except (ValueError, IndexError):
        return {"note": "its own process said nothing"}


def worker() -> None:
    """Takes a task from the command line, computes the hypergradient once, prints the peak memory as JSON."""
    task = json.loads(sys.argv[1])
    options = Options(**task["options"])
    data = splits(options)
    made = problem(options, data, task["num_learners"])
    step = estimator(task["name"], options, data, made, task["num_steps"])
    before = _peak()
    jax.block_until_ready(jax.jit(step)(*made.arguments))
    print(json.dumps({"process_bytes": _peak(), "process_before_bytes": before}))


def _peak() -> int:
    stats = jax.local_devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"]
    try:  # the kernel hands a parent's ru_maxrss on to what it starts; this figure is the process's own
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
