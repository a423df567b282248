"""The honest evaluator: networks trained on a small set, tested on images that chose nothing."""

from jaxdistill.evaluation.compare import (
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
    Score,
    accuracy_on,
    evaluator,
    search,
    summarize,
    training,
)
from jaxdistill.evaluation.protocols import (
    PUBLISHED,
    STEP_SIZES,
    Protocol,
    as_distilled,
    dc,
    epochs,
    few_steps,
    published,
)

__all__ = [
    "PUBLISHED",
    "STEP_SIZES",
    "Evaluation",
    "Evaluator",
    "Protocol",
    "Score",
    "Subsets",
    "Tuned",
    "accuracy_on",
    "as_distilled",
    "dc",
    "epochs",
    "evaluator",
    "everything",
    "few_steps",
    "one_part_each",
    "published",
    "random_of_each_class",
    "score",
    "search",
    "summarize",
    "training",
    "tuned",
    "with_step_size",
]
