"""PyTorch code that trains a network on exported images with the batches and steps of the distillation."""

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from jaxdistill.core.registry import options_of
from jaxdistill.evaluation.protocols import UPDATES
from jaxdistill.layers.norms import GROUPS
from jaxdistill.learners import LEARNERS
from jaxdistill.learners.adapter import first_padding
from jaxdistill.runtime.export import Synthetic

ACTIVATIONS = {
    "relu": "nn.ReLU()",
    "leaky_relu": "nn.LeakyReLU()",
    "sigmoid": "nn.Sigmoid()",
    "tanh": "nn.Tanh()",
    "gelu": "nn.GELU()",
    "softplus": "nn.Softplus()",
    "softplus60": "nn.Softplus(beta=60)",
    "swish": "nn.SiLU()",
}
NORMS = {"none": None, "instance": "{0}", "group": str(GROUPS), "layer": "1"}
"""Groups of `nn.GroupNorm`; one channel each is instance normalisation."""
POOLINGS = {"none": None, "max": "nn.MaxPool2d(2)", "average": "nn.AvgPool2d(2)"}
STATE = {
    "sgd": (
        "m.mul_(momentum).add_(g)",
        "p -= rate * m",
    ),
    "adam": (
        "m.mul_(0.9).add_(0.1 * g), v.mul_(0.999).add_(0.001 * g**2)",
        "p -= rate * m / (1 - 0.9**t) / ((v / (1 - 0.999**t) + 1e-5).sqrt() + 1e-8)",
    ),
    "rmsprop": (
        "v.mul_(0.9).add_(0.1 * g**2)",
        "p -= rate * g / (v + 1e-5).sqrt()",
    ),
}
"""A step of each inner optimiser, as `jaxdistill.inner.optimizers` computes it."""
LISTS = {"m": "momenta", "v": "squares"}
"""What an optimiser remembers of a parameter: the list of all of them."""


LABEL_NAMES = {"probabilities": "soft_label", "free": "free_label"}
"""What an export calls labels of a kind; a tensor of all of them has an s more."""
FREE_LABELS = ("# y are outputs for a squared loss, no probabilities; for a cross-entropy take y.argmax(1)",)
WHITENED = (
    "# and then, whitened:",
    '# u = ((pixels / d["scale"] - mean) / std).permute(0, 2, 3, 1)  # [N, H, W, C]',
    '# z = (u.flatten(1) - d["zca_mean"]) @ (d["zca_vectors"] / d["zca_scales"]) @ d["zca_vectors"].T',
    "# z = z.view_as(u).permute(0, 3, 1, 2)",
)
"""The code that whitens real images after the standardisation, if the file's images are whitened."""


def from_torch_file(path: str, whitened: bool = False, kind: str = "probabilities") -> list[str]:
    """The first lines for a file of `write_torch`, with whitened images or others, and labels of a kind."""
    return [
        "import torch",
        "from torch import nn",
        "",
        f"d = torch.load({_quoted(path)}, weights_only=True)",
        f'x, y = d["images"], d["{LABEL_NAMES[kind]}s"]  # [N, C, H, W], standardised; [N, classes]',
        *(FREE_LABELS if kind == "free" else ()),
        'mean, std = d["mean"].view(-1, 1, 1), d["std"].view(-1, 1, 1)',
        '# real images [N, C, H, W] become (pixels / d["scale"] - mean) / std',
        *(WHITENED if whitened else ()),
    ]


def from_hf_folder(path: str, metadata: str, kind: str = "probabilities") -> list[str]:
    """The first lines for a Hugging Face data set with its metadata beside it, and labels of a kind."""
    return [
        "import json",
        "",
        "import torch",
        "from datasets import load_dataset",
        "from torch import nn",
        "",
        f"path = {_quoted(path)}  # this folder",
        'rows = load_dataset(path, split="train").with_format("torch")[:]',
        f'x, y = rows["standardised"].permute(0, 3, 1, 2), rows["{LABEL_NAMES[kind]}"]'
        "  # [N, C, H, W]; [N, classes]",
        *(FREE_LABELS if kind == "free" else ()),
        f'with open(f"{{path}}/{metadata}", encoding="utf-8") as file:',
        '    d = {key: torch.tensor(value) for key, value in json.load(file)["steps"].items()}',
    ]


