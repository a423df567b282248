"""Architecture search by few-step training on distilled data: does it rank networks as long training does?

Question: how well do few steps on generated data rank architectures, against as many steps on real data and
on random real images, and at what cost?

    python -m experiments.nas                      distills a generator of digits first; 4 minutes on 2 cores
    python -m experiments.nas --distilled=RUN      a finished run of experiments.distill

Candidates are ConvNets of another depth, width, norm, activation and kernel. Each is scored on validation
after four trainings: the steps of the run on its data, as many steps on real data, as many on random real
images, and a long training on real data. The step sizes on real images are searched on validation. The table
shows Spearman's and Kendall's rank correlation with the long training, the time of both, and the test
accuracy of the candidate that each training ranks first. The test set ranks nothing. Candidates are measured
one after another; run the same command again to resume a search that was stopped.
"""

import itertools
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
from experiments.tables import as_csv, as_markdown
from jaxdistill.config.option import option, options
from jaxdistill.config.resolve import filled
from jaxdistill.config.table import Config, DeviceOptions, MapOptions, Places, SeedOptions
from jaxdistill.core.checks import UserError, fail
from jaxdistill.core.keys import stream
from jaxdistill.core.types import Batch, Dataset, Learner, Params
from jaxdistill.data import DatasetInfo
from jaxdistill.evaluation import (
    Protocol,
    Subsets,
    epochs,
    everything,
    few_steps,
    one_program,
    random_of_each_class,
    summarize,
    with_step_size,
)
from jaxdistill.learners import learner
from jaxdistill.populations.fresh import fresh
from jaxdistill.runs.compare import show as show_result
from jaxdistill.runs.protocols import as_learned, seen
from jaxdistill.runs.result import run_to_result
from jaxdistill.runs.run import Run, load_run
from jaxdistill.runtime import figures, mesh, profile, progress
from jaxdistill.runtime.atomic import atomic_write
from jaxdistill.runtime.rundir import RunDir, open_run

SPACE: dict[str, tuple[Any, ...]] = {
    "depth": (1, 2, 3),
    "width": (4, 8, 16, 32),
    "norm": ("none", "instance", "batch"),
    "activation": ("relu", "tanh"),
    "kernel": (3, 5),
}
"""The options of a candidate; depths that the image has no room for are left out."""
WAYS = {
    "distilled": "few steps on distilled data",
    "real": "as many steps on real data",
    "random": "as many steps on random real images",
}
PLACES = ("dataset", "data_dir", "manual_dir")
"""Options for the data of the run."""


@options
class Options(Places, MapOptions, SeedOptions, DeviceOptions):
    title: ClassVar[str] = "search"
    distilled: str | None = option(None, "a finished run of experiments.distill (default: distills digits)")
    num_candidates: int = option(24, "architectures to draw from the space", low=3)
    num_learners: int = option(3, "networks per architecture and kind of training", low=1)
    num_epochs: int = option(20, "epochs of the long training", low=1)
    batch_size: int = option(64, "images per batch of the long training", low=1)
    step_sizes: tuple[float, ...] = option(
        (0.01, 0.03, 0.1), "step sizes to try on real data; validation chooses", above=0, some=True
    )
    dataset: str | None = option(None, "the .npz of a run that was distilled from a user's own images")
    run_dir: str = option(
        "runs/nas", "folder to write everything into; a search that is already there is resumed"
    )
    smoke: bool = option(False, "a short trial: 3 candidates, short training")


SMOKE = {"num_candidates": 3, "num_learners": 1, "num_epochs": 1, "step_sizes": (0.03,)}
GENERATOR = Config(
    method="gtn",
    batch_size=16,
    distill_steps=16,
    generator_width=16,
    generator_hidden=128,
    learner="convnet",
    width=16,
    depth=3,
    num_shapes=4,
    inner_learning_rate=0.1,
    outer_learning_rate=0.01,
    clip=1.0,
    num_outer_steps=800,
    chunk_length=5,
    num_baseline_learners=0,
)
"""The run that is distilled if none is given: for ConvNets of four random shapes."""
SHORT: dict[str, Any] = {
    "num_outer_steps": 10,
    "num_eval_learners": 2,
    "num_shapes": 1,
    "width": 4,
    "depth": 1,
    "distill_steps": 2,
    "generator_width": 4,
}
"""Its changed options in a trial run."""
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
    folder = Path(options.run_dir)
    path = options.distilled or default_run(folder, options.smoke)
    distilled = load_run(path, **{name: getattr(options, name) for name in PLACES}, inner_loop=True)
    info = distilled.data.info
    candidates = drawn(info, options.num_candidates, options.seed)
    left_out = (*PLACES, *DeviceOptions.options(), "run_dir", "distilled")
    kept = {n: v for n, v in options.chosen().items() if n not in left_out}
    pinned = kept | {"distilled": Path(path).name, "dataset": info.name}
    with open_run(folder / "search", pinned, experiment="nas") as directory:
        progress.say(
            f"{len(candidates)} of {len(space(info))} ConvNets on {info.name}, "
            f"{profile.device_description()}; everything goes to {folder / 'search'}"
        )
        mesh.say_devices(devices)
        with mesh.spread(devices):
            rows = [measured(directory, distilled, options, network) for network in candidates]
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
        figures.rank_scatter(directory.path / "nas.png", rows, WAYS, title=title)
    show(result)
    return result


