"""The outer loop: compiled chunks of outer steps; between chunks it logs, saves and checks for signals.

A run is a function of its config and seed. No key lives in the state, batches are drawn inside the chunk
from the step number, and chunks start at multiples of their length, so a run that was killed and resumed
equals the uninterrupted one bit for bit.
"""

import contextlib
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding

from jaxdistill.core.checks import at_least, fail
from jaxdistill.core.keys import at_step, stream
from jaxdistill.core.platform import choices
from jaxdistill.core.types import Array, Data, Dataset, DistillState, Drawn, Method, Metrics
from jaxdistill.data.streaming import Chunks, drawn_shape, fetched, on_host
from jaxdistill.runtime import hosts, mesh
from jaxdistill.runtime.checkpoint import Checkpoints
from jaxdistill.runtime.divergence import MOST_SKIPPED, Diverged, check, kept_steps, skipped_before
from jaxdistill.runtime.expected_time import Shorter, expected
from jaxdistill.runtime.memory import temporary_bytes, total_bytes
from jaxdistill.runtime.metrics import MetricsLog, read_metrics
from jaxdistill.runtime.progress import Progress
from jaxdistill.runtime.rundir import RunDir
from jaxdistill.runtime.signals import caught_signals
from jaxdistill.runtime.stalls import Bound, Stalls

SHOWN = ("loss", "accuracy", "inner_gradient", "residual", "cosine", "curvature_v", "curvature_g")
SHOWN += ("solver_steps", "negative_curvature", "skipped")
"""Metrics that progress tells, where a method has them."""
MOST_VALUES = 64
"""A hyper-parameter is logged if it has at most this many values."""


class Interrupted(Exception):
    """A signal stopped the run; its state is saved if it has a directory."""

    def __init__(self, finished: "Finished", number: int, saved: bool):
        where = "saved; run the same command again to resume" if saved else "not saved"
        super().__init__(f"stopped after outer step {int(finished.state.step)}, {where}")
        self.finished = finished
        """The state that was reached, and what it took."""
        self.number = number
        """Of the signal."""
        self.exit_code = 128 + number


class Finished(NamedTuple):
    """The result of the loop."""

    state: DistillState
    seconds: float
    """Time in outer steps and in waiting for images on the host, of all starts of this run, compilation
    apart."""
    compile_seconds: float
    """Time to compile (or to read from the cache) at this start; 0 if nothing was left to do."""
    program_bytes: int
    """Temporary memory of the largest compiled chunk, see `jaxdistill.runtime.memory`; 0 likewise."""
    all_bytes: int
    """With its arguments and what it returns; 0 likewise."""
    rows: list[dict[str, Any]]
    """What was logged, a row per chunk, as in `metrics.jsonl`."""


def compiled_chunk(
    method: Method, devices: mesh.Layout | None = None, drawn: NamedSharding | None = None
) -> Callable[[DistillState, Data, Array, int], tuple]:
    """`length` outer steps as one compiled program.

    Args:
      method: what to run.
      devices: the devices of the program, which is to be lowered inside `mesh.spread(devices)`.
      drawn: where the real batches of a chunk lie on them, if they are drawn ahead of it.

    Returns:
      (state, data, key, length) -> (state, metrics [length], whether everything learned is finite).
    """

    def chunk(
        state: DistillState, data: Data, key: Array, length: int
    ) -> tuple[DistillState, Metrics, Array]:
        table = data.real.table if isinstance(data.real, Drawn) else None
        drawn = (data.real.pixels, data.real.y) if isinstance(data.real, Drawn) else None

        def step(state: DistillState, now: tuple[Array, Array] | None) -> tuple[DistillState, Metrics]:
            given = data if now is None else data._replace(real=Drawn(now[0], now[1], table))
            return method.update(state, given, key)

        state, metrics = lax.scan(step, state, drawn, length=length)
        finite = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(state.meta)]
        return state, metrics, jnp.all(jnp.stack(finite))

    if devices is None:
        return jax.jit(chunk, static_argnums=3)
    everywhere = mesh.whole_everywhere(devices)
    everything: Any = everywhere  # shardings in the place of arrays
    part: Any = drawn
    given = Data(everything if drawn is None else Drawn(part, part, everything), everything)
    shardings = mesh.state_shardings(devices, jax.eval_shape(method.init, jax.random.key(0)))
    return jax.jit(
        chunk,
        static_argnums=3,
        in_shardings=(shardings, given, everywhere),
        out_shardings=(shardings, everywhere, everywhere),
    )