def training_code(file: Synthetic, first: Sequence[str]) -> str:
    """PyTorch code that trains the network of the distillation.

    With the order and the step sizes of the file, or where it has none by the protocol of the matching papers
    (DC, without augmentation).

    Args:
      file: the images.
      first: lines that define x [N, C, H, W], y [N, classes] and the dict d of order and step sizes.

    Returns:
      The code. It leaves the trained network in `net`.
    """
    shape = tuple(file.pixels.shape[1:])
    lines = [*first, "", *_network(file.metadata.get("learner", {}), shape, file.labels.shape[1])]
    optimizer = file.metadata.get("inner", {}).get("inner_optimizer")
    known = file.order is not None and "learning_rate" in file.hyperparameters and optimizer in STATE
    if known:
        return "\n".join(lines + _as_distilled(file, optimizer))
    return "\n".join(lines + (_regression(file) if file.kind == "free" else _published()))


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _network(saved: Mapping[str, Any], shape: tuple[int, ...], classes: int) -> list[str]:
    """The network in PyTorch, or a ConvNet if it has no PyTorch code."""
    name = saved.get("learner", "")
    defaults = options_of(LEARNERS[name]) if name in LEARNERS else {}
    learner = defaults | {option: value for option, value in saved.items() if value is not None}
    start = learner.get("initialization", "torch_default")
    lines = (
        [f"# distilled for weights by {start}; these start as PyTorch's do"]
        if start != "torch_default"
        else []
    )
    if name == "linear":
        return [*lines, f"net = nn.Sequential(nn.Flatten(), nn.Linear({math.prod(shape)}, {classes}))"]
    if name == "mlp":
        sizes = [math.prod(shape), *[learner["width"]] * learner["depth"]]
        pairs = itertools.pairwise(sizes)
        lines += ["net = nn.Sequential(", "    nn.Flatten(),"]
        lines += [f"    nn.Linear({i}, {o}), {ACTIVATIONS[learner['activation']]}," for i, o in pairs]
        return [*lines, f"    nn.Linear({sizes[-1]}, {classes}),", ")"]
    if name == "convnet" and learner["norm"] in NORMS:
        return lines + _convnet(learner, shape, classes)
    other = options_of(LEARNERS["convnet"]) | {"width": 32, "depth": min(2, min(shape[:2]).bit_length() - 1)}
    said = f"# a ConvNet; the images were distilled for another network, {name or 'not named'}"
    return [said, *_convnet(other, shape, classes)]


