"""The options of the experiments: one table, from which flags, defaults and `--help` are made.

An option, a keyword argument of an experiment's `run` and a field of its config share one name.
"""

import math
import numbers
import os
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from experiments.gradients import BY_GRADIENT, FAILED_SOLVES, GRADIENTS
from experiments.method_defaults import BY_METHOD
from jaxdistill.augment import OPERATIONS
from jaxdistill.core.checks import above, at_least, fail, one_of
from jaxdistill.data import DATASETS
from jaxdistill.evaluation import PUBLISHED, STEP_SIZES
from jaxdistill.inner.optimizers import INNER_OPTIMIZERS, POSITIVE
from jaxdistill.inner.over_learners import STRATEGIES
from jaxdistill.inner.solvers import LINEAR_SOLVERS
from jaxdistill.inner.train import REMAT
from jaxdistill.layers.initializers import INITIALIZATIONS
from jaxdistill.layers.modules import ACTIVATIONS, NORMS, POOLINGS
from jaxdistill.learners import LEARNERS
from jaxdistill.learners.shapes import SHAPES
from jaxdistill.methods import METHODS
from jaxdistill.methods.dc import schedule as dc_schedule
from jaxdistill.methods.outer import SCHEDULES
from jaxdistill.objectives.distribution_matching import LAYERS
from jaxdistill.objectives.gradient_matching import DISTANCES
from jaxdistill.populations import POPULATIONS
from jaxdistill.teachers import CURRICULA, TEACHERS
from jaxdistill.teachers.generator import DISTRIBUTIONS
from jaxdistill.teachers.networks import ARCHITECTURES

STARTS = ("noise", "real")
PROTOCOLS = ("as_distilled", *PUBLISHED)
OUTER_OPTIMIZERS = ("adam", "sgd")


class Option(NamedTuple):
    """One choice."""

    default: Any
    kind: Callable[[Any], Any]
    """Parses one value."""
    help: str
    known: Collection[str] = ()
    """The names to choose from, if it is a name; the help lists them."""
    low: float | None = None
    """The smallest value, if it is a number."""
    high: float | None = None
    """The largest."""
    above: float | None = None
    """What it is larger than."""
    list_of: bool = False
    """Whether it is a list of values; one with a list as its default is."""

    @property
    def many(self) -> bool:
        return self.list_of or isinstance(self.default, list)


