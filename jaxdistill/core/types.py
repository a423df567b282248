"""The vocabulary: data types only, no behaviour.

Every behaviour in the library is a NamedTuple of pure functions made by a factory that closes over
its hyper-parameters. Such tuples are closures: they are never arguments of a jitted function. What
a jitted function takes and returns are pytrees of arrays: `Batch`, `Meta`, `Dataset`, `DistillState`.

Axes: B batch, K learners (always leading), T inner steps, H W C image.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array
Params = Any
"""A pytree of arrays: the weights of a learner, or of a teacher."""
Metrics = dict[str, Array]
"""Scalars by name, reported by an outer step."""


class Batch(NamedTuple):
    """Labelled images."""

    x: Array
    """[B, H, W, C] float32, standardised."""
    y: Array
    """[B, classes] float32, rows sum to 1; any numbers where a teacher's `labels` are free."""


class Dataset(NamedTuple):
    """A whole split on the device, class by class, so that sampling per class is an index computation."""

    pixels: Array
    """[N, H, W, C], sorted by class: standardised float32, or uint8 with a `table`."""
    y: Array
    """[N, classes] float32, one-hot."""
    starts: Array
    """[classes] int32, the index of the first image of each class."""
    counts: Array
    """[classes] int32, how many images each class has."""
    table: Array | None = None
    """[256, C] float32: the standardised value of every pixel value, by channel; None for float32 pixels."""

    @property
    def x(self) -> Array:
        """[N, H, W, C] float32, standardised, sorted by class: all images."""
        return self.standardised(self.pixels)

    def standardised(self, pixels: Array) -> Array:
        """[..., H, W, C] float32 of pixels of this set."""
        return _standardised(pixels, self.table)


class Drawn(NamedTuple):
    """The real batch of an outer step, or of several, from images that are on the host."""

    pixels: Array
    """[..., H, W, C], as in the `Dataset`."""
    y: Array
    """[..., classes] float32, one-hot."""
    table: Array | None
    """Of the `Dataset`."""

    @property
    def batch(self) -> Batch:
        """The batch, standardised."""
        return Batch(_standardised(self.pixels, self.table), self.y)


def _standardised(pixels: Array, table: Array | None) -> Array:
    """The barrier keeps XLA from fusing the table with what follows, which would change the last bits."""
    if table is None:
        return pixels
    return jax.lax.optimization_barrier(table[pixels.astype("int32"), jnp.arange(table.shape[1])])


Split = Callable[[Params], tuple[Params, Callable[[Params], Params]]]
"""params -> (the part of them that is trained, from such a part to params)."""


class Learner(NamedTuple):
    """The network that is trained on synthetic data.

    `calibrate(params, x)` returns parameters that remember the batch statistics of `x`; it is the
    identity for every learner without batch normalisation. `apply` uses remembered statistics where
    there are some, and the statistics of its own batch otherwise.
    """

    init: Callable[[Array], Params]
    """key -> Params."""
    apply: Callable[[Params, Array], Array]
    """(params, [B, H, W, C]) -> logits [B, classes]."""
    embed: Callable[[Params, Array], Array]
    """(params, [B, H, W, C]) -> features [B, F], the input of the classifier."""
    calibrate: Callable[[Params, Array], Params]
    """(params, [B, H, W, C]) -> Params with the batch statistics of that batch remembered."""
    embed_all: Callable[[Params, Array], list[Array]] | None = None
    """(params, [B, H, W, C]) -> features after every block, each [B, F_l], `embed` last; None if unknown."""
    split: Split | None = None
    """What of its parameters is trained, and shrunk by L2; None: all of them."""
    with_classifier: Callable[[Params, Array, Array | None], Params] | None = None
    """(params, kernel [F, classes], bias [classes] or None for 0) -> Params of a network whose logits are
    `embed` @ kernel + bias; None if unknown."""


class Meta(NamedTuple):
    """All that the outer loop learns."""

    teacher: Params
    """phi, the teacher's parameters."""
    inner: Params
    """Learned hyper-parameters of the inner loop; an empty dict where they are fixed."""


