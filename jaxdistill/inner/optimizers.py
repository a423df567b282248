"""Optimisers of the inner loop, whose hyper-parameters the outer loop may learn.

A learned step size is kept positive by learning a raw value `r`: `softplus(r)` (Dataset Distillation) or
`exp(r)` (Generative Teaching Networks), or the value itself, which the outer optimiser keeps above a bound
(MTT: "projected"); a learned momentum is `sigmoid(r)`, in (0, 1). Each has one value per
inner step, or one for all.
Weight decay belongs to the inner loss (`jaxdistill.inner.losses`), where every solve sees it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from jaxdistill.core.checks import above, at_least, fail, lookup, one_of
from jaxdistill.core.types import Array, InnerOptimizer, Params


class Bijection(NamedTuple):
    """Between the real line and the values that a hyper-parameter may take."""

    to_raw: Callable[[Array], Array]
    from_raw: Callable[[Array], Array]


POSITIVE: dict[str, Bijection] = {
    # log(e^v - 1), written so that it stays finite for large and small v
    "softplus": Bijection(lambda v: v + jnp.log(-jnp.expm1(-v)), jax.nn.softplus),
    "exp": Bijection(jnp.log, jnp.exp),
    "projected": Bijection(lambda v: v, lambda v: v),
}
BELOW_ONE = Bijection(jax.scipy.special.logit, jax.nn.sigmoid)


def sgd(
    *,
    num_steps: int,
    learning_rate: ArrayLike | Sequence[float] = 0.02,
    momentum: ArrayLike | Sequence[float] = 0.0,
    learned: Sequence[str] = ("learning_rate",),
    per_step: bool = True,
    positive: str = "softplus",
) -> InnerOptimizer:
    """Stochastic gradient descent with heavy-ball momentum: m <- g + mu m, theta <- theta - eta m.

    Args:
      num_steps: T, inner steps.
      learning_rate: eta, > 0; a number, or one per inner step.
      momentum: mu in [0, 1); a number, or one per inner step. Must be positive where it is learned.
      learned: names of the hyper-parameters that the outer loop learns; empty for none.
      per_step: whether a learned hyper-parameter has one value per inner step or one for all.
      positive: how a learned step size stays positive, a key of `POSITIVE`.

    Returns:
      The optimiser; `init()` holds only what is learned.

    Raises:
      UserError: values out of range, or of the wrong number, or an unknown name.

    Example:
      >>> optimizer = sgd(num_steps=3, learning_rate=0.02)
      >>> optimizer.values(optimizer.init())["learning_rate"].shape
      (3,)

    References: Wang et al. 2018, section 3.2 (learned step sizes); Such et al. 2019, section 3.
    """
    values = {"learning_rate": learning_rate, "momentum": momentum}
    plain = "momentum" not in learned and not np.any(np.asarray(momentum))

    build = _plain if plain else _heavy_ball
    return _optimizer("sgd", values, build, num_steps, learned, per_step, positive)


def _plain(v: dict[str, Array]) -> optax.GradientTransformation:
    return optax.scale(-v["learning_rate"])


def _heavy_ball(v: dict[str, Array]) -> optax.GradientTransformation:
    return optax.chain(optax.trace(decay=v["momentum"]), optax.scale(-v["learning_rate"]))


def adam(
    *,
    num_steps: int,
    learning_rate: ArrayLike | Sequence[float] = 1e-3,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    eps_root: float = 1e-5,
    learned: Sequence[str] = ("learning_rate",),
    per_step: bool = True,
    positive: str = "softplus",
) -> InnerOptimizer:
    """Adam, differentiable: `eps_root` sits inside the square root, whose derivative at 0 is infinite.

    Args and Returns as for `sgd`; b1, b2 in [0, 1) and eps_root > 0 are never learned.

    References: Kingma & Ba 2015; Such et al. 2019 (1e-5 inside the root).
    """
    above("adam", "eps_root", eps_root, 0.0)

    def build(v: dict[str, Array]) -> optax.GradientTransformation:
        adapt = optax.scale_by_adam(b1=b1, b2=b2, eps=eps, eps_root=eps_root)
        return optax.chain(adapt, optax.scale(-v["learning_rate"]))

    return _optimizer("adam", {"learning_rate": learning_rate}, build, num_steps, learned, per_step, positive)


def rmsprop(
    *,
    num_steps: int,
    learning_rate: ArrayLike | Sequence[float] = 0.001,
    decay: float = 0.9,
    eps_root: float = 1e-5,
    learned: Sequence[str] = ("learning_rate",),
    per_step: bool = True,
    positive: str = "softplus",
) -> InnerOptimizer:
    """RMSProp, differentiable: v <- decay v + (1 - decay) g^2, theta <- theta - eta g / sqrt(v + eps_root).

    Args and Returns as for `sgd`; decay in [0, 1) and eps_root > 0 are never learned.

    References: Tieleman & Hinton 2012; Such et al. 2019.
    """
    above("rmsprop", "eps_root", eps_root, 0.0)

    def build(v: dict[str, Array]) -> optax.GradientTransformation:
        adapt = optax.scale_by_rms(decay=decay, eps=eps_root, eps_in_sqrt=True)
        return optax.chain(adapt, optax.scale(-v["learning_rate"]))

    values = {"learning_rate": learning_rate}
    return _optimizer("rmsprop", values, build, num_steps, learned, per_step, positive)


def with_temperature(optimizer: InnerOptimizer) -> InnerOptimizer:
    """The optimiser, its learned part with a temperature, which losses called `platt` read.

    `log_temperature` is [1], 0 at the start, and no hyper-parameter of the optimiser: `values` leaves it out.

    Example:
      >>> sorted(with_temperature(sgd(num_steps=3)).init())
      ['learning_rate', 'log_temperature']
    """
    return optimizer._replace(init=lambda: {**optimizer.init(), "log_temperature": jnp.zeros(1)})


INNER_OPTIMIZERS: dict[str, Callable[..., InnerOptimizer]] = {"sgd": sgd, "adam": adam, "rmsprop": rmsprop}


def keep_in_range(low: float, high: float) -> optax.GradientTransformation:
    """Outer transformation, last in a chain: projects the updated parameters onto [low, high].

    Bounds learned step sizes: unrolled distillation diverges once a step size outgrows the inner
    loss's curvature, and the hypergradient explodes with it.
    """

    def update(updates, state, params=None):
        def project(update, parameter):
            return jnp.clip(parameter + update, low, high) - parameter

        return jax.tree.map(project, updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _optimizer(
    name: str,
    values: Mapping[str, ArrayLike | Sequence[float]],
    build: Callable[[dict[str, Array]], optax.GradientTransformation],
    num_steps: int,
    learned: Sequence[str],
    per_step: bool,
    positive: str,
) -> InnerOptimizer:
    at_least(name, "num_steps", num_steps, 1)
    for learned_name in learned:
        one_of(f"{name} learned", learned_name, tuple(values))
    bijections = {"learning_rate": lookup(f"{name} positive", positive, POSITIVE), "momentum": BELOW_ONE}
    start = {key: _per_step(name, key, value, num_steps) for key, value in values.items()}
    for key, value in start.items():
        if key == "momentum":
            if not np.all((value >= 0) & (value < 1)):
                raise fail(name, "momentum in [0, 1)", value.tolist())
        else:
            above(name, key, float(value.min()), 0.0)
        if key in learned:
            above(name, f"a learned {key}", float(value.min()), 0.0)
            if not per_step and value.size > 1:
                raise fail(name, f"one {key}, since all steps share it", value.size, "Or set per_step.")

    def init() -> Params:
        length = num_steps if per_step else 1
        return {
            key: jnp.broadcast_to(bijections[key].to_raw(jnp.asarray(start[key])), (length,))
            for key in learned
        }

    def current(raw: Params) -> dict[str, Array]:
        fixed = {key: jnp.asarray(value) for key, value in start.items() if key not in learned}
        return fixed | {key: bijections[key].from_raw(raw[key]) for key in learned}

    return InnerOptimizer(init=init, values=current, build=build)


def _per_step(where: str, name: str, value: ArrayLike | Sequence[float], num_steps: int) -> np.ndarray:
    array = np.atleast_1d(np.asarray(value, jnp.result_type(float)))
    if array.shape not in ((1,), (num_steps,)):
        raise fail(where, f"one {name} or {num_steps} of them (one per inner step)", f"{array.size}")
    return array
