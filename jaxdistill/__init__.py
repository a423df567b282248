"""jaxdistill: dataset distillation in JAX, as pure functions.

One bilevel problem, five independent choices: teacher, learner, solve, objective, population. Each is a
NamedTuple of pure functions; `bilevel` composes them into a `Method`, whose `update` is one outer step.
"""

from jaxdistill.baselines import average_real, k_means, nearest_neighbors, optimized_real, random_real
from jaxdistill.core.checks import Caution, UserError
from jaxdistill.core.types import (
    Batch,
    Data,
    Dataset,
    DistillState,
    InnerLoss,
    InnerOptimizer,
    Learner,
    Meta,
    Method,
    Objective,
    Population,
    Solve,
    SolveInfo,
    Teacher,
)
from jaxdistill.data import (
    DATASETS,
    DatasetInfo,
    Splits,
    choose_per_class,
    from_arrays,
    load,
    sample,
    sample_per_class,
    standardise,
    to_pixels,
)
from jaxdistill.evaluation import (
    Evaluation,
    Protocol,
    Score,
    accuracy_on,
    as_distilled,
    augmentation_robust_score,
    confusion_on,
    dc,
    epochs,
    evaluator,
    everything,
    few_steps,
    label_robust_score,
    one_part_each,
    pretraining,
    random_of_each_class,
    score,
    summarize,
    tuned,
)
from jaxdistill.inner.accumulated import accumulated
from jaxdistill.inner.implicit import implicit
from jaxdistill.inner.losses import accuracy, cross_entropy, inner_loss
from jaxdistill.inner.minimize import minimize
from jaxdistill.inner.optimizers import adam, keep_in_range, rmsprop, sgd
from jaxdistill.inner.over_learners import over_learners
from jaxdistill.inner.solvers import LINEAR_SOLVERS, linear_solver
from jaxdistill.inner.train import train
from jaxdistill.inner.unrolled import unrolled
from jaxdistill.learners import LEARNERS, from_flax, learner
from jaxdistill.learners.shapes import random_shapes
from jaxdistill.methods import METHODS
from jaxdistill.methods.bilevel import bilevel
from jaxdistill.methods.dd import dd
from jaxdistill.methods.gtn import gtn
from jaxdistill.methods.outer import outer_adam, outer_schedule
from jaxdistill.objectives.distribution_matching import distribution_matching
from jaxdistill.objectives.gradient_matching import gradient_matching
from jaxdistill.objectives.trajectory_matching import trajectory_matching
from jaxdistill.objectives.validation import validation
from jaxdistill.populations import (
    POPULATIONS,
    experts,
    fixed,
    fixed_pretrained,
    fresh,
    persistent,
    pretrained,
)
from jaxdistill.teachers import CURRICULA, generator, images, shuffled

__version__ = "0.1.0"

__all__ = [
    "CURRICULA",
    "DATASETS",
    "LEARNERS",
    "LINEAR_SOLVERS",
    "METHODS",
    "POPULATIONS",
    "Batch",
    "Caution",
    "Data",
    "Dataset",
    "DatasetInfo",
    "DistillState",
    "Evaluation",
    "InnerLoss",
    "InnerOptimizer",
    "Learner",
    "Meta",
    "Method",
    "Objective",
    "Population",
    "Protocol",
    "Score",
    "Solve",
    "SolveInfo",
    "Splits",
    "Teacher",
    "UserError",
    "accumulated",
    "accuracy",
    "accuracy_on",
    "adam",
    "as_distilled",
    "augmentation_robust_score",
    "average_real",
    "bilevel",
    "choose_per_class",
    "confusion_on",
    "cross_entropy",
    "dc",
    "dd",
    "distribution_matching",
    "epochs",
    "evaluator",
    "everything",
    "experts",
    "few_steps",
    "fixed",
    "fixed_pretrained",
    "fresh",
    "from_arrays",
    "from_flax",
    "generator",
    "gradient_matching",
    "gtn",
    "images",
    "implicit",
    "inner_loss",
    "k_means",
    "keep_in_range",
    "label_robust_score",
    "learner",
    "linear_solver",
    "load",
    "minimize",
    "nearest_neighbors",
    "one_part_each",
    "optimized_real",
    "outer_adam",
    "outer_schedule",
    "over_learners",
    "persistent",
    "pretrained",
    "pretraining",
    "random_of_each_class",
    "random_real",
    "random_shapes",
    "rmsprop",
    "sample",
    "sample_per_class",
    "score",
    "sgd",
    "shuffled",
    "standardise",
    "summarize",
    "to_pixels",
    "train",
    "trajectory_matching",
    "tuned",
    "unrolled",
    "validation",
]
