"""The devices of a run: a mesh with the axes `learner` and `data`, and the placement of arrays on it.

K learners are split over `learner`, the images of a real batch over `data` (`jaxdistill.inner.over_learners`
does it inside the compiled step, wherever `spread` is around its tracing); everything else is whole on every
device, and all of them make the same update. Nothing but what follows travels.

What an outer step sends, by the compiled program (`communication` reads it; a test holds it):

- `learner`: ONE all-reduce of the gradient of all that is learned, and of the metrics: b = 4 (|meta| + ~10)
  bytes, whatever K, T and the network; with a teacher that makes its images once (a generator) |meta| counts
  those images. No weight of a learner leaves its device.
- `data`: per learner and part of the real batch one all-reduce of the outer loss's gradient by the network's
  trained weights (matching: of its gradients or features on real images), 4 P bytes for P weights: many times
  b. It pays where the real batch is the work and K is small; otherwise leave all devices to `learner`.

On paper, with links of L bytes per second and latency a, a ring of n devices takes

    t = 2 b (n - 1) / (n L) + 2 (n - 1) a

per step, against (K / n) t1 of computing, t1 one learner's hypergradient on one device. Communication is
under 5% where K >= 20 n t / t1. Of eight devices, a = 10 us:

| learned | b | L | t | K / n for t1 = 1 ms | for 10 ms |
| --- | --- | --- | --- | --- | --- |
| 10 images 28x28 | 31 kB | 25 GB/s (200 Gb/s InfiniBand) | 0.14 ms | 3 | 1 |
| 10 images 28x28 | 31 kB | 1.25 GB/s (10 Gb/s Ethernet) | 0.18 ms | 4 | 1 |
| 500 images 32x32x3 | 6.1 MB | 25 GB/s | 0.57 ms | 12 | 2 |
| 500 images 32x32x3 | 6.1 MB | 1.25 GB/s | 8.7 ms | 175 | 18 |

These are sums, not measurements; `experiments.scaling` measures.
"""

import contextlib
import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxdistill.core.checks import fail, one_of
from jaxdistill.core.platform import present
from jaxdistill.core.types import DistillState
from jaxdistill.inner.over_learners import DATA, LEARNER
from jaxdistill.runtime import progress

MORE_CPUS = "XLA_FLAGS=--xla_force_host_platform_device_count=N makes N devices of a CPU."
COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "all-to-all",
    "collective-broadcast",
    "collective-permute",
    "ragged-all-to-all",
    "reduce-scatter",
    "send",
)
"""Names in compiled programs of the operations that send data between devices."""


class Layout(NamedTuple):
    """A mesh, and the number of learners that are split over it."""

    mesh: Mesh
    num_learners: int


class Collective(NamedTuple):
    """An operation of a compiled program that sends something between devices."""

    kind: str
    bytes: int
    """Of its result, on one device."""


def layout(
    text: str | None,
    num_learners: int,
    batch_size: int | None = None,
    *,
    learners: str = "num_learners",
    batch: str = "real_batch_size",
) -> Layout | None:
    """The devices of a run.

    Args:
      text: `learner:4,data:2`, an axis that is left out being 1; None for all devices on `learner`, as many
        of them as divide K.
      num_learners: K.
      batch_size: images of a real batch; None where there is none to split.
      learners, batch: what the user calls these two.

    Returns:
      The layout; None for one device, where no program is to be split.

    Raises:
      UserError: text that is no mesh, an unknown axis, sizes that do not multiply to the number of devices,
        or do not divide K or the batch.

    Example:
      >>> with spread(layout(None, num_learners=8, batch_size=256)):  # or "learner:4,data:2", of eight
      ...     double = jax.jit(lambda x: 2 * x).lower(1.0).compile()
    """
    if text is None:
        shape = {LEARNER: _dividing(num_learners, learners), DATA: 1}
    else:
        shape = _parsed(text)
        _check_divides(num_learners, learners, LEARNER, shape[LEARNER])
        if shape[DATA] > 1 and batch_size is None:
            raise fail("mesh", f"{DATA}:1, since no real batch is drawn", f"{DATA}:{shape[DATA]}")
        if batch_size is not None:
            _check_divides(batch_size, batch, DATA, shape[DATA])
    return _made(shape, num_learners)