DATA = {
    "dataset": Option(
        "digits", str, f"{', '.join(DATASETS)}; any prepared TFDS set; or a path to an .npz with x and y"
    ),
    "data_dir": Option(None, str, "where prepared sets are kept (default: the user's cache directory)"),
    "manual_dir": Option(None, str, "folder with the original files of the set: no network is used"),
    "image_size": Option(None, int, "resize images to this side, pixels", low=1),
}
TEACHER = {
    "teacher": Option("images", str, "what is learned", TEACHERS),
    "images_per_class": Option(1, int, "synthetic images per class, in all batches together", low=1),
    "distill_steps": Option(1, int, "distinct batches; images_per_class is a multiple of it", low=1),
    "distill_epochs": Option(
        None,
        int,
        "passes over them: inner steps = distill_steps x distill_epochs (default: 10; 1 with implicit "
        "gradients, which train to a tolerance)",
        low=1,
    ),
    "start": Option("noise", str, "images: what they start from", STARTS),
    "soft_labels": Option(False, bool, "learn the labels too"),
    "curriculum": Option(
        "full",
        str,
        "order of what the inner steps see: as learned, shuffled, or (generator) of fresh or fixed noise",
        CURRICULA,
    ),
    "batch_size": Option(
        None, int, "generator: images of a batch (default: from images_per_class and distill_steps)", low=1
    ),
    "architecture": Option("upsampling", str, "generator: its network", ARCHITECTURES),
    "generator_width": Option(None, int, "generator: filters, or k (compact) (default: 64)", low=1),
    "generator_hidden": Option(1024, int, "generator: units of the first layer (upsampling)", low=1),
    "upsamplings": Option(2, int, "generator: doublings of the image size (upsampling)", low=1),
    "weight_norm": Option(None, bool, "generator: normalised weights (default: upsampling yes, compact no)"),
    "noise_size": Option(None, int, "generator: numbers of one z (default: 128; compact 64)", low=1),
    "distribution": Option(None, str, "generator: of z (default: gaussian; compact uniform)", DISTRIBUTIONS),
    "steps_at_once": Option(
        None, int, "generator: inner steps whose images are made at a time (default: all)", low=1
    ),
}
LEARNER = {
    "learner": Option("mlp", str, "the network", LEARNERS),
    "width": Option(None, int, "hidden units or channels, for learners that have it", low=1),
    "depth": Option(None, int, "layers or blocks, for learners that have it", low=1),
    "norm": Option(None, str, "for learners that have it", NORMS),
    "activation": Option(None, str, "for learners that have it", ACTIVATIONS),
    "pooling": Option(None, str, "for learners that have it", POOLINGS),
    "kernel": Option(None, int, "side of the convolutions, for learners that have it", low=1),
    "initialization": Option(None, str, "of the network's weights", INITIALIZATIONS),
    "num_shapes": Option(
        0,
        int,
        "distill for so many networks of random width and depth, one per chunk_length outer steps; 0 for the "
        f"given one ({', '.join(SHAPES)})",
        low=0,
    ),
    "population": Option(
        "fresh",
        str,
        "networks: new ones every outer step, one, some that live for a while, or trained ones",
        POPULATIONS,
    ),
    "matches": Option(
        None, int, "persistent: outer steps of one network (default: by images_per_class, as in DC)", low=1
    ),
    "match_epochs": Option(
        None, int, "persistent: epochs over the synthetic data between them (default: likewise)", low=0
    ),
    "match_learning_rate": Option(
        None, float, "persistent: step size of that training (default: 0.01, as in DC)", above=0
    ),
}
INNER = {
    "inner_optimizer": Option("sgd", str, "optimiser of the inner loop", INNER_OPTIMIZERS),
    "inner_learning_rate": Option(
        None,
        float,
        "step size of the inner loop, or its start where it is learned (default: 0.05; implicit 0.1)",
    ),
    "inner_momentum": Option(
        None, float, "momentum of the inner loop (sgd), or its start (default: 0; implicit 0.9)", low=0
    ),
    "learned": Option(
        None,
        str,
        "inner hyper-parameters that are learned; empty for none (default: learning_rate; implicit none)",
        list_of=True,
    ),
    "positive": Option("softplus", str, "how learned step sizes stay positive", POSITIVE),
    "per_step": Option(True, bool, "learn one value per inner step, not one for all"),
    "weight_decay": Option(
        None, float, "L2 coefficient of the inner loss (default: 0; implicit 0.01)", low=0
    ),
    "gradient": Option("unrolled", str, "how training is differentiated", GRADIENTS),
    "validate_every": Option(
        None,
        int,
        "unrolled: inner steps between the losses on real data that the outer loop lowers (default: the end)",
        low=1,
    ),
    "remat": Option("none", str, "unrolled: memory of the reverse pass", REMAT),
    "backprop_last": Option(
        None, int, "truncated: backpropagate through the last so many inner steps (default: half)", low=1
    ),
    "random_window": Option(False, bool, "truncated: draw where the window ends"),
    "memory_budget": Option(
        None, str, "auto: takes the fastest of unrolled, remat step, remat sqrt that fits; such as 2GB"
    ),
    "allow_implicit": Option(False, bool, "auto: implicit gradients where none of those fits"),
}
IMPLICIT = {
    "linear_solver": Option(None, str, "of (H + damping I) v = g (default: cg)", LINEAR_SOLVERS),
    "damping": Option(None, float, "added to the Hessian (default: 0.1)", low=0),
    "inner_tolerance": Option(
        None, float, "inner training ends at this relative gradient norm (default: 0.001)", low=0
    ),
    "max_inner_steps": Option(None, int, "most inner steps; 0 for no limit (default: 100)", low=0),
    "solver_tolerance": Option(None, float, "relative residual that ends cg (default: 0.001)", low=0),
    "solver_steps": Option(None, int, "most iterations of cg (default: 100)", low=1),
    "neumann_terms": Option(None, int, "terms of the Neumann series (default: 20)", low=1),
    "neumann_alpha": Option(None, float, "its factor (default: 1 / largest eigenvalue, estimated)"),
    "nystrom_rank": Option(None, int, "size of the Nystrom sketch (default: 20)", low=1),
    "identity_scale": Option(None, float, "the multiple of the identity (default: 1)"),
    "warm_start": Option(False, bool, "start the linear solve from the last outer step's solution"),
    "on_failed_solve": Option(
        "stop", str, "what a linear solve with a residual above 1, or NaN, does to its step", FAILED_SOLVES
    ),
}
OUTER = {
    "method": Option("dd", str, "how it is distilled; brings its paper's defaults", METHODS),
    "num_outer_steps": Option(1500, int, "outer steps", low=1),
    "outer_optimizer": Option("adam", str, "of what is learned", OUTER_OPTIMIZERS),
    "outer_learning_rate": Option(0.01, float, "learning rate of the outer optimiser"),
    "outer_momentum": Option(0.5, float, "of sgd", low=0),
    "hyper_learning_rate": Option(
        None,
        float,
        "outer learning rate of learned inner hyper-parameters; 0 keeps them where they start (default: "
        "outer_learning_rate)",
        low=0,
    ),
    "outer_b1": Option(0.5, float, "Adam's average of gradients", low=0, high=1),
    "schedule": Option("cosine", str, "of the outer learning rate", SCHEDULES),
    "schedule_end": Option(0.0, float, "cosine: the last outer learning rate, relative", low=0, high=1),
    "clip": Option(1.0, float, "largest global norm of the hypergradient; 0 for no clip", low=0),
    "max_inner_learning_rate": Option(2.0, float, "bound on learned step sizes; 0 for none", low=0),
    "real_batch_size": Option(256, int, "real images per outer step; of each class in dc, dsa and dm", low=1),
    "distance": Option("layerwise", str, "dc, dsa: of two gradients", DISTANCES),
    "by_class": Option(True, bool, "dc, dsa: match each class on its own, not all of them together"),
    "feature_layers": Option("last", str, "dm: features that are matched", LAYERS),
    "augment": Option(
        None,
        str,
        f"dc, dm, dsa, mtt: operations to draw from, {', '.join(OPERATIONS)}; empty for none (default: all, "
        "flip only where mirror images are of the same class; dc none)",
        list_of=True,
    ),
    "augment_strength": Option(1.0, float, "of them, relative to the paper's", low=0, high=2),
    "class_strategy": Option("auto", str, "dc, dm, dsa: how the classes are computed", STRATEGIES),
    "num_learners": Option(8, int, "K, learners per outer step", low=1),
    "strategy": Option("auto", str, "how the K axis is computed", STRATEGIES),
    "learner_chunk": Option(None, int, "learners at a time", low=1),
    "microbatch": Option(
        None, int, "real images at a time (default: all; on a CPU 64, or in matching by size)", low=1
    ),
}
TRAJECTORIES = {
    "experts": Option(None, str, "mtt: folder that experiments.experts wrote"),
    "start_epochs": Option(25, int, "mtt: segments start at an expert's epoch below this", low=1),
    "expert_epochs": Option(
        3, int, "mtt: epochs of an expert that the student's steps should make up", low=1
    ),
    "inner_batch_size": Option(
        None, int, "mtt: images of a student's step, drawn from all (default: the teacher's batches)", low=1
    ),
}
POOL = {
    "pool": Option(None, str, "pretrained: folder that experiments.pretrain wrote"),
    "pool_dataset": Option(
        None, str, "pretrained: the set that the pool was trained on, where it is another (adaptation)"
    ),
}
EVALUATION = {
    "protocol": Option(
        None,
        str,
        "how networks are trained on the distilled images: as these were distilled for, or as in the papers: "
        "300 epochs (dc), 1000 with DC's augmentation for MNIST or with DSA's (default: the method's own)",
        PROTOCOLS,
    ),
    "num_eval_learners": Option(
        20, int, "networks that are trained on the distilled images (baselines: num_baseline_learners)", low=1
    ),
    "num_baseline_learners": Option(20, int, "networks per baseline; 0 leaves the baselines out", low=0),
    "num_search_learners": Option(5, int, "networks per candidate of a search on validation", low=1),
    "step_sizes": Option(list(STEP_SIZES), float, "step sizes that a baseline is searched over"),
    "full_data_epochs": Option(
        20, int, "epochs of training on the full training set; 0 leaves the row out", low=0
    ),
}
RUN = {
    "run_dir": Option(None, str, "where everything is written; a run that is there goes on"),
    "seed": Option(0, int, "root of all randomness", low=0, high=2**32 - 1),
    "chunk_length": Option(None, int, "outer steps per compiled program (default: by backend)", low=1),
    "checkpoint_every": Option(500, int, "outer steps between checkpoints", low=1),
    "tensorboard": Option(
        False, bool, 'also write TensorBoard events (pip install "jaxdistill[tensorboard]")'
    ),
}
"""Options by what they choose. `seed` and the groups before `EVALUATION` decide a run's numbers."""

