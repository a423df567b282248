"""One outer step of Dataset Distillation in plain PyTorch: what `experiments.benchmark` times against.

LeNet, T steps of SGD on learned images with one learned softplus step size each, `create_graph=True`, the
loss on a real batch, Adam. Default settings, no tricks. It runs in a process of its own, started without
the malloc tunable that our side asks for (PyTorch is slower with it), and answers one request at a time, so
that both sides can take turns. This file runs as a script there and needs NumPy and PyTorch alone.
"""

import importlib
import importlib.util
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

PADDING = 2
"""Of LeNet's first convolution, for one-channel 28x28 images."""
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
    from jaxdistill.interop import kernel_to_torch  # the PyTorch process runs without

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
      state: a `DistillState` to start from: LeNet with one fixed initialisation, images in one batch, one
        image per class, one learned step size per inner step.
      real: the `Dataset` that real batches are drawn from.
      batch_size: real images per outer step.
      seed: of these draws.
      learning_rate, b1, b2: of the outer Adam.
    """

    def __init__(
        self, state: Any, real: Any, *, batch_size: int, seed: int, learning_rate: float, b1: float, b2: float
    ):
        problem = {
            "weights": torch_weights(state.population["params"]),
            "images": np.asarray(state.meta.teacher["x"][0]),
            "raw": np.asarray(state.meta.inner["learning_rate"]),
            "real": (np.asarray(real.x), np.asarray(real.y).argmax(-1)),
            "batch_size": batch_size,
            "seed": seed,
            "adam": {"lr": learning_rate, "betas": (b1, b2)},
        }
        environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
        self._process = subprocess.Popen(
            [sys.executable, "-P", __file__],
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
          Relative errors of the `loss` and of the hypergradients of `images` and `step_sizes`.

        Raises:
          UserError: one of them is not below `TOLERANCE`.
        """
        theirs = self._ask(("step", np.asarray(real.x), np.asarray(real.y).argmax(-1)))
        errors = {
            "loss_error": relative_error(loss, theirs["loss"]),
            "images_error": relative_error(hypergradient.teacher["x"][0], theirs["images"]),
            "step_sizes_error": relative_error(hypergradient.inner["learning_rate"], theirs["step_sizes"]),
        }
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


class Step:
    """The outer step and its state, in the PyTorch process."""

    def __init__(self, problem: Mapping[str, Any]):
        torch = _torch()
        self.weights = [torch.tensor(array).requires_grad_() for array in problem["weights"]]
        self.images = _channels_first(problem["images"]).requires_grad_()
        self.labels = torch.arange(len(problem["images"]))
        self.raw = torch.tensor(problem["raw"]).requires_grad_()
        self.real_x, self.real_y = _channels_first(problem["real"][0]), torch.tensor(problem["real"][1])
        self.batch_size = problem["batch_size"]
        self.adam = torch.optim.Adam([self.images, self.raw], **problem["adam"])
        torch.manual_seed(problem["seed"])

    def __call__(self, x: Any, y: Any) -> Any:
        """An outer step on one real batch; leaves the hypergradient in `grad`. Returns the loss."""
        torch = _torch()
        functional = torch.nn.functional
        params = self.weights
        for raw in self.raw:
            loss = functional.cross_entropy(lenet(params, self.images), self.labels)
            gradients = torch.autograd.grad(loss, params, create_graph=True)
            size = functional.softplus(raw)
            params = [p - size * g for p, g in zip(params, gradients, strict=True)]
        loss = functional.cross_entropy(lenet(params, x), y)
        self.images.grad, self.raw.grad = torch.autograd.grad(loss, [self.images, self.raw])
        self.adam.step()
        return loss

    def first(self, x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
        """Loss and hypergradient of one outer step, as arrays."""
        loss = self(_channels_first(x), _torch().tensor(y)).item()
        images = self.images.grad.permute(0, 2, 3, 1).numpy()
        return {"loss": loss, "images": images, "step_sizes": self.raw.grad.numpy()}

    def seconds(self, steps: int) -> float:
        """See `TorchReference.seconds`."""
        began = time.perf_counter()
        for _ in range(steps):
            index = _torch().randint(len(self.real_y), (self.batch_size,))
            self(self.real_x[index], self.real_y[index])
        return (time.perf_counter() - began) / steps


def lenet(params: list, x: Any) -> Any:
    """Logits of `learners/lenet.py`'s network: [B, C, H, W] to [B, classes]."""
    functional = _torch().nn.functional
    kernel1, bias1, kernel2, bias2, dense1, bias3, dense2, bias4, classifier, bias5 = params
    x = functional.max_pool2d(functional.relu(functional.conv2d(x, kernel1, bias1, padding=PADDING)), 2)
    x = functional.max_pool2d(functional.relu(functional.conv2d(x, kernel2, bias2)), 2)
    x = functional.relu(functional.linear(x.flatten(1), dense1, bias3))
    x = functional.relu(functional.linear(x, dense2, bias4))
    return functional.linear(x, classifier, bias5)


def _torch() -> Any:
    return importlib.import_module("torch")  # an optional extra: not imported before it is needed


def _channels_first(x: np.ndarray) -> Any:
    return _torch().tensor(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def _fail(expected: str, got: str) -> Exception:
    from jaxdistill.core.checks import fail  # the PyTorch process runs without

    return fail("benchmark torch", expected, got)


def _serve() -> None:
    """Answers requests until the pipe closes."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing that is printed may get between the replies

    def reply(value: Any) -> None:
        pickle.dump(value, replies)
        replies.flush()

    step = Step(pickle.load(sys.stdin.buffer))
    reply(_torch().__version__)
    while True:
        try:
            name, *arguments = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        reply(step.first(*arguments) if name == "step" else step.seconds(*arguments))


if __name__ == "__main__":
    _serve()
