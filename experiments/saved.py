"""A finished run of `experiments.distill`, opened again: what it learned, and how to make more of it."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import jax

from experiments import build, distill, gradients
from experiments.banks import Bank, bank_digest, load_bank
from experiments.options import complete
from jaxdistill.core.checks import fail
from jaxdistill.core.keys import stream
from jaxdistill.core.types import DistillState, Learner, Method
from jaxdistill.data import Splits
from jaxdistill.runtime import progress
from jaxdistill.runtime.checkpoint import Checkpoints


class Saved(NamedTuple):
    """A run, and the parts that its config names."""

    path: Path
    config: dict[str, Any]
    data: Splits
    learner: Learner
    method: Method
    state: DistillState
    key: jax.Array
    """Root key of the run."""
    bank: Bank | None
    """What its population draws from; None where it draws from none, or nobody said where it is."""


def load_run(
    path: str | Path,
    *,
    dataset: str | None = None,
    data_dir: str | None = None,
    manual_dir: str | None = None,
    pool: str | None = None,
    inner_loop: bool = False,
) -> Saved:
    """The last checkpoint of a run directory, with its method; says so where the run is not at its end.

    Args:
      path: a run directory of `experiments.distill`.
      dataset: where the run's data are, for a set of a user's own: its `.npz`.
      data_dir, manual_dir: as for `experiments.distill`.
      pool: where the pre-trained networks are that the run drew from.
      inner_loop: whether only a run of a method that trains inner steps will do.

    Raises:
      UserError: no run there, one that cannot be read or that will not do, or without a checkpoint yet.
    """
    folder = Path(path)
    file = folder / "config.json"
    if not file.is_file():
        raise fail("load_run", "a run directory of experiments.distill", f"{path} without config.json")
    try:
        saved = dict(json.loads(file.read_text(encoding="utf-8"))["config"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise fail("load_run", f"a readable {file}", error) from error
    if "method" not in saved or "teacher" not in saved:
        raise fail("load_run", "a run of experiments.distill", f"another experiment's in {path}")
    if "attack_class" in saved:
        raise fail("load_run", "a run of experiments.distill", f"one of experiments.attack in {path}")
    places = {"data_dir": data_dir, "manual_dir": manual_dir, "pool": pool, "run_dir": None}
    chosen = {name: value for name, value in saved.items() if name in distill.OPTIONS} | places
    config = complete(distill.GROUPS, chosen)
    config = gradients.resolve(config) if config["gradient"] != "auto" else config
    if inner_loop and not build.trains(config):
        raise fail("load_run", "a run of a method that trains inner steps", f"{config['method']} in {path}")
    if "dataset_sha256" in saved:
        if dataset is None:
            raise fail("load_run", f"the data of {path}: dataset=FILE.npz", "none")
        config["dataset"] = dataset
    elif dataset not in (None, saved["dataset"]):
        raise fail("load_run", f"the data of {path}: dataset={saved['dataset']}", dataset)
    key = jax.random.key(config["seed"])
    data = build.splits(config)
    if "dataset_sha256" in saved and distill.digest(data) != saved["dataset_sha256"]:
        raise fail("load_run", f"the images that {path} was distilled from", f"others in {dataset}")
    learner = build.learner(config, data.info)
    method = build.method(config, data, learner, stream(key, "teacher start"))
    if not (folder / "checkpoints").is_dir():
        raise fail("load_run", f"a checkpoint in {path}", "none yet", "Let the run get further.")
    with Checkpoints(folder / "checkpoints") as checkpoints:
        restored = checkpoints.restore(jax.eval_shape(method.init, key))
    if restored is None:
        raise fail("load_run", f"a checkpoint in {path}", "none yet", "Let the run get further.")
    if (step := int(restored[0].step)) < config["num_outer_steps"]:
        progress.say(f"note: {path} is at {step} of {config['num_outer_steps']} outer steps; these are used")
    bank = None
    if pool is not None:
        bank = load_bank(config, distill.identity_of(config, data), learner, data.info)
    if bank is not None and bank_digest(bank) != saved.get("pool_sha256"):
        raise fail("load_run", f"the networks that {path} was distilled for", f"others in {pool}")
    return Saved(folder, config, data, learner, method, restored[0], key, bank)
