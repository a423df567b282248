"""Compare hypergradients at equal wall time.

Question: for the same images, learner and evaluator, which way of differentiating training distills best
in the same time, and at what memory?

    python -m experiments.equal_time                            digits, 10 images, about 17 minutes on 2 cores
    python -m experiments.equal_time --flagfile=experiments/presets/equal_time_mnist.cfg --manual_dir=FOLDER

Each contender distills for `--time_limit` once per candidate step size, in a folder under RUN_DIR. The best
candidate on validation is tested with its own training: T steps, or, for implicit gradients, training with
momentum 0.9 to the tolerance. `closed_form` and `convexified` have no inner steps but a ridge regression as
the last layer; they have one candidate, tested by the `frepo` protocol. The script first measures how many
outer steps fit the time. All contenders with inner steps have the same weight decay, since implicit gradients
need some. Expected, digits, preset equal_time_digits:
unrolled with learned step sizes 92%, conjugate gradients 93%, the identity 88%. Run the same command again to
resume a comparison that was stopped.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from experiments import cli
from experiments.measure import Row, fitting
from experiments.records import Damaged, kept, note_of
from jaxdistill.config.gradients import IMPLICIT, NAMED, Named, check_used, taken_by
from jaxdistill.config.option import option, options
from jaxdistill.config.owners import BY_GRADIENT, HEAD_SOLVED
from jaxdistill.config.resolve import filled
from jaxdistill.config.saved import chosen_of
from jaxdistill.config.table import (
    Config,
    DataOptions,
    DeviceOptions,
    EvaluationOptions,
    ImplicitOptions,
    InnerOptions,
    LearnerOptions,
    OuterOptions,
    RunOptions,
    TeacherOptions,
)
from jaxdistill.core.checks import UserError, fail
from jaxdistill.methods.recipe import Facts
from jaxdistill.runs.budget import OUT_OF_MEMORY
from jaxdistill.runs.compare import show as show_result
from jaxdistill.runs.plan import identity_from, planned, script_identity, splits
from jaxdistill.runs.result import run_to_result
from jaxdistill.runtime import profile, progress
from jaxdistill.runtime.expected_time import expected
from jaxdistill.runtime.metrics import read_metrics
from jaxdistill.runtime.rundir import Held, RunDir, open_run

CONTENDERS: dict[str, Named] = {
    "unrolled": {**NAMED["unrolled"], "learned": ("learning_rate",)},
    "unrolled_fixed": NAMED["unrolled_fixed"],
    **IMPLICIT,
    **{name: NAMED[name] for name in HEAD_SOLVED},
}
"""`unrolled` learns its step sizes; `unrolled_fixed` keeps them. A ridge regression has no inner steps."""
VARIED = ("gradient", "learned", "linear_solver", "inner_learning_rate", "num_outer_steps", "distill_epochs")
"""Options of a distillation that the comparison chooses."""


@options
class Options(
    DataOptions,
    TeacherOptions,
    LearnerOptions,
    InnerOptions,
    ImplicitOptions,
    OuterOptions,
    EvaluationOptions,
    RunOptions,
    DeviceOptions,
):
    title: ClassVar[str] = "comparison"
    left_out = (*VARIED, *BY_GRADIENT["auto"], *BY_GRADIENT["truncated"], "inner_batch_size", "tensorboard")
    contenders: tuple[str, ...] = option(
        ("unrolled", "unrolled_fixed", "cg", "gauss_newton_cg", "neumann", "identity", *HEAD_SOLVED),
        "ways to differentiate training",
        known=tuple(CONTENDERS),
        some=True,
    )
    time_limit: float = option(
        45.0, "seconds of outer steps for each candidate, without compilation", above=0
    )
    inner_learning_rates: tuple[float, ...] = option(
        (0.03, 0.1, 0.3), "step sizes of the inner loop to choose from on validation", above=0, some=True
    )
    unrolled_steps: int = option(
        10, "inner steps of the unrolled contenders, as distill_epochs of experiments.distill", low=1
    )
    inner_momentum: float | None = option(  # pyright: ignore[reportIncompatibleVariableOverride]
        None, "momentum of the inner loop (default: 0; for implicit gradients 0.9)", low=0, of="inner"
    )
    run_dir: str = option(
        "runs/equal_time", "folder to write everything into; a comparison that is already there is resumed"
    )
    smoke: bool = option(False, "a short trial: one second per candidate, few networks")

    @classmethod
    def settings(cls, chosen: Mapping[str, Any], facts: Facts | None) -> Mapping[str, Any]:
        """The weight decay that implicit gradients need, and the ridge of RCIG; momenta differ."""
        shared = {"weight_decay": 0.01, "on_failed_solve": "skip", "full_data_epochs": 0}
        return shared | {"inner_momentum": None, "ridge": 5e-4, "ridge_unit": "images"}


SMOKE = {
    "contenders": ("unrolled", "cg"),
    "time_limit": 1.0,
    "inner_learning_rates": (0.1,),
    "num_eval_learners": 2,
    "num_baseline_learners": 2,
    "num_search_learners": 1,
    "step_sizes": (0.1,),
}


def run(chosen: Options) -> dict[str, Any]:
    """Distills with every contender and candidate, prints the table, writes `result.json`.

    Returns:
      {"rows": one per contender, "candidates": one per contender and step size, "random_real_mean", ...,
      "config", "environment"}.

    Raises:
      UserError: bad input, before anything is distilled. If a candidate fails later, its row says so; if all
        fail, an error follows the table.
    """
    given, chosen = chosen, chosen.with_smoke(SMOKE)
    data = splits(chosen)
    facts = Facts.of(data.info)
    options = filled(chosen, facts)
    check_contenders(given, options)
    cells = {
        (name, rate): cell(chosen, name, rate, options.unrolled_steps)
        for name in options.contenders
        for rate in rates(name, options)
    }
    for config in cells.values():
        planned(config)  # bad input raises before any run starts
    pinned = script_identity(options, data)
    with open_run(
        options.run_dir,
        pinned,
        experiment="equal_time",
        chosen=chosen_of(chosen),
        free_fields=("checkpoint_every",),
        upgrade=lambda saved, file: identity_from(saved, file, Options, data, pinned),
    ) as directory:
        progress.say(
            f"{len(cells)} distillations of {options.time_limit:g} s each: {options.learner} on "
            f"{data.info.name}, {profile.device_description()}; everything goes to {options.run_dir}"
        )
        least, shorter = len(cells) * options.time_limit, "a smaller time_limit takes less"
        progress.say(expected("all outer steps; compilation and tests come on top", least, shorter))
        candidates, times = [], progress.Rows(len(cells), shorter)
        for (name, rate), config in cells.items():
            ended = (directory.path / stem_of(name, rate) / "result.json").exists()
            candidates.append(candidate(directory, name, rate, config, options.time_limit))
            times.done(made=not ended)
        rows = [best(name, candidates) for name in options.contenders]
        result = {
            "rows": rows,
            **baseline(directory, cells, rows, options.num_baseline_learners),
            "candidates": candidates,
            "config": pinned,
            "environment": directory.environment,
        }
        directory.write_json("result.json", result)
    show(result)
    if all("note" in row for row in rows):
        why = "; ".join(f"{row['contender']}: {row['note']}" for row in rows)
        raise fail("equal_time", "at least one contender that finishes", f"none ({why})")
    return result


def rates(name: str, options: Options) -> tuple[float | None, ...]:
    """The step sizes of a contender's inner loop to choose from; None alone where it has no inner steps."""
    return (None,) if CONTENDERS[name]["gradient"] in HEAD_SOLVED else options.inner_learning_rates