Groups = dict[str, dict[str, Option]]


def with_defaults(group: dict[str, Option], **chosen: Any) -> dict[str, Option]:
    """The group with other defaults of the options of these names that it has."""
    return {n: o._replace(default=chosen[n]) if n in chosen else o for n, o in group.items()}


def defaults(groups: Groups) -> dict[str, Any]:
    """The config of an experiment nobody has chosen anything of."""
    return {name: option.default for group in groups.values() for name, option in group.items()}


def by_method(options: Collection[str], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults that the chosen method brings, of the options that there are."""
    own = BY_METHOD.get(chosen.get("method", "dd"), {}) if "method" in options else {}
    left_out: set[str] = set()
    for head, group in (("teacher", TEACHER), ("learner", LEARNER)):
        if head in own and chosen.get(head, own[head]) != own[head]:
            left_out |= set(group) - {"population"}  # where networks come from is the method's matter
    gradient = chosen.get("gradient", "unrolled")
    if gradient == "implicit":
        left_out |= set(BY_GRADIENT)
    if gradient != "unrolled":
        left_out |= {"remat"}
    count = max(1, int(chosen.get("images_per_class", 1)))
    if chosen.get("method") in ("dc", "dsa"):
        matches = chosen.get("matches") or dc_schedule(count)[0]
        own = own | {"num_outer_steps": own["num_outer_steps"] * matches}
        own |= {"outer_learning_rate": 0.01} if chosen.get("learner") == "mlp" else {}
    if chosen.get("population") in ("fixed", "fixed_pretrained"):
        own = own | {"num_learners": 1}
    if chosen.get("method") == "dm" and count >= 100:
        own = own | {"outer_learning_rate": 10.0}
    return {name: value for name, value in own.items() if name in options and name not in left_out}


def complete(groups: Groups, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """`chosen` over the method's defaults over the others, each value checked as far as it can be alone.

    Raises:
      UserError: a name that is none of the experiment's options, a value of another type, an unknown name,
        a number out of range.
    """
    options = {name: option for group in groups.values() for name, option in group.items()}
    for name in chosen:
        if name not in options:
            raise fail("run", f"options among {', '.join(options)}", repr(name))
    config = defaults(groups) | by_method(options, chosen) | dict(chosen)
    return {name: _checked(name, options[name], value) for name, value in config.items()}


def _checked(name: str, option: Option, value: Any) -> Any:
    if value is None and option.default is None:
        return None
    if not option.many:
        return _checked_one(name, option, value)
    if isinstance(value, str) or not isinstance(value, Collection):
        raise fail("options", f"{name} as a list", repr(value))
    return [_checked_one(name, option, part) for part in value]


def _checked_one(name: str, option: Option, value: Any) -> Any:
    fits, word = KINDS[option.kind]
    if not isinstance(value, fits) or (isinstance(value, bool) and option.kind is not bool):
        raise fail("options", f"{name} as {word}", repr(value))
    value = os.fspath(value) if isinstance(value, os.PathLike) else option.kind(value)
    if option.known:
        one_of(name, value, option.known)
    if option.kind is float and not math.isfinite(value):
        raise fail("options", f"a finite {name}", value)
    if option.low is not None:
        at_least("options", name, value, option.low)
    if option.above is not None:
        above("options", name, value, option.above)
    if option.high is not None and value > option.high:
        raise fail("options", f"{name} <= {option.high}", value)
    return value


KINDS: dict[Any, tuple[Any, str]] = {
    bool: (bool, "true or false"),
    int: (numbers.Integral, "a whole number"),
    float: (numbers.Real, "a number"),
    str: (str | os.PathLike, "text"),
}

__all__ = [
    "DATA",
    "EVALUATION",
    "IMPLICIT",
    "INNER",
    "LEARNER",
    "OUTER",
    "POOL",
    "RUN",
    "TEACHER",
    "Groups",
    "Option",
]
