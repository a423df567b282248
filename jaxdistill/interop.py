"""Weights in the layouts of PyTorch, as plain arrays: PyTorch itself is not needed.

| weight | PyTorch | here |
| --- | --- | --- |
| kernel of a convolution | [out, in, h, w] | [h, w, in, out] |
| kernel of a dense layer | [out, in] | [in, out] |
| kernel of the first dense layer, which reads an image | in = C, H, W | in = H, W, C |
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill.core.checks import fail
from jaxdistill.core.types import Learner, Params
from jaxdistill.learners.adapter import layers_of

ROLES = {
    "weight": "weight",
    "bias": "bias",
    "weight_g": "gain",
    "weight_v": "weight",
    "parametrizations.weight.original0": "gain",
    "parametrizations.weight.original1": "weight",
    "running_mean": "mean",
    "running_var": "variance",
}
"""What an entry is, by the last part of its name; with weight normalisation the weight has two parts."""
NAMES = {"kernel": "weight", "scale": "weight", "bias": "bias", "gain": "gain"}
"""The same for our names."""
STATISTICS = {"mean": "mean", "variance": "variance"}


def kernel_from_torch(weight: np.ndarray, channels: int = 1) -> np.ndarray:
    """A kernel from PyTorch's order of axes to ours.

    Args:
      weight: [out, in, h, w] or [out, in].
      channels: C of the image that a dense layer reads; 1 for a layer that reads no image.

    Returns:
      [h, w, in, out] or [in, out].

    Raises:
      UserError: inputs that are no whole number of pixels.

    Example:
      >>> kernel_from_torch(np.zeros((6, 1, 5, 5))).shape
      (5, 5, 1, 6)
    """
    if weight.ndim == 4:
        return weight.transpose(2, 3, 1, 0)
    if weight.shape[1] % channels:
        raise fail("kernel_from_torch", f"inputs a multiple of the {channels} channels", weight.shape[1])
    return weight.reshape(len(weight), channels, -1).swapaxes(1, 2).reshape(len(weight), -1).T


def kernel_to_torch(kernel: np.ndarray, channels: int = 1) -> np.ndarray:
    """A kernel from our order of axes to PyTorch's: the inverse of `kernel_from_torch`.

    Args:
      kernel: [h, w, in, out] or [in, out].
      channels: C of the image that a dense layer reads; 1 for a layer that reads no image.

    Returns:
      [out, in, h, w] or [out, in].

    Example:
      >>> kernel_to_torch(np.zeros((5, 5, 1, 6))).shape
      (6, 1, 5, 5)
    """
    if kernel.ndim == 4:
        return kernel.transpose(3, 2, 0, 1)
    weight = kernel.T
    return weight.reshape(len(weight), -1, channels).swapaxes(1, 2).reshape(len(weight), -1)


def from_torch_weights(
    net: Learner, state: Mapping[str, Any], *, image_shape: tuple[int, int, int], statistics: bool = False
) -> Params:
    """A network's parameters from a PyTorch module's, given as arrays by name.

    The rule: entries whose names differ in the last part alone (`features.0.weight`, `features.0.bias`) make
    a layer, and the layers stand in the order in which the network applies them. What the layers are called
    does not matter. Every module that makes its layers in the order of their use has such a `state_dict()`;
    the networks of Dataset Condensation do. `num_batches_tracked` is left out.

    Args:
      net: the network: a learner of `jaxdistill.learners`, or one that `from_flax` made.
      state: name -> array (or CPU tensor), in the layouts of PyTorch.
      image_shape: (H, W, C) of the images that the network takes.
      statistics: whether running statistics of batch normalisations come along, for `apply` and `embed` to
        use; they are left out otherwise, as for training.

    Returns:
      The parameters, float32, as `net.init` makes them; with statistics as `net.calibrate` makes them.

    Raises:
      UserError: an entry that is none of a layer, a layer of other shapes, one too few or too many; it names
        the layer and the entry.

    Example:
      >>> net = jd.learner("linear", image_shape=(2, 2, 1), num_classes=3)
      >>> state = {"fc.weight": np.ones((3, 4)), "fc.bias": np.zeros(3)}
      >>> net.apply(from_torch_weights(net, state, image_shape=(2, 2, 1)), jnp.ones((1, 2, 2, 1)))
      Array([[4., 4., 4.]], dtype=float32)

    References: Zhao, Mopuri & Bilen 2021 (the networks of its code have such names).
    """
    paths = layers_of(net, image_shape)
    if not paths:
        raise fail("from_torch_weights", "a network made of Flax modules", "another")
    one = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    shapes = jax.eval_shape(net.init, jax.random.key(0))
    shapes = {"batch_stats": {}} | jax.eval_shape(net.calibrate, shapes, one)
    modules, channels = list(_modules(state).items()), image_shape[-1]
    params: Params = {}
    stats: Params = {}
    for number, path in enumerate(paths):
        ours, remembered = _at(shapes["params"], path), _at(shapes["batch_stats"], path)
        name, given = modules[number] if number < len(modules) else ("", {})
        if remembered and not statistics:
            given = {role: value for role, value in given.items() if role not in STATISTICS}
            remembered = {}
        expected = _torch_shapes(ours) | {role: leaf.shape for role, leaf in remembered.items()}
        if {role: value.shape for role, value in given.items()} != expected:
            got = f"{name or 'entries'} of {_told(given)}" if given else "no more entries"
            raise _refused(f"{'.'.join(path)} of {_told(expected)}", got)
        converted = {}
        for ours_name, leaf in ours.items():
            value = given[NAMES[ours_name]]
            if ours_name == "kernel":
                value = kernel_from_torch(value, channels)
                channels = leaf.shape[-1] if value.ndim == 4 else 1
            converted[ours_name] = jnp.asarray(value.reshape(leaf.shape), leaf.dtype)
        _put(params, path, converted)
        if remembered:
            _put(stats, path, {n: jnp.asarray(given[role], jnp.float32) for n, role in STATISTICS.items()})
    if len(modules) > len(paths):
        raise _refused(f"no more than the {len(paths)} layers of the network", modules[len(paths)][0])
    return {"params": params, "batch_stats": stats} if stats else {"params": params}


def _modules(state: Mapping[str, Any]) -> dict[str, dict[str, np.ndarray]]:
    """Layer -> role -> array, in the order of the entries."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for entry, value in state.items():
        parts = entry.split(".")
        if parts[-1] == "num_batches_tracked":
            continue
        known = [n for n in (1, 3) if ".".join(parts[-n:]) in ROLES]
        if not known:
            raise _refused(f"entries named {', '.join(ROLES)}", entry)
        role = ROLES[".".join(parts[-known[0] :])]
        found.setdefault(".".join(parts[: -known[0]]), {})[role] = np.asarray(value)
    return found


