"""Checkpoints that restore to the same bits, or raise an error that says why not.

Orbax stores the leaves of a state as a flat dict beside a JSON item that lists path, shape, dtype and
SHA-256 of each: bytes that go bad on a disk restore without an error otherwise. Flat, because a
state may hold empty dicts and tuples and named tuples; its structure comes from the template.
"""

import contextlib
import hashlib
import logging
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill.core.checks import at_least, fail
from jaxdistill.core.paths import as_path
from jaxdistill.runtime.machine import writing
from jaxdistill.runtime.mesh import is_key, to_host


class Checkpoints:
    """The last `keep` states of a run, by step.

    A save is on disk when `save` returns. One that a kill cut short never counts: it lies in a
    temporary directory, which the next start removes.

    Args:
      directory: where they lie; made where it is missing.
      keep: how many to keep, >= 1; two, so that a damaged last one costs one interval only.

    Example:
      >>> checkpoints = Checkpoints("runs/dd/checkpoints")
      >>> state = {"x": jnp.ones(3)}
      >>> checkpoints.save(10, state)
      >>> state, step, notes = checkpoints.restore(jax.eval_shape(lambda: state))
      >>> step
      10
    """

    def __init__(self, directory: str | os.PathLike, keep: int = 2):
        at_least("Checkpoints", "keep", keep, 1)
        import orbax.checkpoint as ocp
        from orbax.checkpoint.checkpoint_managers import LatestN

        self._ocp = ocp
        self.directory = as_path(
            "Checkpoints", directory
        ).absolute()  # Orbax takes a relative path, and fails later
        options = ocp.CheckpointManagerOptions(
            preservation_policy=LatestN(keep), enable_async_checkpointing=False, cleanup_tmp_directories=True
        )
        with writing("Checkpoints", directory):
            self.directory.mkdir(parents=True, exist_ok=True)
            with _quiet():
                self._manager = ocp.CheckpointManager(self.directory, options=options)

    def latest_step(self) -> int | None:
        """The last saved step, whether intact or damaged; None if there is none."""
        with _quiet():
            return self._manager.latest_step()

    def save(self, step: int, state: Any) -> None:
        """Saves `state` as the one after `step` outer steps, and drops the oldest beyond `keep`.

        A step that is there already is left as it is: a run is deterministic, so it is the same one.

        Args:
          step: outer steps done; after the last one saved.
          state: a pytree of arrays (typed PRNG keys among them), on any number of devices and hosts.

        Raises:
          UserError: `step` lies before the last one saved; the disk is full.
        """
        step = int(step)
        latest = self.latest_step()
        if latest is not None and step <= latest:
            if step in self._manager.all_steps():
                return
            raise fail("Checkpoints.save", f"a step after {latest}, the last one saved", step)
        flat = {path: to_host(leaf) for path, leaf in _leaves(state).items()}
        stored = {_name(i): array for i, array in enumerate(flat.values()) if array.size}
        args = self._ocp.args  # dataclasses whose fields Orbax's decorator hides from the type checker
        content = args.Composite(
            state=args.StandardSave(stored),  # type: ignore[call-arg]
            info=args.JsonSave({"step": step, "leaves": _describe(flat)}),  # type: ignore[call-arg]
        )
        kept = f"The checkpoint of step {latest} is kept." if latest else ""
        with writing("Checkpoints.save", self.directory, kept), _quiet():
            self._manager.save(step, args=content)

    def restore(self, template: Any) -> tuple[Any, int, list[str]] | None:
        """The last intact state.

        Where a later one is damaged it falls back to the one before and removes the damaged one, so that
        training can go on past it. Where none restores, nothing is removed.

        Args:
          template: the structure, shapes and dtypes of the state: `jax.eval_shape(method.init, key)`.

        Returns:
          (state, step, notes), the notes naming every step that was passed over and why; or None
          where nothing was ever saved.

        Raises:
          UserError: there are checkpoints, and none of them restores.
        """
        reasons: list[str] = []
        with _quiet():
            steps = sorted(self._manager.all_steps(), reverse=True)
            for i, step in enumerate(steps):
                try:
                    state = self._restore_one(step, template)
                except Exception as error:  # damage raises anything, from bare Exception to JSONDecodeError
                    reasons.append(f"checkpoint of step {step} does not restore ({_first_line(error)})")
                    continue
                for bad in steps[:i]:
                    self._manager.delete(bad)
                return state, step, [f"{reason}; went back to step {step}" for reason in reasons]
        if not reasons:
            return None
        raise fail(
            "Checkpoints.restore",
            f"a whole checkpoint in {self.directory}",
            "; ".join(reasons),
            "Start again in another run_dir, or delete the checkpoints folder.",
        )

    def read(self, step: int, template: Any, *, remedy: str = "") -> Any:
        """The state saved at one step.

        Args:
          step: which.
          template: a pytree of arrays or of their shapes.
          remedy: what the error says to do about a damaged one.

        Raises:
          UserError: it is damaged, or of another structure, shape or dtype than `template`.
        """
        with _quiet():
            try:
                return self._restore_one(step, template)
            except Exception as error:  # damage raises anything
                what = f"{step} that does not restore ({_first_line(error)})"
                raise fail("Checkpoints.read", f"a whole item in {self.directory}", what, remedy) from error

    def close(self) -> None:
        """Waits for writes under way, and ends Orbax's threads."""
        with _quiet():
            self._manager.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _restore_one(self, step: int, template: Any) -> Any:
        args = self._ocp.args
        wanted = {path: _raw_shape(leaf) for path, leaf in _leaves(template).items()}
        info = self._manager.restore(step, args=args.Composite(info=args.JsonRestore()))["info"]
        leaves = info["leaves"]
        _check_fit(leaves, wanted)
        empty = [np.zeros(leaf.shape, leaf.dtype) for leaf in wanted.values()]
        targets = {_name(i): array for i, array in enumerate(empty) if array.size}
        content = args.Composite(state=args.StandardRestore(targets))  # type: ignore[call-arg]
        found = self._manager.restore(step, args=content)["state"] if targets else {}
        flat = {path: np.asarray(found.get(_name(i), empty[i])) for i, path in enumerate(wanted)}
        for leaf, now in zip(leaves, _describe(flat), strict=True):
            if leaf != now:
                raise ValueError(f"the bytes of {leaf['path']} differ from what was saved")
        like = jax.tree.leaves(template)
        arrays = [_device(array, leaf) for array, leaf in zip(flat.values(), like, strict=True)]
        return jax.tree.unflatten(jax.tree.structure(template), arrays)


