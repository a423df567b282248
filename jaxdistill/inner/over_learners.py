"""The axis of K learners, added here and nowhere else; and how it and the real batch meet a mesh of devices.

Under `jax.set_mesh` of a mesh with an axis `learner` (`jaxdistill.runtime.mesh` makes it) every device has
K/n of the learners, from their first weights to their gradients; an axis `data` splits the images of a real
batch. Without a mesh, or on an axis of size 1, nothing of this is in the program. Formulas see neither.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from jaxdistill.core.checks import at_least, one_of
from jaxdistill.core.platform import choices, target
from jaxdistill.core.types import Batch

STRATEGIES = ("auto", "vmap", "map")
LEARNER, DATA = "learner", "data"
"""The axes of a mesh."""


def over_learners(function: Callable, *, strategy: str = "auto", chunk: int | None = None) -> Callable:
    """Maps `function` of one learner over the leading axis K of its arguments.

    On a mesh each device maps over its own share by the same strategy (`jax.shard_map`), and the outputs stay
    where they are. A loop over an axis that XLA had split itself would fetch learner after learner from the
    device that has it, so `map` is within a share, never across devices. Where the mesh does not divide K,
    the last learner is computed several times, and the copies dropped.

    Args:
      function: (what differs by learner ..., what all share ...) -> any pytree. On a mesh, what it is
        differentiated by is no closure but an argument: a closure keeps the type of the whole mesh.
      strategy: `vmap` computes all K at once; `map` one chunk after another; `auto` is `map` on the CPU
        (measured faster there, and a fraction of the memory) and `vmap` elsewhere.
      chunk: learners per chunk: of `map` (1 when None), or of `vmap` (all K when None).

    Returns:
      (*arguments [K, ...], shared=(...)) -> the outputs stacked along K. All strategies and meshes give the
      same numbers to rounding.

    Example:
      >>> loss = lambda params, x: jnp.sum((params - x) ** 2)
      >>> over_learners(jax.grad(loss))(jnp.zeros((3, 2)), shared=(jnp.ones(2),)).shape  # of K = 3 learners
      (3, 2)
    """
    one_of("over_learners strategy", strategy, STRATEGIES)
    if chunk is not None:
        at_least("over_learners", "chunk", chunk, 1)

    def share(arguments: tuple, shared: tuple) -> Any:
        how = choices().strategy if strategy == "auto" else strategy
        if how == "vmap" and chunk is None:
            return jax.vmap(lambda *one: function(*one, *shared))(*arguments)
        size = None if chunk == 1 else chunk
        return lax.map(lambda one: function(*one, *shared), arguments, batch_size=size)

    def mapped(*arguments: Any, shared: tuple = ()) -> Any:
        shares = axis_size(LEARNER)
        if shares == 1:
            return share(arguments, shared)
        axis, whole = PartitionSpec(LEARNER), PartitionSpec()
        # An axis that is left to XLA makes it constrain every value, also where its size is 1.
        names = {LEARNER} if axis_size(DATA) > 1 else set(jax.sharding.get_abstract_mesh().axis_names)
        split = jax.shard_map(
            share, in_specs=(axis, whole), out_specs=axis, axis_names=names, check_vma=False
        )
        count = jax.tree.leaves(arguments)[0].shape[0]
        if count % shares == 0:
            return split(arguments, shared)
        rows = jnp.minimum(jnp.arange(-(-count // shares) * shares), count - 1)
        outputs = split(jax.tree.map(lambda a: a[rows], arguments), shared)
        return jax.tree.map(lambda a: a[:count], outputs)

    return mapped


def by_turns(strategy: str, chunk: int | None) -> bool:
    """Whether `over_learners` computes one learner after another on a CPU, with no mesh around."""
    how = choices().strategy if strategy == "auto" else strategy
    alone = axis_size(LEARNER) * axis_size(DATA) == 1
    return target() == "cpu" and how == "map" and chunk in (None, 1) and alone


def over_data(batch: Batch) -> Batch:
    """The batch, its images split over the mesh axis `data` where that divides them; whole otherwise.

    Args:
      batch: [..., B, H, W, C]; B is split.
    """
    axis = batch.y.ndim - 2
    if data_shares(batch.y.shape[axis]) == 1:
        return batch
    spec = PartitionSpec(*[None] * axis, DATA)
    return jax.tree.map(lambda a: lax.with_sharding_constraint(a, spec), batch)


def data_shares(size: int) -> int:
    """The number of parts that `over_data` splits a batch of `size` images into."""
    shares = axis_size(DATA)
    return 1 if size % shares else shares


def gathered(outputs: Any) -> Any:
    """Arrays, whole on every device: small results, for every host to read."""
    if axis_size(LEARNER) * axis_size(DATA) == 1:
        return outputs
    return jax.tree.map(lambda a: lax.with_sharding_constraint(a, PartitionSpec()), outputs)


def axis_size(name: str) -> int:
    """Devices along an axis of the mesh around; 1 without one, and inside a share of it."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh.shape[name] if name in mesh.axis_names and name not in mesh.manual_axes else 1
