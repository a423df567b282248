"""Outer steps in plain PyTorch: the process that `torch_reference.py` starts and asks.

Default settings, no tricks: `create_graph=True` where a gradient is differentiated, a loop over classes where
a method has a term for each, the optimisers of `torch.optim`. This file runs as a script and needs NumPy and
PyTorch alone.
"""

import importlib
import os
import pickle
import sys
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

torch: Any = importlib.import_module("torch")  # an optional extra, which the type checker may not find
nn: Any = torch.nn
functional: Any = nn.functional

PADDING = 2
"""Of LeNet's first convolution, for one-channel 28x28 images."""
EPSILON = 1e-5
"""Of a norm's variance."""
Tensors = dict[str, Any]


def lenet(params: list, x: Any) -> Any:
    """Logits of `learners/lenet.py`'s network: [B, C, H, W] to [B, classes]."""
    kernel1, bias1, kernel2, bias2, dense1, bias3, dense2, bias4, classifier, bias5 = params
    x = functional.max_pool2d(functional.relu(functional.conv2d(x, kernel1, bias1, padding=PADDING)), 2)
    x = functional.max_pool2d(functional.relu(functional.conv2d(x, kernel2, bias2)), 2)
    x = functional.relu(functional.linear(x.flatten(1), dense1, bias3))
    x = functional.relu(functional.linear(x, dense2, bias4))
    return functional.linear(x, classifier, bias5)


def loss_of(params: list, x: Any, y: Any) -> Any:
    """Cross-entropy of LeNet."""
    return functional.cross_entropy(lenet(params, x), y)


class Images:
    """Dataset Distillation: a batch of images, one per class, and a learned step size for each inner step."""

    by_class = False
    """Whether a real batch has equally many images of every class, class by class."""

    def __init__(self, given: Mapping[str, Any]):
        self.weights = [torch.tensor(array).requires_grad_() for array in given["weights"]]
        learned = given["learned"]
        self.learned: Tensors = {"x": channels_first(learned["x"][0])}
        self.learned |= {name: torch.tensor(array) for name, array in learned.items() if name != "x"}
        self.labels = torch.arange(len(self.learned["x"]))

    def loss(self, x: Any, y: Any) -> Any:
        """The loss on a real batch after the inner steps, differentiable by all that is learned."""
        params = self.weights
        for raw in self.learned["learning_rate"]:
            loss = loss_of(params, self.learned["x"], self.labels)
            gradients = torch.autograd.grad(loss, params, create_graph=True)
            size = functional.softplus(raw)
            params = [p - size * g for p, g in zip(params, gradients, strict=True)]
        return loss_of(params, x, y)

    def hypergradient(self, x: Any, y: Any) -> tuple[Any, list]:
        """(the loss on a real batch, its gradients)."""
        loss = self.loss(x, y)
        return loss, list(torch.autograd.grad(loss, list(self.learned.values())))

    def advance(self) -> None:
        """What an outer step does after the update of what is learned."""

    def trained(self) -> list[np.ndarray]:
        """Weights that `advance` trains; none where it trains no network."""
        return []

    def as_ours(self, name: str, gradient: Any) -> np.ndarray:
        """A gradient in the axes of jaxdistill."""
        return gradient.permute(0, 2, 3, 1).numpy()[None] if name == "x" else gradient.numpy()


class Implicit(Images):
    """The same images, trained on by steps of a fixed size; their implicit gradient by a Neumann series."""

    def __init__(self, given: Mapping[str, Any]):
        super().__init__(given)
        self.settings = given

    def inner_loss(self, params: list) -> Any:
        """Cross-entropy on the images, and weight decay."""
        size = sum(p.square().sum() for p in params)
        return loss_of(params, self.learned["x"], self.labels) + 0.5 * self.settings["weight_decay"] * size

    def hypergradient(self, x: Any, y: Any) -> tuple[Any, list]:
        """(the loss on a real batch, its gradients)."""
        given, params = self.settings, self.weights
        for _ in range(given["num_steps"]):
            gradients = torch.autograd.grad(self.inner_loss(params), params)
            params = [p - given["step_size"] * g for p, g in zip(params, gradients, strict=True)]
            params = [p.detach().requires_grad_() for p in params]
        loss = loss_of(params, x, y)
        right = torch.autograd.grad(loss, params)
        inner = torch.autograd.grad(self.inner_loss(params), params, create_graph=True)
        v = [torch.zeros_like(g) for g in right]
        for _ in range(given["num_terms"]):
            products = torch.autograd.grad(inner, params, v, retain_graph=True)
            parts = zip(v, right, products, strict=True)
            v = [each + given["alpha"] * (g - h - given["damping"] * each) for each, g, h in parts]
        (gradient,) = torch.autograd.grad(inner, [self.learned["x"]], v)
        return loss, [-gradient]


