"""Outer steps by K and T, by `remat`, by the length of a chunk, of a generator."""

import itertools
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax

from experiments.benchmark.options import Options
from experiments.benchmark.problems import PLAIN, SHAPES, distillation, problem, program_of
from experiments.measure import Row, interleaved, row, timed
from jaxdistill.config import build
from jaxdistill.config.table import Config
from jaxdistill.inner.train import REMAT
from jaxdistill.runs.plan import planned


def outer(options: Options) -> Iterator[Row]:
    """One outer step by number of learners, inner steps and strategy."""
    seed, smoke = options.seed, options.smoke
    grid = itertools.product((2,) if smoke else (1, 4, 16), (2,) if smoke else (10, 30))
    sets = {"mlp": 5} if smoke else {"mlp": 10, "lenet": 2}
    for (name, length), (num_learners, num_steps) in itertools.product(sets.items(), list(grid)):
        settings = {"num_steps": num_steps, "num_learners": num_learners}
        problems = {s: problem(name, seed, strategy=s, **settings) for s in ("vmap", "map")}
        programs = {s: program_of(plan, length) for s, plan in problems.items()}
        times = timed(programs, options.repeats)
        for strategy, program in programs.items():
            yield row("outer", strategy, times[strategy], program, learner=name, K=num_learners, T=num_steps)


def remat(options: Options) -> Iterator[Row]:
    """Memory and time of an outer step with each way of keeping the inner steps."""
    seed, smoke = options.seed, options.smoke
    name, lengths = ("mlp", (6,)) if smoke else ("lenet", (10, 30, 100, 300))
    variants: dict[str, dict[str, Any]] = {mode: {"remat": mode} for mode in REMAT}
    variants["last 5"] = {"gradient": "truncated", "backprop_last": 5}
    for num_steps in lengths:
        problems = {v: problem(name, seed, num_steps=num_steps, **each) for v, each in variants.items()}
        programs = {v: program_of(plan, 2) for v, plan in problems.items()}
        times = timed(programs, options.repeats) if num_steps <= 100 else {}
        for variant, program in programs.items():
            yield row("remat", variant, times.get(variant, ()), program, learner=name, K=1, T=num_steps)


def chunk(options: Options) -> Iterator[Row]:
    """Time per outer step of `experiments.distill`'s default run, by outer steps per compiled chunk."""
    plan = planned(Config(seed=options.seed))
    total, lengths = (2, (1, 2)) if options.smoke else (100, (1, 5, 20, 100))
    programs = {length: program_of(plan, length) for length in lengths}

    def seconds(length: int) -> float:
        state, *rest = programs[length].arguments
        began = time.perf_counter()
        for _ in range(total // length):
            state, metrics, finite = programs[length].call(state, *rest)
            jax.device_get((metrics, finite))
        return (time.perf_counter() - began) / total

    sides = {str(length): partial(seconds, length) for length in lengths}
    times = interleaved(sides, options.repeats)
    more = {"learner": "mlp", "K": plan.config.num_learners, "T": build.num_inner_steps(plan.config)}
    for length, program in programs.items():
        yield row("chunk", f"{length} a chunk", times[str(length)], program, **more)


def generated(options: Options) -> Iterator[Row]:
    """Outer steps of GTN: images of all inner steps made at once, or of a few and again in reverse."""
    smoke, seed = options.smoke, options.seed
    name, steps, batch, width = ("mlp", 2, 4, 4) if smoke else ("convnet", 10, 32, 16)
    chosen = Config(
        method="gtn",
        learner=name,
        width=4 if smoke else width,
        batch_size=batch,
        distill_steps=steps,
        generator_width=width,
        generator_hidden=256,
        outer_learning_rate=0.02,
        real_batch_size=128,
        seed=seed,
    ).replace(**PLAIN)
    programs = {}
    for at_once in (None, steps // 2, 1):
        plan = distillation(chosen.replace(steps_at_once=at_once), SHAPES[name], size=256)
        programs[at_once] = program_of(plan, 1 if smoke else 5)
    sides = {str(at_once): program.seconds for at_once, program in programs.items()}
    times = interleaved(sides, options.repeats)
    for at_once, program in programs.items():
        variant = "all at once" if at_once is None else f"{at_once} steps at a time"
        more = {"learner": name, "K": 1, "T": steps, "batch": batch}
        yield row("generator", variant, times[str(at_once)], program, **more)
