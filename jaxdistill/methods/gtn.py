"""Generative Teaching Networks: a generator, its curriculum and the inner optimiser, learned together.

| paper (Such et al. 2019) | here | file |
| --- | --- | --- |
| generator G(z, y), weight normalisation | `meta.teacher["network"]` | teachers/generator.py, networks.py |
| curriculum: learned z_t in order | `meta.teacher["z"]` | teachers/generator.py, curricula.py |
| learned learning rates and momenta, by step | `meta.inner` | inner/optimizers.py |
| learner, new weights (and widths) every time | `population`, `random_shapes` | learners/gtn.py, shapes.py |
| inner loop on G's data, unrolled | `unrolled` | inner/unrolled.py |
| meta-loss on real data, at the end or on the way | `validate_every` | objectives/validation.py |

Deviations: momenta are kept in (0, 1) by a sigmoid where the paper learns their logarithm; real batches are
drawn with replacement; a clip and a bound on step sizes are options that the paper lacks.
"""

from collections.abc import Callable

import optax

from jaxdistill.core.types import InnerOptimizer, Learner, Method, Population, Solve, Teacher
from jaxdistill.inner.optimizers import sgd
from jaxdistill.inner.unrolled import unrolled
from jaxdistill.methods.bilevel import num_inner_steps
from jaxdistill.methods.dd import dd
from jaxdistill.methods.outer import outer_adam


def gtn(
    learner: Learner,
    teacher: Teacher,
    *,
    inner_optimizer: InnerOptimizer | None = None,
    weight_decay: float = 0.0,
    population: Population | None = None,
    outer_optimizer: optax.GradientTransformation | None = None,
    num_learners: int = 1,
    real_batch_size: int = 128,
    solve: Callable[..., Solve] = unrolled,
    strategy: str = "auto",
    learner_chunk: int | None = None,
    microbatch: int | None = None,
    warm_start: bool = False,
    skip_failed_solves: bool = False,
    validate_every: int | None = None,
) -> Method:
    """Dataset Distillation with a generator as its teacher, and the defaults of Such et al. 2019.

    Args:
      learner: the network; `gtn` in the paper.
      teacher: what is learned; `generator(...)` of 32 batches of 128 images in the paper.
      inner_optimizer: made for the teacher's T inner steps; SGD with a learned step size (started at 0.02)
        and momentum (0.5) per step when None.
      weight_decay: L2 of the inner loss.
      population: `fresh(learner)` when None.
      outer_optimizer: Adam 0.02, betas (0.9, 0.999), when None.
      num_learners: K initialisations per outer step.
      real_batch_size: real images per outer step.
      solve: how training is differentiated.
      strategy, learner_chunk, microbatch, warm_start, skip_failed_solves, validate_every: see
        `jaxdistill.methods.dd.dd`.

    Returns:
      The method.

    Raises:
      UserError: an option out of range, or an inner optimiser made for another number of steps (when traced).

    Example:
      >>> teacher = generator(image_shape=(8, 8, 1), num_classes=10, batch_size=16, distill_steps=8)
      >>> method = gtn(learner("gtn", image_shape=(8, 8, 1), num_classes=10, width=8), teacher)

    References: Such, Rawal, Lehman, Stanley & Clune 2019, "Generative Teaching Networks", algorithm 1.
    """
    if inner_optimizer is None:
        learned = ("learning_rate", "momentum")
        steps = num_inner_steps(teacher)
        inner_optimizer = sgd(num_steps=steps, momentum=0.5, learned=learned, positive="exp")
    if outer_optimizer is None:
        outer_optimizer = outer_adam(learning_rate=0.02, b1=0.9, positive="exp")
    return dd(
        learner,
        teacher,
        inner_optimizer=inner_optimizer,
        weight_decay=weight_decay,
        population=population,
        outer_optimizer=outer_optimizer,
        num_learners=num_learners,
        real_batch_size=real_batch_size,
        solve=solve,
        strategy=strategy,
        learner_chunk=learner_chunk,
        microbatch=microbatch,
        warm_start=warm_start,
        skip_failed_solves=skip_failed_solves,
        validate_every=validate_every,
    )
