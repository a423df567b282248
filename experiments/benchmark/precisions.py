"""Hypergradients with the products of an accelerator, emulated: a part of `experiments.benchmark`."""

import contextlib
import importlib
import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive, primitives
from jax.interpreters import ad, batching, mlir

import jaxdistill as jd
from experiments.benchmark.options import Options
from experiments.measure import Row, row
from jaxdistill.config import build
from jaxdistill.config.gradients import NAMED
from jaxdistill.config.resolve import resolve
from jaxdistill.config.table import Config
from jaxdistill.core.checks import Caution
from jaxdistill.core.linalg import add_scaled, cosine, norm
from jaxdistill.core.types import Array, Data, DistillState, Meta, Method, Metrics
from jaxdistill.methods import METHODS
from jaxdistill.methods.recipe import Facts, recipe_of

MANTISSA = {"bfloat16_3x": 16, "tensorfloat32": 10, "bfloat16": 7}
"""Bits of the mantissa that an accelerator keeps of the factors of a product; it sums in float32. A TPU makes
three products of bfloat16 of `--precision=tensorfloat32`."""
IMPLICIT = ("implicit_cg", "implicit_neumann")
PARTS = {"inner training": (True, False), "linear solve": (False, True)}
"""What is rounded of an implicit gradient: (inner training, all that follows)."""
SMALL = {"learner": "convnet", "width": 16, "depth": 2, "num_learners": 2}
OF_GENERATORS = {"distill_steps": 1, "inner_learning_rate": 0.03}
"""One batch and smaller steps: with the settings of images the inner training of a generator diverges."""
LATER = 50
"""Outer steps, in float32, after which hypergradients are compared once more."""
_round_off = Primitive("round_off")
"""A factor as an accelerator reads it. Its transpose is the identity: results of products are not rounded."""
_round_off.def_abstract_eval(lambda x, *, bits: x)
mlir.register_lowering(
    _round_off,
    mlir.lower_fun(lambda x, *, bits: lax.reduce_precision(x, 8, bits), multiple_results=False),
)
ad.deflinear2(_round_off, lambda cotangent, x, *, bits: (cotangent,))
batching.defvectorized(_round_off)
_mantissa = jax.make_user_context(None)  # a part of the key of `jax.jit`'s caches


class Problem(NamedTuple):
    """A method, and what its hypergradient is a function of."""

    method: Method
    state: DistillState
    data: Data
    key: Array


def precisions(options: Options) -> Iterator[Row]:
    """Cosine and relative error of a hypergradient of images or a generator, against the one in float32."""
    small = {"width": 4, "depth": 1, "real_batch_size": 16} if options.smoke else {}
    for name, chosen in cases(options).items():
        given = problem(options.seed, {**SMALL, **small, **chosen})
        implicit = chosen.get("gradient") == "implicit"
        programs = {"float32": program(given)}
        programs |= {p: program(given, bits, bits) for p, bits in MANTISSA.items()}
        if chosen.get("linear_solver") == "cg":
            bits = MANTISSA["bfloat16"]
            programs |= {
                f"bfloat16 in the {part}": program(given, bits * training, bits * after)
                for part, (training, after) in PARTS.items()
            }
        states = {0: given.state}
        if not implicit and not options.smoke:
            states[LATER] = stepped(given, LATER)
        for done, state in states.items():
            found = {of: call(state, given.data, given.key) for of, call in programs.items()}
            (exact, _), metrics = found.pop("float32")  # without learned step sizes, which outweigh images
            told = {n: float(metrics[n]) for n in ("inner_gradient", "residual") if n in metrics}
            for of, ((gradient, _), _) in found.items():
                error = float(norm(add_scaled(gradient, -1.0, exact)) / norm(exact))
                compared = {"cosine": float(cosine(gradient, exact)), "error": error}
                yield {**row("precision", f"{name}, {of}", outer_steps=done), **compared, **told}


def cases(options: Options) -> dict[str, dict[str, Any]]:
    """Every method with its own gradient, and those that train inner steps with implicit ones."""
    if options.smoke:
        return {"dm": {"method": "dm"}}
    found: dict[str, dict[str, Any]] = {name: {"method": name} for name in sorted(METHODS)}
    for name in [name for name in found if not recipe_of(METHODS[name]).networks]:
        found[name] |= {"num_learners": 1}
    for name in [name for name in found if recipe_of(METHODS[name]).trains]:
        settings = OF_GENERATORS if recipe_of(METHODS[name]).defaults.get("teacher") == "generator" else {}
        found |= {f"{name} {each}": {"method": name, **NAMED[each], **settings} for each in IMPLICIT}
    return found


def problem(seed: int, chosen: dict[str, Any]) -> Problem:
    """A method of digits at the start of a run."""
    data, key = jd.load("digits"), jax.random.key(seed)
    config = resolve(Config(**chosen), Facts.of(data.info))
    network = build.learner(config, data.info)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Caution)
        method = build.method(config, data, network, key)
    experts = None
    if build.source(config).bank == "trajectories":  # random ones: products of the same sizes
        experts = jax.vmap(jax.vmap(network.init))(jax.random.split(key, (2, 30)))
    return Problem(method, method.init(key), Data(data.train, experts), key)


def program(given: Problem, training: int | None = None, after: int | None = None) -> Any:
    """The compiled hypergradient of a problem, factors of products rounded to so many bits; 0 or None: not.

    Args:
      given: the problem.
      training: bits in the inner training of implicit gradients.
      after: bits in all else: the linear solve, the loss on real data; all of another gradient.

    Returns:
      (state, data, key) -> (hypergradient, metrics).
    """

    def gradient(*arguments: Any) -> tuple[Meta, Metrics]:
        return given.method.gradient(*arguments)

    with rounded(after), _training_rounded(training):
        return _compiled(gradient, given)


def stepped(given: Problem, steps: int) -> DistillState:
    """The state of a problem after so many outer steps."""
    state, call = given.state, _compiled(given.method.update, given)
    for _ in range(steps):
        state, _ = call(state, given.data, given.key)
    return state


def _compiled(function: Any, given: Problem) -> Any:
    lowered = jax.jit(function).lower(given.state, given.data, given.key)
    # compiling takes longer than running
    return lowered.compile({"xla_backend_optimization_level": "0"})


@contextlib.contextmanager
def rounded(bits: int | None) -> Iterator[None]:
    """Inside, traced products round both factors to a mantissa of so many bits; 0 or None for no rounding.

    Derivatives are products of their own, and round theirs.
    """
    products = (primitives.dot_general_p, primitives.conv_general_dilated_p)

    def bind(before: Any, a: Any, b: Any, **parameters: Any) -> Any:
        if bits := _mantissa.value:
            a, b = (
                _round_off.bind(x, bits=bits) if jnp.issubdtype(x.dtype, jnp.floating) else x for x in (a, b)
            )
        return before(a, b, **parameters)

    with contextlib.ExitStack() as stack:
        for product in products:
            stack.enter_context(mock.patch.object(product, "bind", partial(bind, product.bind)))
        stack.enter_context(_mantissa(bits or None))
        yield


def _training_rounded(bits: int | None) -> contextlib.AbstractContextManager:
    """Inside, the inner training of implicit gradients rounds to so many bits, whatever the rest does."""
    module = importlib.import_module("jaxdistill.inner.implicit")
    train = module.minimize

    def minimize(*arguments: Any, **options: Any) -> Any:
        with _mantissa(bits or None):
            return train(*arguments, **options)

    return mock.patch.object(module, "minimize", minimize)
