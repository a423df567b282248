"""A program, compiled for a chip: a row."""

import collections
import re
import time
import warnings
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

import jaxdistill as jd
from experiments.compile_for.chips import CHIPS, layout
from experiments.compile_for.flops import work_of
from experiments.measure import Row, no_compile_cache
from experiments.programs import Program, problem, trajectories
from jaxdistill.core.checks import Caution
from jaxdistill.core.platform import choices
from jaxdistill.core.sizes import format_bytes
from jaxdistill.core.types import Data
from jaxdistill.data import Splits
from jaxdistill.runtime import mesh
from jaxdistill.runtime.loop import compiled_chunk
from jaxdistill.runtime.memory import total_bytes

TOO_LARGE = re.compile(r"Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm")
"""How XLA's TPU compiler says that a program does not fit."""
UNIT = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def row(name: str, program: Program, chip: str, given: Splits, *, count_work: bool = True) -> Row:
    """Compiles a chunk of outer steps for a chip.

    Args:
      name: of the program.
      program: what is compiled.
      chip: a key of `CHIPS`.
      given: the data.
      count_work: whether to count the operations of an outer step.

    Returns:
      Memory of one chip in bytes, times in seconds, operations of one outer step and what it sends. For a
      program that does not fit the chip, `note` says by how much.
    """
    about = CHIPS[chip]
    found: Row = {"chip": chip, "kind": program.kind, "program": name, "chips": int(np.prod(program.mesh))}
    found |= {"mesh": dict(zip(("learner", "data"), program.mesh, strict=True)), "T": program.steps}
    with jd.platform(about.platform), warnings.catch_warnings():
        warnings.simplefilter("ignore", Caution)
        made, key = problem(program, given), jax.random.key(0)
        config, method = made.config, made.method
        bank = trajectories(made.learner) if made.follows_experts else None
        arguments = (jax.eval_shape(method.init, key), Data(given.train, bank), key)
        shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), arguments)
        found |= {"settings": dict(sorted(config.chosen().items()))}
        if count_work:
            work = work_of(method.update, *shapes)
            found |= {"flops_per_step": work.flops, "open_loops": work.open_loops}
        devices = layout(chip, program.mesh, config.num_learners)
        chunk = compiled_chunk(method, devices)
        began = time.perf_counter()
        with mesh.spread(devices), no_compile_cache():
            lowered = chunk.lower(*shapes, choices().chunk_length)
            traced = time.perf_counter()
            try:
                compiled = lowered.compile()
            except jax.errors.JaxRuntimeError as error:
                if "RESOURCE_EXHAUSTED" not in str(error):
                    raise
                return found | _too_large(str(error), about.memory)
    found |= {"trace_seconds": round(traced - began, 2)}
    found |= {"compile_seconds": round(time.perf_counter() - traced, 2)}
    return found | _memory(compiled, about.memory) | _sent(compiled)


def _memory(compiled: Any, there: int) -> Row:
    needed, about = total_bytes(compiled), compiled.memory_analysis()
    note = "" if needed <= there else f"needs {format_bytes(needed)}, {format_bytes(needed - there)} too much"
    return {
        "temp_bytes": about.temp_size_in_bytes,
        "argument_bytes": about.argument_size_in_bytes,
        "all_bytes": needed,
        "fits": needed <= there,
        "note": note,
    }


def _too_large(error: str, there: int) -> Row:
    """The row of a program that the compiler itself refused for its memory."""
    match = TOO_LARGE.search(error)
    if not match:
        return {"fits": False, "note": " ".join(error.split())[:200]}
    needed = int(float(match[1]) * UNIT[match[2]])
    note = f"needs {format_bytes(needed)}, {format_bytes(max(0, needed - there))} too much"
    return {"all_bytes": needed, "fits": False, "note": note}


def _sent(compiled: Any) -> Row:
    """What an outer step sends between chips: kinds with their number and bytes."""
    kinds: dict[str, list[int]] = collections.defaultdict(list)
    for each in mesh.communication(compiled):
        kinds[each.kind].append(each.bytes)
    return {"sent": {kind: {"count": len(sizes), "bytes": sum(sizes)} for kind, sizes in kinds.items()}}


def lines(rows: list[Row]) -> Iterator[list[str]]:
    """Cells of the table."""
    for each in rows:
        sent = [
            f"{s['count']} {kind} of {format_bytes(s['bytes'])}" for kind, s in each.get("sent", {}).items()
        ]
        yield [
            each["program"],
            each["chip"],
            "x".join(map(str, each["mesh"].values())) if each["chips"] > 1 else "1",
            *(format_bytes(each[n]) if n in each else "-" for n in ("temp_bytes", "argument_bytes")),
            "yes" if each["fits"] else f"no: {each['note']}",
            flops(each),
            f"{each['compile_seconds']:.0f} s" if "compile_seconds" in each else "-",
            ", ".join(sent) or "-",
        ]


COLUMNS = ("program", "chip", "chips", "temp", "args", "fits", "GFLOP", "compile", "sent")


def flops(each: Row) -> str:
    """Operations of an outer step in units of 1e9; at least so many if the length of a loop is open."""
    if each.get("flops_per_step") is None:
        return "-"
    return f"{'>= ' if each['open_loops'] else ''}{each['flops_per_step'] / 1e9:.3g}"
