"""Few-step accuracy: how fast do fresh networks learn from generated data, from real data, from images?

Question: what is the test accuracy after 1, 2, 4, ... training steps on what a run learned, against as many
steps on real data with hyper-parameters tuned for that number of steps?

    python -m experiments.few_step --runs=RUN,RUN                   finished runs of experiments.distill
    python -m experiments.few_step                                  distills two first: digits, 3 minutes

Each network sees the batches of a run in their order, with the learned step sizes and momenta. Real data: the
same network and batch size, shuffled; step size and momentum searched on validation for every number of
steps. Expected, digits, after 16 steps: generated data 92%, ten learned images 91%, real
data 49%. Writes few_step.json, few_step.csv, few_step.md and few_step.png.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from experiments import build, cli, distill
from experiments.comparison import Synthetic, as_learned, seen, training_data
from experiments.devices import DEVICES, devices_of, say_devices
from experiments.networks import unseen_networks
from experiments.options import DATA, EVALUATION, OUTER, POOL, RUN, Groups, Option, complete
from experiments.saved import Saved, load_run
from experiments.tables import writable, write_tables
from jaxdistill.core.checks import at_least, fail
from jaxdistill.core.keys import stream
from jaxdistill.core.types import Batch, Dataset, Params
from jaxdistill.evaluation import (
    Evaluator,
    Protocol,
    Score,
    evaluator,
    everything,
    few_steps,
    summarize,
    with_step_size,
)
from jaxdistill.runtime import figures, mesh, profile, progress

GROUPS: Groups = {
    "few steps": {
        "runs": Option([], str, "finished runs of experiments.distill (default: distills two on digits)"),
        "steps": Option([], int, "numbers of training steps (default: powers of two, and all of a run)"),
        "momenta": Option([0.0, 0.5, 0.9], float, "candidates for real data"),
        "smoke": Option(False, bool, "few networks, short runs: does it run?"),
    },
    "data": {
        "dataset": Option(None, str, "the .npz of runs that were distilled from a user's own images"),
        "pool": POOL["pool"],
        "data_dir": DATA["data_dir"],
        "manual_dir": DATA["manual_dir"],
    },
    "evaluation": {
        "num_learners": Option(20, int, "networks per number of steps", low=1),
        "num_search_learners": EVALUATION["num_search_learners"],
        "step_sizes": EVALUATION["step_sizes"],
        "strategy": OUTER["strategy"],
        "learner_chunk": OUTER["learner_chunk"],
    },
    "run": {
        "run_dir": Option("runs/few_step", str, "where the table and the plot are written"),
        "seed": RUN["seed"],
    },
    "devices": DEVICES,
}
SMOKE = {"num_learners": 2, "num_search_learners": 1, "step_sizes": [0.1], "momenta": [0.9]}
NETWORK = {"learner": "mlp", "width": 64, "num_outer_steps": 1000, "num_baseline_learners": 0}
SMALL_GTN = NETWORK | {
    "method": "gtn",
    "batch_size": 10,
    "distill_steps": 16,
    "generator_width": 8,
    "generator_hidden": 64,
    "inner_learning_rate": 0.1,
    "outer_learning_rate": 0.01,
    "clip": 1.0,
}
IMAGES = NETWORK | {"distill_epochs": 16, "num_learners": 4}
"""What is distilled where no runs are given: a generator and ten images, for one network."""
Row = dict[str, Any]


def run(**chosen: Any) -> dict[str, Any]:
    """Tests after every number of steps, prints the table, writes the files.

    Args:
      **chosen: any option of `GROUPS`.

    Returns:
      {"rows": one per series and number of steps, "config", "environment"}.

    Raises:
      UserError: bad input, before anything is trained.
    """
    config = complete(GROUPS, chosen)
    config |= SMOKE if config["smoke"] else {}
    build.check_step_sizes(config)
    if not config["momenta"]:
        raise fail("few_step", "at least one of momenta", "none")
    for count in config["steps"]:
        at_least("few_step", "steps", count, 1)
    if len(set(config["runs"])) < len(config["runs"]):
        raise fail("few_step", "different runs", ", ".join(config["runs"]))
    where = devices_of(config, config["num_learners"])  # before anything is distilled
    folder = Path(config["run_dir"])
    places = {name: config[name] for name in ("dataset", "data_dir", "manual_dir", "pool")}
    if not config["runs"]:
        writable("few_step", folder)
    paths = config["runs"] or default_runs(folder, config["smoke"])
    saved = [load_run(path, **places, inner_loop=True) for path in paths]
    plans = [plan_of(each, config) for each in saved]
    if len({each.data.info.name for each in saved}) > 1:
        raise fail("few_step", "runs of one data set", ", ".join(each.data.info.name for each in saved))
    writable("few_step", folder)
    networks: dict[str, Plan] = {}
    for plan in plans:
        networks.setdefault(plan.network, plan)
    say_devices(where)
    with mesh.spread(where):
        rows = [row for plan in plans for row in rows_on_its_data(plan)]
        for plan in networks.values():
            rows += rows_on_real_data(plan, real_name(plan, list(networks)))
    result = {
        "rows": rows,
        "config": {n: v for n, v in config.items() if n not in (*places, *DEVICES, "run_dir")}
        | {"runs": [Path(path).name for path in paths], "dataset": saved[0].data.info.name},
        "environment": profile.environment(),
    }
    write_tables(folder, "few_step", result, table(rows), leave_out=["every"])
    figures.lines(
        folder / "few_step.png",
        rows,
        x="steps",
        x_label="training steps",
        panels={"test accuracy, %": ("mean", "std")},
        title=f"few-step accuracy: {result['config']['dataset']}",
    )
    show(result)
    return result


def default_runs(folder: Path, smoke: bool) -> list[str]:
    """Distills a small generator and ten images of digits; a run that is there goes on."""
    short = {"num_outer_steps": 20, "num_eval_learners": 2, "width": 4} if smoke else {}
    for name, options in (("gtn", SMALL_GTN), ("images", IMAGES)):
        distill.run(**options | short, run_dir=str(folder / name))
    return [str(folder / "gtn"), str(folder / "images")]


class Plan(NamedTuple):
    """One run: its batches in order, and the numbers of steps to test at."""

    saved: Saved
    config: Mapping[str, Any]
    synthetic: Synthetic
    at: list[int]
    network: str
    """Its network and batch size, in words; runs that share them share the rows on real data."""
    key: jax.Array

    @property
    def shape(self) -> tuple[int, int]:
        """(T, B)."""
        return self.synthetic[2].shape  # pyright: ignore[reportReturnType]

    def test(self, protocol: Protocol) -> Evaluator:
        """The program that tests after every number of steps."""
        options = {name: self.config[name] for name in ("strategy", "learner_chunk")}
        return evaluator(self.saved.learner, protocol, at=self.at, **options)

    def score(self, accuracies: jax.Array) -> Score:
        """Of one number of steps, [K]."""
        return summarize(accuracies, self.saved.data.info.num_classes)

    def row(self, series: str, steps: int, accuracies: jax.Array) -> Row:
        """Of one number of steps, [K]."""
        found = self.score(accuracies)
        return {
            "series": series,
            "steps": steps,
            "batch_size": self.shape[1],
            "mean": found.mean,
            "std": found.std,
            "num_learners": len(found.every),
            "every": found.every,
            "num_diverged": found.num_diverged,
            "learner": self.network,
            "made_of": distill.described(self.saved.config, self.saved.data),
        }

    def networks(self, name: str, count: int) -> Params:
        """So many start parameters."""
        saved = self.saved
        draw = unseen_networks(saved.config, saved.learner, saved.state, saved.bank)
        return draw(stream(self.key, name), count)


def plan_of(saved: Saved, config: Mapping[str, Any]) -> Plan:
    """What a run is tested by; raises for more steps than it was distilled for."""
    synthetic = training_data(saved.config, saved.learner, saved.method, saved.state, saved.key, saved.bank)
    total, batch_size = synthetic[2].shape
    if config["steps"] and max(config["steps"]) > total:
        expected = f"steps <= {total}, what the run in {saved.path} was distilled for"
        raise fail("few_step", expected, max(config["steps"]))
    powers = [2**i for i in range(total.bit_length()) if 2**i < total]
    at = sorted(set(config["steps"])) if config["steps"] else [*powers, total]
    options = {name: saved.config[name] for name in ("learner", *build.LEARNER_OPTIONS)}
    given = {name: value for name, value in options.items() if value is not None}
    shown = ":".join(str(v) if n == "learner" else f"{n}={v}" for n, v in given.items())
    where = saved.config["population"]
    shown += f" ({where})" if where.endswith("pretrained") else ""
    network = f"{shown}, batches of {batch_size}"
    key = stream(jax.random.key(config["seed"]), "few steps")
    return Plan(saved, config, synthetic, at, network, key)


def rows_on_its_data(plan: Plan) -> list[Row]:
    """Accuracy on what the run learned."""
    saved, count = plan.saved, plan.config["num_learners"]
    progress.say(f"{saved.path.name}: {count} networks, {plan.shape[0]} steps ...")
    protocol = as_learned(saved.config, saved.method, saved.state, plan.synthetic[2])
    key = stream(plan.key, "draws")
    batch, subsets = seen(saved.config, saved.method, saved.state, plan.synthetic, key, count)
    params, rows = plan.networks("learners", count), subsets(plan.key, count)
    found = plan.test(protocol)(params, batch, rows, protocol.values, saved.data.test, plan.key)
    return [plan.row(saved.path.name, t, found[:, i]) for i, t in enumerate(plan.at)]


def real_name(plan: Plan, networks: Sequence[str]) -> str:
    """What the rows on real data are called: with what tells them from those of other networks."""
    if len(networks) == 1:
        return "real data"
    learners = {network.rpartition(", ")[0] for network in networks}
    return f"real, {plan.network if len(learners) > 1 else plan.network.rpartition(', ')[2]}"


def rows_on_real_data(plan: Plan, series: str) -> list[Row]:
    """Accuracy on real data; step size and momentum of each number of steps searched on validation."""
    saved, config = plan.saved, plan.config
    size = len(saved.data.train.y)
    real, subsets = Batch(saved.data.train.x, saved.data.train.y), everything(size)
    progress.say(f"real data, {plan.network}: searching on validation ...")
    shape = {"num_steps": plan.shape[0], "batch_size": plan.shape[1]}
    protocols = {m: few_steps(size, **shape, momentum=m) for m in config["momenta"]}
    tests = {momentum: plan.test(protocol) for momentum, protocol in protocols.items()}
    few, key = config["num_search_learners"], stream(plan.key, "search")
    candidates, searched = plan.networks("search", few), {}

    def run(momentum: float, rate: float, params: Params, split: Dataset, key: jax.Array) -> jax.Array:
        protocol = with_step_size(protocols[momentum], rate)
        count = jax.tree.leaves(params)[0].shape[0]
        return tests[momentum](params, real, subsets(key, count), protocol.values, split, key)

    def search(rate: float) -> None:
        for momentum in protocols:
            found = run(momentum, rate, candidates, saved.data.validation, key)
            searched[momentum, rate] = [plan.score(found[:, i]).mean for i in range(len(plan.at))]

    def choices() -> list[tuple[float, float]]:
        return [max(searched, key=lambda choice, i=i: searched[choice][i]) for i in range(len(plan.at))]

    rates = sorted(config["step_sizes"])
    for rate in rates:
        search(rate)
    for _ in range(2 if len(rates) > 1 else 0):  # a best one at the edge of the grid would starve it
        for edge, beyond in ((max(rates), 3 * max(rates)), (min(rates), min(rates) / 3)):
            if edge in {rate for _, rate in choices()}:
                rates.append(beyond)
                search(beyond)
    best = choices()
    params = plan.networks("real", config["num_learners"])
    found = {each: run(*each, params, saved.data.test, plan.key) for each in dict.fromkeys(best)}
    chosen = [{"made_of": "real data", "momentum": momentum, "step_size": rate} for momentum, rate in best]
    return [plan.row(series, t, found[best[i]][:, i]) | chosen[i] for i, t in enumerate(plan.at)]


def table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """(columns, cells): a line per series, a column per number of steps."""
    steps = sorted({row["steps"] for row in rows})
    cells = {(row["series"], row["steps"]): row for row in rows}
    lines = []
    for series in dict.fromkeys(row["series"] for row in rows):
        found = [cells.get((series, t)) for t in steps]
        shown = (f"{100 * r['mean']:.1f}±{100 * r['std']:.1f}" if r else "-" for r in found)
        lines.append([series, *shown])
    return ["trained on", *map(str, steps)], lines


def show(result: Mapping[str, Any]) -> None:
    """Prints the table."""
    rows, config = result["rows"], result["config"]
    title = f"\nTest accuracy (%) on {config['dataset']} after so many steps; K = {config['num_learners']}"
    progress.table(title, *table(rows))
    chosen = [r for r in rows if "momentum" in r]
    told = ", ".join(f"{r['steps']}: {r['step_size']:g} and {r['momentum']:g}" for r in chosen)
    progress.say(f"real data, step size and momentum by number of steps: {told}")


if __name__ == "__main__":
    cli.main(run, GROUPS, __doc__)