def on_learner(count: int, num_learners: int) -> Layout | None:
    """A given number of devices along `learner`, equally many of every host: to compare numbers of devices.

    Raises:
      UserError: more devices than there are, or a number that no equal share of the hosts makes.
    """
    there, hosts = jax.device_count(), jax.process_count()
    if not hosts <= count <= there or count % hosts:
        expected = f"{hosts} to {there} devices" + (f", a multiple of {hosts} processes" if hosts > 1 else "")
        remedy = MORE_CPUS if present() == "cpu" else ""
        raise fail("mesh", expected, count, remedy)
    _check_divides(num_learners, "num_learners", LEARNER, count)
    return _made({LEARNER: count, DATA: 1}, num_learners)


def learner_shares(text: str | None) -> int:
    """The number of devices along `learner` of a chosen mesh; 1 without a mesh.

    Raises:
      UserError: as for `layout`.
    """
    return 1 if text is None else _parsed(text)[LEARNER]


def described(devices: Layout | None) -> str:
    """One line about several devices and the work of each; empty for one device."""
    total = jax.device_count()
    if devices is None:
        return "" if total == 1 else f"1 of {total} devices"
    shape, hosts = dict(devices.mesh.shape), jax.process_count()
    used = math.prod(shape.values())
    each = -(-devices.num_learners // shape[LEARNER])
    text = f"{used} devices" if used == total else f"{used} of {total} devices"
    text += f" in {hosts} processes" if hosts > 1 else ""
    text += f", {each} of {devices.num_learners} learners on each"
    return text + (f", {shape[DATA]} parts of the real batch" if shape[DATA] > 1 else "")


def say_devices(devices: Layout | None) -> None:
    """Says which devices are used, if there are several."""
    if described(devices):
        progress.say(f"devices: {described(devices)}")


def spread(devices: Layout | None) -> contextlib.AbstractContextManager:
    """While programs are traced inside, `over_learners` and `over_data` split what they map."""
    return contextlib.nullcontext() if devices is None else jax.set_mesh(devices.mesh)


def state_shardings(devices: Layout, state: DistillState) -> DistillState:
    """Where each array of a state lies: learners' arrays are split over devices, other arrays copied to all.

    Arrays of learners are those of `population` and `solver` with a leading axis of length K, such as weights
    of networks. The mesh axis `learner` splits that axis. Every device has a copy of all other arrays: what
    is learned, its optimiser state, the step, the average.

    Args:
      devices: the mesh, and K.
      state: arrays or shapes.

    Returns:
      A state with the sharding of each array in its place.
    """
    axis = PartitionSpec(LEARNER)

    def by_learner(leaf: Any) -> NamedSharding:
        has_axis = leaf.ndim > 0 and leaf.shape[0] == devices.num_learners
        return NamedSharding(devices.mesh, axis if has_axis else PartitionSpec())

    whole = jax.tree.map(lambda leaf: whole_everywhere(devices), state)
    return whole._replace(
        population=jax.tree.map(by_learner, state.population), solver=jax.tree.map(by_learner, state.solver)
    )


def whole_everywhere(devices: Layout) -> NamedSharding:
    """The sharding of arrays that every device has a copy of."""
    return NamedSharding(devices.mesh, PartitionSpec())


def batches_over_data(devices: Layout, shape: Sequence[int]) -> NamedSharding:
    """Where batches that are drawn ahead lie: split as `over_data` splits them.

    Args:
      devices: the layout.
      shape: [..., B], by image.
    """
    divides = shape[-1] % devices.mesh.shape[DATA] == 0
    axes = [*[None] * (len(shape) - 1), DATA] if divides else []
    return NamedSharding(devices.mesh, PartitionSpec(*axes))


def placed(tree: Any, shardings: Any) -> Any:
    """Places arrays that every host has on the devices of a mesh; nothing is sent between hosts.

    Args:
      tree: arrays of this host, typed keys among them.
      shardings: a sharding for all of them, or a pytree of one for each.
    """
    if isinstance(shardings, NamedSharding):
        only = shardings
        shardings = jax.tree.map(lambda leaf: only, tree)

    def place(leaf: Any, sharding: NamedSharding) -> jax.Array:
        if jax.process_count() == 1:
            return jax.device_put(leaf, sharding)
        if is_key(leaf):
            raw = place(jax.random.key_data(leaf), sharding)
            return jax.random.wrap_key_data(raw, impl=jax.random.key_impl(leaf))
        here = np.asarray(leaf)
        return jax.make_array_from_callback(here.shape, sharding, lambda index: here[index])

    return jax.tree.map(place, tree, shardings)


def to_host(leaf: Any) -> np.ndarray:
    """The whole array (of a typed key its data) in this host's memory, from any devices.

    Parts on other hosts are gathered, so every host has to call this function.
    """
    if not isinstance(leaf, jax.Array):
        return np.asarray(leaf)
    raw = jax.random.key_data(leaf) if is_key(leaf) else leaf
    if raw.is_fully_addressable or raw.is_fully_replicated:
        return np.asarray(raw)
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(raw, tiled=True))


