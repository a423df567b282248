"""Networks trained on real data, as `experiments.experts` keeps them and distillation takes them."""

import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import build
from jaxdistill.core.checks import fail
from jaxdistill.core.types import Learner, Params
from jaxdistill.runtime.checkpoint import Checkpoints

GROUPS_FOLDER = "groups"


def template(learner: Learner, count: int, num_epochs: int) -> dict[str, Any]:
    """Shapes of one group: weights [count, num_epochs + 1, ...] and accuracies [count]."""
    one = jax.eval_shape(learner.init, jax.random.key(0))
    weights = jax.tree.map(lambda s: jax.ShapeDtypeStruct((count, num_epochs + 1, *s.shape), s.dtype), one)
    scores = jax.ShapeDtypeStruct((count,), jnp.float32)
    return {"weights": weights, "validation_accuracies": scores, "test_accuracies": scores}


def group_sizes(num_experts: int, group_size: int) -> list[int]:
    """How many experts each group has: all the same, but the last."""
    return [min(group_size, num_experts - done) for done in range(0, num_experts, group_size)]


def load_experts(config: dict[str, Any], choices: dict[str, Any], learner: Learner) -> Params:
    """All trajectories of a folder, [experts, epochs + 1, ...].

    Args:
      config: of a distillation; `experts` is the folder.
      choices: its identity, which experts have to share: data set and network.
      learner: its network.

    Raises:
      UserError: no folder, none that `experiments.experts` wrote or finished, experts of another data set or
        network: every difference is named.
    """
    options = {name: config[name] for name in ("learner", *build.LEARNER_OPTIONS) if config[name] is not None}
    flags = " ".join(
        f"--{name}={value}" for name, value in ({"dataset": config["dataset"]} | options).items()
    )
    remedy = f"python -m experiments.experts {flags} --run_dir=FOLDER makes them."
    if config["experts"] is None:
        raise fail("mtt", "--experts=FOLDER", "none", remedy)
    folder = Path(config["experts"])
    try:
        saved = json.loads((folder / "config.json").read_text(encoding="utf-8"))["config"]
        count, size, num_epochs = (saved[name] for name in ("num_experts", "group_size", "num_epochs"))
    except (OSError, ValueError, KeyError, TypeError):
        raise fail("mtt", "a folder of experiments.experts", folder, remedy) from None
    shared = ("dataset", "dataset_sha256", "image_size", "learner", *build.LEARNER_OPTIONS)
    other = [
        f"{name}: {saved.get(name)} there, {choices.get(name)} here"
        for name in shared
        if saved.get(name) != choices.get(name)
    ]
    if other:
        raise fail("mtt", f"experts of this data set and network in {folder}", "; ".join(other), remedy)
    if not (folder / "result.json").is_file():
        raise fail("mtt", f"all {count} experts in {folder}", "some", "Let experiments.experts end.")
    counts = group_sizes(count, size)
    with Checkpoints(folder / GROUPS_FOLDER, keep=len(counts)) as groups:
        every = [
            groups.read(i + 1, template(learner, n, num_epochs))["weights"] for i, n in enumerate(counts)
        ]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *every)


def bank_digest(bank: Params) -> str:
    """SHA-256 of every number of a bank."""
    found = hashlib.sha256()
    for leaf in jax.tree.leaves(bank):
        found.update(np.asarray(leaf).tobytes())
    return found.hexdigest()
