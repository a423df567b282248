"""Memory and time of one hypergradient: unrolled training against implicit differentiation.

Question: how do memory, time and accuracy of a hypergradient grow with the T inner steps, by backpropagation
through training (all steps kept, remat, truncated) and by the implicit function theorem?

    python -m experiments.memory_runtime                        digits, tanh MLP, 3 minutes on 2 cores
    python -m experiments.memory_runtime --flagfile=experiments/presets/memory_mnist.cfg --manual_dir=FOLDER

Per estimator, T and K learners: memory of the compiled program, peak memory of a process of its own, compile
time, time per hypergradient (median; the estimators take turns), cosine and relative error against the exact
hypergradient (float64, inner problem solved to a relative gradient of 1e-8), or against a long unroll where
the network is not smooth. Implicit estimators take exactly T steps, and their time includes the two products
behind what they report; the memory of unrolled ones includes the batch, repeated T times. Expected: unrolled
memory linear in T, remat below, implicit flat; implicit by conjugate gradients at T = 100 faster than
unrolled, its cosine above 0.99. The same command goes on with what was stopped.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from experiments import build, cli, gradients
from experiments.distill import identity_of
from experiments.estimators import ESTIMATORS, MATCHING, UNROLLED, Problem, estimator, problem
from experiments.measure import OUT_OF_MEMORY, Program, Row, compiled, no_compile_cache, timed
from experiments.options import (
    DATA,
    IMPLICIT,
    INNER,
    LEARNER,
    OUTER,
    RUN,
    TEACHER,
    Groups,
    Option,
    complete,
    defaults,
)
from experiments.reference import Reference, compare, reference
from experiments.tables import as_csv, as_markdown
from jaxdistill.core.checks import at_least, fail, one_of
from jaxdistill.data import Splits
from jaxdistill.learners import num_params
from jaxdistill.runtime import figures, profile, progress
from jaxdistill.runtime.atomic import atomic_write
from jaxdistill.runtime.memory import format_bytes, total_bytes
from jaxdistill.runtime.rundir import RunDir, open_run

MEASURES = ("program", "process", "time", "error")
DEFAULT = [*UNROLLED, "implicit_cg", "implicit_neumann", "implicit_identity"]
MLP = {"width": 32, "depth": 1, "activation": "tanh"}
"""The network where nobody chose: smooth, so that there is an exact hypergradient to compare with."""
SOLVER = ("damping", "solver_tolerance", "solver_steps", "neumann_terms", "neumann_alpha", "nystrom_rank")
GROUPS: Groups = {
    "comparison": {
        "estimators": Option(DEFAULT, str, "the hypergradients to compare", ESTIMATORS),
        "inner_steps": Option([1, 10, 100, 1000], int, "T, inner steps"),
        "num_learners": Option([1], int, "K, learners"),
        "measure": Option(list(MEASURES), str, "what to measure: program compiles alone", MEASURES),
        "backprop_last": Option(5, int, "of truncated: the last so many steps", low=1),
        "reference_steps": Option(
            1000, int, "inner steps of the reference where the network is not smooth", low=1
        ),
        "repeats": Option(7, int, "rounds of timing, after one that warms up", low=1),
        "process_time_limit": Option(600.0, float, "seconds that a process of its own may take", low=1),
        "smoke": Option(False, bool, "T = 1, 2 and two estimators: does it run?"),
    },
    "data": DATA,
    "teacher": {
        n: o for n, o in TEACHER.items() if n not in ("distill_steps", "distill_epochs", "soft_labels")
    },
    "learner": {name: LEARNER[name] for name in LEARNER if name not in ("population", "num_shapes")},
    "inner loop": {
        "inner_optimizer": INNER["inner_optimizer"],
        "inner_learning_rate": Option(3.0, float, "step size of the inner loop"),
        "inner_momentum": Option(0.9, float, "momentum of the inner loop", low=0),
        "positive": INNER["positive"],
        "weight_decay": Option(0.01, float, "L2 of the inner loss", low=0),
    },
    "implicit gradients": {name: IMPLICIT[name] for name in SOLVER}
    | {
        "damping": Option(0.001, float, "added to the Hessian", low=0),
        "solver_tolerance": Option(0.01, float, "relative residual that ends cg", low=0),
        "identity_scale": IMPLICIT["identity_scale"],
    },
    "outer loop": {
        name: OUTER[name] for name in ("real_batch_size", "strategy", "learner_chunk", "microbatch")
    },
    "run": {
        "run_dir": Option("runs/memory_runtime", str, "where everything is written; what is there goes on"),
        "seed": RUN["seed"],
    },
}
SMOKE = {"inner_steps": [1, 2], "estimators": ["unrolled", "implicit_cg"], "repeats": 2}
WORKER = "from experiments import memory_runtime; memory_runtime.worker()"
TOLD = ("inner_gradient", "residual", "cosine", "failed_solves", "solver_steps", "negative_curvature")


def run(**chosen: Any) -> dict[str, Any]:
    """Measures the grid, writes rows.csv, memory_runtime.md, .png and result.json, prints the table.

    Args:
      **chosen: any option of `GROUPS`.

    Returns:
      {"rows", "config", "environment"}.

    Raises:
      UserError: bad input, before anything is measured. What does not fit in memory is a row that says so.
    """
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # leaves a GPU's memory to the processes
    config = complete(GROUPS, chosen)
    config |= SMOKE if config["smoke"] else {}
    config |= {n: v for n, v in MLP.items() if config["learner"] == "mlp" and config[n] is None}
    _check(config)
    data = build.splits(config)
    for name in config["estimators"]:  # what cannot be made starts nothing
        estimator(name, config, data, problem(config, data, 1), 1)
    pinned = identity_of(config, data)
    with open_run(config["run_dir"], pinned) as directory:
        progress.say(
            f"memory and time of a hypergradient: {config['learner']} on {data.info.name}, "
            f"{profile.device_description()}; everything goes to {config['run_dir']}"
        )
        rows = list(_measured(config, data, directory))
        result = {
            "rows": rows,
            "config": pinned,
            "environment": json.loads(directory.config.read_text())["environment"],
        }
        directory.write_json("result.json", result)
        atomic_write(directory.path / "rows.csv", lambda file: file.write(as_csv(rows).encode()))
        atomic_write(directory.path / "memory_runtime.md", lambda file: file.write(report(result).encode()))
        title = f"one hypergradient: {config['learner']} on {data.info.name}, {profile.device_description()}"
        figures.memory_and_time(directory.path / "memory_runtime.png", rows, title=title)
    show(result)
    return result


def _check(config: dict[str, Any]) -> None:
    for name in ("estimators", "inner_steps", "num_learners", "measure"):
        if not config[name]:
            raise fail("memory_runtime", f"at least one of {name}", "none")
    for name in config["estimators"]:
        one_of("memory_runtime estimators", name, ESTIMATORS)
    solvers = [n.removeprefix("implicit_") for n in config["estimators"] if n.startswith("implicit_")]
    gradients.check_used("memory_runtime", config, defaults(GROUPS), solvers)
    for name in ("inner_steps", "num_learners"):
        for value in config[name]:
            at_least("memory_runtime", name, value, 1)


def _measured(config: dict[str, Any], data: Splits, directory: RunDir) -> Iterator[Row]:
    """Rows cell by cell; a cell (K, T) that was measured before is read."""
    for num_learners in sorted(set(config["num_learners"])):
        shared: list[tuple[Problem, Reference | None]] = []
        for num_steps in sorted(set(config["inner_steps"])):
            file = directory.path / "cells" / f"K{num_learners}-T{num_steps}.json"
            if not file.exists():
                if not shared:
                    made = problem(config, data, num_learners)
                    exact = reference(config, data, made) if "error" in config["measure"] else None
                    if exact is not None:
                        progress.say(f"K = {num_learners}: reference: {exact.name}")
                    shared.append((made, exact))
                progress.say(f"K = {num_learners}, T = {num_steps}: measuring ...")
                directory.write_json(file, cell(config, data, *shared[0], num_steps))
            yield from json.loads(file.read_text())


def cell(
    config: dict[str, Any], data: Splits, made: Problem, exact: Reference | None, num_steps: int
) -> list[Row]:
    """A row per estimator, for one T and K."""
    num_learners = jax.tree.leaves(made.contexts)[0].shape[0]
    shared = {
        "learner": config["learner"],
        "dataset": data.info.name,
        "num_params": num_params(made.contexts) // num_learners,
        "device": profile.device_description(),
        "commit": profile.git_commit(),
        "seed": config["seed"],
    }
    rows = {
        name: {"estimator": name, "K": num_learners, "T": num_steps, "note": "", **shared}
        for name in config["estimators"]
    }
    programs: dict[str, Program] = {}
    for name, row in rows.items():
        step = estimator(name, config, data, made, num_steps)
        program = _compiled(step, made, row)
        if program is not None:
            row |= {"program_bytes": program.temp_bytes, "all_bytes": total_bytes(program.call)}
            row |= {"compile_seconds": round(program.compile_seconds, 3)}
            free = free_bytes()
            if free is not None and row["all_bytes"] > free:
                row["note"] = f"not run: needs {format_bytes(row['all_bytes'])}, {format_bytes(free)} free"
            else:
                programs[name] = program
    if {"time", "error"} & set(config["measure"]):
        for name, program in list(programs.items()):
            try:
                gradient, told = jax.device_get(program.call(*program.arguments))
            except OUT_OF_MEMORY as error:
                rows[name]["note"] = f"did not run: {_one_line(error)}"
                del programs[name]
                continue
            rows[name] |= {n: float(told[n]) for n in TOLD if n in told}
            if name == MATCHING:
                continue  # the gradient of another loss
            if exact is not None:
                rows[name]["reference"] = exact.name
            if exact is not None and exact.gradient is not None:
                cosine, error = compare(gradient, exact.gradient)
                rows[name] |= {"cosine_to_reference": cosine, "relative_error": error}
    if "time" in config["measure"]:
        for name, times in timed(programs, config["repeats"]).items():
            rows[name] |= {"seconds_median": statistics.median(times), "seconds_min": min(times)}
            rows[name] |= {"repeats": len(times)}
    if "process" in config["measure"]:
        at_once = 2 if jax.default_backend() == "cpu" else 1
        names = list(programs)
        for i in range(0, len(names), at_once):
            for name, found in in_processes(config, names[i : i + at_once], num_learners, num_steps).items():
                rows[name]["note"] += found.pop("note", "")
                rows[name] |= found
    return list(rows.values())


def _compiled(step: Callable, made: Problem, row: Row) -> Program | None:
    try:
        with no_compile_cache():
            return compiled(jax.jit(step), made.arguments)
    except OUT_OF_MEMORY as error:
        row["note"] = f"not compiled: {_one_line(error)}"
        return None


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:120]


def free_bytes() -> int | None:
    """Memory that a program may take: the device's own, or what the host has left; None where none says."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None