class Generator(Images):
    """Generative Teaching Networks: a generator, learned noise, a step size and a momentum for each step."""

    def __init__(self, given: Mapping[str, Any]):
        self.weights = [torch.tensor(array).requires_grad_() for array in given["weights"]]
        self.image_side, self.classes = given["image_side"], given["classes"]
        steps, batch, _ = given["learned"]["z"].shape
        self.labels = (torch.arange(steps * batch) % self.classes).reshape(steps, batch)
        self.one_hot = functional.one_hot(self.labels, self.classes).float()
        quarter, channels = self.image_side // 4, given["learned"]["network/conv1/kernel"].shape[2]
        self.order = (
            np.arange(quarter**2 * channels).reshape(quarter, quarter, channels).transpose(2, 0, 1).ravel()
        )
        self.quarter, self.channels = quarter, channels
        self.learned = {
            name: torch.tensor(np.ascontiguousarray(array[..., self.order] if self._flat(name) else array))
            for name, array in given["learned"].items()
        }

    @staticmethod
    def _flat(name: str) -> bool:
        """Whether the last axis is a small image, flattened: channels last here, channels first there."""
        return name.startswith(("network/dense2/", "network/norm2/"))

    def weights_of(self, layer: str) -> Any:
        """A kernel of the generator, normalised."""
        kernel = self.learned[f"network/{layer}/kernel"]
        lengths = kernel.square().sum(tuple(range(kernel.ndim - 1))).sqrt()
        return kernel * (self.learned[f"network/{layer}/gain"] / lengths)

    def norm(self, layer: str, x: Any, axes: tuple[int, ...], shape: tuple[int, ...]) -> Any:
        """Batch normalisation with the statistics of each step of its own: [S, B, ...]; then leaky ReLU."""
        x = x - x.mean(axes, keepdim=True)
        x = x * torch.rsqrt(x.square().mean(axes, keepdim=True) + EPSILON)
        scale, bias = (self.learned[f"network/{layer}/{name}"].reshape(shape) for name in ("scale", "bias"))
        return functional.leaky_relu(x * scale + bias, 0.1)

    def convolved(self, layer: str, x: Any) -> Any:
        """Twice the size, then a 3x3 convolution; reflected at the border."""
        x = functional.pad(functional.interpolate(x, scale_factor=2.0), (1, 1, 1, 1), mode="reflect")
        return functional.conv2d(x, self.weights_of(layer).permute(3, 2, 0, 1))

    def images(self) -> Any:
        """[S, B, C, H, W] of all inner steps."""
        z, side = self.learned["z"], self.quarter
        steps, batch = z.shape[:2]
        x = torch.cat([z, self.one_hot], -1) @ self.weights_of("dense1")
        x = self.norm("norm1", x, (1,), (1, 1, -1))
        x = self.norm("norm2", x @ self.weights_of("dense2"), (1,), (1, 1, -1))
        x = self.convolved("conv1", x.reshape(steps * batch, self.channels, side, side))
        x = self.norm("norm3", x.reshape(steps, batch, *x.shape[1:]), (1, 3, 4), (1, 1, -1, 1, 1))
        x = self.convolved("conv2", x.reshape(steps * batch, *x.shape[2:]))
        x = x + self.learned["network/conv2/bias"].reshape(1, -1, 1, 1)
        return (2.0 * torch.tanh(x)).reshape(steps, batch, *x.shape[1:])

    def loss(self, x: Any, y: Any) -> Any:
        """The loss on a real batch after the inner steps, differentiable by all that is learned."""
        images, params = self.images(), self.weights
        sizes = functional.softplus(self.learned["learning_rate"])
        momenta = torch.sigmoid(self.learned["momentum"])
        moving = [torch.zeros_like(p) for p in params]
        for t in range(len(images)):
            loss = loss_of(params, images[t], self.labels[t])
            gradients = torch.autograd.grad(loss, params, create_graph=True)
            moving = [g + momenta[t] * m for g, m in zip(gradients, moving, strict=True)]
            params = [p - sizes[t] * m for p, m in zip(params, moving, strict=True)]
        return loss_of(params, x, y)

    def as_ours(self, name: str, gradient: Any) -> np.ndarray:
        """A gradient in the axes of jaxdistill."""
        array = gradient.numpy()
        return array[..., np.argsort(self.order)] if self._flat(name) else array


