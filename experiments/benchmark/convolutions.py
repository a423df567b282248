"""Formulations and layouts of a convolution: parts of `experiments.benchmark`."""

from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from experiments.benchmark.options import Options
from experiments.measure import Program, Row, compiled, ratio_of_medians, row, timed
from jaxdistill.core.types import Array
from jaxdistill.layers.conv import FORMULATIONS, LAYOUTS, Layout, conv2d
from jaxdistill.layers.pool import max_pool


def conv(options: Options) -> Iterator[Row]:
    """Gradients of a convolution in a scan and outside, of one larger than its image; LeNet's two layouts."""
    smoke = options.smoke
    size = {"channels": 4, "side": 4} if smoke else {"channels": 128, "side": 16}
    batches = {1: 2, 2: 2} if smoke else {1: 32, 2: 8}  # a second-order `lax` of 32 takes minutes
    for order, batch in batches.items():
        size |= {"batch": batch, "seed": options.seed}
        for formulation in FORMULATIONS:
            programs, times = conv_times(formulation, order, options.repeats, **size)
            for where, program in programs.items():
                more = {"batch": batch, "ratio": ratio_of_medians(times, where, "outside")}
                yield row("conv", f"{formulation}, order {order}, {where}", times[where], program, **more)
    small = {"channels": 4 if smoke else 512, "side": 2, "batch": 8, "seed": options.seed}
    for formulation in ("lax", "im2col"):
        programs, times = conv_times(formulation, 1, options.repeats, **small)
        outside = times["outside"], programs["outside"]
        yield row("conv", f"{formulation}, 2x2 pixels", *outside, batch=small["batch"])
    parts = (1, 4) if smoke else (8, 64)
    programs = {layout: lenet_convolutions(layout, *parts, seed=options.seed) for layout in LAYOUTS}
    times = timed(programs, options.repeats)
    for layout, program in programs.items():
        more = {"ratio": ratio_of_medians(times, layout, "NHWC")}
        yield row("conv", f"LeNet's convolutions, {layout}", times[layout], program, **more)


def conv_times(
    formulation: str | None, order: int, repeats: int, *, channels: int, side: int, batch: int, seed: int = 0
) -> tuple[dict[str, Program], dict[str, list[float]]]:
    """Gradient steps of one 3x3 convolution: in one `lax.scan`, and as calls one after another.

    Order 2 is the gradient of the gradient's squared norm; `formulation` None is this backend's own.
    Returns programs and times of ONE gradient step, each by `"scan"` and `"outside"`.
    """
    keys, length = jax.random.split(jax.random.key(seed), 2), 2
    x = jax.random.normal(keys[0], (batch, side, side, channels))
    start = (x, jax.random.normal(keys[1], (3, 3, channels, channels)) / (3 * channels**0.5))

    def loss(arguments: tuple[Array, Array]) -> Array:
        return jnp.mean(conv2d(*arguments, padding=1, formulation=formulation) ** 2)

    def squared_gradient(arguments: tuple[Array, Array]) -> Array:
        return sum((jnp.vdot(g, g) for g in jax.grad(loss)(arguments)), start=jnp.zeros(()))

    gradient = jax.grad(loss if order == 1 else squared_gradient)

    def step(arguments: tuple[Array, Array]) -> tuple[Array, Array]:
        return jax.tree.map(lambda a, g: a - 1e-3 * g, arguments, gradient(arguments))

    def scan(arguments: tuple[Array, Array]) -> tuple[Array, Array]:
        return lax.scan(lambda carry, _: (step(carry), None), arguments, None, length=length)[0]

    once, looped = (compiled(jax.jit(f), (start,), steps=length) for f in (step, scan))

    def calls(arguments: tuple[Array, Array]) -> tuple[Array, Array]:
        for _ in range(length):
            arguments = once.call(arguments)
        return arguments

    programs = {"scan": looped, "outside": once._replace(call=calls)}
    return programs, timed(programs, repeats)


def lenet_convolutions(layout: Layout, num_batches: int, batch: int, *, seed: int) -> Program:
    """Gradient steps of LeNet's two convolutions and poolings over 28x28 images, batch by batch in a scan."""
    keys = jax.random.split(jax.random.key(seed), 3)
    shape = (num_batches, 1, 28, 28, batch) if layout == "CHWB" else (num_batches, batch, 28, 28, 1)
    x, first = jax.random.normal(keys[0], shape), jax.random.normal(keys[1], (5, 5, 1, 6)) / 5
    second = jax.random.normal(keys[2], (5, 5, 6, 16)) / 12

    def loss(kernels: tuple[Array, Array], x: Array) -> Array:
        x = max_pool(jax.nn.relu(conv2d(x, kernels[0], padding=2, layout=layout)))
        return jnp.mean(max_pool(jax.nn.relu(conv2d(x, kernels[1], layout=layout))) ** 2)

    def step(kernels: tuple[Array, Array], x: Array) -> tuple[tuple[Array, Array], None]:
        return jax.tree.map(lambda k, g: k - 1e-3 * g, kernels, jax.grad(loss)(kernels, x)), None

    return compiled(jax.jit(partial(lax.scan, step)), ((first, second), x))
