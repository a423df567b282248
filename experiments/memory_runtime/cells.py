"""Rows of the comparison, cell by cell: an inner length T, a number of learners K, and every estimator."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path

import jax

from experiments.measure import PATIENCE, Program, Row, compiled, no_compile_cache, timed
from experiments.memory_runtime.estimators import Problem, estimator, problem
from experiments.memory_runtime.options import WITHOUT_STEPS, Options
from experiments.memory_runtime.processes import in_processes
from experiments.memory_runtime.reference import Reference, compare, reference
from experiments.records import kept
from jaxdistill.core.platform import present
from jaxdistill.core.sizes import format_bytes
from jaxdistill.data import Splits
from jaxdistill.learners import num_params
from jaxdistill.runs.budget import OUT_OF_MEMORY
from jaxdistill.runtime import profile, progress
from jaxdistill.runtime.expected_time import expected
from jaxdistill.runtime.memory import total_bytes
from jaxdistill.runtime.rundir import RunDir

SHOWN = ("inner_gradient", "residual", "cosine", "failed_solves", "solver_steps", "negative_curvature")
"""What implicit estimators report."""
SHORTER = "smaller inner_steps, or fewer estimators, take less"
Shared = Callable[[], tuple[Problem, Reference | None]]


def measured(options: Options, data: Splits, directory: RunDir) -> Iterator[Row]:
    """Rows cell by cell; a cell (K, T) that was measured before is read."""
    lengths, counts = sorted(set(options.inner_steps)), sorted(set(options.num_learners))
    for number, num_learners in enumerate(counts, start=1):
        shared = cache(partial(_shared, options, data, num_learners))
        before: list[Row] = []
        for num_steps in lengths:
            file = directory.path / "cells" / f"K{num_learners}-T{num_steps}.json"
            same = [row | {"T": num_steps} for row in before if row["estimator"] in WITHOUT_STEPS]

            def make(
                shared: Shared = shared, num_steps: int = num_steps, same: list[Row] = same
            ) -> list[Row]:
                return cell(options, data, *shared(), num_steps, same)

            there, began = file.exists(), time.perf_counter()
            before = kept(directory, file, make)
            if not there:
                took, after = time.perf_counter() - began, [t for t in lengths if t > num_steps]
                left = [*after, *lengths * (len(counts) - number)]
                seconds = sum(expected_seconds(before, took, t) for t in left)
                if left and seconds >= 1:
                    progress.say(expected(f"{len(left)} more cells", seconds, SHORTER))
            yield from before


def expected_seconds(rows: Sequence[Row], took: float, num_steps: int) -> float:
    """The time of the cell of another T.

    Args:
      rows: of a cell.
      took: its time in seconds.
      num_steps: the other T. Timing takes so many times longer, up to `PATIENCE`; the rest is compilation.
    """
    own = [row for row in rows if "seconds_median" in row and row["estimator"] not in WITHOUT_STEPS]
    if not own:
        return took
    once, rounds = sum(row["seconds_median"] for row in own), own[0]["repeats"] + 2
    other = once * num_steps / own[0]["T"]
    return max(0.0, took - rounds * once) + min(rounds * other, PATIENCE + 2 * other)


def _shared(options: Options, data: Splits, num_learners: int) -> tuple[Problem, Reference | None]:
    """What all cells of K learners have in common."""
    made = problem(options, data, num_learners)
    exact = reference(options, data, made) if "error" in options.measure else None
    if exact is not None:
        progress.say(f"K = {num_learners}: reference: {exact.name}")
    return made, exact


def cell(
    options: Options,
    data: Splits,
    made: Problem,
    exact: Reference | None,
    num_steps: int,
    same: Sequence[Row] = (),
) -> list[Row]:
    """A row per estimator, for one T and K; `same` are those of a smaller T that hold for this one too."""
    num_learners = jax.tree.leaves(made.contexts)[0].shape[0]
    progress.say(f"K = {num_learners}, T = {num_steps}: measuring ...")
    shared = {
        "learner": options.learner,
        "dataset": data.info.name,
        "num_params": num_params(made.contexts) // num_learners,
        "device": profile.device_description(),
        "commit": profile.git_commit(),
        "seed": options.seed,
    }
    rows = {
        name: {"estimator": name, "K": num_learners, "T": num_steps, "note": "", **shared}
        for name in options.estimators
    }
    known = {row["estimator"]: row for row in same}
    rows |= known
    programs: dict[str, Program] = {}
    for name in [name for name in rows if name not in known]:
        row = rows[name]
        step = estimator(name, options, data, made, num_steps)
        program = _compiled(step, made, row)
        if program is not None:
            row |= {"program_bytes": program.temp_bytes, "all_bytes": total_bytes(program.call)}
            row |= {"compile_seconds": round(program.compile_seconds, 3)}
            free = free_bytes()
            if free is not None and row["all_bytes"] > free:
                row["note"] = f"not run: needs {format_bytes(row['all_bytes'])}, {format_bytes(free)} free"
            else:
                programs[name] = program
    if {"time", "error"} & set(options.measure):
        for name, program in list(programs.items()):
            try:
                gradient, reported = jax.device_get(program.call(*program.arguments))
            except OUT_OF_MEMORY as error:
                rows[name]["note"] = f"did not run: {_one_line(error)}"
                del programs[name]
                continue
            rows[name] |= {n: float(reported[n]) for n in SHOWN if n in reported}
            if name in WITHOUT_STEPS:
                continue
            if exact is not None:
                rows[name]["reference"] = exact.name
            if exact is not None and exact.gradient is not None:
                cosine, error = compare(gradient, exact.gradient)
                rows[name] |= {"cosine_to_reference": cosine, "relative_error": error}
    if "time" in options.measure:
        for name, times in timed(programs, options.repeats).items():
            rows[name] |= {"seconds_median": statistics.median(times), "seconds_min": min(times)}
            rows[name] |= {"repeats": len(times)}
    if "process" in options.measure:
        at_once = 2 if present() == "cpu" else 1
        names = list(programs)
        for i in range(0, len(names), at_once):
            found = in_processes(options, names[i : i + at_once], num_learners, num_steps)
            for name, peak in found.items():
                rows[name]["note"] += peak.pop("note", "")
                rows[name] |= peak
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
