"""Where the time and the memory go: one outer step, its parts, and the same step in PyTorch.

Question: how long does an outer step take against a plain PyTorch implementation, how does it grow with K
learners and T inner steps, what does `remat` save, how long should a compiled chunk be, and which
formulation of the convolution is right for this backend, and how many images at a time?

    python -m experiments.benchmark                         all parts, about 15 minutes on 2 cores
    python -m experiments.benchmark --what=torch            needs pip install -e ".[torch]"

Expected, 2 cores: `torch` at most 0.8 times PyTorch's time, about 0.6; `conv` gradients in a scan less than
2 times those outside. Rows are appended to RUN_DIR/rows.json. The sides of every comparison take turns;
compilation (without the cache) is apart. Keep the machine quiet: PyTorch's threads wait for one another and
lose most on a busy one, so its ratio flatters us there; `load` in a row says how busy it was at the start.
"""

import contextlib
import itertools
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from experiments import build, cli, distill, gradients
from experiments.matching_steps import matching
from experiments.measure import (
    Program,
    Row,
    append_rows,
    compiled,
    interleaved,
    no_compile_cache,
    outer_steps,
    ratio_of_medians,
    row,
    timed,
)
from experiments.microbatches import microbatches
from experiments.options import RUN, Groups, Option, complete, defaults
from experiments.pool_training import pool
from experiments.torch_reference import TorchReference, available
from jaxdistill.core.checks import at_least, fail, one_of
from jaxdistill.core.keys import at_step, stream
from jaxdistill.core.types import Array, Data, Method
from jaxdistill.data import sample
from jaxdistill.data.dataset import from_arrays
from jaxdistill.inner.train import REMAT
from jaxdistill.inner.unrolled import unrolled
from jaxdistill.layers.conv import FORMULATIONS, LAYOUTS, Layout, conv2d
from jaxdistill.layers.pool import max_pool
from jaxdistill.learners import learner
from jaxdistill.methods.dd import dd
from jaxdistill.methods.gtn import gtn
from jaxdistill.methods.outer import outer_adam
from jaxdistill.populations.fixed import fixed
from jaxdistill.runtime import profile, progress
from jaxdistill.teachers import generator, images

GROUPS: Groups = {
    "benchmark": {
        "what": Option(
            [],
            str,
            "torch, outer, remat, chunk, conv, generator, matching, microbatch, pool (default: all there is)",
        ),
        "repeats": Option(7, int, "rounds of each comparison, after one that warms up"),
        "smoke": Option(False, bool, "everything tiny, 2 rounds: does it run?"),
    },
    "run": {"run_dir": Option("runs/benchmark", str, "rows.json is there"), "seed": RUN["seed"]},
}
SHAPES = {"mlp": (8, 8, 1), "lenet": (28, 28, 1), "convnet": (28, 28, 1)}
REMEDY = 'pip install -e ".[torch]" adds it.'


def problem(
    name: str, seed: int, *, num_steps: int, num_learners: int = 1, real_batch_size: int = 256, **options: Any
) -> tuple[Method, Data]:
    """Dataset Distillation of ten images, one per class, on random pixels; `options` are those of `dd`."""
    shape, generator = SHAPES[name], np.random.default_rng(seed)
    size = max(2 * real_batch_size, 10)
    pixels = generator.standard_normal((size, *shape), np.float32)
    network = learner(name, image_shape=shape, num_classes=10, initialization="xavier")
    method = dd(
        network,
        images(image_shape=shape, num_classes=10, distill_epochs=num_steps),
        population=fixed(network) if num_learners == 1 else None,
        num_learners=num_learners,
        real_batch_size=real_batch_size,
        **options,
    )
    return method, Data(from_arrays(pixels, np.arange(size) % 10, 10), None)


def torch(config: Mapping[str, Any]) -> Iterator[Row]:
    """LeNet, DD, one fixed initialisation: ours against PyTorch, after a check that both compute the same."""
    seed, smoke = config["seed"], config["smoke"]
    num_steps, batch_size, length = (2, 16, 1) if smoke else (10, 1024, 10)
    rates: dict[str, Any] = {"learning_rate": 0.01, "b1": 0.5, "b2": 0.999}
    options = {"num_steps": num_steps, "real_batch_size": batch_size, "outer_optimizer": outer_adam(**rates)}
    method, data = problem("lenet", seed, **options)
    once, ours = (outer_steps(method, data, seed, steps) for steps in (1, length))
    state, _, key = once.arguments
    after, metrics, _ = once.call(*once.arguments)
    # Adam's first moment after one step is (1 - b1) times the hypergradient
    moment = optax.tree_utils.tree_get(after.opt_state, "mu")
    hypergradient = jax.tree.map(lambda m: m / (1 - rates["b1"]), moment)
    real = sample(data.real, stream(at_step(key, state.step), "real"), batch_size)
    with TorchReference(state, data.real, batch_size=batch_size, seed=seed, **rates) as reference:
        errors = reference.check(real, metrics["loss"][0], hypergradient)
        shown = ", ".join(f"{name} {error:.1e}" for name, error in errors.items())
        progress.say(f"torch: both compute the same; relative {shown}")
        sides = {"pytorch": partial(reference.seconds, length), "jaxdistill": ours.seconds}
        times = interleaved(sides, config["repeats"], patience=float("inf"))
    common = {"learner": "lenet", "K": 1, "T": num_steps, "real_batch_size": batch_size}
    yield row("torch", "pytorch", times["pytorch"], **common, ratio=1.0, torch=reference.version)
    errors["ratio"] = ratio_of_medians(times, "jaxdistill", "pytorch")
    yield row("torch", "jaxdistill", times["jaxdistill"], ours, **common, **errors)


