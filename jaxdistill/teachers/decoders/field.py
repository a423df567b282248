"""Fields (DDiF): each image is a small network from the place of a pixel to its colour."""

import itertools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdistill.core.checks import check_whole
from jaxdistill.core.types import Array
from jaxdistill.teachers.decoders.decoder import Decoder, Latents

CODE = """\
y, x = np.linspace(-1, 1, height), np.linspace(-1, 1, width)
h = np.stack(np.meshgrid(y, x, indexing="ij"), -1).reshape(1, -1, 2)
depth = sum(name.startswith("latents/weight") for name in file) - 1
for i in range(depth + 1):
    h = h @ array(f"weight{i}") + array(f"bias{i}")[:, None]
    h = np.sin((30 if i == 0 else 10) * h) if i < depth else h
images = h.reshape(-1, height, width, channels)
"""
FIRST, HIDDEN = 30.0, 10.0
"""Frequencies of the first layer and of the others, as in the paper."""
FIT_STEPS, FIT_RATE, RIDGE = 500, 3e-3, 1e-6


def field(*, image_shape: tuple[int, int, int], field_width: int = 6, field_depth: int = 2) -> Decoder:
    """x(p) = W_L sin(10 (... sin(30 (W_0 p + b_0)) ...)) + b_L at every pixel's place p in [-1, 1]^2.

    Args:
      image_shape: (H, W, C).
      field_width: units of a hidden layer.
      field_depth: L, hidden layers.

    Returns:
      The decoder; latents are {"weight<l>": [N, in, out], "bias<l>": [N, out]}. It starts from networks that
      Adam fitted to given images (500 steps), the last layer then by least squares.

    Raises:
      UserError: a number below 1.

    Example:
      >>> latents = field(image_shape=(32, 32, 3)).init(jax.random.key(0), 1, None)
      >>> sum(leaf.size for leaf in latents.values())
      81

    References: Shin et al. 2025, "Distilling Dataset into Neural Field" (DDiF); Sitzmann et al. 2020 (SIREN).
    """
    check_whole("decoder field", field_width=field_width, field_depth=field_depth)
    height, width, channels = image_shape
    axes = np.linspace(-1, 1, height), np.linspace(-1, 1, width)
    places = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(1, -1, 2)
    sizes = [2, *[field_width] * field_depth, channels]

    def fresh(key: Array, count: int) -> Latents:
        found = {}
        for i, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
            bound = 1 / fan_in if i == 0 else math.sqrt(6 / fan_in) / HIDDEN
            weight, bias = jax.random.split(jax.random.fold_in(key, i))
            found[f"weight{i}"] = jax.random.uniform(
                weight, (count, fan_in, fan_out), minval=-bound, maxval=bound
            )
            found[f"bias{i}"] = jax.random.uniform(bias, (count, fan_out), minval=-bound, maxval=bound)
        return found

    def hidden(latents: Latents) -> Array:
        """[N, H W, field_width], the input of the last layer."""
        h = jnp.asarray(places, latents["weight0"].dtype)
        h = jnp.broadcast_to(h, (latents["weight0"].shape[0], *places.shape[1:]))
        for i in range(field_depth):
            h = h @ latents[f"weight{i}"] + latents[f"bias{i}"][:, None, :]
            h = jnp.sin((FIRST if i == 0 else HIDDEN) * h)
        return h

    def decode(latents: Latents) -> Array:
        last = latents[f"weight{field_depth}"], latents[f"bias{field_depth}"]
        return (hidden(latents) @ last[0] + last[1][:, None, :]).reshape(-1, *image_shape)

    def init(key: Array, count: int, images: Array | None) -> Latents:
        latents = fresh(key, count)
        if images is None:
            return latents
        latents = _fitted(lambda latents: jnp.sum(jnp.square(decode(latents) - images)), latents)
        features = hidden(latents)
        ones = jnp.ones((*features.shape[:2], 1), features.dtype)
        features = jnp.concatenate([features, ones], axis=-1)
        targets = images.reshape(count, -1, channels).astype(features.dtype)
        gram = jnp.einsum("npi,npj->nij", features, features)
        gram += RIDGE * jnp.eye(gram.shape[-1], dtype=gram.dtype)[None]
        last = jnp.linalg.solve(gram, jnp.einsum("npi,npc->nic", features, targets))
        return latents | {f"weight{field_depth}": last[:, :-1], f"bias{field_depth}": last[:, -1]}

    return Decoder("field", init, decode, CODE, sized=("field_width", field_width))


def _fitted(loss: Callable[[Latents], Array], latents: Latents) -> Latents:
    """The latents after `FIT_STEPS` of Adam on a loss."""
    rule = optax.adam(FIT_RATE)

    def step(carry: tuple[Latents, optax.OptState], _: None) -> tuple[tuple[Latents, optax.OptState], None]:
        latents, state = carry
        updates, state = rule.update(jax.grad(loss)(latents), state)
        return (optax.apply_updates(latents, updates), state), None  # pyright: ignore[reportReturnType]

    return jax.lax.scan(step, (latents, rule.init(latents)), None, length=FIT_STEPS)[0][0]
