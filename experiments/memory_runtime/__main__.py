"""Measure memory and time of one hypergradient: unrolled training against implicit differentiation.

Question: how do memory, time and accuracy of a hypergradient grow with the T inner steps, by backpropagation
through training (all steps kept, remat, truncated) and by the implicit function theorem? And what does one
cost that needs no inner steps: by gradient matching, or by a ridge regression as the last layer of the
network (`closed_form`) or of the linearised network (`convexified`)?

    python -m experiments.memory_runtime                        digits, tanh MLP, 4 minutes on 2 cores
    python -m experiments.memory_runtime --flagfile=experiments/presets/memory_mnist.cfg --manual_dir=FOLDER

A row per estimator, T and K learners has the memory of the compiled program, the peak memory of a separate
process, the compile time, the time per hypergradient (median; the estimators take turns), and the cosine and
relative error against the exact hypergradient (float64, inner problem solved to a relative gradient of 1e-8),
or against a long unroll if the network is not smooth. Implicit estimators train for exactly T steps; their
time includes two products with the Hessian for the reported diagnostics. The memory of unrolled estimators
includes the batch T times. Estimators without inner steps minimise another loss, so they have no cosine; they
are measured once, for every T.
Expected: unrolled memory linear in T, remat below, implicit flat; implicit by conjugate gradients at T = 100
faster than unrolled, its cosine above 0.99. Run the same command again to resume a comparison that was
stopped.
"""

import os
from typing import Any

from experiments import cli
from experiments.memory_runtime.cells import measured
from experiments.memory_runtime.estimators import estimator, problem
from experiments.memory_runtime.figure import memory_and_time
from experiments.memory_runtime.options import ESTIMATORS, SMOKE, Options
from experiments.memory_runtime.report import report, show
from experiments.tables import as_csv
from jaxdistill.config.gradients import check_used
from jaxdistill.config.resolve import resolve
from jaxdistill.config.saved import chosen_of
from jaxdistill.runs.plan import identity_from, script_identity, splits
from jaxdistill.runtime import profile, progress
from jaxdistill.runtime.atomic import atomic_write
from jaxdistill.runtime.rundir import open_run


def run(chosen: Options) -> dict[str, Any]:
    """Measures the grid, writes rows.csv, memory_runtime.md, .png and result.json, prints the table.

    Returns:
      {"rows", "config", "environment"}.

    Raises:
      UserError: bad input, before anything is measured. If something does not fit in memory, its row says so.
    """
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # leaves a GPU's memory to the processes
    given, chosen = chosen, chosen.with_smoke(SMOKE)
    options = resolve(chosen)
    compared = {name: ESTIMATORS[name] for name in options.estimators}
    check_used("memory_runtime", "an estimator", chosen, compared)
    reason = f"with measure={','.join(options.measure)}"
    needs = {"repeats": "time", "process_time_limit": "process", "reference_steps": "error"}
    cli.refuse_idle(
        "memory_runtime", given, {n: "" if part in options.measure else reason for n, part in needs.items()}
    )
    data = splits(options)
    for name in options.estimators:  # bad input raises before any measurement
        estimator(name, options, data, problem(options, data, 1), 1)
    pinned = script_identity(options, data)
    with open_run(
        options.run_dir,
        pinned,
        experiment="memory_runtime",
        chosen=chosen_of(chosen),
        upgrade=lambda saved, file: identity_from(saved, file, Options, data, pinned),
    ) as directory:
        progress.say(
            f"memory and time of a hypergradient: {options.learner} on {data.info.name}, "
            f"{profile.device_description()}; everything goes to {options.run_dir}"
        )
        rows = list(measured(options, data, directory))
        result = {"rows": rows, "config": pinned, "environment": directory.environment}
        directory.write_json("result.json", result)
        atomic_write(directory.path / "rows.csv", lambda file: file.write(as_csv(rows).encode()))
        atomic_write(directory.path / "memory_runtime.md", lambda file: file.write(report(result).encode()))
        title = f"one hypergradient: {options.learner} on {data.info.name}, {profile.device_description()}"
        memory_and_time(directory.path / "memory_runtime.png", rows, title=title)
    show(result)
    return result


if __name__ == "__main__":
    cli.main(run, Options, __doc__)