def outer(config: Mapping[str, Any]) -> Iterator[Row]:
    """One outer step by number of learners, inner steps and strategy."""
    seed, smoke = config["seed"], config["smoke"]
    grid = itertools.product((2,) if smoke else (1, 4, 16), (2,) if smoke else (10, 30))
    sets = {"mlp": 5} if smoke else {"mlp": 10, "lenet": 2}
    for (name, length), (num_learners, num_steps) in itertools.product(sets.items(), list(grid)):
        settings = {"num_steps": num_steps, "num_learners": num_learners}
        problems = {s: problem(name, seed, strategy=s, **settings) for s in ("vmap", "map")}
        programs = {s: outer_steps(*parts, seed, length) for s, parts in problems.items()}
        times = timed(programs, config["repeats"])
        for strategy, program in programs.items():
            yield row("outer", strategy, times[strategy], program, learner=name, K=num_learners, T=num_steps)


def remat(config: Mapping[str, Any]) -> Iterator[Row]:
    """Memory and time of an outer step with each way of keeping the inner steps."""
    seed, smoke = config["seed"], config["smoke"]
    name, lengths = ("mlp", (6,)) if smoke else ("lenet", (10, 30, 100, 300))
    variants: dict[str, dict[str, Any]] = {mode: {"solve": partial(unrolled, remat=mode)} for mode in REMAT}
    variants["last 5"] = {"solve": partial(unrolled, backprop_last=5)}
    for num_steps in lengths:
        problems = {v: problem(name, seed, num_steps=num_steps, **options) for v, options in variants.items()}
        programs = {v: outer_steps(*parts, seed, 2) for v, parts in problems.items()}
        times = timed(programs, config["repeats"]) if num_steps <= 100 else {}
        for variant, program in programs.items():
            yield row("remat", variant, times.get(variant, ()), program, learner=name, K=1, T=num_steps)


