from . import interop as interop
from .augment import Augmentation as Augmentation
from .baselines import average_real as average_real
from .baselines import k_means as k_means
from .baselines import nearest_neighbors as nearest_neighbors
from .baselines import optimized_real as optimized_real
from .baselines import random_real as random_real
from .config.table import Config as Config
from .core.checks import Caution as Caution
from .core.checks import UserError as UserError
from .core.platform import platform as platform
from .core.types import Batch as Batch
from .core.types import Data as Data
from .core.types import Dataset as Dataset
from .core.types import DistillState as DistillState
from .core.types import InnerLoss as InnerLoss
from .core.types import InnerOptimizer as InnerOptimizer
from .core.types import Learner as Learner
from .core.types import Meta as Meta
from .core.types import Method as Method
from .core.types import Objective as Objective
from .core.types import Population as Population
from .core.types import Solve as Solve
from .core.types import SolveInfo as SolveInfo
from .core.types import Teacher as Teacher
from .data import DATASETS as DATASETS
from .data import DatasetInfo as DatasetInfo
from .data import Splits as Splits
from .data import choose_per_class as choose_per_class
from .data import from_arrays as from_arrays
from .data import load as load
from .data import sample as sample
from .data import sample_per_class as sample_per_class
from .data import splits as splits
from .data import standardise as standardise
from .data import to_pixels as to_pixels
from .evaluation import Evaluation as Evaluation
from .evaluation import Protocol as Protocol
from .evaluation import Score as Score
from .evaluation import accuracy_on as accuracy_on
from .evaluation import augmentation_robust_score as augmentation_robust_score
from .evaluation import confusion_on as confusion_on
from .evaluation import evaluator as evaluator
from .evaluation import everything as everything
from .evaluation import label_robust_score as label_robust_score
from .evaluation import one_part_each as one_part_each
from .evaluation import protocols as protocols
from .evaluation import random_of_each_class as random_of_each_class
from .evaluation import score as score
from .evaluation import summarize as summarize
from .evaluation import top_k_on as top_k_on
from .evaluation import tuned as tuned
from .inner.accumulated import accumulated as accumulated
from .inner.closed_form import closed_form as closed_form
from .inner.convexified import convexified as convexified
from .inner.implicit import implicit as implicit
from .inner.kernel_ridge import kernel_machine as kernel_machine
from .inner.kernel_ridge import kernel_ridge as kernel_ridge
from .inner.losses import accuracy as accuracy
from .inner.losses import cross_entropy as cross_entropy
from .inner.losses import inner_loss as inner_loss
from .inner.losses import kl_divergence as kl_divergence
from .inner.losses import squared as squared
from .inner.losses import top_k_accuracy as top_k_accuracy
from .inner.minimize import minimize as minimize
from .inner.optimizers import adam as adam
from .inner.optimizers import keep_in_range as keep_in_range
from .inner.optimizers import rmsprop as rmsprop
from .inner.optimizers import sgd as sgd
from .inner.over_learners import over_learners as over_learners
from .inner.solvers import LINEAR_SOLVERS as LINEAR_SOLVERS
from .inner.solvers import linear_solver as linear_solver
from .inner.train import train as train
from .inner.unrolled import unrolled as unrolled
from .layers.infinite import infinite_mlp as infinite_mlp
from .learners import LEARNERS as LEARNERS
from .learners import from_flax as from_flax
from .learners import learner as learner
from .learners.linearized import linearized as linearized
from .learners.mixed_precision import mixed_precision as mixed_precision
from .learners.shapes import random_shapes as random_shapes
from .methods import METHODS as METHODS
from .methods.average import averaged as averaged
from .methods.bilevel import bilevel as bilevel
from .methods.dc import dc as dc
from .methods.dd import dd as dd
from .methods.dm import dm as dm
from .methods.dsa import dsa as dsa
from .methods.frepo import frepo as frepo
from .methods.gtn import gtn as gtn
from .methods.idc import idc as idc
from .methods.kip import kip as kip
from .methods.mtt import mtt as mtt
from .methods.outer import clip_by_average_norm as clip_by_average_norm
from .methods.outer import outer_adabelief as outer_adabelief
from .methods.outer import outer_adam as outer_adam
from .methods.outer import outer_lamb as outer_lamb
from .methods.outer import outer_schedule as outer_schedule
from .methods.outer import outer_sgd as outer_sgd
from .methods.rat import rat as rat
from .methods.rcig import rcig as rcig
from .methods.recipe import Recipe as Recipe
from .objectives.distribution_matching import distribution_matching as distribution_matching
from .objectives.gradient_matching import gradient_matching as gradient_matching
from .objectives.trajectory_matching import trajectory_matching as trajectory_matching
from .objectives.validation import validation as validation
from .populations import POPULATIONS as POPULATIONS
from .populations import ages as ages
from .populations import experts as experts
from .populations import fixed as fixed
from .populations import fixed_pretrained as fixed_pretrained
from .populations import fresh as fresh
from .populations import persistent as persistent
from .populations import pretrained as pretrained
from .populations.given import given as given
from .runs.bank_training import ExpertOptions as ExpertOptions
from .runs.bank_training import PretrainOptions as PretrainOptions
from .runs.bank_training import pretrain as pretrain
from .runs.bank_training import train_experts as train_experts
from .runs.distill import distill as distill
from .runs.evaluate import evaluate as evaluate
from .runs.export import export as export
from .runs.generate import Generated as Generated
from .runs.generate import generate as generate
from .runs.run import Run as Run
from .runs.run import load_run as load_run
from .teachers import CURRICULA as CURRICULA
from .teachers import TEACHERS as TEACHERS
from .teachers import augmented as augmented
from .teachers import generator as generator
from .teachers import images as images
from .teachers import minibatches as minibatches
from .teachers import shuffled as shuffled
from .teachers.decoders import DECODERS as DECODERS
from .version import __version__ as __version__

