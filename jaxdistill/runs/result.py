"""The result of a run: the content of `result.json`."""

from typing import Any

from jaxdistill.config.table import Config
from jaxdistill.runs.compare import compared
from jaxdistill.runs.distill import check_place, distilled, opened, say_start
from jaxdistill.runs.plan import Plan, default_run_dir, identity_from, numbers_of, planned
from jaxdistill.runs.run import Run
from jaxdistill.runtime import mesh, profile, progress
from jaxdistill.runtime.rundir import RunDir

COSTS = ("compile_seconds", "program_bytes", "all_bytes")


def run_to_result(chosen: Config) -> dict[str, Any]:
    """Distills in a folder and compares, or returns the result that is already in the folder.

    Args:
      chosen: the options; without `run_dir` the folder is one of the options' own.

    Returns:
      What `result.json` holds.

    Raises:
      UserError: bad input, before anything is written; a NaN on the way.
      Interrupted: SIGINT or SIGTERM; the state is saved.
    """
    check_place(chosen)
    plan = planned(chosen)
    path = plan.config.run_dir or default_run_dir(plan)
    with opened(plan, path) as directory:
        say_start(plan, path)
        result = directory.read_result()
        whole = directory.synthetic.exists()  # what is gone is written again from the checkpoint
        fresh = plan.config.fresh_baselines
        if whole and not fresh and result is not None and _is_of(result, plan, plan.config.num_outer_steps):
            progress.say("note: this run has ended; the table is that of its result.json")
            return result
        return _result(distilled(plan, directory), directory, result)


def result_of(run: Run) -> dict[str, Any]:
    """The result of a run, see `Run.compare`."""
    if run.path is None:
        return _result(run, None, None)
    with opened(run.plan, run.path) as directory:
        result = directory.read_result()
        if not run.config.fresh_baselines and result is not None and _is_of(result, run.plan, run.step):
            return result
        return _result(run, directory, result)


def _result(run: Run, directory: RunDir | None, before: dict[str, Any] | None) -> dict[str, Any]:
    """Compares, and writes the result if there is a folder."""
    with mesh.spread(run.plan.devices):
        scores = compared(run)
    result = {**scores, **facts(run, directory)}
    if before is not None and not run.finished.compile_seconds:  # other networks, the same distillation
        result |= {name: before.get(name, 0) for name in COSTS}
    if directory is not None:
        directory.write_json("result.json", result)
    return result


def facts(run: Run, directory: RunDir | None) -> dict[str, Any]:
    """The facts of a run in every result."""
    finished = run.finished
    return {
        "seconds": round(finished.seconds, 2),
        "compile_seconds": round(finished.compile_seconds, 2),
        "program_bytes": finished.program_bytes,
        "all_bytes": finished.all_bytes,
        "outer_steps": run.step,
        **storage(run),
        "config": run.plan.identity,
        "environment": profile.environment() if directory is None else directory.environment,
    }


def storage(run: Run) -> dict[str, int | float]:
    """The number of images that networks train on, and the storage that they take."""
    stored = run.stored
    return {
        "images_trained_on": len(run.synthetic.images),
        "scalars_stored": stored.scalars,
        "bits_per_class": stored.bits / run.data.info.num_classes,
    }


def _is_of(result: dict[str, Any], plan: Plan, step: int) -> bool:
    """Whether a result is of this plan, evaluation included, and of a run with this number of outer steps."""
    saved, now = result.get("config", {}), plan.identity
    if result.get("outer_steps") != step:
        return False
    if saved.keys() != now.keys() or saved.get("dataset_sha256") != now.get("dataset_sha256"):
        saved = identity_from(saved, "result.json", Config, plan.data, now)
    return numbers_of(saved) == numbers_of(now)
