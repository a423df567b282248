"""Kernel Inducing Points: images on which kernel ridge regression, without a network, predicts real data.

| paper (Nguyen et al. 2021) | here | file |
| --- | --- | --- |
| support set X_s, y_s | `meta.teacher` | teachers/images.py |
| kernel K, of an infinitely wide fully connected network (FC) | `infinite_mlp` | layers/infinite.py |
| (K_ss + lambda I)^-1 y_s, lambda = 1e-6 tr(K_ss) / n | `kernel_ridge` | inner/kernel_ridge.py |
| L = 1/2 mean of (y_t - K_ts (K_ss + lambda I)^-1 y_s)^2 | `objective` | this file |
| centred one-hot labels, or learned ones | `zero_mean`, `labels=free` | core/labels.py |
| Adam 0.04, 5,000 targets a step (authors' notebook) | `outer_adam`, `real_batch_size` | methods/outer.py |
| W_std = sqrt 2, b_std = 0.1, one hidden layer (notebook) | `weight_variance`, `bias_variance` | this file |

Deviations: float32, where the notebook has float64; targets are drawn with replacement, from the training set
without its validation split; images are whitened only with `preprocess=zca`; the number of steps is ours. The
convolutional kernels of Nguyen et al. 2021b are not here. Networks that test the images are trained on
their hard labels by the `dc` protocol, not with the squared error on centred ones.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxdistill.core.labels import centred, zero_mean
from jaxdistill.core.types import (
    Array,
    Batch,
    Dataset,
    DistillState,
    Learner,
    Meta,
    Method,
    Metrics,
    Objective,
    Params,
    Solve,
    Teacher,
)
from jaxdistill.inner.kernel_ridge import check_different, kernel_machine, kernel_ridge
from jaxdistill.inner.losses import accuracy
from jaxdistill.inner.optimizers import sgd
from jaxdistill.layers.infinite import infinite_mlp
from jaxdistill.methods.bilevel import bilevel, num_inner_steps
from jaxdistill.methods.recipe import PLAIN, Recipe, facts_of, settings_of
from jaxdistill.methods.recipe import outer_optimizer as outer_optimizer_of
from jaxdistill.populations.fresh import fresh
from jaxdistill.teachers.storage import as_read


def kip(
    learner: Learner,
    teacher: Teacher,
    *,
    outer_optimizer: optax.GradientTransformation | None = None,
    real_batch_size: int | None = None,
    draw: Callable[[Dataset, Array], Batch] | None = None,
    infinite_kernel: str = "ntk",
    kernel_depth: int = 1,
    weight_variance: float = 2.0,
    bias_variance: float = 0.01,
    kernel_lambda: float = 1e-6,
) -> Method:
    """Kernel Inducing Points with the settings of its recipe: the notebook's, or those for small images.

    Args:
      learner: the network that the images are tested on; the kernel alone distils.
      teacher: what is learned; `images(...)` that start from real ones in the paper, where labels are learned
        too by `labels="free"`.
      outer_optimizer: Adam 0.04 in the notebook.
      real_batch_size: real images per outer step.
      draw: (data set, key) -> the real batch of an outer step; drawn at random when None.
      infinite_kernel: kernel of infinitely wide networks, ntk (their training) or nngp (their last layer's).
      kernel_depth: hidden layers of the kernel's network.
      weight_variance: of the weights of the kernel's network, times their number of inputs.
      bias_variance: of the biases of the kernel's network.
      kernel_lambda: lambda relative to the mean of the kernel's diagonal.

    Returns:
      The method. It learns no inner hyper-parameters; `predictor` is the kernel machine of what is stored.

    Raises:
      UserError: an option out of range.

    Example:
      >>> net = jd.learner("mlp", image_shape=(8, 8, 1), num_classes=10)
      >>> method = kip(net, jd.images(image_shape=(8, 8, 1), num_classes=10))

    References: Nguyen, Chen & Lee 2021, "Dataset Meta-Learning from Kernel Ridge-Regression", algorithm 1;
    Nguyen, Novak, Xiao & Lee 2021, "Dataset Distillation with Infinitely Wide Convolutional Networks".
    """
    del learner
    chosen = settings_of(RECIPE, teacher, real_batch_size=real_batch_size)
    facts = facts_of(teacher)
    kernel = infinite_mlp(
        infinite_kernel, depth=kernel_depth, weight_variance=weight_variance, bias_variance=bias_variance
    )
    machine = kernel_machine(kernel, facts.image_shape, facts.num_classes)
    solve = kernel_ridge(teacher, kernel, ridge=kernel_lambda)
    method = bilevel(
        teacher=teacher,
        inner_optimizer=sgd(num_steps=num_inner_steps(teacher), learned=()),
        population=fresh(machine),
        objective=_objective(machine, solve, teacher.labels),
        outer_optimizer=outer_optimizer or outer_optimizer_of(chosen),
        num_learners=1,
        real_batch_size=chosen["real_batch_size"],
        draw=draw,
    )

    def predictor(state: DistillState, key: Array) -> tuple[Learner, Params]:
        def fitted(meta: Meta, key: Array) -> Params:
            meta = meta._replace(teacher=as_read(teacher, meta.teacher))
            return solve(meta, machine.init(key), None, key)[0]

        return machine, jax.jit(fitted)(state.output, key)

    def check(state: DistillState, key: Array) -> None:
        images = jax.jit(method.synthesize)(state, key).x
        flat = jax.device_get(images.reshape(-1, *images.shape[2:]))
        check_different("kip", flat, remedy="start from noise, or from other images.")

    return method._replace(predictor=predictor, check=check)


def _objective(machine: Learner, solve: Solve, labels: str) -> Objective:
    """The squared error of the kernel machine on real images."""

    def objective(meta: Meta, params: Params, real: Batch, probe: Any, key: Array) -> tuple[Array, Metrics]:
        fitted, info = solve(meta, params, probe, key)
        outputs = machine.apply(fitted, real.x)
        expected = (centred if labels == "free" else zero_mean)(real.y)  # as free labels start
        loss = 0.5 * jnp.mean(jnp.square(outputs - expected))
        metrics = {"loss": loss, "accuracy": accuracy(outputs, real.y), "inner_loss": info.losses[-1]}
        return loss, metrics | info.report

    return objective


RECIPE = Recipe(
    make=kip,
    title="Kernel Inducing Points",
    paper="Nguyen et al. 2021",
    link="https://arxiv.org/abs/2011.00050",
    defaults={
        **PLAIN,
        "teacher": "images",
        "start": "real",
        "distill_epochs": 1,
        "learner": "mlp",
        "width": 1024,
        "depth": 1,
        "num_learners": 1,
        "real_batch_size": 5000,
        "outer_optimizer": "adam",
        "outer_b1": 0.9,
        "outer_learning_rate": 0.04,
        "num_outer_steps": 10_000,
    },
    small={"real_batch_size": 1000, "num_outer_steps": 1000},
    trains=False,
    networks=False,
    free_labels=True,
    protocol="dc",
)
