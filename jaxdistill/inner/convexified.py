"""The inner solve of a linearised network: its body by conjugate gradients, its head by ridge regression."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxdistill.core.checks import above, one_of
from jaxdistill.core.labels import targets
from jaxdistill.core.linalg import squared_norm, zeros_like
from jaxdistill.core.types import (
    Array,
    Batch,
    InnerLoss,
    InnerOptimizer,
    Learner,
    Meta,
    Params,
    Probe,
    Solve,
    SolveInfo,
    Teacher,
)
from jaxdistill.inner.closed_form import (
    RIDGE_UNITS,
    checked_classifier,
    penalty,
    ridge_regression,
)
from jaxdistill.inner.implicit import implicit
from jaxdistill.inner.solvers import LinearSolver
from jaxdistill.inner.whole_set import in_one_batch, whole_set
from jaxdistill.learners.linearized import Linearized, head_and_body, linearized


def convexified(
    teacher: Teacher,
    inner_loss: InnerLoss,
    optimizer: InnerOptimizer,
    *,
    calibrate: Callable[[Params, Array], Params] = lambda params, x: params,
    learner: Learner,
    ridge: float = 5e-4,
    ridge_unit: str = "images",
    linear_solver: LinearSolver | None = None,
    tolerance: float = 1e-2,
    max_steps: int | None = 5,
    clip: bool = True,
) -> Solve:
    """t*, W* = argmin |F W + J t - Y|^2 + lambda (|W|^2 + |t|^2): the network in first order, trained.

    F are the features of the teacher's images and J t the change of their logits, both of the start network
    (`jaxdistill.learners.linearized`). W by t is a ridge regression, W(t) = argmin_W of the above, so that

        L(t) = 1/2N R^T (R - F W(t)) + lambda/2N |t|^2,    R = Y - J t,

    is the problem in t alone: quadratic, and as convex as lambda is positive. `implicit` solves and
    differentiates it, H = d^2 L / dt^2 by exact products; W* = W(t*) is differentiated by JAX. So the outer
    gradient has a direct part by W* and an implicit one by t*.

    Args:
      teacher: all its batches are one set, [N, ...].
      inner_loss, optimizer: as for other solves; not used.
      calibrate: not used, since the learner remembers no statistics.
      learner: the network; its classifier is linear in its features.
      ridge: lambda in `ridge_unit`s, > 0.
      ridge_unit: as for `jaxdistill.inner.closed_form`; F is what a `trace` is of.
      linear_solver: of the systems of H, in training and for the hypergradient; `cg()` when None.
      tolerance: training ends at this gradient norm of L, relative to the one at the start; in [0, 1).
      max_steps: most systems that training solves, one after another; no limit when None.
      clip: clip the implicit part to the norm of the direct part, by leaf of what is learned.

    Returns:
      The solve: (meta, parameters of the learner, probe, key) -> (`Linearized` with a head, SolveInfo); its
      `learner` is the linearised one. It reports what `implicit` does and, as `closed_form`,
      `singular_kernels`; the loss is L(t*).

    Raises:
      UserError: an option out of range, a network without such a classifier, with too few features or with
        batch normalisation.

    Example:
      >>> from functools import partial
      >>> net = jd.learner("mlp", image_shape=(8, 8, 1), num_classes=10)
      >>> teacher = jd.images(image_shape=(8, 8, 1), num_classes=10, labels="free")
      >>> method = jd.dd(net, teacher, solve=partial(convexified, learner=net), inner_loss="squared")

    References: Loo, Hasani, Lechner & Rus 2023, "Dataset Distillation with Convexified Implicit Gradients";
    Golub & Pereyra 1973 (a problem without the variables that enter linearly).
    """
    del inner_loss, calibrate
    above("convexified", "ridge", ridge, 0.0)
    one_of("convexified ridge_unit", ridge_unit, RIDGE_UNITS)
    checked_classifier("convexified", learner, teacher)
    network, of_parts = linearized(learner), head_and_body(learner)
    jax.eval_shape(  # refuses batch normalisation
        lambda key: network.calibrate(network.init(key), teacher.batches(teacher.init(key), key).x[0]),
        jax.random.key(0),
    )
    options = {"ridge": ridge, "ridge_unit": ridge_unit}

    def head(params: Linearized, batch: Batch) -> tuple[Array, Array, Array, Array | float, Array]:
        """(F, R, W(t), lambda / N, whether the kernel has a Cholesky factor)."""
        features, moved = of_parts(params, batch.x)
        rest = targets("squared", teacher.labels, batch.y) - moved
        kernel, solved = ridge_regression(features, rest, **options)
        return features, rest, kernel, penalty(features, **options) / len(features), solved

    def reduced(meta: Meta, params: Linearized, batch: Batch) -> Array:
        del meta
        features, rest, kernel, floor, _ = head(params, batch)
        data = 0.5 * jnp.mean(jnp.sum(rest * (rest - features @ kernel), axis=-1))
        return data + 0.5 * floor * squared_norm(params.tangent)

    whole = teacher._replace(
        batches=lambda phi, key: Batch(*(a[None] for a in in_one_batch(teacher.batches(phi, key))))
    )
    body = implicit(
        whole,
        InnerLoss(reduced, weight_decay=ridge if ridge_unit == "images" else None, split=network.split),
        optimizer,
        calibrate=network.calibrate,
        linear_solver=linear_solver,
        tolerance=tolerance,
        max_steps=max_steps,
        clip=clip,
        quadratic=True,
    )

    def start(params: Params) -> Linearized:
        return Linearized(params, zeros_like(params))

    def run(meta: Meta, params: Params, probe: Probe | None, key: Array) -> tuple[Linearized, SolveInfo]:
        trained, info = body(meta, start(params), probe, key)
        batch = whole_set(teacher, meta, key)
        _, _, kernel, _, solved = head(trained, batch)
        told = {"singular_kernels": 1 - solved.astype(kernel.dtype)}
        return trained._replace(head=kernel), info._replace(report=info.report | told)

    return Solve(run, lambda params: body.probe(start(params)), clip, network)
