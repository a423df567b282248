"""The same outer steps in plain PyTorch: what `experiments.benchmark` times against.

PyTorch runs in a process of its own (`torch_side.py`), started without the malloc tunable that our side asks
for (PyTorch is slower with it), and answers one request at a time, so that both sides can take turns.
"""

import importlib.util
import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxdistill.core.checks import UserError, fail
from jaxdistill.core.types import Batch, Dataset, Learner, Meta, Params

TOLERANCE = 5e-3
"""Relative. Float32 sums in different orders differ by up to 1e-5, and by up to 1e-3 where a ReLU is on for
one side and off for the other."""
TRAINED_TOLERANCE = 0.1
"""The same of the change of weights by 50 steps of training, which amplify these: 1e-2 at width 128."""


def available() -> bool:
    """Whether PyTorch is installed."""
    return importlib.util.find_spec("torch") is not None


def torch_weights(network: Learner, params: Params, image_shape: tuple[int, int, int]) -> list[np.ndarray]:
    """A network's weights from our order of axes to PyTorch's.

    Args:
      network: a LeNet or ConvNet: one without blocks, which have layers of their own.
      params: of the network: kernels [h, w, in, out] or [in, out]. The first dense layer reads its images in
        the order H, W, C.
      image_shape: (H, W, C) of the images that the network takes.

    Returns:
      Of each layer in turn its kernel, or the scale of a norm, and its bias: kernels [out, in, h, w] or
      [out, in], the first dense layer reading C, H, W.
    """
    from jaxdistill.interop import kernel_to_torch  # it takes Flax
    from jaxdistill.learners.adapter import layers_of

    arrays, channels = [], image_shape[-1]
    for (place,) in layers_of(network, image_shape):
        layer = params["params"][place]
        for name in [name for name in ("kernel", "scale", "bias") if name in layer]:
            array = np.asarray(layer[name])
            if name == "kernel":
                outputs = array.shape[-1] if array.ndim == 4 else 1
                array, channels = kernel_to_torch(array, channels), outputs
            arrays.append(np.ascontiguousarray(array))
    return arrays


def relative_error(value: Any, reference: Any) -> float:
    """|value - reference| / |reference|, in float64."""
    value, reference = np.asarray(value, np.float64), np.asarray(reference, np.float64)
    return float(np.linalg.norm(value - reference) / np.linalg.norm(reference))


class TorchReference:
    """The other side of the pipe, a context manager: a PyTorch process with one problem loaded.

    Args:
      weights: of the network of the first outer step, as `torch_weights` makes them.
      learned: what is learned, before the first outer step.
      real: the set that real batches are drawn from.
      kind: a key of `torch_side.PROBLEMS`.
      batch_size: real images per outer step, of each class where they have a term each.
      seed: of these draws, and of networks after the first.
      optimizer: name and arguments of the outer optimiser in `torch.optim`.
      **settings: of the problem.
    """

    def __init__(
        self,
        weights: Sequence[np.ndarray],
        learned: Meta,
        real: Dataset,
        *,
        kind: str,
        batch_size: int,
        seed: int,
        optimizer: tuple[str, dict[str, Any]],
        **settings: Any,
    ):
        self._weights = list(weights)
        problem = {
            "kind": kind,
            "weights": self._weights,
            "learned": _flat(learned),
            "real": (np.asarray(real.x), np.asarray(real.y).argmax(-1)),
            "batch_size": batch_size,
            "seed": seed,
            "optimizer": optimizer,
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

    def check(
        self, real: Batch, loss: Any, hypergradient: Meta, trained: Sequence[np.ndarray] = ()
    ) -> dict[str, float]:
        """Takes the first outer step on a given real `Batch`, and compares its numbers with ours.

        Args:
          real: the batch of our first step, [..., H, W, C].
          loss: ours.
          hypergradient: ours.
          trained: our network after the step, as `torch_weights` makes it; empty where the step trains none.

        Returns:
          Relative errors of the `loss`, of each part of the hypergradient, and of the change of the `trained`
          weights.

        Raises:
          UserError: one of them is not below `TOLERANCE`, or `TRAINED_TOLERANCE`.
        """
        x, y = np.asarray(real.x), np.asarray(real.y).argmax(-1)
        theirs, gradients, moved = self._ask(("step", x.reshape(-1, *x.shape[-3:]), y.ravel()))
        ours, errors = _flat(hypergradient), {"loss_error": relative_error(loss, theirs)}
        for part in {name.split("/")[0] for name in ours}:  # a gain before a norm has no gradient of its own
            pair = (
                np.concatenate([np.ravel(side[name]) for name in ours if name.split("/")[0] == part])
                for side in (ours, gradients)
            )
            errors[f"{part}_error"] = relative_error(*pair)
        if trained:
            errors["trained_error"] = relative_error(self._change(trained), self._change(moved))
        allowed = dict.fromkeys(errors, TOLERANCE) | {"trained_error": TRAINED_TOLERANCE}
        if not all(error < allowed[name] for name, error in errors.items()):
            expected = f"the numbers of PyTorch to a relative {TOLERANCE:g}"
            raise _fail(f"{expected}, of trained weights {TRAINED_TOLERANCE:g}", f"{errors}")
        return errors

    def seconds(self, steps: int) -> float:
        """Time of one outer step, the mean over a block of `steps` on batches drawn at random."""
        return self._ask(("time", steps))

    def _change(self, trained: Sequence[np.ndarray]) -> np.ndarray:
        """The change of the weights of the first network by its training, as one vector."""
        return np.concatenate([np.ravel(a - b) for a, b in zip(trained, self._weights, strict=True)])

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