def convnet(width: int, classes: int) -> Any:
    """ConvNet-3 for one-channel 28x28 images: features, classifier.

    A group per channel is instance normalisation; this module is faster than `InstanceNorm2d`.
    """
    layers, inputs = [], 1
    for padding in (3, 1, 1):
        layers += [nn.Conv2d(inputs, width, 3, padding=padding), nn.GroupNorm(width, width)]
        layers += [nn.ReLU(), nn.AvgPool2d(2)]
        inputs = width
    return nn.Sequential(nn.Sequential(*layers, nn.Flatten()), nn.Linear(16 * width, classes))


def scaled(x: Any, steps: Any) -> Any:
    """Images [B, C, H, W] sampled at `steps` [B, 2], (row, column), about their centre."""
    matrix = torch.zeros(len(x), 2, 3)
    matrix[:, 0, 0], matrix[:, 1, 1] = steps[:, 1], steps[:, 0]
    grid = functional.affine_grid(matrix, list(x.shape), align_corners=False)
    return functional.grid_sample(x, grid, align_corners=False)


def distance(real: Any, synthetic: Any) -> Any:
    """The sum over output units of 1 - cos of two gradients [out, ...] of a kernel."""
    a, b = real.flatten(1), synthetic.flatten(1)
    return (1 - (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-6)).sum()


