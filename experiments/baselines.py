"""Small training sets that nobody learned, beside the images of a run: how much does distilling them add?

Question: how well do the same networks do after as many steps on as many random real images, on the best of
many random sets, on cluster centres, on average images? And without any training, by nearest neighbours?

    python -m experiments.baselines --run=RUN                       a finished run of experiments.distill
    python -m experiments.baselines                                 distills digits first, 2 minutes

Every set is trained on as the images were distilled for: the same steps, as many images of the same classes
in each, by the run's own networks; a paper's protocol for methods without inner steps. The step size of
every baseline is searched on validation, as one for all steps and as the learned schedule, scaled; so are k
and p of nearest neighbours. Optimised real images are the best fifth of random sets, scored on training
images by 20 networks each. Expected, digits, ten images: distilled 92%, optimised real 65%, k-means and
averages 77%, random real 62%. Images that are trained on in several batches are also tested in the other
order. Writes baselines.json, baselines.csv, baselines.md, baselines.png, and one set of each kind as an .npz
for `experiments.evaluate`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import build, cli, distill
from experiments.comparison import (
    ORDERS,
    as_learned,
    in_other_order,
    other_order,
    plan_of,
    seen,
    training_data,
)
from experiments.devices import DEVICES, devices_of, say_devices
from experiments.networks import evaluations, only_network
from experiments.options import DATA, EVALUATION, POOL, RUN, Groups, Option, complete
from experiments.saved import Saved, load_run
from experiments.tables import writable, write_tables
from jaxdistill.baselines import average_real, k_means, nearest_neighbors, optimized_real, random_real
from jaxdistill.core.checks import above, at_least, fail
from jaxdistill.core.keys import stream
from jaxdistill.core.types import Batch, Dataset, DistillState, Method
from jaxdistill.data import Splits, check_per_class, to_pixels
from jaxdistill.evaluation import (
    Evaluation,
    Protocol,
    Score,
    Subsets,
    Tuned,
    as_distilled,
    as_they_are,
    everything,
    one_part_each,
    random_of_each_class,
    score,
    summarize,
    tuned,
    with_step_size,
)
from jaxdistill.runtime import figures, mesh, profile, progress
from jaxdistill.runtime.export import dedupe, write_synthetic

GROUPS: Groups = {
    "baselines": {
        "run": Option(None, str, "a finished run of experiments.distill (default: distills ten digits)"),
        "num_sets": Option(50, int, "random sets that optimised real images are the best of", low=1),
        "keep": Option(0.2, float, "share of them that is kept", high=1),
        "num_judges": Option(20, int, "networks that score each set", low=1),
        "num_scored": Option(2000, int, "training images that they are scored on", low=1),
        "neighbors": Option([1, 3, 5], int, "candidates for k of nearest neighbours"),
        "norms": Option([1.0, 2.0], float, "candidates for p of the norm"),
        "smoke": Option(False, bool, "few sets and networks: does it run?"),
    },
    "data": {
        "dataset": Option(None, str, "the .npz of a run that was distilled from a user's own images"),
        "data_dir": DATA["data_dir"],
        "manual_dir": DATA["manual_dir"],
        "pool": POOL["pool"],
    },
    "evaluation": {
        "num_learners": Option(20, int, "networks per row", low=1),
        "num_search_learners": EVALUATION["num_search_learners"],
        "step_sizes": EVALUATION["step_sizes"],
    },
    "run": {
        "run_dir": Option("runs/baselines", str, "where the table and the pictures are written"),
        "seed": RUN["seed"],
    },
    "devices": DEVICES,
}
SMOKE = {"num_learners": 2, "num_search_learners": 1, "step_sizes": [0.1], "num_sets": 3, "num_judges": 2}
NEIGHBOR_SETS = 5
"""Of random and of optimised real images, whose nearest neighbours are tested."""
LISTS = ("every", "validation")
"""Of a row, in the JSON file alone."""
Row = dict[str, Any]


def run(**chosen: Any) -> dict[str, Any]:
    """Tests every set, prints the table, writes the files.

    Args:
      **chosen: any option of `GROUPS`.

    Returns:
      {"rows": one per set, "config", "environment"}.

    Raises:
      UserError: bad input, before anything is trained.
    """
    config = complete(GROUPS, chosen)
    config |= SMOKE if config["smoke"] else {}
    check(config)
    where = devices_of(config, config["num_learners"])  # before anything is distilled
    folder = Path(config["run_dir"])
    if not config["run"]:
        writable("baselines", folder)
    path = config["run"] or default_run(folder, config["smoke"])
    places = {name: config[name] for name in ("dataset", "data_dir", "manual_dir", "pool")}
    saved = load_run(path, **places)
    fits(saved.method, saved.data, saved.key, config)
    only_network(saved.config, saved.state, saved.bank)  # raises where a pool is missing
    writable("baselines", folder)
    say_devices(where)
    with mesh.spread(where):
        rows, pictures = rows_of(saved, config)
    result = {
        "rows": rows,
        "config": {n: v for n, v in config.items() if n not in (*places, *DEVICES, "run_dir", "run")}
        | {"run": Path(path).name, "dataset": saved.data.info.name, "learner": saved.config["learner"]},
        "environment": profile.environment(),
    }
    write_tables(folder, "baselines", result, table(rows), leave_out=LISTS)
    draw(folder / "baselines.png", pictures, saved)
    save_sets(folder, pictures, saved)
    show(result)
    progress.say(f"written to {folder}")
    return result


def check(config: Mapping[str, Any]) -> None:
    """Raises unless there is something to search over, all of it possible."""
    build.check_step_sizes(config)
    above("baselines", "keep", config["keep"], 0.0)
    for name in ("neighbors", "norms"):
        if not config[name]:
            raise fail("baselines", f"at least one of {name}", "none")
        for value in config[name]:
            at_least("baselines", name, value, 1)


def default_run(folder: Path, smoke: bool) -> str:
    """Distills ten digits; a run that is there goes on."""
    short = {"num_outer_steps": 20, "width": 8} if smoke else {}
    distill.run(**short, num_baseline_learners=0, run_dir=str(folder / "distilled"))
    return str(folder / "distilled")


def fits(method: Method, data: Splits, key: jax.Array, config: Mapping[str, Any]) -> tuple[np.ndarray, int]:
    """(the class of every distilled image as it was meant, how many each class has).

    Learned labels may have moved elsewhere: those that the images started with say.

    Raises:
      UserError: other numbers of different classes, more of them than real images, or more neighbours.
    """
    _, labels, _ = dedupe(method.synthesize(method.init(key), stream(key, "export")))
    classes = labels.argmax(axis=1)
    counts = np.bincount(classes, minlength=data.info.num_classes)
    if not (counts == counts[0]).all():
        expected = "as many images of every class: a multiple of the classes in all batches together"
        raise fail("baselines", expected, counts.tolist())
    check_per_class(data.train, "baselines", int(counts[0]))
    chosen, default = config["neighbors"], GROUPS["baselines"]["neighbors"].default
    if max(chosen) > len(classes) and chosen != default:
        raise fail("baselines", f"neighbors <= {len(classes)}, the images", chosen)
    return classes, int(counts[0])


def rows_of(saved: Saved, config: Mapping[str, Any]) -> tuple[list[Row], dict[str, Batch]]:
    """(a row per set: trained on, and its nearest neighbours; the images of each that are shown)."""
    classes, per_class = fits(saved.method, saved.data, saved.key, config)
    synthetic = training_data(saved.config, saved.learner, saved.method, saved.state, saved.key, saved.bank)
    images, labels, order = synthetic
    key, networks = stream(jax.random.key(config["seed"]), "baselines"), config["num_learners"]
    limits = {"num_eval_learners": networks, "num_baseline_learners": networks}
    limits["num_search_learners"] = config["num_search_learners"]
    distilled, baseline = evaluations(
        saved.config | limits, saved.data, saved.learner, saved.state, key, saved.bank
    )
    plan = plan_of(saved.config, saved.data, saved.method, saved.state, order, len(images))
    protocols = [plan]
    if plan.name == "as_distilled":
        there = class_by_class(classes)[order]
        protocols = equal_steps(saved.config, saved.method, saved.state, there)
    batch, subsets = seen(saved.config, saved.method, saved.state, synthetic, key, distilled.num_learners)
    progress.say(f"distilled images: {distilled.num_learners} networks, {len(order)} steps ...")
    how = "the learned schedule" if plan.name == "as_distilled" else plan.name
    first = Batch(jnp.asarray(images), jnp.asarray(labels))
    found = score(distilled, plan, batch, subsets)
    rows = [row("distilled", found) | {"trained_by": how} | neighbors([first], saved, config)]
    shuffle = other_order(saved.config, plan.name, order)
    if shuffle is not None:
        method = saved.method, saved.state, synthetic
        other = score(distilled, *in_other_order(saved.config, saved.data, *method, shuffle, key))
        rows.append(row(f"distilled, {ORDERS[shuffle]}", other) | {"trained_by": how})
    if saved.bank is not None:
        rows.append(row("nothing", unadapted(saved, distilled)) | {"trained_by": "-"})
    shown = {"distilled": first._replace(y=jnp.eye(labels.shape[1])[classes])}  # learned ones may have moved

    def add(name: str, batch: Batch, subsets: Subsets, sets: list[Batch]) -> Tuned:
        progress.say(f"{name} images: step size searched on validation ...")
        # one network trained on one set in one order is one network, however often
        same = len(sets) == 1 and distilled.num_learners == 1
        evaluation = baseline._replace(num_learners=1) if same else baseline
        best = tuned(evaluation, protocols, batch, subsets, step_sizes=config["step_sizes"])
        how = {"trained_by": f"{best.protocol}: {best.step_size:.3g}", "validation": best.searched}
        rows.append(row(name, best.score) | how | neighbors(sets, saved, config))
        shown[name] = sets[0]
        return best

    train, size = saved.data.train, len(images)
    keys = jax.random.split(stream(key, "shown"), NEIGHBOR_SETS)
    drawn = [random_real(train, each, per_class) for each in keys]
    best = add("random real", Batch(train.x, train.y), random_of_each_class(train, per_class), drawn)
    (protocol,) = (each for each in protocols if each.name == best.protocol)
    progress.say(f"optimised real images: scoring {config['num_sets']} sets ...")
    sets = optimized_real(
        train,
        stream(key, "optimised"),
        per_class,
        evaluation=baseline._replace(search_learners=config["num_judges"]),
        protocol=with_step_size(protocol, best.step_size),
        **{name: config[name] for name in ("num_sets", "keep", "num_scored")},
    )
    kept = [jax.tree.map(lambda a, i=i: a[i : i + size], sets) for i in range(0, len(sets.y), size)]
    add("optimised real", sets, one_part_each(size, len(kept)), kept[:NEIGHBOR_SETS])
    for name, made in (("k-means", k_means), ("average real", average_real)):
        batch = made(train, stream(key, name), per_class)
        add(name, batch, everything(size), [batch])
    return rows, shown


def unadapted(saved: Saved, evaluation: Evaluation) -> Score:
    """The networks that the distilled images are tested with, before that."""
    key = stream(evaluation.key, "test")
    params = evaluation.contexts(stream(key, "learners"), evaluation.num_learners)
    found = as_they_are(
        saved.learner,
        params,
        saved.data.test,
        saved.data.train,
        stream(key, "calibrate"),
        strategy=evaluation.strategy,
        learner_chunk=evaluation.learner_chunk,
    )
    return summarize(found, saved.data.info.num_classes)


def class_by_class(classes: np.ndarray) -> np.ndarray:
    """Where each image would be in a set that is sorted by class."""
    return np.argsort(np.argsort(classes, kind="stable"), kind="stable")


def equal_steps(
    config: Mapping[str, Any], method: Method, state: DistillState, order: np.ndarray
) -> list[Protocol]:
    """The steps of a run with one step size for all, and with its own schedule, to be scaled."""
    optimizer = build.inner_optimizer({**config, "learned": []})
    constant = as_distilled(
        jnp.asarray(order),
        optimizer,
        optimizer.values(optimizer.init()),
        weight_decay=config["weight_decay"],
    )
    learned = as_learned(config, method, state, order)
    return [constant._replace(name="one step size"), learned._replace(name="scaled schedule")]


def row(name: str, found: Score) -> Row:
    """Accuracies of the networks that were trained on a set."""
    return {
        "set": name,
        "mean": found.mean,
        "std": found.std,
        "num_learners": len(found.every),
        "num_diverged": found.num_diverged,
        "every": found.every,
    }


def neighbors(sets: Sequence[Batch], saved: Saved, config: Mapping[str, Any]) -> Row:
    """Accuracy of nearest neighbours in each set; k and p those that are best in the first, on validation."""
    candidates = [(k, p) for k in config["neighbors"] for p in config["norms"] if k <= len(sets[0].y)]

    def accuracy(images: Batch, choice: tuple[int, float], split: Dataset) -> float:
        return nearest_neighbors(images, split, k=choice[0], p=choice[1])

    best = max(candidates, key=lambda choice: accuracy(sets[0], choice, saved.data.validation))
    found = [accuracy(each, best, saved.data.test) for each in sets]
    numbers = {"neighbors_mean": float(np.mean(found)), "neighbors_std": float(np.std(found))}
    return numbers | {"neighbors_sets": len(found), "neighbors_k": best[0], "neighbors_p": best[1]}


def draw(path: Path, sets: Mapping[str, Batch], saved: Saved) -> None:
    """A row of images per set, each of another class."""
    info = saved.data.info
    count = min(info.num_classes, 10)
    first = [jax.tree.map(lambda a: np.asarray(a), each) for each in sets.values()]
    chosen = [np.flatnonzero(each.y.argmax(axis=1) == c)[0] for each in first for c in range(count)]
    x = np.stack([each.x[chosen[i * count + c]] for i, each in enumerate(first) for c in range(count)])
    if info.image_shape[-1] in (1, 3):
        rows = np.repeat(np.arange(len(first)), count)
        title = f"{info.name}: what {saved.config['learner']} is trained on"
        figures.image_grid(path, to_pixels(x, info), rows, list(sets), title=title, scale=info.scale)


def save_sets(folder: Path, sets: Mapping[str, Batch], saved: Saved) -> None:
    """The sets that nobody learned, one of each kind, as files for `experiments.evaluate`."""
    for name, batch in sets.items():
        if name == "distilled":
            continue  # RUN/synthetic.npz
        write_synthetic(
            folder / f"{name.replace(' ', '_')}.npz",
            images=batch.x,
            labels=batch.y,
            order=np.arange(len(batch.y))[None],
            hyperparameters={},
            info=saved.data.info,
            method=name,
            learner={},
            inner={},
        )


def table(rows: list[Row]) -> tuple[list[str], list[list[str]]]:
    """(columns, cells)."""
    columns = ["trained on", "mean", "std", "K", "trained by", "nearest neighbours"]
    lines = [
        [
            each["set"],
            f"{100 * each['mean']:.1f}",
            f"{100 * each['std']:.1f}",
            str(each["num_learners"]),
            each["trained_by"],
            _neighbors_cell(each),
        ]
        for each in rows
    ]
    return columns, lines


def _neighbors_cell(row: Row) -> str:
    if "neighbors_mean" not in row:
        return "-"
    std = f" ± {100 * row['neighbors_std']:.1f}" if row["neighbors_sets"] > 1 else ""
    return f"{100 * row['neighbors_mean']:.1f}{std} (k {row['neighbors_k']}, p {row['neighbors_p']:g})"


def show(result: Mapping[str, Any]) -> None:
    """Prints the table."""
    config = result["config"]
    title = f"\nTest accuracy (%) on {config['dataset']}: {config['learner']}, equal images and steps"
    progress.table(title, *table(result["rows"]))


if __name__ == "__main__":
    cli.main(run, GROUPS, __doc__)
