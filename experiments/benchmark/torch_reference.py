"""The same outer steps in plain PyTorch: what `experiments.benchmark` times against.

PyTorch runs in a process of its own (`torch_side.py`), started without the malloc tunable that our side asks
for (PyTorch is slower with it), and answers one request at a time, so that both sides can take turns.
"""

import importlib.util
import os
import pickle
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxdistill.core.checks import UserError, fail

TOLERANCE = 1e-3
"""Relative: float32 hypergradients through 10 steps, summed in different orders, agree to about 1e-5."""


def available() -> bool:
    """Whether PyTorch is installed."""
    return importlib.util.find_spec("torch") is not None


def torch_weights(params: Mapping[str, Mapping[str, Any]]) -> list[np.ndarray]:
    """LeNet's weights from our order of axes to PyTorch's.

    Args:
      params: layer -> {"kernel", "bias"}: kernels [h, w, in, out] or [in, out]. The first dense layer reads
        its images in the order H, W, C.

    Returns:
      Kernel and bias of each layer in turn: kernels [out, in, h, w] or [out, in], the first dense layer
      reading C, H, W.
    """
    from jaxdistill.interop import kernel_to_torch  # it takes Flax

    channels = {"dense1": np.shape(params["conv2"]["bias"])[0]}
    arrays = []
    for layer in ("conv1", "conv2", "dense1", "dense2", "classifier"):
        kernel, bias = (np.asarray(params[layer][name]) for name in ("kernel", "bias"))
        arrays += [np.ascontiguousarray(kernel_to_torch(kernel, channels.get(layer, 1))), bias]
    return arrays


def relative_error(value: Any, reference: Any) -> float:
    """|value - reference| / |reference|, in float64."""
    value, reference = np.asarray(value, np.float64), np.asarray(reference, np.float64)
    return float(np.linalg.norm(value - reference) / np.linalg.norm(reference))


class TorchReference:
    """The other side of the pipe, a context manager: a PyTorch process with one problem loaded.

    Args:
      kind: a key of `torch_side.PROBLEMS`.
      state: a `DistillState` to start from, of a LeNet with one fixed initialisation.
      real: the `Dataset` that real batches are drawn from.
      batch_size: real images per outer step.
      seed: of these draws.
      learning_rate, b1, b2: of the outer Adam.
      **settings: of the problem.
    """

    def __init__(
        self,
        kind: str,
        state: Any,
        real: Any,
        *,
        batch_size: int,
        seed: int,
        learning_rate: float,
        b1: float,
        b2: float,
        **settings: Any,
    ):
        problem = {
            "kind": kind,
            "weights": torch_weights(state.population["params"]),
            "learned": _flat(state.meta),
            "real": (np.asarray(real.x), np.asarray(real.y).argmax(-1)),
            "batch_size": batch_size,
            "seed": seed,
            "adam": {"lr": learning_rate, "betas": (b1, b2)},
            **settings,
        }
        environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__).with_name("torch_side.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        self.version: str = self._ask(problem)

    def __enter__(self) -> "TorchReference":
        return self

    def __exit__(self, *error: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def check(self, real: Any, loss: Any, hypergradient: Any) -> dict[str, float]:
        """Takes the first outer step on a given real `Batch`, and compares its numbers with ours.

        Args:
          real: the batch of our first step.
          loss: ours.
          hypergradient: ours, a `Meta`.

        Returns:
          Relative errors of the `loss` and of each part of the hypergradient.

        Raises:
          UserError: one of them is not below `TOLERANCE`.
        """
        theirs, gradients = self._ask(("step", np.asarray(real.x), np.asarray(real.y).argmax(-1)))
        ours, errors = _flat(hypergradient), {"loss_error": relative_error(loss, theirs)}
        for part in {name.split("/")[0] for name in ours}:  # a gain before a norm has no gradient of its own
            pair = (
                np.concatenate([np.ravel(side[name]) for name in ours if name.split("/")[0] == part])
                for side in (ours, gradients)
            )
            errors[f"{part}_error"] = relative_error(*pair)
        if not max(errors.values()) < TOLERANCE:
            raise _fail(f"the loss and hypergradient of PyTorch to a relative {TOLERANCE:g}", f"{errors}")
        return errors

    def seconds(self, steps: int) -> float:
        """Time of one outer step, the mean over a block of `steps` on batches drawn at random."""
        return self._ask(("time", steps))

    def _ask(self, request: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            pickle.dump(request, self._process.stdin)
            self._process.stdin.flush()
            return pickle.load(self._process.stdout)
        except (EOFError, BrokenPipeError) as error:
            status = self._process.wait()
            raise _fail("a PyTorch process that answers", f"its exit status {status}, see above") from error


def _flat(meta: Any) -> dict[str, np.ndarray]:
    """What is learned, by a name such as `network/dense1/kernel`."""
    leaves = jax.tree_util.tree_flatten_with_path({**meta.teacher, **meta.inner})[0]
    return {"/".join(str(part.key) for part in path): np.asarray(leaf) for path, leaf in leaves}


def _fail(expected: str, got: str) -> UserError:
    return fail("benchmark torch", expected, got)
