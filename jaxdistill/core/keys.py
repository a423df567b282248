"""Randomness: one root key per run, a named stream per purpose, `fold_in` per step.

No key lives in a state, so a resumed run draws what the uninterrupted one would have drawn.
"""

import zlib

import jax

from jaxdistill.core.types import Array


def stream(key: Array, name: str) -> Array:
    """The key of a named purpose: independent of every other name under the same `key`.

    Args:
      key: typed PRNG key, scalar.
      name: the purpose, such as `"real"` or `"learners"`.

    Returns:
      A typed PRNG key, scalar.
    """
    return jax.random.fold_in(key, zlib.crc32(name.encode()) & 0x7FFFFFFF)


def at_step(key: Array, step: Array | int) -> Array:
    """The key of one outer step; `step` may be traced."""
    return jax.random.fold_in(key, step)
