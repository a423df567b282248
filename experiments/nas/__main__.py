"""Architecture search by few-step training on distilled data: does it rank networks as long training does?

Question: how well do few steps on distilled images order architectures, against as many steps on real data
and on random real images, and at what cost?

    python -m experiments.nas                      distills a hundred digits first; 6 minutes on 2 cores
    python -m experiments.nas --distilled=RUN      a finished run of experiments.distill

Candidates are ConvNets of another depth, width, norm, activation, kernel and pooling. Each is scored on
validation after these trainings: a few steps on the distilled images, as many on real data, as many on random
real images, and long training on real data, twice, with other networks. The second long training is the
ceiling: no way can be expected to rank better. A run of a method that trains networks is used as it was
learned, with its own steps; other step sizes are searched on validation. The table shows Spearman's and
Kendall's rank correlation with the first long training, the time, and the test accuracy of the candidate that
each training ranks first. The test set ranks nothing. Candidates are measured one after another; run the same
command again to resume a search that was stopped, also with another `--num_candidates`: fewer candidates are
the first of more.
"""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from experiments import cli
from experiments.nas.architectures import drawn, made, name_of, space
from experiments.nas.figure import rank_scatter
from experiments.records import kept
from experiments.tables import as_csv, as_markdown, writable
from jaxdistill.config import build
from jaxdistill.config.option import option, options
from jaxdistill.config.resolve import filled
from jaxdistill.config.table import OF_A_SAVED_RUN, Config, DeviceOptions, MapOptions, Places, SeedOptions
from jaxdistill.core.keys import stream
from jaxdistill.core.types import Batch, Dataset, Learner
from jaxdistill.data import Splits
from jaxdistill.evaluation import (
    Protocol,
    Subsets,
    epochs,
    evaluator,
    everything,
    few_steps,
    random_of_each_class,
    summarize,
    with_step_size,
)
from jaxdistill.inner.over_learners import by_turns
from jaxdistill.runs.compare import show as show_result
from jaxdistill.runs.networks import new_networks
from jaxdistill.runs.plan import numbers_of
from jaxdistill.runs.protocols import as_learned, seen
from jaxdistill.runs.result import run_to_result
from jaxdistill.runs.run import Run, load_run
from jaxdistill.runtime import mesh, profile, progress
from jaxdistill.runtime.atomic import atomic_write
from jaxdistill.runtime.expected_time import Shorter
from jaxdistill.runtime.rundir import RunDir, open_run

WAYS = {
    "distilled": "few steps on distilled data",
    "real": "as many steps on real data",
    "random": "as many steps on random real images",
    "again": "long training of other networks",
}


@options
class Options(Places, MapOptions, SeedOptions, DeviceOptions):
    title: ClassVar[str] = "search"
    distilled: str | None = option(
        None, "a finished run of experiments.distill (default: distills a hundred digits)"
    )
    num_candidates: int = option(24, "architectures to draw from the space", low=3)
    num_learners: int = option(3, "networks per architecture and kind of training", low=1)
    num_steps: int | None = option(
        None, "few steps: this many (default: 64, or those that a run's method trains networks for)", low=1
    )
    few_batch_size: int = option(
        16, "images per batch of a few steps, if the method trains no networks", low=1
    )
    num_epochs: int = option(20, "epochs of the long training", low=1)
    batch_size: int = option(64, "images per batch of the long training", low=1)
    step_sizes: tuple[float, ...] = option(
        (0.01, 0.03, 0.1), "step sizes to try; validation chooses", above=0, some=True
    )
    dataset: str | None = option(None, "the .npz of a run that was distilled from a user's own images")
    run_dir: str = option(
        "runs/nas", "folder to write everything into; a search that is already there is resumed"
    )
    smoke: bool = option(False, "a short trial: 3 candidates, short training")


