"""Train networks on real data and keep their weights epoch by epoch: experts for `--method=mtt`.

Question: what way do networks take on the real data, which a student on synthetic data is to follow?

    python -m experiments.experts --width=16 --depth=2 --learning_rate=0.1

Plain SGD on augmented images (DSA's), a snapshot per epoch, the start among them. Experts are trained and
kept in groups; a run that was stopped goes on with the next group. Writes result.json and the groups,
through Orbax. Expected, digits: 10 experts of 50 epochs in half a minute, 96% on test; the paper has 100.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments import build, cli
from experiments.banks import (
    Group,
    groups_of,
    network_keys,
    of_images,
    starts,
    tested,
    train_bank,
    trained_by,
)
from experiments.devices import DEVICES, HOSTS, devices_of
from experiments.distill import PLACES, identity_of
from experiments.options import DATA, LEARNER, OUTER, RUN, Groups, Option, complete
from jaxdistill.core.keys import at_step
from jaxdistill.core.types import Learner
from jaxdistill.data import Splits
from jaxdistill.evaluation import Protocol, epochs
from jaxdistill.runtime import progress
from jaxdistill.runtime.memory import format_bytes
from jaxdistill.runtime.mesh import on_host

GROUPS: Groups = {
    "data": DATA,
    "learner": {"learner": LEARNER["learner"]._replace(default="convnet")}
    | {name: LEARNER[name] for name in build.LEARNER_OPTIONS},
    "experts": {
        "num_experts": Option(10, int, "networks; 100 in the paper", low=1),
        "group_size": Option(5, int, "of them trained at once and kept in one file", low=1),
        "num_epochs": Option(50, int, "passes over the training set, a snapshot after each", low=1),
        "learning_rate": Option(0.01, float, "step size of plain SGD"),
        "batch_size": Option(256, int, "images of a step", low=1),
        "augment": OUTER["augment"],
        "augment_strength": OUTER["augment_strength"],
        "strategy": OUTER["strategy"],
        "learner_chunk": OUTER["learner_chunk"],
    },
    "run": {
        "run_dir": Option("runs/experts", str, "where everything is written; a run that is there goes on"),
        "seed": RUN["seed"],
        "smoke": Option(False, bool, "two experts of four epochs: does it run?"),
    },
    "devices": DEVICES,
    "hosts": HOSTS,
}
SMOKE = {"num_experts": 2, "group_size": 1, "num_epochs": 4, "width": 8, "depth": 1}


def run(**chosen: Any) -> dict[str, Any]:
    """Trains what is not there yet, prints the accuracy of the experts.

    Args:
      **chosen: any option of `GROUPS`.

    Returns:
      What `result.json` holds: {"test_accuracies", "validation_accuracies", "bytes", "config",
      "environment"}.

    Raises:
      UserError: bad input, before anything is written.
    """
    config = complete(GROUPS, (SMOKE if chosen.get("smoke") else {}) | chosen)
    where = devices_of(
        config, config["group_size"], config["batch_size"], learners="group_size", batch="batch_size"
    )
    data = build.splits(config)
    learner = build.learner(config, data.info)
    choices = identity_of({n: v for n, v in config.items() if n not in (*PLACES, "smoke")}, data)
    result = train_bank(
        config,
        choices | of_images(data.info),
        learner,
        groups_of(config["num_experts"], config["group_size"]),
        what=f"experts on {data.info.name}: {config['learner']}, {config['num_epochs']} epochs",
        num_snapshots=config["num_epochs"] + 1,
        units=config["num_epochs"],
        make=trainer(config, data, learner),
        where=where,
    )
    show(result)
    return result


def protocol_of(config: dict[str, Any], data: Splits) -> Protocol:
    """One epoch of an expert's training: plain SGD has no state that would go over to the next."""
    augmentation = build.augmentation(config, data.info)
    return epochs(
        len(data.train.y),
        num_epochs=1,
        batch_size=config["batch_size"],
        learning_rate=config["learning_rate"],
        momentum=0.0,
        weight_decay=0.0,
        augment=None if augmentation is None else augmentation.per_image,
    )


def trainer(config: dict[str, Any], data: Splits, learner: Learner) -> Callable[..., dict[str, Any]]:
    """(group, callback of the epochs done) -> its weights after every epoch, its accuracies at the end."""
    root, protocol = jax.random.key(config["seed"]), protocol_of(config, data)
    start, epoch = starts(learner), trained_by(config, learner, protocol)

    def make(group: Group, done: Callable[[int], None]) -> dict[str, Any]:
        keys = network_keys(root, group)
        params = start(keys)
        snapshots = [jax.tree.map(on_host, params)]
        for number in range(config["num_epochs"]):
            params = epoch(params, jax.vmap(lambda k, n=number: at_step(k, n))(keys), data.train)
            snapshots.append(jax.tree.map(on_host, params))
            done(number + 1)
        weights = jax.tree.map(lambda *leaves: np.stack(leaves, axis=1), *snapshots)
        return {"weights": weights, **tested(config, learner, data, params)}

    return make


def show(result: dict[str, Any]) -> None:
    """Prints how good the experts are."""
    found = np.asarray(result["test_accuracies"])
    progress.say(
        f"test accuracy of {len(found)} experts: {100 * found.mean():.1f} ± {100 * found.std():.1f}%, "
        f"{format_bytes(result['bytes'])} of weights"
    )


if __name__ == "__main__":
    cli.main(run, GROUPS, __doc__)
