"""Train networks on real data and keep their weights epoch by epoch: experts for `--method=mtt`.

Question: what way do networks take on the real data, which a student on synthetic data is to follow?

    python -m experiments.experts --width=16 --depth=2 --learning_rate=0.1

Plain SGD on augmented images (DSA's), a snapshot per epoch, the start among them. Experts are trained and
kept in groups; a run that was stopped goes on with the next group. Writes result.json and the groups,
through Orbax. Expected, digits: 10 experts of 50 epochs in half a minute, 96% on test; the paper has 100.
"""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import build, cli
from experiments.banks import GROUPS_FOLDER, group_sizes, template
from experiments.distill import PLACES, identity_of
from experiments.options import DATA, LEARNER, OUTER, RUN, Groups, Option, complete
from jaxdistill.core.keys import at_step, stream
from jaxdistill.core.types import Array, Batch, Dataset, Learner, Params
from jaxdistill.data import Splits
from jaxdistill.evaluation import Protocol, accuracy_on, epochs, training
from jaxdistill.inner.over_learners import over_learners
from jaxdistill.inner.train import train
from jaxdistill.learners import num_params
from jaxdistill.runtime import profile, progress
from jaxdistill.runtime.checkpoint import Checkpoints
from jaxdistill.runtime.memory import format_bytes
from jaxdistill.runtime.rundir import open_run

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
    config = complete(GROUPS, chosen)
    config |= SMOKE if config["smoke"] else {}
    data = build.splits(config)
    learner = build.learner(config, data.info)
    protocol = protocol_of(config, data)
    choices = identity_of({n: v for n, v in config.items() if n not in (*PLACES, "smoke")}, data)
    key = jax.random.key(config["seed"])
    size = 4 * num_params(jax.eval_shape(learner.init, key)) * (config["num_epochs"] + 1)
    with open_run(config["run_dir"], choices) as directory:
        what = f"{config['num_experts']} experts on {data.info.name}: {config['learner']}"
        weights = format_bytes(size * config["num_experts"])
        progress.say(
            f"{what}, {config['num_epochs']} epochs, {profile.device_description()}; {weights} of weights "
            f"go to {config['run_dir']}"
        )
        counts = group_sizes(config["num_experts"], config["group_size"])
        with Checkpoints(directory.path / GROUPS_FOLDER, keep=len(counts)) as groups:
            train_groups(groups, counts, data, learner, protocol, config, key)
            every = [
                groups.read(i + 1, template(learner, n, config["num_epochs"])) for i, n in enumerate(counts)
            ]
        found = {
            f"{part}_accuracies": [float(a) for group in every for a in group[f"{part}_accuracies"]]
            for part in ("validation", "test")
        }
        result = {
            **found,
            "bytes": size * config["num_experts"],
            "config": json.loads(json.dumps(choices)),
            "environment": json.loads(directory.config.read_text())["environment"],
        }
        directory.write_json("result.json", result)
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


def train_groups(
    groups: Checkpoints,
    counts: list[int],
    data: Splits,
    learner: Learner,
    protocol: Protocol,
    config: dict[str, Any],
    key: Array,
) -> None:
    """Trains and saves the groups that are not there yet."""
    options = {"strategy": config["strategy"], "chunk": config["learner_chunk"]}

    @jax.jit
    def start(keys: Array) -> Params:
        return jax.lax.map(lambda key: learner.init(stream(key, "init")), keys)

    @jax.jit
    def epoch(params: Params, keys: Array, real: Dataset) -> Params:
        def of_one(params: Params, key: Array) -> Params:
            rows = jnp.arange(real.y.shape[0], dtype=jnp.int32)
            steps, _, loss = training(learner, protocol, Batch(real.x, real.y), rows, key)
            return train(loss, params, steps, protocol.optimizer, protocol.values)[0]

        return over_learners(of_one, **options)(params, keys)

    @jax.jit
    def accuracies(params: Params, test: Dataset, real: Dataset) -> Array:
        def of_one(params: Params) -> Array:
            return accuracy_on(learner, learner.calibrate(params, real.x[: config["batch_size"]]), test)

        return over_learners(of_one, **options)(params)

    done, total = groups.latest_step() or 0, config["num_epochs"]
    with progress.Progress(total * len(counts), total * done, "experts") as bar:
        for i, count in list(enumerate(counts))[done:]:
            keys = jax.random.split(at_step(stream(key, "experts"), i), count)
            params = start(keys)
            snapshots = [jax.device_get(params)]
            for number in range(total):
                params = epoch(params, jax.vmap(lambda k, n=number: at_step(k, n))(keys), data.train)
                snapshots.append(jax.device_get(params))
                bar.update(total * i + number + 1)
            tested = {
                f"{name}_accuracies": accuracies(params, split, data.train)
                for name, split in (("validation", data.validation), ("test", data.test))
            }
            weights = jax.tree.map(lambda *leaves: np.stack(leaves, axis=1), *snapshots)
            groups.save(i + 1, {"weights": weights, **tested})


def show(result: dict[str, Any]) -> None:
    """Prints how good the experts are."""
    found = np.asarray(result["test_accuracies"])
    progress.say(
        f"test accuracy of {len(found)} experts: {100 * found.mean():.1f} ± {100 * found.std():.1f}%, "
        f"{format_bytes(result['bytes'])} of weights"
    )


if __name__ == "__main__":
    cli.main(run, GROUPS, __doc__)
