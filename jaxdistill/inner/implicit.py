"""The inner solve by the implicit function theorem: train to the end, differentiate only the end."""

import warnings
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from jaxdistill.core.checks import Caution, at_least, fail
from jaxdistill.core.keys import stream
from jaxdistill.core.linalg import (
    add_scaled,
    cosine,
    dot,
    joined,
    norm,
    part_of,
    ratio,
    scaled,
    squared_norm,
    zeros_like,
)
from jaxdistill.core.types import (
    Array,
    Batch,
    InnerLoss,
    InnerOptimizer,
    Meta,
    Metrics,
    Params,
    Probe,
    Solve,
    SolveInfo,
    Teacher,
)
from jaxdistill.inner.minimize import Minimum, check_end, minimize, newton
from jaxdistill.inner.solvers import LinearSolver, System, cg
from jaxdistill.inner.solvers.system import Product

FAILED_ABOVE = 1.0
"""A relative residual beyond which a solve counts as failed: v = 0 has 1."""
REPORTS = ("residual", "curvature_v", "curvature_g", "cosine", "failed_solves")
"""What every backward pass reports; a solver may add names of its own."""


def implicit(
    teacher: Teacher,
    inner_loss: InnerLoss,
    optimizer: InnerOptimizer,
    *,
    calibrate: Callable[[Params, Array], Params] = lambda params, x: params,
    linear_solver: LinearSolver | None = None,
    damping: float = 0.0,
    tolerance: float = 1e-3,
    max_steps: int | None = 1000,
    clip: bool = False,
    quadratic: bool = False,
) -> Solve:
    """theta*(phi) = argmin_theta F(theta, phi), F the mean of the inner loss over the teacher's batches.

    At a minimum grad_theta F = 0, so for an outer loss L with gradient g at theta*

        dL/dphi = d_phi L - (d2F / dphi dtheta)^T v,    (d2F / dtheta2 + damping I) v = g.

    Memory does not grow with the number of inner steps: nothing of the way is kept. Exact where training
    reached the minimum and the linear solve its solution; the report says how far each of them got. Of a
    learner that trains a part of its parameters theta is that part (`InnerLoss.split`).

    Args:
      teacher: makes the T batches, once per solve, with one draw of its noise.
      inner_loss: wants weight decay: cross-entropy that separates the batches has no finite minimum.
      optimizer: the update rule; its hyper-parameters fixed, and the same at every step.
      calibrate: the learner's; called with the last batch (batch normalisation).
      linear_solver: one of `jaxdistill.inner.solvers`; `cg()` when None.
      damping: added to the Hessian's diagonal, >= 0: for a Hessian that is singular or not quite positive.
      tolerance: inner training ends at this gradient norm, relative to the one at the start; in [0, 1).
      max_steps: most inner steps; no limit when None.
      clip: clip the second term to the norm of the first, d_phi L, leaf by leaf (RCIG), where the loss
        depends on phi directly too, say by a closed-form head. The term leaves by `Probe.implicit`, and
        `bilevel` adds the two by `clipped_sum`.
      quadratic: whether the inner loss is quadratic in what is trained. Then training is Newton's method with
        the linear solver, in the place of the optimiser, and `inner_steps` are Newton's, mostly one.

    Returns:
      The solve: (meta, start params, probe, key) -> (theta*, SolveInfo). `info.report` has `inner_gradient`
      (relative norm) and `inner_steps`. The linear solve starts from the probe's `solution`; the probe's
      cotangent is v and a report: `residual` (relative, of the solver's own matrix), `curvature_v` and
      `curvature_g` (u^T H u / u^T u, H without damping), `cosine` of v and g (1 means that the solve did no
      more than the identity), `failed_solves` (1 where v is not finite or the residual above 1) and what the
      solver adds. Without a probe (None) nothing of this is computed.

    Raises:
      UserError: learned step sizes or momenta, or some that differ by step; negative damping; no end to
        inner training; a solver that needs what the inner loss does not have.

    References: Bengio 2000; Pedregosa 2016, equation 3; Medvedev & D'yakonov 2022, section 3.
    """
    solver = cg() if linear_solver is None else linear_solver
    at_least("implicit", "damping", damping, 0.0)
    check_end("implicit", tolerance, max_steps)
    transform = None if quadratic else optimizer.build(_fixed_values(optimizer))
    _check_loss(inner_loss, solver, damping)
    floor = damping + (inner_loss.weight_decay or 0.0)
    split = inner_loss.split

    def mean_loss(meta: Meta, batches: Batch, params: Params) -> Array:
        if batches.y.shape[0] == 1:
            return inner_loss(meta, params, jax.tree.map(lambda a: a[0], batches))
        return jnp.mean(lax.map(lambda batch: inner_loss(meta, params, batch), batches))

    def trained(meta: Meta, batches: Batch, start: Params, key: Array) -> Minimum:
        def loss(part: Params) -> Array:
            return mean_loss(meta, batches, joined(split, start, part))

        first, end = part_of(split, start), {"tolerance": tolerance, "max_steps": max_steps}
        if transform is not None:
            return minimize(loss, first, transform, **end)

        def step(part: Params, hessian: Product, gradient: Params) -> Params:
            whole = joined(split, start, part)
            return solver.solve(system(meta, batches, whole, hessian, gradient, zeros_like(part), key))[0]

        return newton(loss, first, step, **end)

    def system(
        meta: Meta, batches: Batch, params: Params, hessian: Product, right: Params, start: Params, key: Array
    ) -> System:
        return System(
            hessian=hessian,
            gauss_newton=_gauss_newton(inner_loss, meta, batches, params),
            damping=damping,
            floor=floor,
            right=right,
            start=start,
            key=key,
        )

    @jax.custom_vjp
    def minimum(
        meta: Meta, batches: Batch, start: Params, probe: Probe | None, key: Array
    ) -> tuple[Params, SolveInfo]:
        del probe
        end = trained(meta, batches, start, key)
        told = {"inner_gradient": end.relative_gradient, "inner_steps": end.steps.astype(end.loss.dtype)}
        return joined(split, start, end.params), SolveInfo(losses=end.loss[None], report=told)

    def forward(meta, batches, start, probe, key):
        params, info = minimum(meta, batches, start, probe, key)
        return (params, info), (meta, batches, params, probe, key)

    def backward(residuals, cotangents):
        meta, batches, params, probe, key = residuals
        right = part_of(split, cotangents[0])

        def by_part(meta: Meta, batches: Batch, part: Params) -> Params:
            return jax.grad(lambda p: mean_loss(meta, batches, joined(split, params, p)))(part)

        part = part_of(split, params)
        _, pull = jax.vjp(lambda p: by_part(meta, batches, p), part)
        begin = zeros_like(right) if probe is None else probe.solution
        problem = system(meta, batches, params, lambda u: pull(u)[0], right, begin, key)
        v, told = solver.solve(problem)
        _, mixed = jax.vjp(lambda m, b: by_part(m, b, part), meta, batches)
        by_meta, by_batches = mixed(scaled(-1.0, v))
        if probe is not None:
            told = told | _judge(solver, problem, v)
            told = {name: told[name].astype(zero.dtype) for name, zero in probe.report.items()}
            probe = Probe(solution=v, report=told, implicit=zeros_like(probe.implicit))
        return by_meta, by_batches, zeros_like(params), probe, None

    minimum.defvjp(forward, backward)

    def run(meta: Meta, params: Params, probe: Probe | None, key: Array) -> tuple[Params, SolveInfo]:
        if clip and probe is not None:
            if jax.tree.structure(probe.implicit) != jax.tree.structure(meta):
                raise fail("implicit", "zeros like meta in Probe.implicit, with clip", "none")
            meta = jax.tree.map(lambda m, zero: lax.stop_gradient(m) + zero, meta, probe.implicit)
        batches = teacher.batches(meta.teacher, stream(key, "teacher"))
        trained, info = minimum(meta, batches, params, probe, stream(key, "linear solver"))
        return calibrate(trained, batches.x[-1]), lax.stop_gradient(info)

    def probe(params: Params) -> Probe:
        dtype = jnp.result_type(*jax.tree.leaves(params))
        return Probe(
            zeros_like(part_of(split, params)),
            {name: jnp.zeros((), dtype) for name in (*REPORTS, *solver.reports)},
        )

    return Solve(run, probe, clip)


