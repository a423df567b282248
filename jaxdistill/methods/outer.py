"""Optimisers of the outer loop: Adam on everything learned, with a schedule, a clip and bounds."""

import jax.numpy as jnp
import numpy as np
import optax

from jaxdistill.core.checks import above, fail, lookup
from jaxdistill.core.types import Meta
from jaxdistill.inner.optimizers import POSITIVE, keep_in_range

SCHEDULES = ("constant", "cosine", "halving")


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
    table = {
        "constant": lambda: optax.constant_schedule(learning_rate),
        "cosine": lambda: optax.cosine_decay_schedule(learning_rate, num_steps, alpha=end),
        "halving": lambda: optax.exponential_decay(
            learning_rate, max(1, -(-num_steps // 10)), 0.5, staircase=True
        ),
    }
    return lookup("schedule", name, table)()


def outer_adam(
    *,
    learning_rate: optax.ScalarOrSchedule = 0.01,
    b1: float = 0.5,
    b2: float = 0.999,
    clip: float | None = None,
    max_inner_learning_rate: float | None = None,
    positive: str = "softplus",
) -> optax.GradientTransformation:
    """Adam on the whole `Meta`, after a clip by global norm, before a bound on learned step sizes.

    Args:
      learning_rate: a number or a schedule.
      b1, b2: Adam's averages; the defaults are those of Wang et al. 2018.
      clip: largest global norm of the hypergradient; None for no clip.
      max_inner_learning_rate: upper bound of learned inner step sizes, kept by projection; None for none.
      positive: how the inner optimiser keeps them positive (it maps the bound to raw values).

    Returns:
      The transformation; it bounds no other inner hyper-parameter.
    """
    parts = []
    if clip is not None:
        above("outer_adam", "clip", clip, 0.0)
        parts.append(optax.clip_by_global_norm(clip))
    parts.append(optax.adam(learning_rate, b1=b1, b2=b2))
    if max_inner_learning_rate is not None:
        above("outer_adam", "max_inner_learning_rate", max_inner_learning_rate, 0.0)
        bound = float(
            lookup("outer_adam positive", positive, POSITIVE).to_raw(jnp.asarray(max_inner_learning_rate))
        )

        def step_sizes(meta: Meta) -> Meta:
            return Meta(teacher=False, inner={name: name == "learning_rate" for name in meta.inner})

        parts.append(optax.masked(keep_in_range(-np.inf, bound), step_sizes))
    return optax.chain(*parts)


def outer_sgd(
    *, learning_rate: optax.ScalarOrSchedule, momentum: float = 0.5, clip: float | None = None
) -> optax.GradientTransformation:
    """Gradient descent with momentum on the whole `Meta`, after a clip by global norm.

    Args:
      learning_rate: a number or a schedule; 0.1 in DC, 1 in DM.
      momentum: in [0, 1).
      clip: largest global norm of the hypergradient; None for no clip.
    """
    if not 0 <= momentum < 1:
        raise fail("outer_sgd", "momentum in [0, 1)", momentum)
    parts = []
    if clip is not None:
        above("outer_sgd", "clip", clip, 0.0)
        parts.append(optax.clip_by_global_norm(clip))
    return optax.chain(*parts, optax.sgd(learning_rate, momentum=momentum))
