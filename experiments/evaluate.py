"""Evaluate synthetic images, ours or a user's `.npz`, on any set of architectures.

Question: how well do networks of each architecture do that were trained on these images alone, and how much
better is that than the same number of random real images?

    python -m experiments.evaluate --synthetic=RUN/synthetic.npz --learners=convnet,mlp,linear

Protocols: `as_distilled` trains with the saved batches, steps and step sizes (files of ours only), of several
batches also with their order drawn at random (or not, where it was drawn when they were distilled); `dc`,
`dc_augmented` and `dsa` are the matching papers' (SGD, 300 epochs, 1000 of augmented images, decay at half),
the step size searched on validation; so is that of random real images, trained as in the papers too. Under a
minute for ten digits; about 20 minutes for a ConvNet-3 on MNIST on 2 cores.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments import build, cli
from experiments.comparison import ORDERS, other_shuffle
from experiments.devices import DEVICES, HOSTS, devices_of, say_devices
from experiments.networks import of_new_networks
from experiments.options import DATA, EVALUATION, OUTER, PROTOCOLS, RUN, Groups, Option, complete
from experiments.tables import writable
from jaxdistill.core.checks import UserError, fail, lookup, one_of
from jaxdistill.core.types import Batch, Learner
from jaxdistill.data import Splits, standardise
from jaxdistill.evaluation import (
    Protocol,
    Score,
    as_distilled,
    everything,
    published,
    random_of_each_class,
    score,
    tuned,
)
from jaxdistill.inner.optimizers import INNER_OPTIMIZERS
from jaxdistill.learners import LEARNERS, learner, options_of
from jaxdistill.runtime import hosts, mesh, profile, progress
from jaxdistill.runtime.atomic import write_json
from jaxdistill.runtime.export import Synthetic, read_synthetic

GROUPS: Groups = {
    "data": DATA
    | {
        "synthetic": Option(None, str, "the images: RUN/synthetic.npz, or any .npz with x and y"),
        "dataset": Option(None, str, "the real data to test on (default: the set that the file names)"),
    },
    "learner": {
        "learners": Option(
            ["convnet", "mlp", "linear"],
            str,
            f"table rows, among {', '.join(LEARNERS)}; options with colons: convnet:width=32",
        ),
    },
    "evaluation": {
        "protocols": Option([], str, "how they train (default: dc, and as_distilled of ours)", PROTOCOLS),
        "num_learners": Option(20, int, "networks per cell", low=1),
        "num_search_learners": EVALUATION["num_search_learners"],
        "step_sizes": EVALUATION["step_sizes"],
        "num_epochs": Option(
            None, int, "epochs of dc, dc_augmented and dsa (default: 300, with augmentation 1000)", low=1
        ),
        "strategy": OUTER["strategy"],
        "learner_chunk": OUTER["learner_chunk"],
    },
    "run": {
        "run_dir": Option(None, str, "also write evaluation.json there"),
        "seed": RUN["seed"],
        "smoke": Option(False, bool, "few networks and epochs: does it run?"),
    },
    "devices": DEVICES,
    "hosts": HOSTS,
}
SMOKE = {"num_learners": 2, "num_search_learners": 1, "step_sizes": [0.01, 0.1], "num_epochs": 3}


def run(**chosen: Any) -> dict[str, Any]:
    """Evaluates and prints the cross-architecture table.

    Args:
      **chosen: any option of `GROUPS`.

    Returns:
      {"rows": one per architecture, "config", "environment"}; also written with `run_dir`.

    Raises:
      UserError: bad input, before anything is trained.
    """
    config = complete(GROUPS, chosen)
    if config["smoke"]:
        config |= SMOKE
    if not config["synthetic"]:
        raise fail("evaluate", "--synthetic=FILE.npz", "nothing")
    build.check_step_sizes(config)
    if not config["learners"]:
        raise fail("evaluate", f"learners among {', '.join(sorted(LEARNERS))}", "none")
    synthetic = read_synthetic(config["synthetic"])
    height, width = synthetic.pixels.shape[1:3]
    if config["image_size"] is None and synthetic.order is not None and height == width:
        config["image_size"] = height  # a run's own images tell what its set was resized to
    data = real_data(config, synthetic)
    where = devices_of(config, config["num_learners"], len(data.test.y), batch="the test images")
    images = standardised(synthetic, data)
    protocols = chosen_protocols(config, synthetic, len(images.y))
    learners = {text: parse_learner(text, data) for text in config["learners"]}
    population = synthetic.metadata.get("inner", {}).get("population", "fresh")
    if population.endswith("pretrained"):
        progress.say("note: distilled for networks that were trained before; these start fresh")
    elif synthetic.fixed_start:
        progress.say("note: distilled for one fixed initialisation (start/ in the file); these start fresh")
    folder = None if config["run_dir"] is None else writable("evaluate", config["run_dir"], own=False)
    say_devices(where)
    with mesh.spread(where):
        rows = [row(text, net, config, data, images, protocols) for text, net in learners.items()]
    result = {"rows": rows, "config": _portable(config), "environment": profile.environment()}
    if folder is not None and hosts.is_primary():
        write_json(folder / "evaluation.json", result)
    show(result, synthetic, protocols)
    return result


def real_data(config: dict[str, Any], synthetic: Synthetic) -> Splits:
    """The set to test on; `config["dataset"]` becomes its name where only the file says it."""
    if config["dataset"] is not None:
        return build.splits(config)
    config["dataset"] = synthetic.metadata.get("dataset")
    if not config["dataset"]:
        raise fail("evaluate", "--dataset=NAME with a file that does not name its set", "nothing")
    try:
        return build.splits(config)
    except UserError as error:
        remedy = "The file names this set; --dataset chooses another, a path that ends in .npz, say."
        raise UserError(f"{error} {remedy}") from error


def standardised(synthetic: Synthetic, data: Splits) -> Batch:
    """The file's images as the networks see them, checked against the data set.

    Standardised ones are taken as they are. Others are in the units that the file's `scale` says (white),
    in 0..1 where none lies outside of it, and otherwise in those of the data set.
    """
    info = data.info
    if synthetic.pixels.shape[1:] != info.image_shape:
        got = "x".join(map(str, synthetic.pixels.shape[1:]))
        raise fail("evaluate", f"images {'x'.join(map(str, info.image_shape))} as in {info.name}", got)
    pixels, scale = synthetic.pixels, synthetic.metadata.get("scale", info.scale)
    if "scale" not in synthetic.metadata and pixels.min() >= 0 and pixels.max() <= 1 < info.scale:
        progress.say(f"note: images lie in 0..1; white is 1 in the file and {info.scale:g} in {info.name}")
        scale = 1.0
    x = synthetic.images if synthetic.images is not None else standardise(pixels * (info.scale / scale), info)
    y = synthetic.labels
    if y.shape[1] > info.num_classes:
        raise fail("evaluate", f"labels of {info.num_classes} classes as in {info.name}", y.shape[1])
    y = np.pad(y, ((0, 0), (0, info.num_classes - y.shape[1])))  # a user's file may lack the last classes
    return Batch(jnp.asarray(x, jnp.float32), jnp.asarray(y))


def chosen_protocols(config: Mapping[str, Any], synthetic: Synthetic, count: int) -> dict[str, Protocol]:
    """The protocols asked for; `as_distilled` needs what only a file of ours has."""
    inner = synthetic.metadata.get("inner", {})
    saved = synthetic.order is not None and "learning_rate" in synthetic.hyperparameters and inner
    names = config["protocols"] or (["as_distilled", "dc"] if saved else ["dc"])
    made = {}
    for name in names:
        one_of("evaluate protocols", name, PROTOCOLS)
        if name != "as_distilled":
            made[name] = published(name, count, num_epochs=config["num_epochs"])
        elif not saved:
            lacks = "no order" if synthetic.order is None else "no step sizes"
            expected = "order and step sizes in the file"
            raise fail("evaluate as_distilled", expected, lacks, "Use --protocols=dc.")
        else:
            assert synthetic.order is not None
            factory = lookup("evaluate inner_optimizer", inner["inner_optimizer"], INNER_OPTIMIZERS)
            optimizer = factory(num_steps=len(synthetic.order), learned=(), **synthetic.hyperparameters)
            values = optimizer.values(optimizer.init())
            shuffle = inner.get("shuffle", "none")
            orders = {name: shuffle}
            if other := other_shuffle(synthetic.order, shuffle):
                orders[ORDERS[other]] = other
            for title, order in orders.items():
                made[title] = as_distilled(
                    jnp.asarray(synthetic.order),
                    optimizer,
                    values,
                    weight_decay=inner["weight_decay"],
                    shuffle=order,
                )
    return made


def parse_learner(text: str, data: Splits) -> Learner:
    """`convnet` or `convnet:width=32:norm=none`."""
    name, options = name_and_options(text)
    return learner(name, image_shape=data.info.image_shape, num_classes=data.info.num_classes, **options)


def name_and_options(text: str) -> tuple[str, dict[str, Any]]:
    """Of a learner as `parse_learner` takes it."""
    name, *parts = text.split(":")
    lookup("learners", name, LEARNERS)
    known, options = options_of(name), {}
    for part in parts:
        option, equals, value = part.partition("=")
        if not equals or option not in known:
            raise fail(f"learners {name}", f"OPTION=VALUE with an option of {', '.join(known)}", repr(part))
        try:
            options[option] = int(value) if isinstance(known[option], int) else value
        except ValueError:
            raise fail(f"learners {name}", f"a whole number for {option}", repr(value)) from None
    return name, options


def row(
    text: str,
    net: Learner,
    config: Mapping[str, Any],
    data: Splits,
    images: Batch,
    protocols: Mapping[str, Protocol],
) -> dict[str, Any]:
    """One architecture under every protocol, and on random real images under the best of the papers'."""
    evaluation = of_new_networks(net, data, config, config["num_learners"])
    count, rates = len(images.y), config["step_sizes"]
    cells: dict[str, Any] = {"learner": text}
    for name, protocol in protocols.items():
        progress.say(f"{text}: synthetic images, {name} ...")
        if protocol.name == "as_distilled":
            cells[name] = _cell(score(evaluation, protocol, images, everything(count)))
        else:
            best = tuned(evaluation, [protocol], images, everything(count), step_sizes=rates)
            cells[name] = _cell(best.score) | {"step_size": best.step_size}
    per_class = max(1, count // data.info.num_classes)
    if per_class <= int(data.train.counts.min()):
        names = [name for name, plan in protocols.items() if plan.name != "as_distilled"] or ["dc"]
        progress.say(f"{text}: random real images, {', '.join(names)} ...")
        size = per_class * data.info.num_classes
        plans = [published(name, size, num_epochs=config["num_epochs"]) for name in names]
        real = Batch(data.train.x, data.train.y)
        subsets = random_of_each_class(data.train, per_class)
        best = tuned(evaluation, plans, real, subsets, step_sizes=rates)
        cells["random_real"] = _cell(best.score) | {
            "protocol": best.protocol,
            "step_size": best.step_size,
            "images_per_class": per_class,
        }
    return cells


def _cell(result: Score) -> dict[str, Any]:
    return {"mean": result.mean, "std": result.std, "num_learners": len(result.every), "every": result.every}


def _portable(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config without the places of this machine."""
    places = {name: Path(config[name]).name for name in ("synthetic",)}
    return {
        k: v for k, v in config.items() if k not in ("data_dir", "manual_dir", "run_dir", *DEVICES, *HOSTS)
    } | places


def show(result: Mapping[str, Any], synthetic: Synthetic, protocols: Mapping[str, Protocol]) -> None:
    """Prints the table."""
    config = result["config"]

    def text(cells: Mapping[str, Any], name: str) -> str:
        return f"{100 * cells[name]['mean']:.1f} ± {100 * cells[name]['std']:.1f}" if name in cells else "-"

    columns = [*protocols, "random_real"]
    progress.table(
        f"\nTest accuracy (%) on {config['dataset']} after training on {len(synthetic.labels)} images; "
        f"mean ± std, K = {config['num_learners']}",
        ["learner", *columns],
        [[cells["learner"], *(text(cells, name) for name in columns)] for cells in result["rows"]],
    )


if __name__ == "__main__":
    cli.main(run, GROUPS, __doc__)