def distill(
    method: Method | Sequence[Method],
    data: Data,
    key: Array,
    run: RunDir | None = None,
    *,
    num_steps: int,
    chunk_length: int | None = None,
    checkpoint_every: int = 500,
    label: str = "distill",
    tensorboard: bool = False,
    remedy: str = "",
    faults: Mapping[str, str] | None = None,
    bounds: Mapping[str, Bound] | None = None,
    devices: mesh.Layout | None = None,
) -> Finished:
    """Runs a method to `num_steps`, from the last checkpoint of the run if there is one.

    Args:
      method: what to run; one of several (for networks of other shapes, with the same state) drawn for every
        chunk.
      data: real data (and a bank), on the device.
      key: root key of the run.
      run: its directory, open; None for a run that writes nothing.
      num_steps: outer steps of the whole run, >= 1.
      chunk_length: outer steps per compiled program; by backend when None.
      checkpoint_every: outer steps between checkpoints, rounded up to whole chunks.
      label: what the progress bar says.
      tensorboard: also write TensorBoard events into the run directory.
      remedy: what to lower if the run diverges, in the caller's words.
      faults: metrics that stop the run where they are above zero, and the remedy for each.
      bounds: of learned hyper-parameters: a caution is given if one stays there for a whole chunk.
      devices: hold the learners and the real batch, split over them; JAX's default device when None.

    Returns:
      The final state, on this host's default device, and the time it took.

    Raises:
      Interrupted: SIGINT or SIGTERM came, to any process of the run; the state is saved. Signals are listened
        to in the main thread alone.
      UserError: methods whose states differ; a value is not finite, or a fault; names the step and the
        quantity. The last good checkpoint stays. A step that the method itself skipped (`skipped` > 0) may
        have values that are not finite.
    """
    at_least("distill", "num_outer_steps", num_steps, 1)
    length = choices().chunk_length if chunk_length is None else chunk_length
    at_least("distill", "chunk_length", length, 1)
    at_least("distill", "checkpoint_every", checkpoint_every, 1)
    every = -(-checkpoint_every // length) * length
    methods = [method] if isinstance(method, Method) else list(method)
    method = methods[0]
    _check_states(methods, key)
    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(_Nowhere() if run is None else Checkpoints(run.checkpoints))
        state, step, notes = _start(method, key, checkpoints)
        hosts.agree("checkpoint", {"step": step})
        _check_end(step, num_steps, run)
        log, rows = None, []
        if run is not None and run.primary:
            board = run.path / "tensorboard" if tensorboard else None
            log = stack.enter_context(MetricsLog(run.metrics, step if step else -1, tensorboard_dir=board))
            rows = read_metrics(run.metrics) if step else []
        spent = float(rows[-1].get("seconds", 0.0)) if rows else 0.0
        if devices is not None:
            state = mesh.placed(state, mesh.state_shardings(devices, state))

        began = time.perf_counter()
        streamed = _streamed(method, data.real, key, step, num_steps, length, devices)
        compile_seconds = 0.0 if streamed is None or step == num_steps else time.perf_counter() - began
        given = (data if streamed is None else data._replace(real=None), key)
        if devices is not None:
            given = mesh.placed(given, mesh.whole_everywhere(devices))
        where = None if streamed is None else streamed.sharding
        chunks, compiled = [compiled_chunk(each, devices, where) for each in methods], {}
        told = False
        skipped = hosts.from_primary(lambda: skipped_before(rows, step))
        stop, stalls = stack.enter_context(caught_signals()), Stalls(bounds or {})
        progress = stack.enter_context(Progress(num_steps, step, label))
        for note in notes:
            progress.say(note)
        if 0 < step < num_steps:
            progress.say(f"resumes from outer step {step}")

        def finished() -> Finished:
            temporary, everything = (
                max(map(size, compiled.values()), default=0) for size in (temporary_bytes, total_bytes)
            )
            here = state if devices is None else mesh.local(state)
            return Finished(here, spent, compile_seconds, temporary, everything, rows)

        while step < num_steps and not hosts.signal_of_all(stop):
            which, size = _drawn(key, step, len(methods)), min(length, num_steps - step)
            began = time.perf_counter()
            now = given if streamed is None else (given[0]._replace(real=next(streamed.batches)), given[1])
            took = time.perf_counter() - began
            if (which, size) not in compiled:
                began = time.perf_counter()
                with mesh.spread(devices):
                    compiled[which, size] = chunks[which].lower(state, *now, size).compile()
                compile_seconds += time.perf_counter() - began
            began = time.perf_counter()
            new, metrics, finite = jax.block_until_ready(compiled[which, size](state, *now))
            took += time.perf_counter() - began
            spent += took
            metrics = jax.device_get(metrics)
            most, where = min(MOST_SKIPPED, num_steps), {"faults": faults or {}, "remedy": remedy}
            try:
                skipped = check(metrics, bool(finite), step=step, skipped=skipped, most=most, **where)
            except Diverged as error:
                raise Diverged(f"{error} {_kept(checkpoints)}") from None
            state, step = new, step + size
            means = _summary(metrics)
            learned = _hyperparameters(method, state)
            rows.append({"step": step, **means, **learned, "seconds": round(spent, 3)})
            if log is not None:
                log.write(step, {name: value for name, value in rows[-1].items() if name != "step"})
            if step % every == 0 or step == num_steps:
                checkpoints.save(step, state)
            if hosts.is_primary():
                stalls.check(rows)
            progress.update(step, **{n: means[n] for n in SHOWN if n in means})
            if not told and step < num_steps:
                told, left = True, num_steps - step
                shorter = Shorter("num_outer_steps", num_steps, step)
                progress.say(expected(f"{left} outer steps", took / size * left, shorter))
        number = hosts.signal_of_all(stop)
        if number:
            checkpoints.save(step, state)
            raise Interrupted(finished(), number, saved=run is not None)
    return finished()


class _Streamed(NamedTuple):
    """Real batches that are drawn ahead."""

    batches: Iterator[Drawn | None]
    """Those of one chunk of outer steps after the other."""
    sharding: NamedSharding | None
    """Where they lie; None for one device."""


def _streamed(
    method: Method,
    real: Any,
    key: Array,
    step: int,
    num_steps: int,
    length: int,
    devices: mesh.Layout | None,
) -> _Streamed | None:
    """What each chunk of outer steps draws of real images on the host; None if they are on the device."""
    if not (isinstance(real, Dataset) and on_host(real)):
        return None
    if method.draw is None:  # it sees no real data
        return _Streamed(itertools.repeat(None), None)
    table, where = real.table, None
    if devices is not None:
        table = mesh.placed(table, mesh.whole_everywhere(devices))
        where = mesh.batches_over_data(devices, (length, *drawn_shape(method.draw, real, key)))
    chunks = Chunks(method.draw, real, key, step, num_steps, length, where)
    return _Streamed(fetched(chunks, table), where)


class _Nowhere(contextlib.nullcontext):
    """Checkpoints of a run that writes nothing."""

    def __enter__(self) -> "_Nowhere":
        return self

    def latest_step(self) -> int | None:
        return None

    def save(self, step: int, state: Any) -> None:
        del step, state

    def restore(self, template: Any) -> None:
        del template


AnyCheckpoints = Checkpoints | _Nowhere


def _check_states(methods: Sequence[Method], key: Array) -> None:
    """Raises unless all methods have the state of the first."""
    first, *others = [jax.eval_shape(method.init, key) for method in methods]
    for other in others:
        if jax.tree.structure(other) != jax.tree.structure(first) or any(
            (a.shape, a.dtype) != (b.shape, b.dtype)
            for a, b in zip(jax.tree.leaves(other), jax.tree.leaves(first), strict=True)
        ):
            raise fail("distill", "methods with one state", "some whose states differ in shape")


def _drawn(key: Array, step: int, count: int) -> int:
    """Which of several methods the chunk after outer step `step` runs."""
    if count == 1:
        return 0
    return int(jax.random.randint(at_step(stream(key, "method"), step), (), 0, count))


def _check_end(step: int, num_steps: int, run: RunDir | None) -> None:
    """Raises if a checkpoint lies beyond the end of the run."""
    if run is not None and step > num_steps:
        raise fail("distill", f"a checkpoint at or before outer step {num_steps} in {run.path}", step)


def _start(method: Method, key: Array, checkpoints: AnyCheckpoints) -> tuple[DistillState, int, list[str]]:
    restored = checkpoints.restore(jax.eval_shape(method.init, key))
    return restored if restored is not None else (jax.jit(method.init)(key), 0, [])


def _hyperparameters(method: Method, state: DistillState) -> dict[str, Any]:
    """The learned hyper-parameters; fixed values are in the config."""
    values = jax.device_get(method.hyperparameters(state))
    learned = {name: value for name, value in values.items() if name in state.meta.inner}
    return {name: value.tolist() for name, value in learned.items() if value.size <= MOST_VALUES}


def _summary(metrics: Metrics) -> dict[str, float]:
    """A chunk in one row: means over the steps that were not skipped, and the worst of `worst_*`."""
    kept, row = kept_steps(metrics), {}
    for name, value in metrics.items():
        every = np.asarray(value) if name in ("skipped", "failed_solves") else np.asarray(value)[kept]
        reduce = np.max if name.startswith("worst_") else np.mean
        row[name] = float(reduce(every)) if every.size else math.nan
    return row


def _kept(checkpoints: AnyCheckpoints) -> str:
    saved = checkpoints.latest_step()
    return f"The checkpoint of step {saved} is kept." if saved else "There was no checkpoint yet."