def chunk(config: Mapping[str, Any]) -> Iterator[Row]:
    """Time per outer step of `experiments.distill`'s default run, by outer steps per compiled chunk."""
    seed, smoke = config["seed"], config["smoke"]
    choices = gradients.resolve(defaults(distill.GROUPS))
    data, key = build.splits(choices), jax.random.key(seed)
    method = build.method(choices, data, build.learner(choices, data.info), stream(key, "teacher start"))
    total, lengths = (2, (1, 2)) if smoke else (100, (1, 5, 20, 100))
    programs = {length: outer_steps(method, Data(data.train, None), seed, length) for length in lengths}

    def seconds(length: int) -> float:
        state, *rest = programs[length].arguments
        began = time.perf_counter()
        for _ in range(total // length):
            state, metrics, finite = programs[length].call(state, *rest)
            jax.device_get((metrics, finite))
        return (time.perf_counter() - began) / total

    sides = {str(length): partial(seconds, length) for length in lengths}
    times = interleaved(sides, config["repeats"])
    more = {"learner": "mlp", "K": choices["num_learners"], "T": build.num_inner_steps(choices)}
    for length, program in programs.items():
        yield row("chunk", f"{length} a chunk", times[str(length)], program, **more)


def conv(config: Mapping[str, Any]) -> Iterator[Row]:
    """Gradients of a convolution in a scan and outside, of one larger than its image; LeNet's two layouts."""
    smoke = config["smoke"]
    size = {"channels": 4, "side": 4} if smoke else {"channels": 128, "side": 16}
    batches = {1: 2, 2: 2} if smoke else {1: 32, 2: 8}  # a second-order `lax` of 32 takes minutes
    for order, batch in batches.items():
        size |= {"batch": batch, "seed": config["seed"]}
        for formulation in FORMULATIONS:
            programs, times = conv_times(formulation, order, config["repeats"], **size)
            for where, program in programs.items():
                more = {"batch": batch, "ratio": ratio_of_medians(times, where, "outside")}
                yield row("conv", f"{formulation}, order {order}, {where}", times[where], program, **more)
    small = {"channels": 4 if smoke else 512, "side": 2, "batch": 8, "seed": config["seed"]}
    for formulation in ("lax", "im2col"):
        programs, times = conv_times(formulation, 1, config["repeats"], **small)
        outside = times["outside"], programs["outside"]
        yield row("conv", f"{formulation}, 2x2 pixels", *outside, batch=small["batch"])
    parts = (1, 4) if smoke else (8, 64)
    programs = {layout: lenet_convolutions(layout, *parts, seed=config["seed"]) for layout in LAYOUTS}
    times = timed(programs, config["repeats"])
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


def generated(config: Mapping[str, Any]) -> Iterator[Row]:
    """Outer steps of GTN: images of all inner steps made at once, or of a few and again in reverse."""
    smoke, seed = config["smoke"], config["seed"]
    name, steps, batch, width = ("mlp", 2, 4, 4) if smoke else ("convnet", 10, 32, 16)
    shape, size = SHAPES[name], {"width": 4} if smoke else {"width": width}
    pixels = np.random.default_rng(seed).standard_normal((256, *shape), np.float32)
    data = Data(from_arrays(pixels, np.arange(256) % 10, 10), None)
    network = learner(name, image_shape=shape, num_classes=10, **size)
    options: dict[str, Any] = {
        "batch_size": batch,
        "distill_steps": steps,
        "generator_width": width,
        "generator_hidden": 256,
    }
    programs = {}
    for at_once in (None, steps // 2, 1):
        teacher = generator(image_shape=shape, num_classes=10, **options, steps_at_once=at_once)
        method = gtn(network, teacher)
        programs[at_once] = outer_steps(method, data, seed, 1 if smoke else 5)
    sides = {str(at_once): program.seconds for at_once, program in programs.items()}
    times = interleaved(sides, config["repeats"])
    for at_once, program in programs.items():
        variant = "all at once" if at_once is None else f"{at_once} steps at a time"
        more = {"learner": name, "K": 1, "T": steps, "batch": batch}
        yield row("generator", variant, times[str(at_once)], program, **more)


PARTS = {
    "torch": torch,
    "outer": outer,
    "remat": remat,
    "chunk": chunk,
    "conv": conv,
    "generator": generated,
    "matching": matching,
    "microbatch": microbatches,
    "pool": pool,
}


def run(**chosen: Any) -> list[Row]:
    """Measures the chosen parts (options of `GROUPS`), prints a table of each, appends to rows.json.

    Returns: the new rows.

    Raises:
      UserError: bad input, before anything is measured; PyTorch asked for and missing, or not agreeing.
    """
    config = complete(GROUPS, chosen)
    for name in config["what"]:
        one_of("benchmark what", name, PARTS)
    at_least("benchmark", "repeats", config["repeats"], 1)
    if "torch" in config["what"] and not available():
        raise fail("benchmark torch", "PyTorch", "none", REMEDY)
    if config["smoke"]:
        config["repeats"] = min(config["repeats"], 2)
    file, load = Path(config["run_dir"]) / "rows.json", round(os.getloadavg()[0], 2)
    saved = append_rows(file, [])
    about = profile.environment()
    told = {name: about[name] for name in ("jaxdistill", "jax", "python", "commit")}
    told |= {"device": profile.device_description(), "cores": os.cpu_count(), "load": load}
    told |= {name: config[name] for name in ("seed", "smoke")}
    if load > 0.25 * (os.cpu_count() or 1):
        progress.say(f"note: the machine is busy (load {load:g}): these times mean little")
    rows = []
    for name in config["what"] or PARTS:
        if name == "torch" and not available():
            progress.say(f"torch: left out, PyTorch is not installed. {REMEDY}")
            continue
        progress.say(f"{name}: measuring ...")
        with contextlib.nullcontext() if config["smoke"] else no_compile_cache():
            for found in PARTS[name](config):
                rows.append(found | told)
                saved = append_rows(file, rows[-1:])
        show(name, [r for r in rows if r["what"] == name])
    progress.say(f"{len(rows)} rows measured; {file} has {len(saved)}")
    return rows


def show(name: str, rows: Sequence[Row]) -> None:
    """Prints the rows of a part; columns that say nothing are left out."""
    scales = {"seconds_median": 1e3, "seconds_min": 1e3, "temp_bytes": 2.0**-20}
    titles = {"variant": "variant", "learner": "learner", "K": "K", "T": "T", "seconds_median": "median ms"}
    titles |= {"seconds_min": "min ms", "compile_seconds": "compile s", "temp_bytes": "MiB", "ratio": "ratio"}
    titles |= {"gflops": "GFLOP/s"}
    columns = [c for c in titles if any(r.get(c) is not None for r in rows)]

    scaled = [r | {c: r[c] * scales[c] for c in scales if r[c] is not None} for r in rows]
    cells = [[r.get(c) for c in columns] for r in scaled]
    progress.table(f"\n{name}: {(PARTS[name].__doc__ or '').strip()}", [titles[c] for c in columns], cells)


if __name__ == "__main__":
    cli.main(run, GROUPS, __doc__)