SMOKE = {"num_candidates": 3, "num_learners": 1, "num_epochs": 1, "step_sizes": (0.03,)}
DISTILLED = Config(
    method="dm",
    images_per_class=10,
    learner="convnet",
    width=16,
    depth=3,
    num_shapes=4,
    num_outer_steps=2000,
    num_eval_learners=5,
    num_baseline_learners=0,
)
"""The run that is distilled if none is given: for ConvNets of four random shapes."""
SHORT: dict[str, Any] = {
    "num_outer_steps": 10,
    "num_eval_learners": 2,
    "images_per_class": 1,
    "num_shapes": 1,
    "width": 4,
    "depth": 1,
}
"""Its changed options in a trial run."""
STEPS = 64
"""Few steps, if the method trains no networks and nobody chose."""
Row = dict[str, Any]


def run(options: Options) -> dict[str, Any]:
    """Measures every candidate, prints the table, writes result.json, rows.csv, nas.md and nas.png.

    Returns:
      {"rows": one per candidate, "ways": rank correlations and picks, "config", "environment"}.

    Raises:
      UserError: bad input, before anything is trained.
    """
    options = filled(options.with_smoke(SMOKE))
    devices = mesh.layout(options.mesh, options.num_learners)  # before anything is distilled
    folder = writable("nas", options.run_dir)
    path = options.distilled or default_run(folder, options.smoke)
    distilled = load_run(path, **{name: getattr(options, name) for name in OF_A_SAVED_RUN})
    info = distilled.data.info
    candidates = drawn(info, options.num_candidates, options.seed)
    left_out = (*OF_A_SAVED_RUN, *DeviceOptions.options(), "run_dir", "distilled", "num_candidates")
    pinned = {n: v for n, v in options.chosen().items() if n not in left_out}
    pinned |= {"distilled": Path(path).name, "distilled_sha256": digest_of(distilled), "dataset": info.name}
    with open_run(folder / "search", pinned, experiment="nas") as directory:
        progress.say(
            f"{len(candidates)} of {len(space(info))} ConvNets on {info.name}, "
            f"{profile.device_description()}; everything goes to {folder / 'search'}"
        )
        mesh.say_devices(devices)
        with mesh.spread(devices):
            trainings = trainings_of(distilled, options)
            count = len(candidates)
            rows, times = [], progress.Rows(count, Shorter("num_candidates", count))
            for network in candidates:
                there = candidate_file(directory, network).exists()
                rows.append(measured(directory, distilled, options, trainings, network))
                times.done(made=not there)
        result = {
            "rows": rows,
            "ways": judged(rows),
            "config": pinned,
            "environment": directory.environment,
        }
        directory.write_json("result.json", result)
        files = {"rows.csv": as_csv(rows), "nas.md": as_markdown(COLUMNS, table(result))}
        for name, text in files.items():
            atomic_write(directory.path / name, lambda file, text=text: file.write(text.encode()))
        title = f"few steps against long training: {len(rows)} ConvNets on {info.name}"
        rank_scatter(directory.path / "nas.png", rows, WAYS, title=title)
    show(result)
    return result


def default_run(folder: Path, smoke: bool) -> str:
    """Distills digits for ConvNets of random shapes; a run that is already there is resumed."""
    path = str(folder / "distilled")
    config = DISTILLED.replace(**(SHORT if smoke else {}), run_dir=path)
    show_result(run_to_result(config))
    return path


def root_key(options: Options) -> jax.Array:
    """The key of a search, which every draw has a stream of."""
    return stream(jax.random.key(options.seed), "nas")


def digest_of(run: Run) -> str:
    """SHA-256 of what a run is and of what it has learned so far."""
    text = json.dumps(numbers_of(run.plan.identity), sort_keys=True)
    found = hashlib.sha256(f"{text} {run.step}".encode())
    for leaf in jax.tree.leaves(run.state.output):
        found.update(np.asarray(leaf).tobytes())
    return found.hexdigest()


