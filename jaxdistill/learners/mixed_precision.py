"""Learners whose activations have fewer bits than their weights."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxdistill.core.checks import one_of
from jaxdistill.core.types import Array, Learner, Params

DTYPES = ("float32", "bfloat16")
"""Dtypes of activations. `float32` leaves the learner as it is, also under `jax_enable_x64`."""
STATISTICS = "batch_stats"
"""The remembered statistics of batch norms, which keep their dtype."""


def mixed_precision(learner: Learner, dtype: str) -> Learner:
    """The learner with activations of a dtype and weights of float32.

    `apply`, `embed` and `embed_all` cast weights and images to the dtype, and their result back to that of
    the images: losses, gradients, optimisers and linear solves stay float32. Norms take their means and
    variances in float32 (`jaxdistill.layers.norms`), and `calibrate` computes in float32.

    Args:
      learner: any learner.
      dtype: one of `DTYPES`.

    Returns:
      The learner itself for `float32`.

    Raises:
      UserError: an unknown dtype.

    Example:
      >>> net = jd.mixed_precision(jd.learner("mlp", image_shape=(8, 8, 1), num_classes=10), "bfloat16")
      >>> net.apply(net.init(jax.random.key(0)), jnp.zeros((5, 8, 8, 1))).dtype
      dtype('float32')

    References: Micikevicius et al. 2018, "Mixed Precision Training"; bfloat16 needs no scaling of the loss.
    """
    if one_of("dtype", dtype, DTYPES) == "float32":
        return learner

    def lowered(function: Callable[[Params, Array], Any]) -> Callable[[Params, Array], Any]:
        def computed(params: Params, x: Array) -> Any:
            found = function(_cast(params, dtype), x.astype(dtype))
            return jax.tree.map(lambda a: a.astype(x.dtype), found)

        return computed

    return learner._replace(
        apply=lowered(learner.apply),
        embed=lowered(learner.embed),
        embed_all=None if learner.embed_all is None else lowered(learner.embed_all),
    )


def _cast(params: Params, dtype: str) -> Params:
    """The weights in a dtype; statistics and whole numbers as they are."""

    def cast(path: tuple[Any, ...], leaf: Array) -> Array:
        kept = any(getattr(part, "key", None) == STATISTICS for part in path)
        return leaf if kept or not jnp.issubdtype(leaf.dtype, jnp.floating) else leaf.astype(dtype)

    return jax.tree.map_with_path(cast, params)