def check_contenders(chosen: Options, options: Options) -> None:
    """Raises if an option was chosen that none of the contenders takes."""
    compared = {name: CONTENDERS[name] for name in options.contenders}
    check_used("equal_time", "a contender", chosen, compared)
    gradients = {each["gradient"] for each in compared.values()}
    reason = f"with contenders={','.join(compared)}"
    idle = {
        "unrolled_steps": "" if "unrolled" in gradients else reason,
        "inner_learning_rates": reason if gradients <= {*HEAD_SOLVED} else "",
    }
    cli.refuse_idle("equal_time", chosen, idle)


def cell(chosen: Options, name: str, rate: float | None, unrolled_steps: int) -> Config:
    """The distillation of one candidate, the number of outer steps left open."""
    contender = CONTENDERS[name]
    names = Config.options().keys() | chosen.own.keys()
    given = {n: v for n, v in taken_by(contender, chosen).items() if n in names and v is not None}
    if contender["gradient"] == "unrolled":
        given["distill_epochs"] = unrolled_steps
    if rate is not None:
        given["inner_learning_rate"] = rate
    return Config(**given, **contender).replace(num_baseline_learners=0)


def stem_of(name: str, rate: float | None) -> str:
    """The name of a candidate's files."""
    return name if rate is None else f"{name}-{rate:g}"


