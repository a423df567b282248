"""Optimisers of the outer loop: a rule of Optax on everything learned, with a schedule, a clip and bounds."""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdistill.core.checks import above, fail, lookup
from jaxdistill.core.types import Array, Meta
from jaxdistill.inner.optimizers import POSITIVE, keep_in_range

OUTER_SCHEDULES: dict[str, Callable[[float, int, float], optax.Schedule]] = {
    "constant": lambda rate, num_steps, end: optax.constant_schedule(rate),
    "cosine": lambda rate, num_steps, end: optax.cosine_decay_schedule(rate, num_steps, alpha=end),
    "halving": lambda rate, num_steps, end: optax.exponential_decay(
        rate, max(1, -(-num_steps // 10)), 0.5, staircase=True
    ),
}
"""(learning rate, outer steps, the share of it at the end) -> schedule."""
SMALLEST = 1e-6
"""Learned step sizes that are kept positive by projection do not get below; others are as good as 0 there."""
Rate = optax.ScalarOrSchedule
PARTS = {"x": "images", "y": "labels"}
"""Entries of phi that the user knows by another name."""


def outer_schedule(name: str, *, learning_rate: float, num_steps: int, end: float = 0.0) -> optax.Schedule:
    """The outer learning rate by step.

    Args:
      name: `constant`; `cosine`, to `end` times it at `num_steps`; `halving`, by half after each tenth of
        the run (Wang et al. 2018: every 40 of 400 epochs).
      learning_rate: at the start, > 0.
      num_steps: outer steps of the whole run.
      end: of `cosine`, in [0, 1].
    """
    above("schedule", "outer_learning_rate", learning_rate, 0.0)
    return lookup("schedule", name, OUTER_SCHEDULES)(learning_rate, num_steps, end)


def parse_rates(texts: Sequence[str]) -> dict[str, float]:
    """Learning rates by part, from texts such as `images:0.003`.

    Raises:
      UserError: a text of another form, a part twice, a rate that is not above 0.

    Example:
      >>> parse_rates(["images:0.003", "labels:0.01"])
      {'images': 0.003, 'labels': 0.01}
    """
    rates: dict[str, float] = {}
    for text in texts:
        name, colon, number = text.partition(":")
        try:
            rate = float(number)
        except ValueError:
            rate = np.nan
        if not (name and colon and 0 < rate < np.inf) or name in rates:
            raise fail("outer_learning_rates", "PART:RATE, each part once, rates above 0", ",".join(texts))
        rates[name] = rate
    return rates


def part_of(path: tuple[Any, ...]) -> str:
    """The part of what is learned that a leaf of `Meta` belongs to, as the user calls it."""
    half, *rest = path
    if not rest:
        return half.name
    name = str(getattr(rest[0], "key", rest[0]))
    return PARTS.get(name, name) if half.name == "teacher" else name


class AverageNorm(NamedTuple):
    """The state of `clip_by_average_norm`."""

    average: Array
    """Moving average of the norms so far: scalar."""
    count: Array
    """int32 scalar: how many there were."""


def clip_by_average_norm(factor: float, *, decay: float = 0.9) -> optax.GradientTransformation:
    """Clips a gradient to `factor` times the moving average of the global norms of those before it.

    average <- decay average + (1 - decay) |g|, of gradients before the clip; the first one is the first
    average, and is not clipped.

    Args:
      factor: > 0; 2 in RaT-BPTT.
      decay: in [0, 1).

    Raises:
      UserError: a number out of range.

    Example:
      >>> clip = clip_by_average_norm(2.0)
      >>> state = clip.update({"x": jnp.array([1.0])}, clip.init({}))[1]
      >>> clip.update({"x": jnp.array([5.0])}, state)[0]["x"].tolist()
      [2.0]

    References: Feng, Vedantam & Kempe 2023, "Embarrassingly Simple Dataset Distillation".
    """
    above("clip_by_average_norm", "relative_clip", factor, 0.0)
    if not 0 <= decay < 1:
        raise fail("clip_by_average_norm", "decay in [0, 1)", decay)

    def init(params: Any) -> AverageNorm:
        del params
        return AverageNorm(jnp.zeros(()), jnp.zeros((), jnp.int32))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, AverageNorm]:
        del params
        norm = optax.tree.norm(updates).astype(state.average.dtype)
        first = state.count == 0
        largest = factor * state.average
        scale = jnp.where(first | (norm <= largest), 1.0, largest / jnp.where(norm > 0, norm, 1.0))
        average = jnp.where(first, norm, decay * state.average + (1 - decay) * norm)
        clipped = jax.tree.map(lambda g: g * scale.astype(g.dtype), updates)
        return clipped, AverageNorm(average, state.count + 1)

    return optax.GradientTransformation(init, update)


def outer(
    rule: Callable[[Rate], optax.GradientTransformation],
    *,
    learning_rate: Rate,
    hyper_learning_rate: Rate | None = None,
    learning_rates: Mapping[str, Rate] | None = None,
    clip: float | None = None,
    relative_clip: float | None = None,
    max_inner_learning_rate: float | None = None,
    positive: str = "softplus",
) -> optax.GradientTransformation:
    """A rule of Optax on the whole `Meta`, after a clip by global norm, before a bound on learned step sizes.

    Args:
      rule: rate -> transformation: `optax.adam`, `optax.rmsprop`, or a `functools.partial` of such a factory.
      learning_rate: a number or a schedule.
      hyper_learning_rate: of learned inner hyper-parameters, where it is another; 0 keeps them where they
        start, which makes one program of all starts, but for those with a rate in `learning_rates`.
      learning_rates: of single parts, which replace the other two: `images`, `labels`, `network` and `noise`
        of a generator, or an inner hyper-parameter such as `learning_rate`.
      clip: largest global norm of the hypergradient; None for no clip.
      relative_clip: see `clip_by_average_norm`; before `clip`; None for no such clip.
      max_inner_learning_rate: upper bound of learned inner step sizes, kept by projection; None for none.
      positive: how the inner optimiser keeps them positive: it maps the bound to raw values, and `projected`
        ones are kept above `SMALLEST` here.

    Returns:
      The transformation; it bounds no other inner hyper-parameter.

    Raises:
      UserError: a clip or a bound that is not above 0, an unknown `positive`, or a part with a rate that
        is not learned (by `init`).

    Example:
      >>> optimizer = outer(optax.rmsprop, learning_rate=1e-3, clip=1.0)
    """
    parts = []
    single = dict(learning_rates or {})
    if hyper_learning_rate == 0:
        frozen = partial(_without_rate, single)
        parts.append(optax.masked(optax.set_to_zero(), frozen))  # before the clip: it is no part of the norm
        hyper_learning_rate = None
    if relative_clip is not None:
        parts.append(clip_by_average_norm(relative_clip))
    if clip is not None:
        above("outer optimiser", "clip", clip, 0.0)
        parts.append(optax.clip_by_global_norm(clip))
    if hyper_learning_rate is None and not single:
        parts.append(rule(learning_rate))
    else:
        hyper = learning_rate if hyper_learning_rate is None else hyper_learning_rate
        halves = {"teacher": rule(learning_rate), "inner": rule(hyper)}
        by_part = {f"part {name}": rule(rate) for name, rate in single.items()}
        parts.append(optax.multi_transform({**halves, **by_part}, partial(_labels, single)))
    to_raw = lookup("outer optimiser positive", positive, POSITIVE).to_raw
    low, high = (SMALLEST if positive == "projected" else -np.inf), np.inf
    if max_inner_learning_rate is not None:
        above("outer optimiser", "max_inner_learning_rate", max_inner_learning_rate, 0.0)
        high = float(to_raw(jnp.asarray(max_inner_learning_rate)))

    def step_sizes(meta: Meta) -> Meta:
        return Meta(teacher=False, inner={name: name == "learning_rate" for name in meta.inner})

    if np.isfinite([low, high]).any():
        parts.append(optax.masked(keep_in_range(low, high), step_sizes))
    return optax.chain(*parts)


def _without_rate(single: Collection[str], meta: Meta) -> Meta:
    """Which leaves are inner hyper-parameters without a rate of their own."""
    return jax.tree.map_with_path(
        lambda path, leaf: path[0].name == "inner" and part_of(path) not in single, meta
    )


def _labels(single: Collection[str], meta: Meta) -> Meta:
    """The label of the rule that updates each leaf: the rule of its part, or else of its half."""
    paths = [path for path, _ in jax.tree.leaves_with_path(meta)]
    learned = dict.fromkeys(map(part_of, paths))
    for name in single:
        if name not in learned:
            raise fail("outer_learning_rates", f"parts that are learned: {', '.join(learned)}", repr(name))

    def label(path: tuple[Any, ...], leaf: Array) -> str:
        del leaf
        return f"part {part_of(path)}" if part_of(path) in single else path[0].name

    return jax.tree.map_with_path(label, meta)


def outer_adam(
    *, learning_rate: Rate = 0.01, b1: float = 0.5, b2: float = 0.999, **options: Any
) -> optax.GradientTransformation:
    """Adam on the whole `Meta`.

    Args:
      learning_rate: a number or a schedule.
      b1, b2: Adam's averages; the defaults are those of Wang et al. 2018.
      options: the rest as for `outer`.
    """
    return outer(partial(optax.adam, b1=b1, b2=b2), learning_rate=learning_rate, **options)


def outer_lamb(
    *, learning_rate: Rate, b1: float = 0.9, b2: float = 0.999, **options: Any
) -> optax.GradientTransformation:
    """Adam on the whole `Meta`, each leaf's step as long as its rate times the norm of the leaf.

    Args:
      learning_rate: a number or a schedule; 3e-4 in FRePo.
      b1, b2: Adam's averages.
      options: the rest as for `outer`.

    References: You et al. 2020, "Large Batch Optimization for Deep Learning", algorithm 2, whose layers are
    the leaves: all images are one.
    """
    return outer(partial(optax.lamb, b1=b1, b2=b2), learning_rate=learning_rate, **options)


def outer_adabelief(
    *, learning_rate: Rate, b1: float = 0.9, b2: float = 0.999, **options: Any
) -> optax.GradientTransformation:
    """Adam on the whole `Meta`, but the second average is of (gradient - first average)^2.

    Args:
      learning_rate: a number or a schedule; 3e-3 in RCIG.
      b1, b2: the averages.
      options: the rest as for `outer`.

    References: Zhuang et al. 2020, "AdaBelief Optimizer", algorithm 2.
    """
    return outer(partial(optax.adabelief, b1=b1, b2=b2), learning_rate=learning_rate, **options)


def outer_sgd(*, learning_rate: Rate, momentum: float = 0.5, **options: Any) -> optax.GradientTransformation:
    """Gradient descent with momentum on the whole `Meta`.

    Args:
      learning_rate: a number or a schedule; 0.1 in DC, 1 in DM, 1000 in MTT.
      momentum: in [0, 1).
      options: the rest as for `outer`.

    Raises:
      UserError: a momentum out of range.
    """
    if not 0 <= momentum < 1:
        raise fail("outer_sgd", "momentum in [0, 1)", momentum)
    return outer(partial(optax.sgd, momentum=momentum), learning_rate=learning_rate, **options)


OUTER_OPTIMIZERS: dict[str, tuple[Callable[..., optax.GradientTransformation], dict[str, str]]] = {
    "adam": (outer_adam, {"outer_b1": "b1"}),
    "sgd": (outer_sgd, {"outer_momentum": "momentum"}),
    "lamb": (outer_lamb, {"outer_b1": "b1"}),
    "adabelief": (outer_adabelief, {"outer_b1": "b1"}),
}
"""By name: the factory, and the options that it takes with their names as its arguments."""