def in_processes(
    config: dict[str, Any], names: Sequence[str], num_learners: int, num_steps: int
) -> dict[str, Row]:
    """Peak memory of a new process per estimator, all at once; a note where one does not end well.

    None of them outlives this one.
    """
    root = str(Path(__file__).resolve().parents[1])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    environment |= {
        "JAX_ENABLE_COMPILATION_CACHE": "false"
    }  # a program that is read takes less than one compiled
    limit, shared = config["process_time_limit"], {"num_learners": num_learners, "num_steps": num_steps}
    started: dict[str, subprocess.Popen] = {}
    try:
        for name in names:
            task = json.dumps({"config": config, "name": name, **shared})
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
    config = task["config"]
    data = build.splits(config)
    made = problem(config, data, task["num_learners"])
    step = estimator(task["name"], config, data, made, task["num_steps"])
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


EXPLAINED = (
    "MiB: temporaries of the compiled program; RSS: peak of a process of its own, MiB; comp.: compilation; "
    "cosine and error: of the hypergradient against the reference; residual: of the linear solve, relative."
)
COLUMNS: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "estimator": lambda row: row["estimator"],
    "K": lambda row: row["K"],
    "T": lambda row: row["T"],
    "MiB": lambda row: _number(row, "program_bytes", 2.0**-20),
    "RSS": lambda row: _number(row, "process_bytes", 2.0**-20),
    "comp. s": lambda row: _number(row, "compile_seconds"),
    "ms": lambda row: _number(row, "seconds_median", 1e3),
    "cosine": lambda row: _fixed(row.get("cosine_to_reference")),
    "error": lambda row: _number(row, "relative_error", digits=2),
    "residual": lambda row: _number(row, "residual", digits=2),
}