class Teacher(NamedTuple):
    """What is learned, and how it yields batches.

    A teacher with `make` does its costly work there. An outer step calls `make` once, wraps the result in
    `Made`, and hands that to its K learners in the place of phi: `batches` and `by_class` of such a teacher
    take either of the two.
    """

    init: Callable[[Array], Params]
    """key -> phi."""
    batches: Callable[[Params, Array], Batch]
    """(phi or Made, key) -> Batch [T, B, ...]: the batches of all inner steps in their order."""
    by_class: Callable[[Params, Array], Batch] | None
    """(phi or Made, key) -> Batch [classes, n, ...]: what per-class objectives use."""
    make: Callable[[Params, Array], Params] | None = None
    """(phi, key) -> a pytree of arrays, made once per outer step; None where batches cost nothing to make."""
    stored: Callable[[Params], "Stored"] | None = None
    """phi -> what is stored of it; None where that is phi in float32."""
    read: Callable[["Stored"], "Made"] | None = None
    """What is stored -> what batches are made of; None where that is phi itself."""
    labels: str = "probabilities"
    """The kind of its labels, one of `jaxdistill.core.labels.LABELS`."""


class Stored(NamedTuple):
    """What is stored of synthetic data, and what it takes."""

    arrays: dict[str, Array]
    """By name, in the types in which they are stored."""
    scalars: int
    """Their numbers in all."""
    bits: int
    """Their bits in all."""


class Made(NamedTuple):
    """Marks what a teacher made once for all learners of an outer step: it stands where phi would."""

    value: Params
    """What `Teacher.make` returned."""


Augment = Callable[[Array, Array], Array]
"""(key, images [B, H, W, C]) -> images of the same shape."""


class InnerOptimizer(NamedTuple):
    """The optimiser of the inner loop, with hyper-parameters that the outer loop may learn."""

    init: Callable[[], Params]
    """() -> raw learned hyper-parameters, each [T] (one per step) or [1] (shared); {} if all are fixed."""
    values: Callable[[Params], dict[str, Array]]
    """raw -> every hyper-parameter as the optimiser uses it, each [T] or [1]."""
    build: Callable[[dict[str, Array]], Any]
    """values of ONE step (scalars) -> optax.GradientTransformation."""


class InnerLoss(NamedTuple):
    """What the inner loop lowers: data loss AND L2, one function for every solve. Called as `value`."""

    value: Callable[[Meta, Params, Batch], Array]
    """(meta, params, synthetic Batch) -> scalar."""
    gauss_newton: Callable[[Meta, Params, Batch], Callable[[Params], Params]] | None = None
    """(meta, params, Batch) -> (u -> G u), the semi-definite part of the Hessian; None if unknown."""
    weight_decay: float | None = None
    """Its L2 coefficient: the Hessian is at least this much convex beyond its data part. None if unknown."""
    split: Split | None = None
    """The learner's: what the loss is a function of, the rest being constant; u of `gauss_newton` is one."""

    def __call__(self, meta: Meta, params: Params, batch: Batch) -> Array:
        return self.value(meta, params, batch)


class SolveInfo(NamedTuple):
    """What a solve reports of its forward pass; nothing downstream depends on it."""

    losses: Array
    """[T], the inner loss before each inner step; [1], at the end, of a solve that trains to a tolerance."""
    report: Metrics
    """Further scalars by name; may be empty."""


class Probe(NamedTuple):
    """Lets a backward pass report numbers: they come out as the cotangent of this argument.

    No callback is needed, which the compile cache would not keep.
    """

    solution: Params
    """In: where the linear solve starts, like the learner's params. Cotangent: its solution v."""
    report: Metrics
    """In: zeros. Cotangent: scalars by name."""
    implicit: Any = ()
    """In: zeros like `Meta`, of a solve with `clipped`. Cotangent: the implicit part of the hypergradient."""