__all__ = [
    "CURRICULA",
    "DATASETS",
    "LEARNERS",
    "LINEAR_SOLVERS",
    "METHODS",
    "POPULATIONS",
    "TEACHERS",
    "Augmentation",
    "Batch",
    "Caution",
    "Config",
    "Data",
    "Dataset",
    "DatasetInfo",
    "DistillState",
    "Evaluation",
    "ExpertOptions",
    "Generated",
    "InnerLoss",
    "InnerOptimizer",
    "Learner",
    "Meta",
    "Method",
    "Objective",
    "Population",
    "PretrainOptions",
    "Protocol",
    "Recipe",
    "Run",
    "Score",
    "Solve",
    "SolveInfo",
    "Splits",
    "Teacher",
    "UserError",
    "__version__",
    "accumulated",
    "accuracy",
    "accuracy_on",
    "adam",
    "ages",
    "augmentation_robust_score",
    "augmented",
    "average_real",
    "averaged",
    "bilevel",
    "choose_per_class",
    "closed_form",
    "confusion_on",
    "convexified",
    "cross_entropy",
    "dc",
    "dd",
    "distill",
    "distribution_matching",
    "dm",
    "dsa",
    "evaluate",
    "evaluator",
    "everything",
    "experts",
    "export",
    "fixed",
    "fixed_pretrained",
    "frepo",
    "fresh",
    "from_arrays",
    "from_flax",
    "generate",
    "generator",
    "given",
    "gradient_matching",
    "gtn",
    "images",
    "implicit",
    "infinite_mlp",
    "inner_loss",
    "interop",
    "k_means",
    "keep_in_range",
    "kernel_machine",
    "kernel_ridge",
    "kip",
    "kl_divergence",
    "label_robust_score",
    "learner",
    "linear_solver",
    "linearized",
    "load",
    "load_run",
    "minibatches",
    "minimize",
    "mtt",
    "nearest_neighbors",
    "one_part_each",
    "optimized_real",
    "outer_adabelief",
    "outer_adam",
    "outer_lamb",
    "outer_schedule",
    "outer_sgd",
    "over_learners",
    "persistent",
    "pretrain",
    "pretrained",
    "protocols",
    "random_of_each_class",
    "random_real",
    "random_shapes",
    "rcig",
    "rmsprop",
    "sample",
    "sample_per_class",
    "score",
    "sgd",
    "shuffled",
    "splits",
    "squared",
    "standardise",
    "summarize",
    "to_pixels",
    "top_k_accuracy",
    "top_k_on",
    "train",
    "train_experts",
    "trajectory_matching",
    "tuned",
    "unrolled",
    "validation",
]
