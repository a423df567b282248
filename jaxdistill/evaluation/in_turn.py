"""Evaluation on a CPU: networks are trained and tested one after another, a slice of steps at a time.

The number of steps of a slice is an argument of the compiled program. So the search of a step size and the
test share one program for any number of networks, and so do protocols of different lengths. Progress is
reported after the first few steps (`jaxdistill.core.reporting`).
"""

from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdistill.core.keys import at_step, stream
from jaxdistill.core.labels import targets
from jaxdistill.core.platform import compiled_quickly
from jaxdistill.core.reporting import report
from jaxdistill.core.types import Array, Batch, Dataset, InnerOptimizer, Learner, Meta, Params
from jaxdistill.evaluation.protocol import Changes, Protocol
from jaxdistill.inner.losses import inner_loss
from jaxdistill.inner.microbatch import in_parts
from jaxdistill.inner.train import Carry, step_of

TRAINING = "training steps"
"""The name of the reported progress: steps of all networks of a call."""
SLICE = 128
"""Maximum steps of one call of the compiled program, enough to make the cost of the call small."""
FEW = 10_000
"""Up to this many images a program draws their order that compiles fast but runs slowly on larger sets."""
OF_THE_LOSS = ("loss", "labels", "weight_decay", "temperature")
"""The fields of a protocol that define the training loss."""
Build = Callable[[dict[str, Array]], Any]


def in_turn(learner: Learner, protocol: Protocol, measure: Callable[..., Any]) -> Callable[..., Any]:
    """As `jaxdistill.evaluation.evaluator`, one network after another.

    Args:
      learner: the network.
      protocol: how it is trained; its values are not used.
      measure: what a test is.
    """
    changes, build = protocol.changes, protocol.optimizer.build
    options = tuple(getattr(protocol, name) for name in OF_THE_LOSS)
    test_of = _test(learner, measure)

    def evaluate(
        params: Params,
        images: Batch,
        subsets: Array,
        values: dict[str, Array],
        test: Dataset | Batch,
        key: Array,
    ) -> Any:
        begin, some, calibrated = _programs(learner, build, options, changes, jax.random.key_impl(key))
        count, size = subsets.shape
        start = _start(protocol.order, changes is not None, size <= FEW)
        keys, rows, weights = jax.random.split(key, count), np.asarray(subsets), _to_host(params)
        at_each = _to_host(values)
        found = []
        for k in range(count):
            order, draws = _to_host(start(rows[k], keys[k]))
            num_steps = len(order)
            now = {name: np.broadcast_to(value, (num_steps,)) for name, value in at_each.items()}
            steps = ((order, draws), now)
            carry: Carry = (jax.tree.map(lambda a, k=k: a[k], weights), None)
            for low, high in _slices(num_steps, protocol.restart, gently=k == 0):
                if low in (0, protocol.restart):
                    first = {name: value[low] for name, value in now.items()}
                    carry = (carry[0], begin(carry[0], first))
                carry = jax.block_until_ready(some(carry, images, *_window(steps, low, high)))
                report(TRAINING, k * num_steps + high, count * num_steps)
            last = jax.tree.map(lambda a: a[-1], (order, draws))
            found.append(_to_host(test_of(calibrated(carry[0], images, last), test)))
            if k == 0 < count - 1:
                report(TRAINING, num_steps, count * num_steps)  # the test was compiled meanwhile
        return jax.device_put(jax.tree.map(lambda *each: np.stack(each), *found))

    return evaluate


def _slices(num_steps: int, restart: int, gently: bool) -> Iterator[tuple[int, int]]:
    """[low, high) of every slice, none across the restart; at first 1, 2, 4 ... steps, so as to hear soon."""
    low, size = 0, 1 if gently else SLICE
    while low < num_steps:
        high = min(low + size, num_steps)
        if low < restart < high:
            high = restart
        yield low, high
        low, size = high, min(2 * size, SLICE)


def _window(steps: Any, low: int, high: int) -> tuple[Any, np.int32]:
    """(the steps of a slice, filled up to `SLICE`; how many there are)."""

    def window(a: np.ndarray) -> np.ndarray:
        filled = np.zeros((SLICE, *a.shape[1:]), a.dtype)
        filled[: high - low] = a[low:high]
        return filled

    return jax.tree.map(window, steps), np.int32(high - low)


def _to_host(tree: Any) -> Any:
    return jax.tree.map(np.asarray, tree)


def loss_of(
    learner: Learner, loss: str, labels: str, weight_decay: float, temperature: float
) -> tuple[Callable[[Params, Batch], Array], Callable[[Array], Array]]:
    """The training loss, (params, batch) -> scalar, and the function that turns labels into its targets."""
    encoded = "free" if loss == "squared" else "probabilities"
    value = inner_loss(learner, loss=loss, labels=encoded, weight_decay=weight_decay, temperature=temperature)
    return in_parts(learner, partial(value, Meta((), {}))), partial(targets, loss, labels)


@lru_cache(maxsize=32)
def _start(order: Callable[[Array], Array], augmented: bool, quickly: bool) -> Callable[..., Any]:
    """Compiled: (subset [N], key) -> (the images of each step [T, B], data of its key, None if unused)."""

    def start(subset: Array, key: Array) -> tuple[Array, Array | None]:
        rows = subset[order(stream(key, "order"))]
        if not augmented:
            return rows, None
        keys = jax.vmap(partial(at_step, stream(key, "augment")))(jnp.arange(rows.shape[0]))
        return rows, jax.random.key_data(keys)

    return compiled_quickly(start) if quickly else jax.jit(start)


@lru_cache(maxsize=32)
def _programs(
    learner: Learner, build: Build, options: tuple[Any, ...], changes: Changes | None, impl: Any
) -> tuple[Callable[..., Any], ...]:
    """Compiled: the optimiser's first state, a slice of steps, and what a network remembers of its batch."""
    data_loss, labels_of = loss_of(learner, *options)

    def batch_of(images: Batch, step: Any) -> Batch:
        rows, draw = step
        batch = Batch(images.x[rows], labels_of(images.y[rows]))
        return batch if changes is None else changes(jax.random.wrap_key_data(draw, impl=impl), batch)

    def some(carry: Carry, images: Batch, steps: Any, count: Array) -> Carry:
        optimizer = InnerOptimizer(dict, lambda raw: {}, build)
        step = step_of(lambda params, now: data_loss(params, batch_of(images, now)), optimizer)

        def body(t: Array, carry: Carry) -> Carry:
            return step(carry, jax.tree.map(lambda a: a[t], steps))[0]

        return lax.fori_loop(0, count, body, carry)

    def begin(params: Params, first: dict[str, Array]) -> Any:
        return build(first).init(params)

    def calibrated(params: Params, images: Batch, step: Any) -> Params:
        return learner.calibrate(params, batch_of(images, step).x)

    return jax.jit(begin), jax.jit(some), jax.jit(calibrated)


@lru_cache(maxsize=32)
def _test(learner: Learner, measure: Callable[..., Any]) -> Callable[[Params, Dataset | Batch], Any]:
    """Compiled: what `measure` gives."""
    return jax.jit(lambda params, test: measure(learner, params, test))