def clipped_sum(direct: Meta, implicit: Meta) -> tuple[Meta, Array]:
    """direct + implicit min(1, |direct| / |implicit|), the norms those of each leaf.

    Args:
      direct: the gradient of the outer loss at fixed trained parameters.
      implicit: the gradient by the trained parameters. A leaf on which the loss does not depend directly
        loses all of it.

    Returns:
      (the sum, the mean over leaves of the factor: 1 where nothing was clipped).

    References: Loo et al. 2023, "Dataset Distillation with Convexified Implicit Gradients", appendix.
    """

    def factor(first: Array, second: Array) -> Array:
        most, size = norm(first), norm(second)
        return jnp.where(size > most, ratio(most, size), 1.0)

    factors = jax.tree.map(factor, direct, implicit)
    total = jax.tree.map(lambda a, b, c: a + c * b, direct, implicit, factors)
    return total, jnp.mean(jnp.stack(jax.tree.leaves(factors)))


def _judge(solver: LinearSolver, system: System, v: Params) -> Metrics:
    """How good a solution is, by one product with v and one with g; NaN where the matrix has one."""
    g = system.right
    curved = system.hessian(v)
    own = solver.matrix
    product = add_scaled(curved, system.damping, v) if own is None else own(system)(v)
    residual = ratio(norm(add_scaled(product, -1.0, g)), norm(g))
    failed = ~jnp.isfinite(residual) | ~jnp.isfinite(squared_norm(v))
    return {
        "residual": residual,
        "curvature_v": ratio(dot(v, curved), squared_norm(v)),
        "curvature_g": ratio(dot(g, system.hessian(g)), squared_norm(g)),
        "cosine": cosine(v, g),
        "failed_solves": failed | (residual > FAILED_ABOVE) if solver.judged else failed,
    }


