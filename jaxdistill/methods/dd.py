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
(50,000 of MNIST's 60,000). Clip, cosine and the bound on step sizes are options that the paper lacks; the
settings for small images have them, since ten images of 8x8 pixels diverge without.
"""

import inspect
from collections.abc import Callable
from functools import partial

import optax

from jaxdistill.augment import Augmentation
from jaxdistill.core.checks import fail
from jaxdistill.core.types import (
    Array,
    Batch,
    Dataset,
    InnerOptimizer,
    Learner,
    Method,
    Population,
    Solve,
    Teacher,
)
from jaxdistill.inner import losses
from jaxdistill.inner.optimizers import with_temperature
from jaxdistill.inner.unrolled import unrolled
from jaxdistill.methods.average import averaged
from jaxdistill.methods.bilevel import bilevel, num_inner_steps
from jaxdistill.methods.recipe import PLAIN, TRAINING, Recipe, images_in, settings_of
from jaxdistill.methods.recipe import inner_optimizer as inner_optimizer_of
from jaxdistill.methods.recipe import outer_optimizer as outer_optimizer_of
from jaxdistill.objectives.validation import validation
from jaxdistill.populations.fresh import fresh
from jaxdistill.teachers.batching import augmented, minibatches


def dd(
    learner: Learner,
    teacher: Teacher,
    *,
    inner_optimizer: InnerOptimizer | None = None,
    weight_decay: float | None = None,
    population: Population | None = None,
    outer_optimizer: optax.GradientTransformation | None = None,
    num_learners: int | None = None,
    real_batch_size: int | None = None,
    draw: Callable[[Dataset, Array], Batch] | None = None,
    augmentation: Augmentation | None = None,
    solve: Callable[..., Solve] = unrolled,
    strategy: str = "auto",
    learner_chunk: int | None = None,
    microbatch: int | None = None,
    warm_start: bool = False,
    skip_failed_solves: bool = False,
    validate_every: int | None = None,
    inner_batch_size: int | None = None,
    inner_loss: str | None = None,
    outer_loss: str | None = None,
    label_margin: float | None = None,
    outer_ema: float | None = None,
    recipe: Recipe | None = None,
) -> Method:
    """Dataset Distillation with the settings of its recipe: the paper's, or those for small images.

    Args:
      learner: the network.
      teacher: what is learned; `images(...)` in the paper.
      inner_optimizer: made for the teacher's T inner steps; SGD with one learned step size per step, started
        at 0.02, in the paper.
      weight_decay: L2 of the inner loss.
      population: `fresh(learner)` when None.
      outer_optimizer: Adam 0.01, betas (0.5, 0.999), halved every tenth of the run, in the paper.
      num_learners: K initialisations per outer step.
      real_batch_size: real images per outer step.
      draw: (data set, key) -> the real batch of an outer step; drawn at random when None.
      augmentation: its siamese half is applied to the images of every inner step, and to the real batch: one
        draw for all images of a step; none in the paper. What is learned and exported are the images before.
      solve: how training is differentiated: `unrolled`, `implicit`, `closed_form`, `convexified`, or
        `functools.partial` of one of them with its options; called with (teacher, inner loss, inner
        optimiser, calibrate=...).
      strategy, learner_chunk: see `jaxdistill.inner.over_learners`.
      microbatch: see `jaxdistill.objectives.validation`.
      warm_start, skip_failed_solves: see `jaxdistill.methods.bilevel`; for implicit gradients.
      validate_every: e, a divisor of T: the outer loss is the mean of the losses on real data after every e
        inner steps (unrolled gradients); of the end alone when None.
      inner_batch_size: images of an inner step, equally many of every class, drawn from all synthetic images
        anew in every outer step; when None, the teacher's batch. In all inner steps together every
        image is drawn.
      inner_loss, outer_loss: of training on synthetic images, and on real ones afterwards: `cross_entropy`,
        `squared` or `platt`, see `jaxdistill.core.labels`. Of a `platt` the temperature is learned with the
        inner hyper-parameters; there is one temperature.
      label_margin: times 1 / classes, the gap that the largest entry of a learned label should keep from the
        next, see `jaxdistill.objectives.validation`; 0 for none.
      outer_ema: decay of the average of what is learned, which becomes the output
        (`jaxdistill.methods.average`); 0 for the last values.
      recipe: where what is left out comes from; `RECIPE` when None.

    Returns:
      The method: `init`, `update`, `synthesize`, `hyperparameters`.

    Raises:
      UserError: an option out of range, or an inner optimiser made for another number of steps (when traced).

    Example:
      >>> net = jd.learner("mlp", image_shape=(8, 8, 1), num_classes=10)
      >>> method = dd(net, jd.images(image_shape=(8, 8, 1), num_classes=10, distill_epochs=10))
      >>> state = method.init(jax.random.key(0))

    References: Wang, Zhu, Torralba & Efros 2018, "Dataset Distillation", algorithm 1, section 4.
    """
    chosen = settings_of(
        recipe or RECIPE,
        teacher,
        num_learners=num_learners,
        real_batch_size=real_batch_size,
        weight_decay=weight_decay,
        inner_loss=inner_loss,
        outer_loss=outer_loss,
        label_margin=label_margin,
        outer_ema=outer_ema,
    )
    optimizer = inner_optimizer or inner_optimizer_of(chosen, num_inner_steps(teacher))
    if "platt" in (chosen["inner_loss"], chosen["outer_loss"]):
        optimizer = with_temperature(optimizer)
    loss = losses.inner_loss(
        learner, loss=chosen["inner_loss"], labels=teacher.labels, weight_decay=chosen["weight_decay"]
    )
    siamese = None if augmentation is None else augmentation.siamese
    objective = partial(
        validation,
        augment=siamese,
        loss=chosen["outer_loss"],
        margin=chosen["label_margin"],
        teacher=teacher,
        microbatch=microbatch,
    )
    if validate_every is not None:
        if "keep_every" not in inspect.signature(solve).parameters:
            made = solve.func if isinstance(solve, partial) else solve
            got = f"{validate_every} with {getattr(made, '__name__', 'another solve')}"
            raise fail("dd", "no validate_every, of unrolled gradients only", got)
        solve = partial(solve, keep_every=validate_every)
    student = teacher
    if inner_batch_size is not None:
        drawn, count = num_inner_steps(teacher) * inner_batch_size, images_in(teacher)
        if drawn < count:
            remedy = "Raise distill_epochs, or inner_batch_size."
            raise fail("dd", f"inner steps x inner_batch_size >= {count}, the images", drawn, remedy)
        student = minibatches(teacher, inner_batch_size, balanced=True)
    trained_on = student if siamese is None else augmented(student, siamese)
    solved = solve(trained_on, loss, optimizer, calibrate=learner.calibrate)
    method = bilevel(
        teacher=student,
        inner_optimizer=optimizer,
        population=fresh(learner) if population is None else population,
        objective=objective(learner, solved, intermediate=validate_every is not None),
        outer_optimizer=outer_optimizer or outer_optimizer_of(chosen),
        num_learners=chosen["num_learners"],
        real_batch_size=chosen["real_batch_size"],
        draw=draw,
        strategy=strategy,
        learner_chunk=learner_chunk,
        solve=solved,
        warm_start=warm_start,
        learner_init=learner.init,
        skip_failed_solves=skip_failed_solves,
    )
    return averaged(method, chosen["outer_ema"]) if chosen["outer_ema"] else method


RECIPE = Recipe(
    make=dd,
    title="Dataset Distillation",
    paper="Wang et al. 2018",
    link="https://arxiv.org/abs/1811.10959",
    defaults={
        **PLAIN,
        **TRAINING,
        "teacher": "images",
        "distill_epochs": 3,
        "learner": "lenet",
        "initialization": "xavier",
        "inner_learning_rate": 0.02,
        "outer_optimizer": "adam",
        "outer_learning_rate": 0.01,
        "outer_b1": 0.5,
        "schedule": "halving",
        "num_outer_steps": 23_600,
        "num_learners": 4,
        "real_batch_size": 1024,
    },
    small={
        "distill_epochs": 10,
        "learner": "mlp",
        "initialization": None,
        "inner_learning_rate": 0.05,
        "schedule": "cosine",
        "num_outer_steps": 1500,
        "clip": 1.0,
        "max_inner_learning_rate": 2.0,
        "num_learners": 8,
        "real_batch_size": 256,
    },
    augments=False,
)
