"""Few-step accuracy: how fast do fresh networks learn from generated data, learned images and real data?

Question: what is the test accuracy after 1, 2, 4, ... training steps on the data of a run, against as many
steps on real data with hyper-parameters tuned for that number of steps?

    python -m experiments.few_step --runs=RUN,RUN                   finished runs of experiments.distill
    python -m experiments.few_step                                  distills two first: digits, 3 minutes

Each network sees the batches of a run in their order, with the learned step sizes and momenta. On real data
the same network trains on shuffled batches of the same size. Step size and momentum are searched on
validation for every number of steps. Expected, digits, after 16 steps: generated data 92%, ten learned images
91%, real data 49%. Writes few_step.json, few_step.csv, few_step.md and few_step.png.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import jax

from experiments import cli
from experiments.tables import writable, write_tables
from jaxdistill.config import build
from jaxdistill.config.option import option, options
from jaxdistill.config.resolve import filled
from jaxdistill.config.table import (
    OF_A_SAVED_RUN,
    Config,
    DeviceOptions,
    MapOptions,
    Places,
    SearchOptions,
    SeedOptions,
)
from jaxdistill.core.checks import fail
from jaxdistill.core.keys import stream
from jaxdistill.core.types import Dataset, Params
from jaxdistill.evaluation import (
    Evaluation,
    Evaluator,
    Protocol,
    Score,
    evaluator,
    few_steps,
    summarize,
    with_step_size,
)
from jaxdistill.runs.compare import all_images
from jaxdistill.runs.compare import show as show_result
from jaxdistill.runs.networks import unseen_networks
from jaxdistill.runs.protocols import as_learned, seen
from jaxdistill.runs.reference import kept, network_of, setting, training_of
from jaxdistill.runs.result import run_to_result
from jaxdistill.runs.run import Run, load_run
from jaxdistill.runtime import figures, mesh, profile, progress

OF_RUNS = (*OF_A_SAVED_RUN, "pool")
"""Options by which the data and networks of the runs are found."""


@options
class Options(Places, SearchOptions, MapOptions, SeedOptions, DeviceOptions):
    title: ClassVar[str] = "few steps"
    runs: tuple[str, ...] = option(
        (), "finished runs of experiments.distill (default: distills two on digits)"
    )
    steps: tuple[int, ...] = option(
        (), "numbers of training steps (default: powers of two, and all steps of a run)", low=1
    )
    momenta: tuple[float, ...] = option((0.0, 0.5, 0.9), "momenta to try on real data", some=True)
    num_learners: int = option(20, "networks per number of steps", low=1)
    dataset: str | None = option(None, "the .npz of runs that were distilled from a user's own images")
    pool: str | None = option(
        None, "folder that experiments.pretrain wrote, for runs that drew networks from it"
    )
    run_dir: str = option("runs/few_step", "folder to write the table and the plot into")
    smoke: bool = option(False, "a short trial: few networks, short runs")


SMOKE = {"num_learners": 2, "num_search_learners": 1, "step_sizes": (0.1,), "momenta": (0.9,)}
SMALL_GTN = Config(
    method="gtn",
    batch_size=10,
    distill_steps=16,
    generator_width=8,
    generator_hidden=64,
    inner_learning_rate=0.1,
    outer_learning_rate=0.01,
    clip=1.0,
)
IMAGES = Config(distill_epochs=16, num_learners=4)
"""The two runs that are distilled if none are given: a generator and ten images."""
NETWORK: dict[str, Any] = {"learner": "mlp", "width": 64, "num_outer_steps": 1000, "num_baseline_learners": 0}
"""Options of both."""
SHORT: dict[str, Any] = {"num_outer_steps": 20, "num_eval_learners": 2, "width": 4}
"""Options of both in a trial run."""
Row = dict[str, Any]


def run(options: Options) -> dict[str, Any]:
    """Tests after every number of steps, prints the table, writes the files.

    Returns:
      {"rows": one per series and number of steps, "config", "environment"}.

    Raises:
      UserError: bad input, before anything is trained.
    """
    options = filled(options.with_smoke(SMOKE))
    names = names_of(options.runs)
    devices = mesh.layout(options.mesh, options.num_learners)  # before anything is distilled
    folder = Path(options.run_dir)
    if not options.runs:
        writable("few_step", folder)
    paths = options.runs or default_runs(folder, options.smoke)
    places = {name: getattr(options, name) for name in OF_RUNS}
    runs = [load_run(path, **places, inner_loop=True) for path in paths]
    names = names or names_of(paths)
    trials = [trial_of(each, name, options) for each, name in zip(runs, names, strict=True)]
    if len({each.data.info.name for each in runs}) > 1:
        raise fail("few_step", "runs of one data set", ", ".join(each.data.info.name for each in runs))
    writable("few_step", folder)
    mesh.say_devices(devices)
    with mesh.spread(devices):
        rows = [row for trial in trials for row in rows_on_its_data(trial)]
        for series, (trial, who) in on_real_data(trials).items():
            rows += rows_on_real_data(trial, series, who)
    left_out = (*OF_RUNS, *DeviceOptions.options(), "run_dir", "fresh_baselines")
    result = {
        "rows": rows,
        "config": {n: v for n, v in options.chosen().items() if n not in left_out}
        | {"runs": names, "dataset": runs[0].data.info.name},
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


def default_runs(folder: Path, smoke: bool) -> tuple[str, ...]:
    """Distills a small generator and ten images of digits; a run that is already there is resumed."""
    paths, shared = [], NETWORK | (SHORT if smoke else {})
    for name, config in (("gtn", SMALL_GTN), ("images", IMAGES)):
        paths.append(str(folder / name))
        show_result(run_to_result(config.replace(**shared, run_dir=paths[-1])))
    return tuple(paths)


class Trial(NamedTuple):
    """One run, and the numbers of steps that it is tested after."""

    run: Run
    name: str
    """Its series in the table."""
    options: Options
    at: list[int]
    network: str
    """Its network and batch size, in words."""
    key: jax.Array

    @property
    def shape(self) -> tuple[int, int]:
        """(T, B)."""
        return self.run.order.shape  # pyright: ignore[reportReturnType]

    def test(self, protocol: Protocol) -> Evaluator:
        """The program that tests after every number of steps."""
        options = self.options
        return evaluator(
            self.run.tested,
            protocol,
            at=self.at,
            strategy=options.strategy,
            learner_chunk=options.learner_chunk,
        )

    def score(self, accuracies: jax.Array) -> Score:
        """Of one number of steps, [K]."""
        return summarize(accuracies, self.run.data.info.num_classes)

    def row(self, series: str, steps: int, accuracies: jax.Array) -> Row:
        """Of one number of steps, [K]."""
        return {
            "series": series,
            "steps": steps,
            "batch_size": self.shape[1],
            **self.score(accuracies).as_row(),
            "learner": self.network,
            "made_of": self.run.plan.made_of,
        }

    def networks(self, name: str, count: int) -> Params:
        """`count` start parameters."""
        run = self.run
        draw = unseen_networks(run.config, run.tested, run.state, run.bank)
        return draw(stream(self.key, name), count)


def names_of(paths: Sequence[str]) -> list[str]:
    """The names of the runs' folders, with as many of the folders above as it takes to tell them apart.

    Raises:
      UserError: a run that is there twice.
    """
    if len({Path(path).resolve() for path in paths}) < len(paths):
        raise fail("few_step", "different runs", ", ".join(map(str, paths)))
    parts, length = [Path(path).absolute().parts for path in paths], 1
    while len({each[-length:] for each in parts}) < len(parts):
        length += 1
    return [Path(*each[-length:]).as_posix() for each in parts]


def trial_of(run: Run, name: str, options: Options) -> Trial:
    """The trial of a run; raises for more steps than it was distilled for."""
    total, batch_size = run.order.shape
    if options.steps and max(options.steps) > total:
        expected = f"steps <= {total}, what the run in {run.path} was distilled for"
        raise fail("few_step", expected, max(options.steps))
    powers = [2**i for i in range(total.bit_length()) if 2**i < total]
    at = sorted(set(options.steps)) if options.steps else [*powers, total]
    given = build.network_options(run.config)
    shown = ":".join([run.config.learner, *(f"{name}={value}" for name, value in given.items())])
    population = run.config.population
    shown += f" ({population})" if build.source(run.config).bank == "pool" else ""
    network = f"{shown}, batches of {batch_size}"
    return Trial(run, name, options, at, network, stream(jax.random.key(options.seed), "few steps"))


def rows_on_its_data(trial: Trial) -> list[Row]:
    """Accuracy on what the run learned."""
    run, count = trial.run, trial.options.num_learners
    progress.say(f"{trial.name}: {count} networks, {trial.shape[0]} steps ...")
    protocol = as_learned(run, run.order)
    batch, subsets = seen(run, stream(trial.key, "draws"), count)
    params, rows = trial.networks("learners", count), subsets(trial.key, count)
    found = trial.test(protocol)(params, batch, rows, protocol.values, run.data.test, trial.key)
    return [trial.row(trial.name, t, found[:, i]) for i, t in enumerate(trial.at)]


def on_real_data(trials: Sequence[Trial]) -> dict[str, tuple[Trial, Row | None]]:
    """By series: the first of the trials whose rows on real data are the same, and what those depend on."""
    groups: dict[str, list[Trial]] = {}
    found: dict[str, Row | None] = {}
    for number, trial in enumerate(trials):
        who = identity_on_real_data(trial)
        text = f"trial {number}" if who is None else json.dumps(who, sort_keys=True)
        groups.setdefault(text, []).append(trial)
        found[text] = who
    names = real_names(list(groups.values()))
    return {name: (groups[text][0], found[text]) for name, text in zip(names, groups, strict=True)}


def real_names(groups: Sequence[Sequence[Trial]]) -> list[str]:
    """The names of the rows on real data; each tells them from those of other groups of trials."""
    if len(groups) == 1:
        return ["real data"]
    texts = [group[0].network for group in groups]
    learners = {text.rpartition(", ")[0] for text in texts}
    names = [f"real, {text if len(learners) > 1 else text.rpartition(', ')[2]}" for text in texts]
    return [
        name if names.count(name) == 1 else f"{name}, for {' and '.join(trial.name for trial in group)}"
        for name, group in zip(names, groups, strict=True)
    ]


def rows_on_real_data(trial: Trial, series: str, who: Row | None) -> list[Row]:
    """Accuracy on real data, from the user's cache where it has the rows that depend on `who`."""
    rows, reused, made = kept(
        who,
        lambda: searched_on_real_data(trial, series),
        name=f"real data, {trial.network}",
        fresh=trial.options.fresh_baselines,
        shown=lambda rows: ", ".join(f"{100 * row['mean']:.1f}% after {row['steps']}" for row in rows),
    )
    return [row | {"series": series, "reused": reused, "made": made} for row in rows]