def _gauss_newton(inner_loss: InnerLoss, meta: Meta, batches: Batch, params: Params):
    product_of = inner_loss.gauss_newton
    if product_of is None:
        return None

    def mean_product(u: Params) -> Params:
        each = lax.map(lambda batch: product_of(meta, params, batch)(u), batches)
        return jax.tree.map(lambda a: jnp.mean(a, axis=0), each)

    def of_one() -> Callable[[Params], Params]:
        return product_of(meta, params, jax.tree.map(lambda a: a[0], batches))  # linearised once

    return of_one if batches.y.shape[0] == 1 else lambda: mean_product


def _fixed_values(optimizer: InnerOptimizer) -> dict[str, Array]:
    """The hyper-parameters of every step; raises where they are learned or differ by step."""
    raw = optimizer.init()
    values = optimizer.values(raw)
    learned = sorted(set(raw) & set(values))  # a learned L2, which the loss alone reads, is none of them
    if learned:
        raise fail(
            "implicit",
            "fixed step sizes and momenta: where the minimum lies does not depend on them, so their implicit "
            "gradient is zero",
            f"learned {', '.join(learned)}",
            "Set learned to none, or differentiate by gradient=unrolled.",
        )
    for name, value in values.items():
        if value.shape != (1,):
            raise fail("implicit", f"one {name} for all inner steps", f"{value.shape[0]} of them")
    return {name: value[0] for name, value in values.items()}


def _check_loss(inner_loss: InnerLoss, solver: LinearSolver, damping: float) -> None:
    if solver.uses_gauss_newton and inner_loss.gauss_newton is None:
        raise fail("implicit", "an inner loss with a Gauss-Newton product for this solver", "one without")
    if solver.needs_floor and damping + (inner_loss.weight_decay or 0.0) == 0:
        raise fail("implicit", "weight_decay or damping > 0 for this solver", "neither")
    if inner_loss.weight_decay == 0:
        warnings.warn(
            "implicit: without weight decay the cross-entropy of images that can be told apart has no finite "
            "minimum, which implicit gradients assume. Set weight_decay.",
            Caution,
            stacklevel=3,
        )