class Training(NamedTuple):
    """A way to train candidates."""

    protocol: Protocol
    subsets: Subsets
    """Which of all images each network sees."""
    searched: bool
    """Whether its step size is searched on validation; it is learned otherwise."""
    first_step: Protocol
    """Its first step alone: what compiles the program of networks in turn, whose steps are an argument."""


def training_by(protocol: Protocol, subsets: Subsets, *, searched: bool = True) -> Training:
    """A way to train candidates."""
    values = {name: value[:1] for name, value in protocol.values.items()}
    first = protocol._replace(order=lambda key: protocol.order(key)[:1], values=values, restart=0)
    return Training(protocol, subsets, searched, first)


class Trainings(NamedTuple):
    """All ways, made once: candidates of one architecture share the programs that they are compiled to."""

    images: Batch
    """The training images, and the distilled ones behind them: one shape for every way."""
    ways: dict[str, Training]


def trainings_of(distilled: Run, options: Options) -> Trainings:
    """How candidates are trained.

    Raises:
      UserError: `num_steps` beside a run whose method trains networks for steps of its own.
    """
    train = distilled.data.train
    size = len(train.y)
    own, subsets = seen(distilled, stream(root_key(options), "draws"), options.num_learners)
    own_training = build.has_steps(distilled.config)
    reason = f"beside a run of {distilled.config.method}, which has its own" if own_training else ""
    cli.refuse_idle("nas", options, dict.fromkeys(("num_steps", "few_batch_size"), reason))
    steps, batch = (
        distilled.order.shape if own_training else (options.num_steps or STEPS, options.few_batch_size)
    )

    def few(count: int) -> Protocol:
        return few_steps(count, num_steps=steps, batch_size=batch)

    def behind(key: jax.Array, count: int) -> jax.Array:
        return size + subsets(key, count)

    per_class = max(1, len(distilled.synthetic.images) // distilled.data.info.num_classes)
    per_class = min(per_class, int(train.counts.min()))
    on_own = as_learned(distilled, distilled.order) if own_training else few(len(distilled.synthetic.images))
    long = epochs(size, num_epochs=options.num_epochs, batch_size=options.batch_size, name="long")
    random = random_of_each_class(train, per_class)
    ways = {
        "distilled": training_by(on_own, behind, searched=not own_training),
        "real": training_by(few(size), everything(size)),
        "random": training_by(few(per_class * distilled.data.info.num_classes), random),
        "long": training_by(long, everything(size)),
    }
    return Trainings(
        Batch(*(jnp.concatenate(pair) for pair in zip((train.x, train.y), own, strict=True))), ways
    )


def measured(
    directory: RunDir, distilled: Run, options: Options, trainings: Trainings, network: Mapping[str, Any]
) -> Row:
    """A candidate's row; one that was measured before is read."""

    def make() -> Row:
        progress.say(f"{name_of(network)} ...")
        return candidate(distilled, options, trainings, network)

    return kept(directory, candidate_file(directory, network), make)


def candidate_file(directory: RunDir, network: Mapping[str, Any]) -> Path:
    """The file of a candidate's row."""
    return directory.path / "candidates" / f"{name_of(network)}.json"


def candidate(distilled: Run, options: Options, trainings: Trainings, network: Mapping[str, Any]) -> Row:
    """Trains one architecture in every way."""
    net = made(distilled.data.info, network)
    trial = Trial(net, distilled.data, options, trainings.images)
    row: Row = {"name": name_of(network), **network}
    for way, training in trainings.ways.items():
        rates = options.step_sizes if training.searched else (None,)
        row |= trial.run(way, training, rates, "first", test=way == "long")
    again = trial.run("again", trainings.ways["long"], (row["long_step_size"],), "second")
    return row | again


class Trial(NamedTuple):
    """The networks of one architecture, and what they are trained and tested on."""

    net: Learner
    data: Splits
    options: Options
    images: Batch

    def run(
        self, way: str, training: Training, rates: Sequence[float | None], draw: str, *, test: bool = False
    ) -> Row:
        """Validation (and test) accuracy, and the seconds of the whole search, without compilation.

        Args:
          way: its name.
          training: how networks are trained.
          rates: step sizes to try; [None] for the learned ones.
          draw: names the draw of networks, of their images and of the order of these.
          test: whether the test accuracy of the best is measured too.
        """
        options, count = self.options, self.options.num_learners
        key = stream(root_key(options), draw)
        params = new_networks(self.net)(stream(key, "learners"), count)
        rows = training.subsets(stream(key, "images"), count)
        key = stream(key, "training")
        strategy, chunk = options.strategy, options.learner_chunk
        protocols = [
            training.protocol if rate is None else with_step_size(training.protocol, rate) for rate in rates
        ]

        def score(protocol: Protocol, split: Dataset) -> tuple[float, float]:
            run = evaluator(self.net, protocol, strategy=strategy, learner_chunk=chunk)
            began = time.perf_counter()
            found = run(params, self.images, rows, protocol.values, split, key)
            return summarize(found, split.y.shape[1]).mean, time.perf_counter() - began

        if by_turns(strategy, chunk):  # compiles
            run = evaluator(self.net, training.first_step, strategy=strategy)
            one = jax.tree.map(lambda a: a[:1], (params, rows))
            run(one[0], self.images, one[1], training.first_step.values, self.data.validation, key)
        else:
            score(protocols[0], self.data.validation)
        validation = [score(protocol, self.data.validation) for protocol in protocols]
        best = max(range(len(protocols)), key=lambda i: validation[i][0])
        found = {
            f"{way}_validation": validation[best][0],
            f"{way}_seconds": sum(seconds for _, seconds in validation),
        }
        if test:
            found |= {f"{way}_test": score(protocols[best], self.data.test)[0]}
        return found if rates[best] is None else found | {f"{way}_step_size": rates[best]}


def judged(rows: Sequence[Row]) -> dict[str, Row]:
    """Per way: rank correlation of its validation score with the long training's, its pick, its time."""
    truth = [row["long_validation"] for row in rows]
    found = {}
    for way in WAYS:
        scores = [row[f"{way}_validation"] for row in rows]
        pick = rows[int(np.argmax(scores))]
        ranked = len(set(scores)) > 1 and len(set(truth)) > 1  # or there is no order to compare
        spearman, kendall = (
            float(np.asarray(correlation(scores, truth))[0]) if ranked else None
            for correlation in (scipy.stats.spearmanr, scipy.stats.kendalltau)
        )
        found[way] = {
            "spearman": spearman,
            "kendall": kendall,
            "pick": pick["name"],
            "pick_test": pick["long_test"],
            "seconds": sum(row[f"{way}_seconds"] for row in rows),
        }
    best = rows[int(np.argmax(truth))]
    found["long"] = {
        "spearman": 1.0,
        "kendall": 1.0,
        "pick": best["name"],
        "pick_test": best["long_test"],
        "seconds": sum(row["long_seconds"] for row in rows),
    }
    return found


COLUMNS = ["scored by", "Spearman", "Kendall", "its pick", "test accuracy of the pick", "seconds"]


def table(result: Mapping[str, Any]) -> list[list[str]]:
    """A line per way."""
    names, lines = WAYS | {"long": "long training on real data"}, []
    for way, found in result["ways"].items():
        ranks = ("-" if found[n] is None else f"{found[n]:.2f}" for n in ("spearman", "kendall"))
        accuracy = f"{100 * found['pick_test']:.1f}"
        lines.append([names[way], *ranks, found["pick"], accuracy, f"{found['seconds']:.1f}"])
    return lines


def show(result: Mapping[str, Any]) -> None:
    """Prints the table."""
    about, count = result["config"], len(result["rows"])
    title = f"\nRank correlation with long training: {count} ConvNets on {about['dataset']}"
    progress.table(f"{title}, K = {about['num_learners']}", COLUMNS, table(result))


if __name__ == "__main__":
    cli.main(run, Options, __doc__)
