"""Hypergradients against one another, each given the same wall time.

Question: for the same images, learner and evaluator, which way of differentiating training distills best
in the same time, and at what memory?

    python -m experiments.equal_time                            digits, 10 images, about 15 minutes on 2 cores
    python -m experiments.equal_time --flagfile=experiments/presets/equal_time_mnist.cfg --manual_dir=FOLDER

Every candidate step size of every contender is distilled for the whole time in a run directory of its own
under RUN_DIR; the best on validation is tested, by the training that it was distilled for: T steps, or to the
tolerance with momentum 0.9 where it is implicit. How many outer steps fit the time is measured at the start.
The weight decay is the same for all, since implicit gradients need some. Expected, digits, preset
equal_time_digits: unrolled with learned step sizes 92%, conjugate gradients 93%, the identity 88%. The same
command goes on with what was stopped.
"""

import json
import time
from typing import Any

import jax

from experiments import build, cli, distill, gradients
from experiments.devices import DEVICES, devices_of
from experiments.measure import OUT_OF_MEMORY, outer_steps
from experiments.options import (
    DATA,
    EVALUATION,
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
from jaxdistill.core.checks import UserError, above, fail, one_of
from jaxdistill.core.keys import stream
from jaxdistill.core.types import Data
from jaxdistill.data import Splits
from jaxdistill.inner.solvers import LINEAR_SOLVERS, options_of
from jaxdistill.runtime import profile, progress
from jaxdistill.runtime.loop import default_chunk_length
from jaxdistill.runtime.memory import total_bytes
from jaxdistill.runtime.metrics import read_metrics
from jaxdistill.runtime.rundir import Held, RunDir, open_run

CONTENDERS: dict[str, dict[str, Any]] = {
    "unrolled": {"gradient": "unrolled", "learned": ["learning_rate"]},
    "unrolled_fixed": {"gradient": "unrolled", "learned": []},
    **{name: {"gradient": "implicit", "linear_solver": name} for name in LINEAR_SOLVERS},
}
"""`unrolled` learns its step sizes from where they start; `unrolled_fixed` does not."""
CHOSEN = ("gradient", "learned", "linear_solver", "inner_learning_rate", "num_outer_steps", "distill_epochs")
LEFT_OUT = (*CHOSEN, *gradients.OWN["auto"], *gradients.OWN["truncated"], "tensorboard", "run_dir", "seed")


def _without(group: dict[str, Option], *names: str) -> dict[str, Option]:
    return {name: option for name, option in group.items() if name not in (*LEFT_OUT, *names)}


GROUPS: Groups = {
    "comparison": {
        "contenders": Option(
            ["unrolled", "unrolled_fixed", "cg", "gauss_newton_cg", "neumann", "identity"],
            str,
            "ways to differentiate training",
            CONTENDERS,
        ),
        "time_limit": Option(45.0, float, "seconds of outer steps for each candidate, compilation apart"),
        "inner_learning_rates": Option([0.03, 0.1, 0.3], float, "candidates, chosen from on validation"),
        "unrolled_steps": Option(10, int, "inner steps of the unrolled contenders, distill_epochs", low=1),
        "smoke": Option(False, bool, "one second a candidate and few networks: does it run?"),
    },
    "data": DATA,
    "teacher": _without(TEACHER),
    "learner": LEARNER,
    "inner loop": _without(INNER) | {"weight_decay": Option(0.01, float, "L2 of the inner loss", low=0)},
    "implicit gradients": _without(IMPLICIT)
    | {"on_failed_solve": IMPLICIT["on_failed_solve"]._replace(default="skip")},
    "outer loop": _without(OUTER),
    "evaluation": EVALUATION | {"full_data_epochs": EVALUATION["full_data_epochs"]._replace(default=0)},
    "run": {
        "run_dir": Option("runs/equal_time", str, "where everything is written; what is there goes on"),
        "seed": RUN["seed"],
        "chunk_length": RUN["chunk_length"],
        "checkpoint_every": RUN["checkpoint_every"],
    },
    "devices": DEVICES,
}
SMOKE = {
    "contenders": ["unrolled", "cg"],
    "time_limit": 1.0,
    "inner_learning_rates": [0.1],
    "num_eval_learners": 2,
    "num_baseline_learners": 2,
    "num_search_learners": 1,
    "step_sizes": [0.1],
}
OWN_OPTIONS = ("contenders", "time_limit", "inner_learning_rates", "unrolled_steps", "smoke")
Row = dict[str, Any]


def run(**chosen: Any) -> dict[str, Any]:
    """Distills with every contender and candidate, prints the table, writes `result.json`.

    Args:
      **chosen: any option of `GROUPS`.

    Returns:
      {"rows": one per contender, "candidates": one per contender and step size, "random_real_mean", ...,
      "config", "environment"}.

    Raises:
      UserError: bad input, before anything is distilled. A candidate that fails on its way is a row that says
        so.
    """
    config = complete(GROUPS, chosen)
    config |= SMOKE if config["smoke"] else {}
    above("equal_time", "time_limit", config["time_limit"], 0.0)
    for name in ("contenders", "inner_learning_rates"):
        if not config[name]:
            raise fail("equal_time", f"at least one of {name}", "none")
    for name in config["contenders"]:
        one_of("equal_time contenders", name, CONTENDERS)
    for rate in config["inner_learning_rates"]:
        above("equal_time", "inner_learning_rates", rate, 0.0)
    build.check_step_sizes(config)
    check_used(config)
    data, key = build.splits(config), jax.random.key(config["seed"])
    cells = {
        (n, rate): cell(config, n, rate)
        for n in config["contenders"]
        for rate in config["inner_learning_rates"]
    }
    for options in cells.values():
        make(options, data, key)  # what cannot be made starts nothing
    pinned = distill.identity_of(config, data)
    with open_run(config["run_dir"], pinned, free_fields=("checkpoint_every",)) as directory:
        progress.say(
            f"{len(cells)} distillations of {config['time_limit']:g} s each: {config['learner']} on "
            f"{data.info.name}, {profile.device_description()}; everything goes to {config['run_dir']}"
        )
        candidates = [
            candidate(directory, name, rate, options, config["time_limit"], data, key)
            for (name, rate), options in cells.items()
        ]
        rows = [best(name, candidates) for name in config["contenders"]]
        result = {
            "rows": rows,
            **baseline(directory, config, rows),
            "candidates": candidates,
            "config": pinned,
            "environment": json.loads(directory.config.read_text())["environment"],
        }
        directory.write_json("result.json", result)
    show(result)
    return result


def check_used(config: dict[str, Any]) -> None:
    """Raises where an option was chosen that none of the contenders takes."""
    kinds = {CONTENDERS[name]["gradient"] for name in config["contenders"]}
    solvers = [name for name in config["contenders"] if name in LINEAR_SOLVERS]
    gradients.check_used("equal_time", config, defaults(GROUPS), solvers)
    owned = {"unrolled": [*gradients.OWN["unrolled"], "unrolled_steps"]}
    owned["implicit"] = [n for n in gradients.OWN["implicit"] if n not in gradients.SOLVER_OPTIONS]
    for kind, names in owned.items():
        for name in names:
            if kind not in kinds and name in config and config[name] != defaults(GROUPS)[name]:
                raise fail("equal_time", f"a contender that takes {name}", ", ".join(config["contenders"]))


def cell(config: dict[str, Any], name: str, rate: float) -> dict[str, Any]:
    """The options of `experiments.distill` for one candidate, the number of outer steps left open."""
    kept = {n: v for n, v in config.items() if n not in (*OWN_OPTIONS, "run_dir")}
    contender = CONTENDERS[name]
    if contender["gradient"] == "unrolled":
        kept |= gradients.OWN["implicit"] | {"distill_epochs": config["unrolled_steps"]}
    else:
        taken = options_of(contender["linear_solver"])
        others = {n: None for n, own in gradients.SOLVER_OPTIONS.items() if own not in taken}
        kept |= gradients.OWN["unrolled"] | others
    return kept | contender | {"inner_learning_rate": rate, "num_baseline_learners": 0}


def make(options: dict[str, Any], data: Splits, key: jax.Array) -> Any:
    """The method of a candidate, traced once."""
    options = gradients.resolve(complete(distill.GROUPS, options))
    method = build.method(options, data, build.learner(options, data.info), stream(key, "teacher start"))
    jax.eval_shape(method.update, jax.eval_shape(method.init, key), Data(data.train, None), key)
    return method


def candidate(
    directory: RunDir,
    name: str,
    rate: float,
    options: dict[str, Any],
    time_limit: float,
    data: Splits,
    key: jax.Array,
) -> Row:
    """Distills one candidate for the time limit; how many outer steps that is, is measured once and kept."""
    place = directory.path / f"{name}-{rate:g}"
    file = directory.path / "plans" / f"{name}-{rate:g}.json"
    row = {"contender": name, "inner_learning_rate": rate}
    if not file.exists():
        directory.write_json(file, plan(options, time_limit, data, key))
    planned = json.loads(file.read_text())
    progress.say(f"\n{name}, step size {rate:g}: {planned['num_outer_steps']} outer steps")
    try:
        found = distill.run(**options, num_outer_steps=planned["num_outer_steps"], run_dir=str(place))
    except Held:
        raise
    except (UserError, *OUT_OF_MEMORY) as error:
        text = " ".join(str(error).split())
        progress.say(f"{name}, step size {rate:g}: {text}")
        return row | planned | {"note": text}
    last = read_metrics(place / "metrics.jsonl")[-1]
    told = ("inner_gradient", "residual", "cosine", "skipped")
    return (
        row
        | planned
        | {f"test_{part}": found[f"test_accuracy_{part}"] for part in ("mean", "std")}
        | {n: found[n] for n in ("validation_accuracy_mean", "num_learners", "seconds", "compile_seconds")}
        | {n: last[n] for n in told if n in last}
    )


def plan(options: dict[str, Any], time_limit: float, data: Splits, key: jax.Array) -> Row:
    """How many outer steps fit the time limit, and the memory that their compiled program needs."""
    length = options["chunk_length"] or default_chunk_length()
    where = devices_of(options, options["num_learners"], options["real_batch_size"])
    program = outer_steps(make(options, data, key), Data(data.train, None), options["seed"], length, where)
    state, *others = program.arguments
    state = jax.block_until_ready(program.call(state, *others))[0]
    began, chunks = time.perf_counter(), 0
    while chunks == 0 or time.perf_counter() - began < 0.05 * time_limit:
        state = jax.block_until_ready(program.call(state, *others))[0]
        chunks += 1
    seconds = (time.perf_counter() - began) / (chunks * length)
    steps = max(1, round(time_limit / seconds / length)) * length
    memory = {
        "program_bytes": program.temp_bytes,
        "all_bytes": total_bytes(program.call),
    }
    return {"num_outer_steps": steps, "seconds_per_step": seconds, **memory}


def best(name: str, candidates: list[Row]) -> Row:
    """A contender's candidate that is best on validation; the first where all of them failed."""
    own = [row for row in candidates if row["contender"] == name]
    done = [row for row in own if "note" not in row]
    return max(done, key=lambda row: row["validation_accuracy_mean"]) if done else own[0]


def baseline(directory: RunDir, config: dict[str, Any], rows: list[Row]) -> dict[str, Any]:
    """Random real images under the evaluator of the first contender that was distilled."""
    done = [row for row in rows if "note" not in row]
    if not done or not config["num_baseline_learners"]:
        return {}
    name, rate = done[0]["contender"], done[0]["inner_learning_rate"]
    options = cell(config, name, rate) | {"num_baseline_learners": config["num_baseline_learners"]}
    place = directory.path / f"{name}-{rate:g}"
    found = distill.run(**options, num_outer_steps=done[0]["num_outer_steps"], run_dir=str(place))
    return {n: found[n] for n in found if n.startswith("random_real")}


def show(result: dict[str, Any]) -> None:
    """Prints the table."""
    config = result["config"]
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
                f"{row['inner_learning_rate']:g}",
                row["num_outer_steps"],
                f"{row['seconds']:.0f}",
                f"{row['program_bytes'] / 2**20:.1f}",
                f"{row['residual']:.1e}" if "residual" in row else "-",
            ]
        )
    progress.table(
        f"\nTest accuracy (%) after {config['time_limit']:g} s: {config['learner']} on {config['dataset']}, "
        f"K = {config['num_eval_learners']}",
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
    cli.main(run, GROUPS, __doc__)
