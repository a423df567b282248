"""The hypergradient that the estimators are compared with: exact in float64, or a long unroll."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.sparse.linalg import cg

from experiments.memory_runtime.estimators import (
    Problem,
    hypergradient,
    is_smooth,
    solve,
    teacher,
    transform,
)
from experiments.memory_runtime.options import Options
from jaxdistill.core.keys import stream
from jaxdistill.core.linalg import add_scaled, norm, scaled
from jaxdistill.core.types import Array, Batch, Meta, Params, Teacher
from jaxdistill.data import Splits
from jaxdistill.inner.losses import cross_entropy
from jaxdistill.inner.minimize import minimize
from jaxdistill.runs.budget import OUT_OF_MEMORY

TOLERANCE = 1e-8
"""Relative gradient norm at which the inner problem counts as solved."""
NEWTON_STEPS = 20


class Reference(NamedTuple):
    """What to compare with; `gradient` is None where it was not reached."""

    gradient: Any
    """Like the teacher's parameters, mean over K."""
    name: str
    """Which reference it is, in words."""


def reference(options: Options, data: Splits, problem: Problem) -> Reference:
    """The exact hypergradient of a smooth learner; a long unroll of any other."""
    if is_smooth(options):
        return exact(options, data, problem)
    steps = options.reference_steps
    long = solve("unrolled_sqrt", options, data, problem, steps)
    try:
        gradient, _ = jax.device_get(
            jax.jit(hypergradient(problem.learner, long, options))(*problem.arguments)
        )
    except OUT_OF_MEMORY:
        return Reference(None, f"unrolled, {steps} inner steps: not reached, out of memory")
    finite = all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    return Reference(gradient if finite else None, f"unrolled, {steps} inner steps (not smooth)")


def exact(options: Options, data: Splits, problem: Problem) -> Reference:
    """The implicit hypergradient where the inner gradient is zero, in float64.

    The inner optimiser goes on from the same start, so that it ends in the basin that the estimators go to;
    Newton's method takes it to the minimum; both linear systems are solved by conjugate gradients to 1e-12.
    """
    made = teacher(options, data)
    with jax.enable_x64(True):
        contexts, phi, real = jax.tree.map(
            lambda a: jnp.asarray(np.asarray(a), jnp.float64),
            (problem.contexts, problem.meta.teacher, problem.real),
        )
        one = jax.jit(partial(_exact_of_one, options, problem, made))
        count = jax.tree.leaves(contexts)[0].shape[0]
        keys = jax.random.split(problem.key, count)
        found = [
            jax.device_get(one(jax.tree.map(lambda a, k=k: a[k], contexts), phi, keys[k], real))
            for k in range(count)
        ]
    worst = float(np.max([relative for _, relative in found]))
    if not worst <= TOLERANCE:
        return Reference(None, f"exact, not reached: relative inner gradient or residual {worst:.1e}")
    mean = jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *(gradient for gradient, _ in found))
    return Reference(mean, f"exact to {worst:.1e} (inner gradient, residual), float64, mean over K")


def _exact_of_one(
    options: Options,
    problem: Problem,
    teacher: Teacher,
    start: Params,
    phi: Params,
    key: Array,
    real: Batch,
) -> tuple[Params, Array]:
    """(d L / d phi, the larger of relative gradient norm and residual reached), for one learner."""
    none = Meta((), {})
    batches, pull = jax.vjp(lambda phi: teacher.batches(phi, stream(key, "teacher")), phi)
    batch = jax.tree.map(lambda a: a[0], batches)

    def inner_gradient(params: Params, x: Array) -> Params:
        return jax.grad(lambda p: problem.loss(none, p, Batch(x, batch.y)))(params)

    def inverse(params: Params, right: Params) -> Params:
        _, product = jax.vjp(lambda p: inner_gradient(p, batch.x), params)
        return cg(lambda u: product(u)[0], right, tol=1e-12, maxiter=2000)[0]

    def newton(carry: tuple[Params, Array]) -> tuple[Params, Array]:
        params, steps = carry
        return add_scaled(params, -1.0, inverse(params, inner_gradient(params, batch.x))), steps + 1

    first = norm(inner_gradient(start, batch.x))

    def going(carry: tuple[Params, Array]) -> Array:
        return (norm(inner_gradient(carry[0], batch.x)) > TOLERANCE / 10 * first) & (carry[1] < NEWTON_STEPS)

    near = minimize(
        lambda p: problem.loss(none, p, batch), start, transform(options), tolerance=1e-7, max_steps=100_000
    )
    params, _ = lax.while_loop(going, newton, (near.params, jnp.zeros((), jnp.int32)))
    outer = jax.grad(lambda p: cross_entropy(problem.learner.apply(p, real.x), real.y))(params)
    v = inverse(params, outer)
    _, mixed = jax.vjp(lambda x: inner_gradient(params, x), batch.x)
    _, product = jax.vjp(lambda p: inner_gradient(p, batch.x), params)
    residual = norm(add_scaled(product(v)[0], -1.0, outer)) / norm(outer)
    reached = jnp.maximum(norm(inner_gradient(params, batch.x)) / first, residual)
    (by_images,) = mixed(scaled(-1.0, v))
    (by_phi,) = pull(Batch(by_images[None], jnp.zeros_like(batches.y)))
    return by_phi, reached


def compare(gradient: Any, exact_gradient: Any) -> tuple[float, float]:
    """(cosine, relative error |a - b| / |b|) of a hypergradient a and the reference b."""
    a, b = (
        np.concatenate([np.ravel(np.asarray(leaf, np.float64)) for leaf in jax.tree.leaves(tree)])
        for tree in (gradient, exact_gradient)
    )
    size = np.linalg.norm(b)
    lengths = np.linalg.norm(a) * size
    return float(a @ b / lengths) if lengths else 0.0, float(np.linalg.norm(a - b) / size) if size else np.inf