def place_of(directory: RunDir, name: str, rate: float | None) -> str:
    """The folder of a candidate's distillation."""
    return str(directory.path / stem_of(name, rate))


def candidate(directory: RunDir, name: str, rate: float | None, config: Config, time_limit: float) -> Row:
    """Distills one candidate for the time limit; how many outer steps that is, is measured once and kept."""
    file = directory.path / "plans" / f"{stem_of(name, rate)}.json"
    row = {"contender": name, "inner_learning_rate": rate}
    title = name if rate is None else f"{name}, step size {rate:g}"
    place = place_of(directory, name, rate)
    try:
        row |= kept(directory, file, lambda: fitting(planned(config), time_limit))
        progress.say(f"\n{title}: {row['num_outer_steps']} outer steps")
        found = distilled(config, row["num_outer_steps"], place)
    except (Held, Damaged):
        raise
    except (UserError, *OUT_OF_MEMORY) as error:
        text = note_of(error)
        progress.say(f"{title}: {text}")
        return row | {"note": text}
    last = read_metrics(Path(place) / "metrics.jsonl")[-1]
    shown = ("inner_gradient", "residual", "cosine", "skipped")
    return (
        row
        | {f"test_{part}": found[f"test_accuracy_{part}"] for part in ("mean", "std")}
        | {n: found[n] for n in ("validation_accuracy_mean", "num_learners", "seconds", "compile_seconds")}
        | {n: last[n] for n in shown if n in last}
    )


def distilled(config: Config, num_outer_steps: int, place: str) -> dict[str, Any]:
    """The result of a candidate's distillation, shown."""
    result = run_to_result(config.replace(num_outer_steps=num_outer_steps, run_dir=place))
    show_result(result)
    return result


def best(name: str, candidates: Sequence[Row]) -> Row:
    """A contender's candidate that is best on validation; the first where all of them failed."""
    own = [row for row in candidates if row["contender"] == name]
    done = [row for row in own if "note" not in row]
    return max(done, key=lambda row: row["validation_accuracy_mean"]) if done else own[0]


def baseline(
    directory: RunDir,
    cells: Mapping[tuple[str, float | None], Config],
    rows: Sequence[Row],
    num_learners: int,
) -> dict[str, Any]:
    """Random real images under the evaluator of the first contender that was distilled."""
    done = [row for row in rows if "note" not in row]
    if not done or not num_learners:
        return {}
    which = done[0]["contender"], done[0]["inner_learning_rate"]
    config = cells[which].replace(num_baseline_learners=num_learners)
    found = distilled(config, done[0]["num_outer_steps"], place_of(directory, *which))
    return {n: found[n] for n in found if n.startswith("random_real")}


def show(result: dict[str, Any]) -> None:
    """Prints the table."""
    about = result["config"]
    cells = []
    for row in result["rows"]:
        if "note" in row:
            cells.append([row["contender"], *["-"] * 7])
            continue
        cells.append(
            [
                row["contender"],
                f"{100 * row['test_mean']:.1f}",
                f"{100 * row['test_std']:.1f}",
                "-" if row["inner_learning_rate"] is None else f"{row['inner_learning_rate']:g}",
                row["num_outer_steps"],
                f"{row['seconds']:.0f}",
                f"{row['program_bytes'] / 2**20:.1f}",
                f"{row['residual']:.1e}" if "residual" in row else "-",
            ]
        )
    progress.table(
        f"\nTest accuracy (%) after {about['time_limit']:g} s: {about['learner']} on {about['dataset']}, "
        f"K = {about['num_eval_learners']}",
        ["gradient", "mean", "std", "step size", "steps", "seconds", "MiB", "residual"],
        cells,
    )
    if result.get("random_real_mean") is not None:
        mean, std = (100 * result[f"random_real_{part}"] for part in ("mean", "std"))
        progress.say(f"random real images: {mean:.1f} ± {std:.1f}")
    for row in result["rows"]:
        if "note" in row:
            progress.say(f"{row['contender']}: {row['note']}")


if __name__ == "__main__":
    cli.main(run, Options, __doc__)
