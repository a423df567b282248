"""A run as a value: its plan, its last state, its images; `load_run` opens a saved run."""

import dataclasses
import json
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxdistill.config import build
from jaxdistill.config.option import UNSET
from jaxdistill.config.saved import DIGESTS, config_from, experiment_of
from jaxdistill.config.table import OWN_NETWORK, Config
from jaxdistill.core.checks import fail
from jaxdistill.core.paths import as_path
from jaxdistill.core.types import Array, Batch, DistillState, Learner, Method, Stored
from jaxdistill.data import DATASETS, Splits, to_pixels
from jaxdistill.evaluation import Score
from jaxdistill.runs.banks import Bank, bank_digest, bank_option
from jaxdistill.runs.plan import READING, Plan, planned, same_images
from jaxdistill.runtime import progress as shown
from jaxdistill.runtime.checkpoint import Checkpoints
from jaxdistill.runtime.loop import Finished
from jaxdistill.runtime.metrics import read_metrics

NEEDED = ("method", "dataset", "learner", "population")
"""The options that a saved config has to have."""


class Synthetic(NamedTuple):
    """Images, labels and the order in which a network is trained on them."""

    images: np.ndarray
    """[N, H, W, C] float32, standardised: each distilled image once."""
    labels: np.ndarray
    """[N, classes] float32; rows sum to 1 unless the config says `labels=free`."""
    order: np.ndarray
    """[T, B] int32: the images of each inner step."""


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Run:
    """A finished or stopped distillation.

    Attributes:
      plan: what was distilled, and how.
      finished: the state that was reached, and the time that it took.
      path: the run's folder; None for a run that wrote nothing.

    Example:
      >>> run = jd.distill(dataset="digits", num_outer_steps=20, progress=False)
      >>> run.images.shape, run.step
      ((10, 8, 8, 1), 20)
    """

    plan: Plan
    finished: Finished
    path: Path | None = None

    def __repr__(self) -> str:
        config, total = self.config, self.config.num_outer_steps
        where = "" if self.path is None else f", in {self.path}"
        steps = f"{self.step} outer steps" if self.step >= total else f"{self.step} of {total} outer steps"
        return f"Run({config.method} on {self.data.info.name}: {self.plan.made_of}, {steps}{where})"

    @property
    def config(self) -> Config:
        """Every option with its final value."""
        return self.plan.config

    @property
    def data(self) -> Splits:
        """The distilled data set."""
        return self.plan.data

    @property
    def learner(self) -> Learner:
        """The network of the distillation."""
        return self.plan.learner

    @property
    def tested(self) -> Learner:
        """The network that tests the images: `learner` with `eval_norm` and `eval_activation`."""
        return self.plan.tested

    @property
    def method(self) -> Method:
        return self.plan.method

    @property
    def bank(self) -> Bank | None:
        """The trained networks that the run draws from."""
        return self.plan.bank

    @property
    def key(self) -> Array:
        """Root key of the run."""
        return self.plan.key

    @property
    def state(self) -> DistillState:
        return self.finished.state

    @property
    def step(self) -> int:
        """The number of finished outer steps."""
        return int(self.state.step)

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The log: a row per chunk of outer steps."""
        return self.finished.rows

    @cached_property
    def synthetic(self) -> Synthetic:
        """The distilled images, their labels and their order, as arrays of the host."""
        from jaxdistill.runs.protocols import training_data

        with build.precision(self.config):
            return training_data(self)

    @property
    def images(self) -> np.ndarray:
        """[N, H, W, C] float32: the distilled images in the pixel units of the data set."""
        return np.asarray(to_pixels(self.synthetic.images, self.data.info))

    @property
    def labels(self) -> np.ndarray:
        """[N] int64: the class of each image; for learned labels the likeliest class."""
        return self.synthetic.labels.argmax(axis=-1)

    @property
    def batch(self) -> Batch:
        """Batch [N, ...]: images as networks see them, standardised; labels of the kind `config.labels`."""
        images, labels, _ = self.synthetic
        return Batch(*jax.device_put((images, labels), may_alias=False))

    @property
    def stored(self) -> Stored:
        """The stored arrays of the teacher, with the scalars and bits of these and of learned step sizes."""
        return self.method.stored(self.state)

    @property
    def order(self) -> np.ndarray:
        """[T, B] int32: the images of each inner step."""
        return self.synthetic.order

    @property
    def hyperparameters(self) -> dict[str, np.ndarray]:
        """Inner hyper-parameters as training uses them, each [T] or [1]."""
        return jax.device_get(self.method.hyperparameters(self.state))

    def score(self, num_learners: int | None = None, *, protocol: str | None = None) -> Score:
        """Test accuracy of networks that are trained on the images alone.

        Args:
          num_learners: how many networks; `num_eval_learners` when None.
          protocol: how they are trained; as the run's method was published when None.

        Returns:
          The score. Of a run with gradient=closed_form it has the accuracy of ridge regression beside: of the
          networks of its pool, where it has one, or else of new ones.
        """
        from jaxdistill.runs.compare import score_of

        with build.precision(self.config):
            return score_of(self, num_learners=num_learners, protocol=protocol)

    def compare(self, *, progress: bool = True) -> dict[str, Any]:
        """Test accuracies beside random real images and the full training set: the content of `result.json`.

        A run with a folder writes it there, and reads it from there the next time.
        """
        from jaxdistill.runs.result import result_of

        with shown.silent(not progress), build.precision(self.config):
            return result_of(self)


def load_run(
    path: str | Path,
    *,
    data: Splits | None = None,
    learner: Learner | None = None,
    dataset: str | None = None,
    data_dir: str | None = None,
    manual_dir: str | None = None,
    data_memory: str | None = None,
    pool: str | None = None,
    inner_loop: bool = False,
    progress: bool = True,
) -> Run:
    """Opens the last checkpoint of a run's folder as a run; prints a note if the run is not finished.

    Args:
      path: the folder of a distillation.
      data: the data of a run that was distilled from arrays, as `jd.splits` makes them; a named set is loaded
        by its name.
      learner: the network of a run that was distilled for a `Learner` of the user's own.
      dataset: where the data lie, for a run of a user's own images.
      data_dir, manual_dir, data_memory: as for `jd.distill`.
      pool: where the pre-trained networks are that the run drew from.
      progress: whether to show notes about the run.
      inner_loop: whether only a run of a method that trains inner steps will do.

    Raises:
      UserError: there is no run, it cannot be read or used, or it has no checkpoint yet; or it needs data, a
        network or a pool that was not given. The error says which.
    """
    where, folder = "load_run", as_path("load_run", path)
    file = folder / "config.json"
    if not file.is_file():
        raise fail(where, "the folder of a distillation", f"{path} without config.json")
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise fail(where, f"a readable {file}", error) from error
    saved = stored.get("config") if isinstance(stored, dict) else None
    if not isinstance(saved, dict):
        raise fail(where, f'an object under "config" in {file}', json.dumps(saved))
    if learner is not None and not isinstance(learner, Learner):
        raise fail(where, "learner as a Learner", type(learner).__name__)
    if (experiment := experiment_of(stored)) != "distill":
        raise fail(where, "a run of experiments.distill", f"one of experiments.{experiment} in {path}")
    if missing := [name for name in NEEDED if saved.get(name) is None]:
        raise fail(where, f"the config of a run in {file}", f"one without {', '.join(missing)}")
    config = config_from(saved, str(file))
    if inner_loop and not build.has_steps(config):
        raise fail(where, "a run of a method that trains inner steps", f"{config.method} in {path}")
    chosen = config.replace(data_dir=data_dir, manual_dir=manual_dir, data_memory=data_memory)
    own_data = "dataset_sha256" in saved
    if own_data and data is None and dataset is None and saved["dataset"] not in DATASETS:
        raise fail(where, f"the data of {path}: data=SPLITS, or dataset=PATH", "none")
    named = f"the data of {path}: dataset={saved['dataset']}"
    if not own_data and data is None and dataset not in (None, saved["dataset"]):
        raise fail(where, named, dataset)
    if data is None:
        chosen = chosen.replace(dataset=dataset or saved["dataset"])
    else:
        chosen = chosen.replace(dataset=UNSET)
    if config.learner == OWN_NETWORK and learner is None:
        raise fail(where, f"the network of {path}: learner=LEARNER", "none")
    if config.learner != OWN_NETWORK and learner is not None:
        raise fail(where, f"no learner, since {path} has {config.learner}", "one")
    if build.source(config).bank == "pool" and pool is not None:
        chosen = chosen.replace(pool=pool)
    with shown.silent(not progress):
        plan = planned(chosen, data=data, learner=learner, opening=True)
    of_banks = {name: saved[name] for name in DIGESTS if name in saved and name not in plan.identity}
    plan = plan._replace(identity=plan.identity | of_banks)
    if own_data and not same_images(saved["dataset_sha256"], plan.data):
        got = f"other images in {'data' if data is not None else plan.config.dataset}"
        raise fail(where, f"the images that {path} was distilled from, as data=SPLITS", got)
    now = plan.identity
    other = any(now[n] != saved[n] for n in ("dataset", *READING) if n in now and n in saved)
    if not own_data and (other or "dataset_sha256" in now):
        raise fail(where, named, "other images in data")
    if plan.identity.get("learner_sha256") != saved.get("learner_sha256"):
        raise fail(where, f"the network that {path} was distilled for", "one with other weights")
    name = bank_option(config)
    if plan.bank is not None and bank_digest(plan.bank) != saved.get(f"{name}_sha256"):
        raise fail(where, f"the networks that {path} was distilled for", f"other networks in {pool}")
    with shown.silent(not progress):
        return Run(plan, _restored(plan, folder, path), folder)


def _restored(plan: Plan, folder: Path, path: Any) -> Finished:
    """The last checkpoint, and the metrics up to it."""
    missing = fail(
        "load_run", f"a checkpoint in {path}", "none yet", "Resume the run until its first checkpoint."
    )
    if not (folder / "checkpoints").is_dir():
        raise missing
    with Checkpoints(folder / "checkpoints") as checkpoints:
        restored = checkpoints.restore(jax.eval_shape(plan.method.init, plan.key))
    if restored is None:
        raise missing
    state, step, notes = restored
    for note in notes:
        shown.say(f"note: {note}")
    total = plan.config.num_outer_steps
    if step < total:
        shown.say(f"note: {path} has {step} of {total} outer steps; their images are used")
    file = folder / "metrics.jsonl"
    rows = [row for row in read_metrics(file) if row["step"] <= step] if file.is_file() else []
    spent = float(rows[-1].get("seconds", 0.0)) if rows else 0.0
    return Finished(state, spent, 0.0, 0, 0, rows)
