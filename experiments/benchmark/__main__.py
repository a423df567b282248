"""Measure time and memory of one outer step and its parts, and of the same step in PyTorch.

Questions: how long does an outer step take against a plain PyTorch implementation? How does it grow with K
learners and T inner steps? What does `remat` save? How long should a compiled chunk be? Which formulation of
the convolution, and how many images at a time, are best on this backend? How exact must products be on an
accelerator (emulated)? What do activations of bfloat16 cost in accuracy, and a decoder and a data set on the
disk in time?

    python -m experiments.benchmark                  all parts but those for a GPU, an hour on 2 cores
    python -m experiments.benchmark --what=torch     20 minutes, all of --torch_steps; needs the extra torch
    python -m experiments.benchmark --what=methods,gradients,evaluation               for a GPU
    python -m experiments.benchmark --what=streaming --stream_gb=20                   writes 20 GB first

Expected on 2 cores: `torch` takes 0.5 to 0.85 times PyTorch's time. `conv`: with this backend's own
formulation, gradients inside a scan take less than twice the time of those outside. Rows are appended to
RUN_DIR/rows.json. The sides of every comparison take turns; compilation (without the cache) is measured
separately. Run nothing else on the machine: PyTorch's threads wait for one another and lose most on a busy
machine, so the ratio is then too good for us. `load` in a row is the machine's load at the start.
"""

import contextlib
import os
from collections.abc import Sequence
from functools import partial

from experiments import cli
from experiments.benchmark.convolutions import conv
from experiments.benchmark.decoders import decoders
from experiments.benchmark.dtypes import dtypes
from experiments.benchmark.matching_steps import matching
from experiments.benchmark.methods import evaluation, gradients, methods
from experiments.benchmark.microbatches import microbatches
from experiments.benchmark.options import Options
from experiments.benchmark.pool_training import pool
from experiments.benchmark.precisions import precisions
from experiments.benchmark.steps import chunk, generated, outer, remat
from experiments.benchmark.streaming import streaming
from experiments.benchmark.torch_reference import available
from experiments.benchmark.torch_steps import torch
from experiments.measure import Row, append_rows, no_compile_cache
from experiments.tables import writable
from jaxdistill.config.resolve import filled
from jaxdistill.core.checks import fail
from jaxdistill.runtime import profile, progress

REMEDY = 'pip install -e ".[torch]" adds it.'
PARTS = {
    "torch": torch,
    "outer": outer,
    "remat": remat,
    "chunk": chunk,
    "conv": conv,
    "generator": generated,
    "matching": matching,
    "microbatch": microbatches,
    "pool": pool,
    "precision": precisions,
    "methods": methods,
    "gradients": gradients,
    "evaluation": evaluation,
    "decoders": decoders,
    "dtype": dtypes,
    "streaming": streaming,
}
LARGE = ("methods", "gradients", "evaluation", "streaming")
"""Parts that are left out unless they are asked for: they are meant for a GPU, or fill the disk."""
RESUMED = ("methods", "gradients")
"""Parts with a row per program, which `resume` goes on with."""


def run(options: Options) -> list[Row]:
    """Measures the chosen parts, prints a table of each, appends to rows.json.

    Returns:
      The new rows.

    Raises:
      UserError: bad input, before anything is measured; PyTorch asked for and missing, or not agreeing.
    """
    given, options = options, filled(options.with_smoke({"repeats": 2}))
    needs = {"stream_gb": "streaming", "torch_steps": "torch"}
    idle = {name: "" if part in options.what else f"without what={part}" for name, part in needs.items()}
    cli.refuse_idle("benchmark", given, idle)
    if "torch" in options.what and not available():
        raise fail("benchmark torch", "PyTorch", "none", REMEDY)
    file, load = writable("benchmark", options.run_dir) / "rows.json", round(os.getloadavg()[0], 2)
    saved = append_rows(file, [])
    about = profile.environment()
    told = {name: about[name] for name in ("jaxdistill", "jax", "python", "commit")}
    told |= {"device": profile.device_description(), "cores": os.cpu_count(), "load": load}
    told |= {"seed": options.seed, "smoke": options.smoke}
    if load > 0.25 * (os.cpu_count() or 1):
        progress.say(f"note: the machine is busy (load {load:g}): these times mean little")
    rows = []
    done = (
        {(each["what"], each["variant"]) for each in saved if each.get("finite", True)}
        if options.resume
        else set()
    )
    parts = options.what or [name for name in PARTS if name not in LARGE]
    times = progress.Rows(len(parts), "choose fewer parts by what", noun="part")
    for name in parts:
        if name == "torch" and not available():
            progress.say(f"torch: left out, PyTorch is not installed. {REMEDY}")
            times.done(made=False)
            continue
        progress.say(f"{name}: measuring ...")
        with contextlib.nullcontext() if options.smoke else no_compile_cache():
            finished = [variant for what, variant in done if what == name]
            part = partial(PARTS[name], done=finished) if name in RESUMED else PARTS[name]
            for found in part(options):
                rows.append(found | told)
                saved = append_rows(file, rows[-1:])
        show(name, [r for r in rows if r["what"] == name])
        times.done()
    progress.say(f"{len(rows)} rows measured; {file} has {len(saved)}")
    return rows


def show(name: str, rows: Sequence[Row]) -> None:
    """Prints the rows of a part; columns that say nothing are left out."""
    scales = {"seconds_median": 1e3, "seconds_min": 1e3, "temp_bytes": 2.0**-20}
    scales |= dict.fromkeys(("set_bytes", "resident_bytes_before", "resident_bytes_after"), 2.0**-20)
    titles = {"variant": "variant", "learner": "learner", "K": "K", "T": "T", "seconds_median": "median ms"}
    titles |= {"seconds_min": "min ms", "compile_seconds": "compile s", "temp_bytes": "MiB", "ratio": "ratio"}
    titles |= {
        "gflops": "GFLOP/s",
        "outer_steps": "outer steps",
        "cosine": "cosine",
        "error": "relative error",
    }
    titles |= {
        "set_bytes": "set MiB",
        "resident_bytes_before": "RAM MiB, start",
        "resident_bytes_after": "end",
    }
    titles |= {"residual": "residual", "accuracy": "accuracy", "spread": "spread", "finite": "finite"}
    columns = [c for c in titles if any(r.get(c) is not None for r in rows)]

    scaled = [r | {c: r[c] * scales[c] for c in scales if r.get(c) is not None} for r in rows]
    cells = [[r.get(c) for c in columns] for r in scaled]
    progress.table(f"\n{name}: {(PARTS[name].__doc__ or '').strip()}", [titles[c] for c in columns], cells)


if __name__ == "__main__":
    cli.main(run, Options, __doc__)
