"""Evaluation: networks train on a small set and are tested on images that selected nothing."""

from jaxdistill.evaluation.compare import (
    SEMANTICS,
    Evaluation,
    Subsets,
    Tuned,
    everything,
    one_part_each,
    random_of_each_class,
    score,
    tuned,
    with_step_size,
)
from jaxdistill.evaluation.evaluate import (
    Evaluator,
    as_they_are,
    evaluator,
    one_program,
    search,
    training,
)
from jaxdistill.evaluation.fair_scores import augmentation_robust_score, label_robust_score
from jaxdistill.evaluation.measures import accuracy_on, confusion_on, correct_on, top_k_on
from jaxdistill.evaluation.protocol import STEP_SIZES, Protocol
from jaxdistill.evaluation.protocols import (
    PUBLISHED,
    as_distilled,
    dc,
    epochs,
    few_steps,
    pretraining,
    published,
    regression,
)
from jaxdistill.evaluation.scores import Correct, Score, summarize, summarize_by_class

__all__ = [
    "PUBLISHED",
    "SEMANTICS",
    "STEP_SIZES",
    "Correct",
    "Evaluation",
    "Evaluator",
    "Protocol",
    "Score",
    "Subsets",
    "Tuned",
    "accuracy_on",
    "as_distilled",
    "as_they_are",
    "augmentation_robust_score",
    "confusion_on",
    "correct_on",
    "dc",
    "epochs",
    "evaluator",
    "everything",
    "few_steps",
    "label_robust_score",
    "one_part_each",
    "one_program",
    "pretraining",
    "published",
    "random_of_each_class",
    "regression",
    "score",
    "search",
    "summarize",
    "summarize_by_class",
    "top_k_on",
    "training",
    "tuned",
    "with_step_size",
]