def _torch_shapes(ours: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Role -> shape, in the layouts of PyTorch, of a layer of ours."""
    if not ours.keys() <= NAMES.keys():
        raise fail("from_torch_weights", f"a network with weights among {', '.join(NAMES)}", ", ".join(ours))
    shapes = {NAMES[name]: leaf.shape for name, leaf in ours.items()}
    if "kernel" in ours:
        *size, inputs, outputs = ours["kernel"].shape
        shapes["weight"] = (outputs, inputs, *size)
        if "gain" in ours:
            shapes["gain"] = (outputs, *[1] * (len(size) + 1))
    return shapes


def _told(shapes: Mapping[str, Any]) -> str:
    """Roles with their shapes, or arrays' shapes, for an error."""
    roles = [role for role in dict.fromkeys(ROLES.values()) if role in shapes]
    return ", ".join(f"{role} {getattr(shapes[role], 'shape', shapes[role])}" for role in roles)


def _refused(expected: str, got: str) -> Exception:
    remedy = "Give the entries in the order in which the network applies its layers."
    return fail("from_torch_weights", expected, got, remedy)


def _at(tree: Params, path: Sequence[str]) -> Params:
    for name in path:
        tree = tree.get(name, {})
    return tree


def _put(tree: Params, path: Sequence[str], value: Params) -> None:
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = value