def identity_on_real_data(trial: Trial) -> Row | None:
    """All that accuracy on real data depends on; None if a part cannot be told."""
    run, options = trial.run, trial.options
    draw = unseen_networks(run.config, run.tested, run.state, run.bank)
    data = run.data
    evaluation = Evaluation(run.tested, draw, data.validation, data.test, trial.key)
    network = network_of(evaluation, data, all_images(data)[1])
    length, size = trial.shape
    shape = {"num_steps": length, "batch_size": size}
    trainings = [
        training_of(few_steps(len(data.train.y), **shape, momentum=m), data) for m in options.momenta
    ]
    if network is None or None in trainings:
        return None
    names = ("step_sizes", "momenta", "num_learners", "num_search_learners", "strategy", "learner_chunk")
    chosen = {name: getattr(options, name) for name in names}
    about = {"network": network, "shown": [trial.network, trial.at], "trainings": trainings}
    return {**setting(trial.key, data), **about, **chosen, **shape}


def searched_on_real_data(trial: Trial, series: str) -> list[Row]:
    """Accuracy on real data; step size and momentum of each number of steps searched on validation."""
    data, options = trial.run.data, trial.options
    size = len(data.train.y)
    real, subsets = all_images(data)
    progress.say(f"real data, {trial.network}: searching on validation ...")
    shape = {"num_steps": trial.shape[0], "batch_size": trial.shape[1]}
    protocols = {m: few_steps(size, **shape, momentum=m) for m in options.momenta}
    tests = {momentum: trial.test(protocol) for momentum, protocol in protocols.items()}
    few, key = options.num_search_learners, stream(trial.key, "search")
    candidates, searched = trial.networks("search", few), {}

    def accuracies(momentum: float, rate: float, params: Params, split: Dataset, key: jax.Array) -> jax.Array:
        protocol = with_step_size(protocols[momentum], rate)
        count = jax.tree.leaves(params)[0].shape[0]
        return tests[momentum](params, real, subsets(key, count), protocol.values, split, key)

    def search(rate: float) -> None:
        for momentum in protocols:
            found = accuracies(momentum, rate, candidates, data.validation, key)
            searched[momentum, rate] = [trial.score(found[:, i]).mean for i in range(len(trial.at))]

    def choices() -> list[tuple[float, float]]:
        return [max(searched, key=lambda choice, i=i: searched[choice][i]) for i in range(len(trial.at))]

    rates = sorted(options.step_sizes)
    times = progress.Rows(len(rates), "fewer step_sizes or momenta take less", noun="step size")
    for rate in rates:
        search(rate)
        times.done()
    for _ in range(2 if len(rates) > 1 else 0):  # the best step size may lie beyond the grid
        for edge, beyond in ((max(rates), 3 * max(rates)), (min(rates), min(rates) / 3)):
            if edge in {rate for _, rate in choices()}:
                rates.append(beyond)
                search(beyond)
    best = choices()
    params = trial.networks("real", options.num_learners)
    found = {each: accuracies(*each, params, data.test, trial.key) for each in dict.fromkeys(best)}
    chosen = [{"made_of": "real data", "momentum": momentum, "step_size": rate} for momentum, rate in best]
    return [trial.row(series, t, found[best[i]][:, i]) | chosen[i] for i, t in enumerate(trial.at)]


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
    rows, about = result["rows"], result["config"]
    title = f"\nTest accuracy (%) on {about['dataset']} after so many steps; K = {about['num_learners']}"
    progress.table(title, *table(rows))
    chosen = [r for r in rows if "momentum" in r]
    told = ", ".join(f"{r['steps']}: {r['step_size']:g} and {r['momentum']:g}" for r in chosen)
    progress.say(f"real data, step size and momentum by number of steps: {told}")


if __name__ == "__main__":
    cli.main(run, Options, __doc__)
