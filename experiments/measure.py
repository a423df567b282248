"""Compiles, measures and compares programs, for the benchmarks."""

import contextlib
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.experimental.compilation_cache import compilation_cache

from jaxdistill.core.checks import fail
from jaxdistill.core.platform import choices
from jaxdistill.core.types import Data, Method
from jaxdistill.runs.plan import Plan
from jaxdistill.runtime import mesh
from jaxdistill.runtime.atomic import atomic_write
from jaxdistill.runtime.loop import compiled_chunk
from jaxdistill.runtime.memory import temporary_bytes, total_bytes

Row = dict[str, Any]
PATIENCE = 25.0
"""Seconds after which a comparison ends early; the one with PyTorch never does."""


class Program(NamedTuple):
    """A compiled program and its arguments."""

    call: Callable[..., Any]
    arguments: tuple
    steps: int
    """Units of work per call; times are of one."""
    compile_seconds: float
    temp_bytes: int

    def seconds(self) -> float:
        """Time of one unit of work, to the end of the computation."""
        began = time.perf_counter()
        jax.block_until_ready(self.call(*self.arguments))
        return (time.perf_counter() - began) / self.steps


def compiled(function: Any, arguments: tuple, static: tuple = (), *, steps: int = 1) -> Program:
    """Compiles a jitted function for its arguments; `static` ones are the last."""
    began = time.perf_counter()
    call = function.lower(*arguments, *static).compile()
    seconds = time.perf_counter() - began
    return Program(call, arguments, steps, seconds, temporary_bytes(call))


def interleaved(
    sides: Mapping[str, Callable[[], float]], repeats: int, *, patience: float = PATIENCE
) -> dict[str, list[float]]:
    """Times of all sides, which take turns, after one round that warms up.

    A side runs once and returns its time. Once `patience` seconds are over, 3 rounds are enough, and 1 where
    the warm-up alone took so long.
    """
    began = time.perf_counter()
    for seconds in sides.values():
        seconds()
    times: dict[str, list[float]] = {name: [] for name in sides}
    least = 1 if time.perf_counter() - began > patience else 3
    for done in range(repeats):
        if done >= least and time.perf_counter() - began > patience:
            break
        for name, seconds in sides.items():
            times[name].append(seconds())
    return times


def timed(programs: Mapping[str, Program], repeats: int) -> dict[str, list[float]]:
    """`interleaved`, of programs."""
    return interleaved({name: program.seconds for name, program in programs.items()}, repeats)


def ratio_of_medians(times: Mapping[str, Sequence[float]], side: str, other: str) -> float:
    """How many times as long `side` takes as `other`."""
    return statistics.median(times[side]) / statistics.median(times[other])


def no_compile_cache() -> contextlib.AbstractContextManager:
    """Inside, every program is compiled anew, so that compile times are true."""
    return _compile_cache("jax_enable_compilation_cache", False)


def compile_cache_in(folder: str) -> contextlib.AbstractContextManager:
    """Inside, programs are cached only in `folder`: if it is empty, every first compilation is timed."""
    return _compile_cache("jax_compilation_cache_dir", folder)


@contextlib.contextmanager
def _compile_cache(option: str, value: Any) -> Iterator[None]:
    before = getattr(jax.config, option)
    jax.config.update(option, value)
    compilation_cache.reset_cache()
    try:
        yield
    finally:
        jax.config.update(option, before)
        compilation_cache.reset_cache()


def append_rows(file: Path, rows: Sequence[Row]) -> list[Row]:
    """Adds rows to a JSON list, a line each; returns the whole list."""
    try:
        saved = json.loads(file.read_text()) if file.exists() else []
        saved = [*map(dict, saved), *rows]
        text = "[" + ",".join(f"\n{json.dumps(r, allow_nan=False)}" for r in saved) + "\n]\n"
    except OSError as error:
        raise fail("rows", "a run_dir to write to", f"{file.parent} ({error.strerror})") from error
    except (TypeError, ValueError) as error:
        raise fail("rows", "a JSON list of rows", f"{file} ({error})", "Move it away.") from error
    atomic_write(file, lambda out: out.write(text.encode()))
    return saved


def row(
    what: str, variant: str, times: Sequence[float] = (), program: Program | None = None, **more: Any
) -> Row:
    """One result: `more` are its settings or further numbers."""
    return {
        "what": what,
        "variant": variant,
        **more,
        "seconds_median": statistics.median(times) if times else None,
        "seconds_min": min(times) if times else None,
        "repeats": len(times),
        "compile_seconds": round(program.compile_seconds, 3) if program else None,
        "temp_bytes": program.temp_bytes if program else None,
    }


def outer_steps(
    method: Method, data: Data, seed: int, length: int, devices: mesh.Layout | None = None
) -> Program:
    """A compiled chunk of `length` outer steps, on the devices of a layout."""
    key = jax.random.key(seed)
    state, given = jax.jit(method.init)(key), (data, key)
    if devices is not None:
        state = mesh.placed(state, mesh.state_shardings(devices, state))
        given = mesh.placed(given, mesh.whole_everywhere(devices))
    with mesh.spread(devices):
        return compiled(compiled_chunk(method, devices), (state, *given), (length,), steps=length)


def fitting(plan: Plan, time_limit: float) -> Row:
    """How many outer steps fit a time limit in seconds, and the memory that their compiled program needs.

    The limit is that of outer steps alone; whole compiled chunks are counted, at least one.
    """
    length = plan.config.chunk_length or choices().chunk_length
    program = outer_steps(plan.method, plan.arguments, plan.config.seed, length, plan.devices)
    state, *others = program.arguments
    state = jax.block_until_ready(program.call(state, *others))[0]
    began, chunks = time.perf_counter(), 0
    while chunks == 0 or time.perf_counter() - began < 0.05 * time_limit:
        state = jax.block_until_ready(program.call(state, *others))[0]
        chunks += 1
    seconds = (time.perf_counter() - began) / (chunks * length)
    steps = max(1, round(time_limit / seconds / length)) * length
    memory = {"program_bytes": program.temp_bytes, "all_bytes": total_bytes(program.call)}
    return {"num_outer_steps": steps, "seconds_per_step": seconds, **memory}
