"""Linear algebra on pytrees: vectors shaped like a learner's parameters."""

import functools

import jax
import jax.numpy as jnp

from jaxdistill.core.types import Array, Params, Split


def dot(a: Params, b: Params) -> Array:
    """Sum over all entries of a * b: scalar."""
    parts = jax.tree.leaves(jax.tree.map(jnp.vdot, a, b))
    return functools.reduce(jnp.add, parts) if parts else jnp.zeros(())


def squared_norm(tree: Params) -> Array:
    """Sum of the squares of every entry: scalar."""
    return dot(tree, tree)


def norm(tree: Params) -> Array:
    """Euclidean norm of all entries together: scalar."""
    return jnp.sqrt(squared_norm(tree))


def part_of(split: Split | None, params: Params) -> Params:
    """What of the parameters is trained."""
    return params if split is None else split(params)[0]


def joined(split: Split | None, params: Params, part: Params) -> Params:
    """The parameters with another trained part."""
    return part if split is None else split(params)[1](part)


def add_scaled(a: Params, scale: Array | float, b: Params) -> Params:
    """a + scale * b."""
    return jax.tree.map(lambda x, y: x + scale * y, a, b)


def scaled(scale: Array | float, a: Params) -> Params:
    """scale * a."""
    return jax.tree.map(lambda x: scale * x, a)


def zeros_like(tree: Params) -> Params:
    """The zero vector of that shape."""
    return jax.tree.map(jnp.zeros_like, tree)


def normal_like(key: Array, tree: Params) -> Params:
    """A standard normal vector of that shape and dtype."""
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(key, len(leaves))
    return structure.unflatten(
        [jax.random.normal(k, leaf.shape, leaf.dtype) for k, leaf in zip(keys, leaves, strict=True)]
    )


def cosine(a: Params, b: Params) -> Array:
    """a . b / (|a| |b|), 0 where one of them is zero: scalar."""
    return ratio(dot(a, b), norm(a) * norm(b))


def ratio(numerator: Array, denominator: Array) -> Array:
    """numerator / denominator, 0 where the denominator is zero; a NaN stays one."""
    zero = denominator == 0
    return jnp.where(zero, 0.0, numerator / jnp.where(zero, 1.0, denominator))


def widened(tree: Params) -> Params:
    """Every floating entry in JAX's default precision: float32, or float64 under `jax_enable_x64`.

    What is drawn in float32 starts at the same numbers in both.
    """

    def wide(leaf: Array) -> Array:
        return leaf.astype(jnp.result_type(float)) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(wide, tree)