def _number(row: Mapping[str, Any], name: str, factor: float = 1.0, digits: int = 3) -> str:
    value = row.get(name)
    if value is None:
        return "-"
    return f"{value * factor:.{digits}g}" if value * factor < 1000 else f"{value * factor:.0f}"


def _fixed(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _notes(rows: Sequence[Row]) -> list[str]:
    notes = [
        f"{row['estimator']}, K = {row['K']}, T = {row['T']}: {row['note']}" for row in rows if row["note"]
    ]
    references = dict.fromkeys(f"reference: {row['reference']}" for row in rows if "reference" in row)
    return [*references, *notes]


def report(result: dict[str, Any]) -> str:
    """The table, for a paper's repository."""
    rows, config = result["rows"], result["config"]
    title = (
        f"One hypergradient: {config['learner']} on {config['dataset']}, {result['environment']['device']}"
    )
    table = as_markdown(list(COLUMNS), [[cell(row) for cell in COLUMNS.values()] for row in rows])
    return "\n".join([title, "", table, EXPLAINED, "", *(f"- {note}" for note in _notes(rows))]) + "\n"


def show(result: dict[str, Any]) -> None:
    """Prints the table and the notes; a column that says nothing is left out."""
    cells = {name: [cell(row) for row in result["rows"]] for name, cell in COLUMNS.items()}
    if len(set(cells["K"])) == 1:
        del cells["K"]
    cells = {name: column for name, column in cells.items() if set(column) != {"-"}}
    config = result["config"]
    progress.table(
        f"\nOne hypergradient: {config['learner']} on {config['dataset']}",
        list(cells),
        list(zip(*cells.values(), strict=True)),
    )
    for note in _notes(result["rows"]):
        progress.say(note)


if __name__ == "__main__":
    cli.main(run, GROUPS, __doc__)
