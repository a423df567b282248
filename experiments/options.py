"""The options of the experiments: one table, from which flags, defaults and `--help` are made.

An option, a keyword argument of an experiment's `run` and a field of its config share one name.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from jaxdistill.core.checks import fail
from jaxdistill.data import DATASETS
from jaxdistill.evaluation import STEP_SIZES
from jaxdistill.inner.optimizers import INNER_OPTIMIZERS
from jaxdistill.inner.over_learners import STRATEGIES
from jaxdistill.inner.train import REMAT
from jaxdistill.layers.initializers import INITIALIZATIONS
from jaxdistill.layers.modules import ACTIVATIONS, NORMS, POOLINGS
from jaxdistill.learners import LEARNERS
from jaxdistill.methods.outer import SCHEDULES


class Option(NamedTuple):
    """One choice."""

    default: Any
    kind: Callable[[str], Any]
    """Parses one value; a list option has a list as its default."""
    help: str


def _known(names: Sequence[str] | Mapping[str, Any]) -> str:
    return ", ".join(names)


DATA = {
    "dataset": Option(
        "digits", str, f"{_known(DATASETS)}; any prepared TFDS set; or a path to an .npz with x and y"
    ),
    "data_dir": Option(None, str, "where prepared sets are kept (default: the user's cache directory)"),
    "manual_dir": Option(None, str, "folder with the original files of the set: no network is used"),
    "image_size": Option(None, int, "resize images to this side, pixels"),
}
TEACHER = {
    "images_per_class": Option(1, int, "synthetic images per class, in all batches together"),
    "distill_steps": Option(1, int, "distinct batches; images_per_class is a multiple of it"),
    "distill_epochs": Option(10, int, "passes over them: inner steps = distill_steps x distill_epochs"),
    "start": Option("noise", str, "what learned images start from: noise or real"),
    "soft_labels": Option(False, bool, "learn the labels too"),
}
LEARNER = {
    "learner": Option("mlp", str, _known(LEARNERS)),
    "width": Option(None, int, "hidden units or channels, for learners that have it"),
    "depth": Option(None, int, "layers or blocks, for learners that have it"),
    "norm": Option(None, str, f"{_known(NORMS)}, for learners that have it"),
    "activation": Option(None, str, _known(ACTIVATIONS)),
    "pooling": Option(None, str, f"{_known(POOLINGS)}, for learners that have it"),
    "initialization": Option(None, str, _known(INITIALIZATIONS)),
    "population": Option("fresh", str, "where learners come from: fresh (initialisations) or fixed (one)"),
}
INNER = {
    "inner_optimizer": Option("sgd", str, _known(INNER_OPTIMIZERS)),
    "inner_learning_rate": Option(
        0.05, float, "step size of the inner loop, or its start where it is learned"
    ),
    "inner_momentum": Option(0.0, float, "momentum of the inner loop (sgd), or its start"),
    "learned": Option(["learning_rate"], str, "inner hyper-parameters that are learned; empty for none"),
    "per_step": Option(True, bool, "learn one value per inner step, not one for all"),
    "weight_decay": Option(0.0, float, "L2 coefficient of the inner loss"),
    "remat": Option("none", str, f"memory of the reverse pass: {_known(REMAT)}"),
    "backprop_last": Option(None, int, "truncate: backpropagate through the last so many inner steps"),
    "random_window": Option(False, bool, "with backprop_last: draw where the window ends"),
}
OUTER = {
    "method": Option("dd", str, "dd"),
    "num_outer_steps": Option(1500, int, "outer steps"),
    "outer_learning_rate": Option(0.01, float, "Adam's learning rate"),
    "schedule": Option("cosine", str, f"of the outer learning rate: {_known(SCHEDULES)}"),
    "clip": Option(1.0, float, "largest global norm of the hypergradient; 0 for no clip"),
    "max_inner_learning_rate": Option(2.0, float, "bound on learned step sizes; 0 for none"),
    "real_batch_size": Option(256, int, "real images per outer step"),
    "num_learners": Option(8, int, "K, learners per outer step"),
    "strategy": Option("auto", str, f"how the K axis is computed: {_known(STRATEGIES)}"),
    "learner_chunk": Option(None, int, "learners at a time"),
    "microbatch": Option(None, int, "real images at a time (default: by backend)"),
}
EVALUATION = {
    "num_eval_learners": Option(20, int, "networks per row of the table"),
    "num_search_learners": Option(5, int, "networks per candidate of a search on validation"),
    "step_sizes": Option(list(STEP_SIZES), float, "step sizes that a baseline is searched over"),
    "full_data_epochs": Option(20, int, "epochs of training on the full training set; 0 leaves the row out"),
}
RUN = {
    "run_dir": Option(None, str, "where everything is written; a run that is there goes on"),
    "seed": Option(0, int, "root of all randomness"),
    "chunk_length": Option(None, int, "outer steps per compiled program (default: by backend)"),
    "checkpoint_every": Option(500, int, "outer steps between checkpoints"),
    "tensorboard": Option(
        False, bool, 'also write TensorBoard events (pip install "jaxdistill[tensorboard]")'
    ),
}
"""Options by what they choose. `seed` and the first five groups decide a run's numbers."""

Groups = dict[str, dict[str, Option]]


def defaults(groups: Groups) -> dict[str, Any]:
    """The config of an experiment nobody has chosen anything of."""
    return {name: option.default for group in groups.values() for name, option in group.items()}


def complete(groups: Groups, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """`chosen` over the defaults.

    Raises:
      UserError: a name that is none of the experiment's options.
    """
    config = defaults(groups)
    for name in chosen:
        if name not in config:
            raise fail("run", f"options among {', '.join(config)}", repr(name))
    return config | dict(chosen)


__all__ = ["DATA", "EVALUATION", "INNER", "LEARNER", "OUTER", "RUN", "TEACHER", "Groups", "Option"]