class GradientMatching(Images):
    """DC and, with a `scale`, DSA: gradients of real and of synthetic images, class by class."""

    by_class = True

    def __init__(self, given: Mapping[str, Any]):
        self.settings = given
        self.classes, self.scale = given["classes"], given["scale"]
        self.learned = {"x": channels_first(given["learned"]["x"][0])}
        self.labels = torch.arange(self.classes).repeat_interleave(len(self.learned["x"]) // self.classes)
        self.network = convnet(given["width"], self.classes)
        with torch.no_grad():
            for parameter, array in zip(self.network.parameters(), given["weights"], strict=True):
                parameter.copy_(torch.tensor(array))

    def augmented(self, x: Any) -> Any:
        """The images, all under the given draw; each has its own row of parameters."""
        return x if self.scale is None else scaled(x, torch.tensor(self.scale).expand(len(x), 2))

    def hypergradient(self, x: Any, y: Any) -> tuple[Any, list]:
        """(the sum over classes of their terms, its gradient)."""
        loss, images = 0.0, self.learned["x"]
        groups = (each.chunk(self.classes) for each in (x, y, images, self.labels))
        for real, real_y, synthetic, synthetic_y in zip(*groups, strict=True):
            loss += self.term(self.augmented(real), real_y, self.augmented(synthetic), synthetic_y)
        return loss, list(torch.autograd.grad(loss, [images]))

    def term(self, real: Any, real_y: Any, synthetic: Any, synthetic_y: Any) -> Any:
        """The distance of the two gradients, over kernels; those of real images are constants."""
        params = list(self.network.parameters())
        target = torch.autograd.grad(functional.cross_entropy(self.network(real), real_y), params)
        loss = functional.cross_entropy(self.network(synthetic), synthetic_y)
        ours = torch.autograd.grad(loss, params, create_graph=True)
        return sum(distance(a, b) for a, b in zip(target, ours, strict=True) if a.ndim > 1)

    def advance(self) -> None:
        """Trains the network on the images, or takes a new one where there are no epochs of training."""
        epochs, images = self.settings["epochs"], self.learned["x"].detach()
        if not epochs:
            self.network = convnet(self.settings["width"], self.classes)
            return
        optimizer = torch.optim.SGD(self.network.parameters(), lr=0.01)
        for _ in range(epochs):
            for rows in torch.randperm(len(images)).split(256):
                logits = self.network(self.augmented(images[rows]))
                optimizer.zero_grad()
                functional.cross_entropy(logits, self.labels[rows]).backward()
                optimizer.step()

    def trained(self) -> list[np.ndarray]:
        """Weights that `advance` trains; none where it trains no network."""
        if not self.settings["epochs"]:
            return []
        return [parameter.detach().numpy() for parameter in self.network.parameters()]


class DistributionMatching(GradientMatching):
    """DM: mean features of real and of synthetic images, class by class, of a new network at every step."""

    def term(self, real: Any, real_y: Any, synthetic: Any, synthetic_y: Any) -> Any:
        """The squared distance of the two means; that of real images is a constant."""
        features = self.network[0]
        with torch.no_grad():
            target = features(real).mean(0)
        return (features(synthetic).mean(0) - target).square().sum()


PROBLEMS = {"images": Images, "implicit": Implicit, "generator": Generator}
PROBLEMS |= {"dc": GradientMatching, "dsa": GradientMatching, "dm": DistributionMatching}


class Step:
    """The outer step and its state."""

    def __init__(self, given: Mapping[str, Any]):
        self.problem = PROBLEMS[given["kind"]](given)
        self.leaves = [tensor.requires_grad_() for tensor in self.problem.learned.values()]
        self.real_x, self.real_y = channels_first(given["real"][0]), torch.tensor(given["real"][1])
        self.groups = [torch.arange(len(self.real_y))]
        if self.problem.by_class:
            self.groups = [(self.real_y == c).nonzero().flatten() for c in range(given["classes"])]
        self.batch_size = given["batch_size"]
        name, settings = given["optimizer"]
        self.optimizer = getattr(torch.optim, name)(self.leaves, **settings)
        torch.manual_seed(given["seed"])

    def __call__(self, x: Any, y: Any) -> Any:
        """An outer step on one real batch; leaves the hypergradient in `grad`. Returns the loss."""
        loss, gradients = self.problem.hypergradient(x, y)
        for leaf, gradient in zip(self.leaves, gradients, strict=True):
            leaf.grad = gradient
        self.optimizer.step()
        self.problem.advance()
        return loss

    def first(self, x: np.ndarray, y: np.ndarray) -> tuple[float, dict[str, np.ndarray], list[np.ndarray]]:
        """Loss, hypergradient and trained weights of one outer step, as arrays."""
        loss = self(channels_first(x), torch.tensor(y)).item()
        named = zip(self.problem.learned, self.leaves, strict=True)
        gradients = {name: self.problem.as_ours(name, leaf.grad) for name, leaf in named}
        return loss, gradients, self.problem.trained()

    def seconds(self, steps: int) -> float:
        """Time of one outer step, the mean over a block of `steps` on batches drawn at random."""
        began = time.perf_counter()
        for _ in range(steps):
            drawn = [rows[torch.randint(len(rows), (self.batch_size,))] for rows in self.groups]
            index = torch.cat(drawn)
            self(self.real_x[index], self.real_y[index])
        return (time.perf_counter() - began) / steps


def channels_first(x: np.ndarray) -> Any:
    """[B, H, W, C] to a tensor [B, C, H, W]."""
    return torch.tensor(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def serve() -> None:
    """Answers requests until the pipe closes."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing that is printed may get between the replies

    def reply(value: Any) -> None:
        pickle.dump(value, replies)
        replies.flush()

    step = Step(pickle.load(sys.stdin.buffer))
    reply(torch.__version__)
    while True:
        try:
            name, *arguments = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        reply(step.first(*arguments) if name == "step" else step.seconds(*arguments))


if __name__ == "__main__":
    serve()
