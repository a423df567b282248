"""The inner solve without a network: kernel ridge regression on the synthetic images, in closed form."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxdistill.core.checks import above, fail
from jaxdistill.core.labels import zero_mean
from jaxdistill.core.types import Array, Learner, Meta, Params, Solve, SolveInfo, Teacher
from jaxdistill.inner.closed_form import regularized_solve
from jaxdistill.inner.whole_set import check_once, whole_set
from jaxdistill.layers.infinite import Kernel


class Support(NamedTuple):
    """The parameters of a kernel machine."""

    x: Array
    """[n, H, W, C], the images that it was fitted to."""
    weights: Array
    """[n, classes]."""


def kernel_machine(kernel: Kernel, image_shape: tuple[int, int, int], num_classes: int) -> Learner:
    """x -> K(x, support) weights: what takes the place of a network.

    Args:
      kernel: (images, images) -> Gram matrix.
      image_shape: `(H, W, C)`.
      num_classes: number of outputs.

    Returns:
      A learner whose parameters are a `Support`. `init` gives one without images, whose outputs are zero;
      `embed` are the kernel's values at the support.

    Example:
      >>> net = kernel_machine(jd.infinite_mlp("ntk"), (8, 8, 1), 10)
      >>> net.apply(net.init(jax.random.key(0)), jnp.ones((5, 8, 8, 1))).shape
      (5, 10)
    """

    def init(key: Array) -> Support:
        del key
        return Support(jnp.zeros((0, *image_shape)), jnp.zeros((0, num_classes)))

    def embed(params: Support, x: Array) -> Array:
        return kernel(x, params.x)

    return Learner(
        init=init,
        apply=lambda params, x: embed(params, x) @ params.weights,
        embed=embed,
        calibrate=lambda params, x: params,
    )


def kernel_ridge(teacher: Teacher, kernel: Kernel, *, ridge: float = 1e-6) -> Solve:
    """weights = (K_ss + ridge tr(K_ss) / n I)^-1 (y_s - 1 / classes), by Cholesky, differentiated by JAX.

    Free labels are y_s as they are.

    Args:
      teacher: makes the n images and labels, all batches together.
      kernel: K.
      ridge: relative to the mean of the diagonal, > 0.

    Returns:
      The solve: (meta, any parameters, None, key) -> (`Support`, SolveInfo); the start plays no part.
      `singular_kernels` in its report is 1 where the matrix has no Cholesky factor in the precision of the
      images; the weights are 0 there.

    Raises:
      UserError: a ridge that is not above 0, or a teacher whose batches have an image twice.

    References: Nguyen, Chen & Lee 2021, "Dataset Meta-Learning from Kernel Ridge-Regression", equation 2.
    """
    above("kernel_ridge", "ridge", ridge, 0.0)
    check_once("kernel_ridge", teacher)

    def run(meta: Meta, params: Params, probe: None, key: Array) -> tuple[Support, SolveInfo]:
        del params, probe
        images = whole_set(teacher, meta, key)
        targets = images.y if teacher.labels == "free" else zero_mean(images.y)
        gram = kernel(images.x, images.x)
        shift = ridge * jnp.trace(gram) / gram.shape[0]
        weights, solved = regularized_solve(gram, shift, targets)
        loss = 0.5 * jnp.mean(jnp.square(gram @ weights - targets))
        report = {"singular_kernels": 1 - solved.astype(loss.dtype)}
        return Support(images.x, weights), SolveInfo(losses=loss[None], report=report)

    return Solve(run)


def check_different(where: str, images: np.ndarray, *, kind: str = "images", remedy: str) -> None:
    """Raises where two images are equal, which makes every kernel singular, and gradients keep them equal.

    Args:
      where: the method, for the error.
      images: [n, ...].
      kind: what they are.
      remedy: how to get others, as the end of a sentence.
    """
    flat = np.asarray(images).reshape(len(images), -1)
    _, first, which = np.unique(flat, axis=0, return_index=True, return_inverse=True)
    twins = [f"{first[which[i]]} and {i}" for i in range(len(flat)) if first[which[i]] != i]
    if twins:
        shown = ", ".join(twins[:5]) + (", ..." if len(twins) > 5 else "")
        why = f"The kernel of equal images is singular: {remedy}"
        raise fail(where, f"{kind} that differ from one another", f"equal images {shown}", why)