def _convnet(learner: Mapping[str, Any], shape: tuple[int, ...], classes: int) -> list[str]:
    height, width, channels = shape
    kernel, widths = learner["kernel"], learner["widths"] or [learner["width"]] * learner["depth"]
    first = first_padding((height, width, channels), mnist=kernel // 2 + 2, otherwise=kernel // 2)
    lines = ["net = nn.Sequential("]
    for block, out in enumerate(widths):
        padding = kernel // 2 if block else first
        parts = [f"nn.Conv2d({channels}, {out}, {kernel}, padding={padding})"]
        groups = NORMS[learner["norm"]]
        parts += [f"nn.GroupNorm({groups.format(out)}, {out})"] if groups else []
        parts += [ACTIVATIONS[learner["activation"]]]
        height, width = (side + 2 * padding - kernel + 1 for side in (height, width))
        if pooling := POOLINGS[learner["pooling"]]:
            parts += [pooling]
            height, width = height // 2, width // 2
        lines += [f"    {', '.join(parts)},"]
        channels = out
    return [*lines, f"    nn.Flatten(), nn.Linear({channels * height * width}, {classes}),", ")"]


def _as_distilled(file: Synthetic, optimizer: str) -> list[str]:
    inner = file.metadata["inner"]
    shuffle, decay = inner.get("shuffle", "none"), inner.get("weight_decay", 0.0)
    lines = ['order = d["order"]  # [T, B], the images of each step']
    if shuffle == "batches":
        lines = ['order = d["order"][torch.randperm(len(d["order"]))]  # batches were drawn at random']
    elif shuffle == "images":
        mixed = 'd["order"].flatten()[torch.randperm(d["order"].numel())]'
        lines = [f'order = {mixed}.view_as(d["order"])  # images were drawn at random']
    state, move = STATE[optimizer]
    moments = {"sgd": ("m",), "adam": ("m", "v"), "rmsprop": ("v",)}[optimizer]
    lists = [LISTS[name] for name in moments]
    pairs = ", ".join(("p", "g", *moments)), ", ".join(("params", "gradients", *lists))
    values = [name for name in ("learning_rate", "momentum") if name in file.hyperparameters]
    if optimizer == "sgd" and "momentum" not in values:
        state = state.replace("momentum", "0")
    names = ", ".join(["rows", "rate", *(["momentum"] if "momentum" in values else [])])
    steps = ", ".join(["order", *(f'd["{name}"]' for name in values)])
    lines += ["params = list(net.parameters())"]
    lines += [f"{name} = [torch.zeros_like(p) for p in params]" for name in lists]
    loop = f"for {names} in zip({steps}):"
    if optimizer == "adam":
        loop = f"for t, ({names}) in enumerate(zip({steps}), 1):"
    lines += [
        loop,
        f"    loss = {_loss(file)}",
        "    gradients = torch.autograd.grad(loss, params)",
        "    with torch.no_grad():",
        f"        for {pairs[0]} in zip({pairs[1]}):",
    ]
    lines += [f"            g = g + {decay:g} * p  # weight decay"] if decay else []
    return [*lines, f"            {state}", f"            {move}"]


def _loss(file: Synthetic) -> str:
    """The training loss of a file's inner loop, on the images in `rows`."""
    inner, classes = file.metadata["inner"], file.labels.shape[1]
    if inner.get("loss") == "squared":
        wanted = (
            "y[rows]" if file.kind == "free" else f"{math.sqrt(classes / 10):g} * (y[rows] - {1 / classes:g})"
        )
        return f"0.5 * (net(x[rows]) - {wanted}).square().sum(1).mean()"
    temperature = inner.get("temperature", 1.0)
    logits = "net(x[rows])" if temperature == 1 else f"net(x[rows]) / {temperature:g}"
    return f"nn.functional.cross_entropy({logits}, y[rows])"


def _regression(file: Synthetic) -> list[str]:
    per_class = max(1, len(file.labels) // file.labels.shape[1])
    steps = UPDATES["frepo"][max(known for known in UPDATES["frepo"] if known <= per_class)]
    return [
        f"steps = {steps}  # as FRePo tests its images, but for its augmentation",
        "optimizer = torch.optim.Adam(net.parameters(), lr=3e-4)",
        "for step in range(steps):",
        "    rows = torch.randperm(len(x))[:256]",
        "    optimizer.zero_grad()",
        "    (0.5 * (net(x[rows]) - y[rows]).square().sum(1).mean()).backward()",
        "    optimizer.step()",
    ]


def _published() -> list[str]:
    return [
        "epochs = 300  # as DC tests its images; DSA and DM: 1000 and their augmentation",
        "optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)",
        "schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [epochs // 2], 0.1)",
        "for _ in range(epochs):",
        "    for rows in torch.randperm(len(x)).split(256):",
        "        optimizer.zero_grad()",
        "        nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()",
        "        optimizer.step()",
        "    schedule.step()",
    ]
