"""The inner solve in closed form: ridge regression of the classifier on the features of the start network."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.linalg import cho_factor, cho_solve

from jaxdistill.core.checks import at_least, fail, one_of
from jaxdistill.core.labels import targets
from jaxdistill.core.types import (
    Array,
    InnerLoss,
    InnerOptimizer,
    Learner,
    Meta,
    Params,
    Solve,
    SolveInfo,
    Teacher,
)
from jaxdistill.inner.losses import squared
from jaxdistill.inner.whole_set import check_once, whole_set
from jaxdistill.teachers.shapes import shapes_of

RIDGE_UNITS = ("trace", "images")
"""What `ridge` multiplies: the mean diagonal entry of the kernel (FRePo), or the number of images (RCIG)."""


def closed_form(
    teacher: Teacher,
    inner_loss: InnerLoss,
    optimizer: InnerOptimizer,
    *,
    calibrate: Callable[[Params, Array], Params] = lambda params, x: params,
    learner: Learner,
    ridge: float = 1e-6,
    ridge_unit: str = "trace",
) -> Solve:
    """W*(phi) = argmin_W |F W - Y|^2 + lambda |W|^2, F the features of the teacher's images: no inner steps.

        W* = F^T (F F^T + lambda I)^-1 Y = (F^T F + lambda I)^-1 F^T Y,

    whichever of the two matrices is smaller. The body of the network stays as it started, and the classifier
    has no bias; labels are the targets of a squared loss (`jaxdistill.core.labels`). JAX differentiates the
    Cholesky factorisation.

    Args:
      teacher: all its batches are one set, [N, ...]; made once per solve.
      inner_loss, optimizer: as for other solves; not used, since there is one minimum and no way to it.
      calibrate: the learner's; called with all images (batch normalisation).
      learner: the network; its classifier is linear in its features.
      ridge: lambda in `ridge_unit`s, >= 0.
      ridge_unit: `trace` for lambda = ridge tr(F F^T) / N, or `images` for lambda = ridge N.

    Returns:
      The solve: (meta, start params, probe, key) -> (params whose classifier is W*, SolveInfo); it needs no
      probe. The loss that it reports is the squared one of W* on the teacher's images. `singular_kernels` in
      its report is 1 where the matrix has no Cholesky factor in this precision; W* is 0 there.

    Raises:
      UserError: an option out of range, a network without such a classifier or with too few features.

    Example:
      >>> from functools import partial
      >>> net = jd.learner("mlp", image_shape=(8, 8, 1), num_classes=10, width=32)
      >>> teacher = jd.images(image_shape=(8, 8, 1), num_classes=10)
      >>> method = jd.dd(net, teacher, solve=partial(closed_form, learner=net), outer_loss="squared")

    References: Zhou, Nezhadarya & Ba 2022 (ridge = 1e-6 of the trace); Loo et al. 2023, RCIG (5e-4 N); Nguyen
    et al. 2021, KIP.
    """
    del inner_loss, optimizer
    at_least("closed_form", "ridge", ridge, 0.0)
    one_of("closed_form ridge_unit", ridge_unit, RIDGE_UNITS)
    with_classifier = checked_classifier("closed_form", learner, teacher)

    def run(meta: Meta, params: Params, probe: None, key: Array) -> tuple[Params, SolveInfo]:
        del probe
        images = whole_set(teacher, meta, key)
        features, y = learner.embed(params, images.x), targets("squared", teacher.labels, images.y)
        kernel, solved = ridge_regression(features, y, ridge=ridge, ridge_unit=ridge_unit)
        trained = with_classifier(calibrate(params, images.x), kernel, None)
        loss = lax.stop_gradient(squared(features @ kernel, y))
        return trained, SolveInfo(loss[None], {"singular_kernels": 1 - solved.astype(loss.dtype)})

    return Solve(run)


def ridge_regression(
    features: Array, y: Array, *, ridge: float, ridge_unit: str = "trace", dual: bool | None = None
) -> tuple[Array, Array]:
    """argmin_W |F W - Y|^2 + lambda |W|^2, by a Cholesky factorisation.

    Args:
      features: F, [N, features].
      y: Y, [N, classes].
      ridge, ridge_unit: of `closed_form`.
      dual: whether the matrix is F F^T, not F^T F; the smaller one when None.

    Returns:
      (W [features, classes], whether the matrix has a Cholesky factor); W is 0 where it has none.
    """
    count, size = features.shape
    dual = count <= size if dual is None else dual
    scale = penalty(features, ridge=ridge, ridge_unit=ridge_unit)
    matrix = jnp.matmul(features, features.T) if dual else jnp.matmul(features.T, features)
    solution, solved = regularized_solve(matrix, scale, y if dual else features.T @ y)
    return (features.T @ solution if dual else solution), solved


def regularized_solve(matrix: Array, shift: Array | float, right: Array) -> tuple[Array, Array]:
    """(matrix + shift I)^-1 right, by a Cholesky factorisation.

    Args:
      matrix: [n, n], symmetric.
      shift: scalar.
      right: [n, classes].

    Returns:
      (the solution [n, classes], whether there is a Cholesky factor); 0 where there is none.
    """
    factor = cho_factor(matrix + shift * jnp.eye(matrix.shape[0], dtype=matrix.dtype), lower=True)
    solved = jnp.isfinite(factor[0]).all()
    return jnp.where(solved, cho_solve(factor, right), 0.0), solved


def penalty(features: Array, *, ridge: float, ridge_unit: str) -> Array | float:
    """lambda of `ridge_regression`."""
    count = features.shape[0]
    return ridge * (jnp.sum(jnp.square(features)) / count if ridge_unit == "trace" else count)


def checked_classifier(
    where: str, learner: Learner, teacher: Teacher
) -> Callable[[Params, Array, Array | None], Params]:
    """The learner's `with_classifier`; raises where it has none, too few features, or an image twice.

    Args:
      where: what solves for the classifier, for the error.
      learner: the network.
      teacher: makes the images and labels.
    """
    with_classifier = learner.with_classifier
    if with_classifier is None:
        expected = "a learner with a linear classifier (Learner.with_classifier)"
        raise fail(where, expected, "one without", "Or differentiate by gradient=implicit.")
    check_once(where, teacher)
    made = shapes_of(teacher)
    classes = made.y[-1]

    def shapes() -> tuple[Array, Params]:
        params = learner.init(jax.random.key(0))
        features = learner.embed(params, jnp.zeros(made.x[1:]))
        kernel = jnp.zeros((features.shape[1], classes), features.dtype)
        return features, with_classifier(params, kernel, None)

    features = jax.eval_shape(shapes)[0].shape[1]
    if features < classes:
        remedy = "Take a wider network."
        raise fail(where, f"at least {classes} features, as many as classes", features, remedy)
    return with_classifier