def _leaves(tree: Any) -> dict[str, Any]:
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _name(index: int) -> str:
    return f"leaf{index:05d}"


def _raw_shape(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.eval_shape(lambda x: jax.random.key_data(x) if is_key(x) else jnp.asarray(x), leaf)


def _device(array: np.ndarray, like: Any) -> jax.Array:
    """A new buffer (not a view of NumPy's memory), of `like`'s key type if it has one."""
    raw = jax.device_put(array, may_alias=False)
    if not is_key(like):
        return raw
    kinds: list[Any] = []
    jax.eval_shape(lambda key: kinds.append(jax.random.key_impl(key)), like)
    return jax.random.wrap_key_data(raw, impl=kinds[0])


def _describe(flat: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    return [
        {
            "path": path,
            "shape": list(array.shape),
            "dtype": str(array.dtype),
            "sha256": hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest(),
        }
        for path, array in flat.items()
    ]


def _check_fit(leaves: list[dict[str, Any]], wanted: dict[str, jax.ShapeDtypeStruct]) -> None:
    """Raises if shapes or dtypes differ: Orbax would cast a wrong dtype silently."""
    saved = {leaf["path"]: (list(leaf["shape"]), leaf["dtype"]) for leaf in leaves}
    asked = {path: (list(leaf.shape), str(leaf.dtype)) for path, leaf in wanted.items()}
    for path in {**saved, **asked}:
        if saved.get(path) != asked.get(path):
            raise ValueError(f"{path} is {_say(saved.get(path))} there, this run has {_say(asked.get(path))}")
    if list(saved) != list(asked):
        raise ValueError("its leaves come in another order")


def _say(leaf: tuple[list[int], str] | None) -> str:
    return "absent" if leaf is None else f"{leaf[1]}{leaf[0]}"


def _first_line(error: Exception) -> str:
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return text if len(text) <= 160 else text[:159] + "…"


class _Quiet:
    """A context that hides the messages of Orbax in the whole process, until the last thread has left it.

    Orbax tells absl's logger and Python's warnings about everything it does; where a read fails, the reads
    beside it end later, in threads whose event loop is gone.
    """

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0
        self._restore = contextlib.ExitStack()

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._hush()
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if self._inside == 0:
                    self._restore.close()

    def _hush(self) -> None:
        logger = logging.getLogger("absl")
        self._restore.callback(logger.setLevel, logger.level)
        self._restore.callback(setattr, sys, "unraisablehook", sys.unraisablehook)
        self._restore.enter_context(warnings.catch_warnings())
        logger.setLevel(logging.CRITICAL)
        sys.unraisablehook = lambda unraisable: None
        self._restore.callback(setattr, sys, "excepthook", sys.excepthook)
        sys.excepthook = lambda kind, error, trace: None  # TensorStore's threads print by it
        warnings.simplefilter("ignore")


_quiet = _Quiet()
