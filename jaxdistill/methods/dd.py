"""Dataset Distillation: images and step sizes learned by backpropagation through training.

| paper (Wang et al. 2018) | here | file |
| --- | --- | --- |
| distilled data x~ | `meta.teacher` | teachers/images.py |
| learned step size eta~, one per step, softplus | `meta.inner["learning_rate"]` | inner/optimizers.py |
| initial weights theta_0 ~ p(theta_0) | `population` | populations/fresh.py, fixed.py |
| theta_1 = theta_0 - eta~ grad l(x~, theta_0), several steps | `unrolled` | inner/unrolled.py |
| l(x_t, theta_1), real minibatch x_t | `validation` | objectives/validation.py |
| sum over j of the sampled theta_0^(j) | `num_learners`, mean | methods/bilevel.py |

Deviations: the mean over initialisations in place of their sum (Adam does not feel it); real batches are
drawn with replacement in place of shuffled epochs, and from the training set without its validation split
(50,000 of MNIST's 60,000); the learning rate is constant unless `outer_optimizer` has the authors' schedule,
`outer_schedule("halving", ...)`; clip, cosine and the bound on step sizes are options that the paper lacks.
"""

from collections.abc import Callable
from functools import partial

import optax

from jaxdistill.core.types import InnerOptimizer, Learner, Method, Population, Solve, Teacher
from jaxdistill.inner.losses import inner_loss
from jaxdistill.inner.optimizers import sgd
from jaxdistill.inner.unrolled import unrolled
from jaxdistill.methods.bilevel import bilevel, num_inner_steps
from jaxdistill.methods.outer import outer_adam
from jaxdistill.objectives.validation import validation
from jaxdistill.populations.fresh import fresh


def dd(
    learner: Learner,
    teacher: Teacher,
    *,
    inner_optimizer: InnerOptimizer | None = None,
    weight_decay: float = 0.0,
    population: Population | None = None,
    outer_optimizer: optax.GradientTransformation | None = None,
    num_learners: int = 4,
    real_batch_size: int = 1024,
    solve: Callable[..., Solve] = unrolled,
    strategy: str = "auto",
    learner_chunk: int | None = None,
    microbatch: int | None = None,
    warm_start: bool = False,
    skip_failed_solves: bool = False,
    validate_every: int | None = None,
) -> Method:
    """Dataset Distillation with the paper's defaults.

    Args:
      learner: the network.
      teacher: what is learned; `images(...)` in the paper.
      inner_optimizer: made for the teacher's T inner steps; SGD with one learned step size per step,
        started at 0.02, when None.
      weight_decay: L2 of the inner loss.
      population: `fresh(learner)` when None.
      outer_optimizer: Adam 0.01, betas (0.5, 0.999), when None.
      num_learners: K initialisations per outer step.
      real_batch_size: real images per outer step.
      solve: how training is differentiated: `unrolled`, `implicit`, or `functools.partial` of one of them
        with its options; called with (teacher, inner loss, inner optimiser, calibrate=...).
      strategy, learner_chunk: see `jaxdistill.inner.over_learners`.
      microbatch: see `jaxdistill.objectives.validation`.
      warm_start, skip_failed_solves: see `jaxdistill.methods.bilevel`; for implicit gradients.
      validate_every: e, a divisor of T: the outer loss is the mean of the losses on real data after every e
        inner steps (unrolled gradients); of the end alone when None.

    Returns:
      The method: `init`, `update`, `synthesize`, `hyperparameters`.

    Raises:
      UserError: an option out of range, or an inner optimiser made for another number of steps (when traced).

    Example:
      >>> net = learner("mlp", image_shape=(8, 8, 1), num_classes=10)
      >>> method = dd(net, images(image_shape=(8, 8, 1), num_classes=10, distill_epochs=10))
      >>> state = method.init(jax.random.key(0))

    References: Wang, Zhu, Torralba & Efros 2018, "Dataset Distillation", algorithm 1, section 4.
    """
    optimizer = sgd(num_steps=num_inner_steps(teacher)) if inner_optimizer is None else inner_optimizer
    loss = inner_loss(learner, weight_decay=weight_decay)
    if validate_every is not None:
        solve = partial(solve, keep_every=validate_every)
    solved = solve(teacher.seen, loss, optimizer, calibrate=learner.calibrate)
    return bilevel(
        teacher=teacher,
        inner_optimizer=optimizer,
        population=fresh(learner) if population is None else population,
        objective=validation(learner, solved, microbatch=microbatch, intermediate=validate_every is not None),
        outer_optimizer=outer_adam() if outer_optimizer is None else outer_optimizer,
        num_learners=num_learners,
        real_batch_size=real_batch_size,
        strategy=strategy,
        learner_chunk=learner_chunk,
        solve=solved,
        warm_start=warm_start,
        start=learner.init,
        skip_failed_solves=skip_failed_solves,
    )