def default_run(folder: Path, smoke: bool) -> str:
    """Distills a generator of digits for ConvNets of random shape; a run that is already there is resumed."""
    path = str(folder / "distilled")
    config = GENERATOR.replace(**(SHORT if smoke else {}), run_dir=path)
    show_result(run_to_result(config))
    return path


def space(info: DatasetInfo) -> list[dict[str, Any]]:
    """Every architecture that fits the images."""
    fitting = []
    for values in itertools.product(*SPACE.values()):
        network = dict(zip(SPACE, values, strict=True))
        try:
            made(info, network)
        except UserError:
            continue
        fitting.append(network)
    return fitting


def made(info: DatasetInfo, network: Mapping[str, Any]) -> Learner:
    """The ConvNet of those options, for images of that kind."""
    return learner("convnet", image_shape=info.image_shape, num_classes=info.num_classes, **network)


def drawn(info: DatasetInfo, count: int, seed: int) -> list[dict[str, Any]]:
    """`count` different architectures of the space."""
    every = space(info)
    if count > len(every):
        raise fail("nas", f"num_candidates <= {len(every)}, the architectures that fit", count)
    order = np.random.default_rng(seed).permutation(len(every))[:count]
    return [every[i] for i in order]


def name_of(network: Mapping[str, Any]) -> str:
    """Such as `depth3-width16-instance-relu-kernel3`."""
    return "depth{depth}-width{width}-{norm}-{activation}-kernel{kernel}".format(**network)


def measured(directory: RunDir, distilled: Run, options: Options, network: Mapping[str, Any]) -> Row:
    """A candidate's row; one that was measured before is read."""
    file = directory.path / "candidates" / f"{name_of(network)}.json"
    if not file.exists():
        progress.say(f"{name_of(network)} ...")
        directory.write_json(file, candidate(distilled, options, network))
    return json.loads(file.read_text())


def candidate(distilled: Run, options: Options, network: Mapping[str, Any]) -> Row:
    """Trains one architecture in every way."""
    data, count = distilled.data, options.num_learners
    net = made(data.info, network)
    steps, batch = distilled.order.shape
    real, size = Batch(data.train.x, data.train.y), len(data.train.y)
    key, population = stream(jax.random.key(options.seed), "nas"), fresh(net)
    images, subsets = seen(distilled, stream(key, "draws"), count)
    few = few_steps(size, num_steps=steps, batch_size=batch)
    smallest = int(data.train.counts.min())
    per_class = max(1, min(len(distilled.synthetic.images) // data.info.num_classes, smallest))
    long = epochs(size, num_epochs=options.num_epochs, batch_size=options.batch_size, name="long")
    params = jax.jit(lambda key: population.context((), None, key, count))(key)
    trial = Trial(net, distilled, options, key, params, {})
    row: Row = {"name": name_of(network), **network}
    row |= trial.run("distilled", as_learned(distilled, distilled.order), images, subsets, None)
    row |= trial.run("real", few, real, everything(size), options.step_sizes)
    row |= trial.run("random", few, real, repeated(data.train, per_class), options.step_sizes)
    return row | trial.run("long", long, real, everything(size), options.step_sizes, test=True)


def repeated(train: Dataset, per_class: int) -> Subsets:
    """Random real images for each network, repeated up to the size of the whole set.

    So the program that was compiled for the whole set trains on them.
    """
    some = random_of_each_class(train, per_class)
    return lambda key, count: jnp.resize(some(key, count).T, (len(train.y), count)).T


class Trial(NamedTuple):
    """The networks of one architecture, and the programs that were compiled for them."""

    net: Learner
    distilled: Run
    options: Options
    key: jax.Array
    params: Params
    compiled: dict[Any, Any]

    def run(
        self,
        way: str,
        training: Protocol,
        images: Batch,
        subsets: Subsets,
        step_sizes: Sequence[float] | None,
        *,
        test: bool = False,
    ) -> Row:
        """Validation (and test) accuracy, and the seconds of the whole search, without compilation."""
        strategy, chunk = self.options.strategy, self.options.learner_chunk
        data, rows = self.distilled.data, subsets(self.key, self.options.num_learners)
        trainings = (
            [training] if step_sizes is None else [with_step_size(training, rate) for rate in step_sizes]
        )

        def score(training: Protocol, split: Dataset) -> tuple[float, float]:
            arguments = (self.params, images, rows, training.values, split, self.key)
            program = (training.name, len(split.y))
            if program not in self.compiled:
                function = one_program(self.net, training, strategy=strategy, learner_chunk=chunk)
                self.compiled[program] = function.lower(*arguments).compile()
            began = time.perf_counter()
            found = jax.block_until_ready(self.compiled[program](*arguments))
            seconds = time.perf_counter() - began
            return summarize(found, split.y.shape[1]).mean, seconds

        validation = [score(training, data.validation) for training in trainings]
        best = max(range(len(trainings)), key=lambda i: validation[i][0])
        found = {
            f"{way}_validation": validation[best][0],
            f"{way}_seconds": sum(seconds for _, seconds in validation),
        }
        if test:
            found |= {f"{way}_test": score(trainings[best], data.test)[0]}
        return found if step_sizes is None else found | {f"{way}_step_size": step_sizes[best]}


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