def local(tree: Any) -> Any:
    """Arrays of a mesh as arrays of this host's own first device."""

    def bring(leaf: Any) -> jax.Array:
        here = jnp.asarray(to_host(leaf))
        return jax.random.wrap_key_data(here, impl=jax.random.key_impl(leaf)) if is_key(leaf) else here

    return jax.tree.map(bring, tree)


def is_key(leaf: Any) -> bool:
    """Whether it is an array of typed PRNG keys."""
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def communication(compiled: Any) -> list[Collective]:
    """The operations of a compiled program that send data between devices, each once.

    An operation in a loop counts once: of a chunk of outer steps that is what one step sends, save what is
    in a loop inside of it.

    Args:
      compiled: what `jax.jit(f).lower(...).compile()` gives.
    """
    found = re.findall(rf"= (\(.*?\)|\S+) ({'|'.join(COLLECTIVES)})(?:-start)?\(", compiled.as_text())
    return [Collective(kind, _bytes(shape)) for shape, kind in found]


def _bytes(shapes: str) -> int:
    """Of a shape as XLA writes it: `f32[2,3]{1,0}`, or several of them."""
    total = 0
    for name, bits, axes in re.findall(r"([a-z]+)(\d*)\w*\[([\d,]*)\]", shapes):
        size = max(1, (int(bits) if bits else 8 if name == "pred" else 0) // 8)
        total += size * math.prod(int(axis) for axis in axes.split(",") if axis)
    return total


def _made(shape: dict[str, int], num_learners: int) -> Layout | None:
    count = math.prod(shape.values())
    if count == 1:
        return None
    sizes, names = tuple(shape.values()), tuple(shape)
    mesh = jax.make_mesh(sizes, names, axis_types=(AxisType.Auto,) * 2, devices=_devices(count))
    return Layout(mesh, num_learners)


def _devices(count: int) -> list[Any]:
    """`count` devices, equally many of every host."""
    share = count // jax.process_count()
    devices = jax.devices()
    by_host = [[d for d in devices if d.process_index == host] for host in range(jax.process_count())]
    return [device for own in by_host for device in own[:share]]


def _dividing(num_learners: int, learners: str) -> int:
    """The most devices, the same number on every host, that divide K."""
    hosts, own = jax.process_count(), jax.local_device_count()
    counts = [hosts * share for share in range(1, own + 1) if num_learners % (hosts * share) == 0]
    if not counts:
        nearest = _nearest(num_learners, hosts)
        raise fail("mesh", f"{learners} a multiple of the {hosts} processes", num_learners, nearest)
    return max(counts)


def _parsed(text: str) -> dict[str, int]:
    shape: dict[str, int] = {}
    for part in text.split(","):
        name, _, size = part.strip().partition(":")
        one_of("mesh", name, (LEARNER, DATA))
        if not size.isascii() or not size.isdecimal() or int(size) < 1 or name in shape:
            raise fail("mesh", f"{LEARNER}:SIZE,{DATA}:SIZE, each at most once, sizes from 1", repr(text))
        shape[name] = int(size)
    shape = {LEARNER: 1, DATA: 1} | shape
    count, there = math.prod(shape.values()), jax.device_count()
    if count != there:
        remedy = MORE_CPUS if present() == "cpu" else ""
        raise fail(
            "mesh", f"sizes whose product is the number of devices, {there}", f"{text} ({count})", remedy
        )
    return {LEARNER: shape[LEARNER], DATA: shape[DATA]}


def _check_divides(count: int, noun: str, axis: str, size: int) -> None:
    if count % size:
        raise fail("mesh", f"{noun} a multiple of {axis} = {size}", count, _nearest(count, size))


def _nearest(count: int, size: int) -> str:
    below, above = count // size * size, -(-count // size) * size
    return (
        f"The nearest is {above}."
        if below == 0 or above - count < count - below
        else (
            f"The nearest is {below}."
            if count - below < above - count
            else f"The nearest are {below} and {above}."
        )
    )