class Solve(NamedTuple):
    """The inner training map. Called as `run`."""

    run: Callable[[Meta, Params, Any, Array], tuple[Params, SolveInfo]]
    """(meta, start params, probe, key) -> (trained params, info), differentiable in meta."""
    probe: Callable[[Params], Probe | None] = lambda params: None
    """start params -> the zero probe; None where the backward pass has nothing to report."""
    clipped: bool = False
    """Whether the part of the hypergradient by the trained parameters is to be clipped to the rest of it: it
    leaves by `Probe.implicit` then, and `jaxdistill.inner.implicit.clipped_sum` adds the two."""
    learner: Learner | None = None
    """The learner of the trained parameters, if it differs from the learner of the start parameters."""

    def __call__(self, meta: Meta, params: Params, probe: Any, key: Array) -> tuple[Params, SolveInfo]:
        return self.run(meta, params, probe, key)


class Segment(NamedTuple):
    """A piece of a network's training: the context of an objective that matches trajectories."""

    start: Params
    """Its weights after some epoch."""
    target: Params
    """Its weights some epochs later."""


Objective = Callable[[Meta, Any, Batch, Any, Array], tuple[Array, Metrics]]
"""(meta, context, real Batch, probe, key) -> (loss, metrics), for ONE learner; the method draws the batch."""


class Data(NamedTuple):
    """Arguments of the compiled outer step that do not change within a chunk."""

    real: Dataset | Drawn
    bank: Params
    """A pool of pre-trained networks or expert segments; None where the population needs none."""


class Population(NamedTuple):
    """Where the learners come from."""

    init: Callable[[Array], Any]
    """key -> state; empty where learners are fresh."""
    context: Callable[[Any, Params, Array, int], Any]
    """(state, bank, key, K) -> K contexts, leading axis K (start parameters, for most objectives)."""
    advance: Callable[[Any, Meta, Batch | None, Array], Any]
    """(state, meta, real batch of the outer step or None, key) -> state of the next outer step."""


class DistillState(NamedTuple):
    """The only state of a run: with the seed and the config it is the checkpoint."""

    meta: Meta
    opt_state: Any
    population: Any
    solver: Any
    """Warm start of a linear solve; empty where there is none."""
    step: Array
    """int32 scalar: outer steps done."""
    average: Any = ()
    """The average of what was learned, where that is the output (`jaxdistill.methods.average`)."""

    @property
    def output(self) -> Meta:
        """What a run gives: the average where there is one, what is learned otherwise."""
        return self.average if isinstance(self.average, Meta) else self.meta


class Method(NamedTuple):
    """A way to distill: what the compiled loop runs."""

    init: Callable[[Array], DistillState]
    """key -> the state before the first outer step."""
    update: Callable[[DistillState, Data, Array], tuple[DistillState, Metrics]]
    """(state, data, root key of the run) -> (state after one outer step, metrics)."""
    gradient: Callable[[DistillState, Data, Array], tuple[Meta, Metrics]]
    """(state, data, root key of the run) -> (hypergradient, metrics) of the step that `update` would take."""
    synthesize: Callable[[DistillState, Array], Batch]
    """(state, key) -> Batch [T, B, ...], the synthetic batches in training order, of images as stored."""
    hyperparameters: Callable[[DistillState], dict[str, Array]]
    """state -> inner hyper-parameters as used, each [T] or [1]."""
    stored: Callable[[DistillState], Stored]
    """state -> what is stored; learned inner hyper-parameters count, but are not in `arrays`."""
    draw: Callable[[Dataset, Array, Array], Batch] | None = None
    """(data set, root key of the run, outer step) -> the real batch of that step; None if it sees none."""
    predictor: Callable[[DistillState, Array], tuple[Learner, Params]] | None = None
    """(state, key) -> (learner, its parameters): the closed form that predicts from the images of the state,
    without training; None of a method that has none."""
    check: Callable[[DistillState, Array], None] | None = None
    """(the first state, key) -> nothing; raises a `UserError` if the method cannot start there."""
