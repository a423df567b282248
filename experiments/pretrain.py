"""Train a pool of networks on real data: for `--population=pretrained` and `fixed_pretrained`.

Question: how good are networks of this architecture on the real data, from which distilled images are to
take them elsewhere, or astray?

    python -m experiments.pretrain
    python -m experiments.pretrain --flagfile=experiments/presets/mnist_pool.cfg --manual_dir=FOLDER

Adam, the step size x 0.1 after half of the epochs. The last networks are held out: distillation never sees
them, evaluation does. Networks are trained and kept in groups; a run that was stopped goes on with the next
one. Writes result.json and the groups, through Orbax. Expected, digits: 70 networks of 40 epochs in half a
minute, 97% on test; the paper has 2,200.
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
from jaxdistill.core.checks import fail
from jaxdistill.core.types import Learner
from jaxdistill.data import Splits
from jaxdistill.evaluation import pretraining
from jaxdistill.runtime import mesh, progress

GROUPS: Groups = {
    "data": DATA,
    "learner": {name: LEARNER[name] for name in ("learner", *build.LEARNER_OPTIONS)},
    "pool": {
        "num_networks": Option(70, int, "networks; 2,200 in the paper", low=2),
        "num_test_networks": Option(20, int, "of them held out, for evaluation; 200 in the paper", low=1),
        "group_size": Option(
            None,
            int,
            "of them trained at once and kept in one file (default: 1 on the CPU, else 10; with a mesh a "
            "multiple of its learner axis)",
            low=1,
        ),
        "num_epochs": Option(40, int, "passes over the training set", low=1),
        "learning_rate": Option(1e-3, float, "step size of Adam; 0.0002 in the paper"),
        "batch_size": Option(128, int, "images of a step", low=1),
        "strategy": OUTER["strategy"],
        "learner_chunk": OUTER["learner_chunk"],
    },
    "run": {
        "run_dir": Option("runs/pretrain", str, "where everything is written; a run that is there goes on"),
        "seed": RUN["seed"],
        "smoke": Option(False, bool, "four small networks of two epochs: does it run?"),
    },
    "devices": DEVICES,
    "hosts": HOSTS,
}
SMOKE = {"num_networks": 4, "num_test_networks": 2, "num_epochs": 2, "width": 8, "depth": 1}


def run(**chosen: Any) -> dict[str, Any]:
    """Trains what is not there yet, prints the accuracy of the pool.

    Args:
      **chosen: any option of `GROUPS`.

    Returns:
      What `result.json` holds: {"test_accuracies", "validation_accuracies", "bytes", "config",
      "environment"}.

    Raises:
      UserError: bad input, before anything is written.
    """
    config = complete(GROUPS, chosen)
    config |= SMOKE if config["smoke"] else {}
    if config["num_test_networks"] >= config["num_networks"]:
        expected = f"num_test_networks < num_networks = {config['num_networks']}"
        raise fail("pretrain", expected, config["num_test_networks"])
    if config["group_size"] is None:
        least, shares = 1 if jax.default_backend() == "cpu" else 10, mesh.learner_shares(config["mesh"])
        config["group_size"] = -(-least // shares) * shares
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
        groups_of(config["num_networks"], config["group_size"]),
        what=f"networks on {data.info.name}: {config['learner']}, {config['num_epochs']} epochs",
        units=1,
        make=trainer(config, data, learner),
        where=where,
    )
    show(result)
    return result


def trainer(config: dict[str, Any], data: Splits, learner: Learner) -> Callable[..., dict[str, Any]]:
    """(group, callback) -> its trained weights and their accuracies."""
    root, start = jax.random.key(config["seed"]), starts(learner)
    names = ("num_epochs", "batch_size", "learning_rate")
    protocol = pretraining(len(data.train.y), **{name: config[name] for name in names})

    trained = trained_by(config, learner, protocol)

    def make(group: Group, done: Callable[[int], None]) -> dict[str, Any]:
        keys = network_keys(root, group)
        params = trained(start(keys), keys, data.train)
        found = {"weights": jax.tree.map(mesh.on_host, params), **tested(config, learner, data, params)}
        done(1)
        return found

    return make


def show(result: dict[str, Any]) -> None:
    """Prints how good the networks are."""
    held_out = result["config"]["num_test_networks"]
    found = 100 * np.asarray(result["test_accuracies"])
    kept, unseen = found[:-held_out], found[-held_out:]
    progress.say(
        f"test accuracy of {len(kept)} networks {kept.mean():.1f} ± {kept.std():.1f}%, of {held_out} held "
        f"out {unseen.mean():.1f} ± {unseen.std():.1f}%"
    )


if __name__ == "__main__":
    cli.main(run, GROUPS, __doc__)
