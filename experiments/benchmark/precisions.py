"""Hypergradients with the products of an accelerator, emulated: a part of `experiments.benchmark`."""

import contextlib
import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import primitives

import jaxdistill as jd
from experiments.benchmark.options import Options
from experiments.measure import Row, row
from jaxdistill.config import build
from jaxdistill.config.gradients import NAMED
from jaxdistill.config.resolve import resolve
from jaxdistill.config.table import Config
from jaxdistill.core.checks import Caution
from jaxdistill.core.linalg import add_scaled, cosine, norm
from jaxdistill.core.types import Data, Meta
from jaxdistill.methods import METHODS
from jaxdistill.methods.recipe import Facts, recipe_of

MANTISSA = {"tensorfloat32": 10, "bfloat16": 7}
"""Bits of the mantissa that an accelerator keeps of the factors of a product; it sums in float32."""
GRADIENTS = ("unrolled", "implicit_cg", "implicit_neumann")
SMALL = {"learner": "convnet", "width": 16, "depth": 2, "num_learners": 2}


def precisions(options: Options) -> Iterator[Row]:
    """Cosine and relative error of a hypergradient on digits, against the same one in float32."""
    small = {"width": 4, "depth": 1, "real_batch_size": 16} if options.smoke else {}
    for name, chosen in cases(options).items():
        exact = hypergradient(options.seed, {**SMALL, **small, **chosen}, None)
        for precision, bits in MANTISSA.items():
            found = hypergradient(options.seed, {**SMALL, **small, **chosen}, bits)
            error = norm(add_scaled(found, -1.0, exact)) / norm(exact)
            told = {"cosine": float(cosine(found, exact)), "error": float(error)}
            yield {**row("precision", f"{name}, {precision}"), **told}


def cases(options: Options) -> dict[str, dict[str, Any]]:
    """Every method; of those that train inner steps, with each of `GRADIENTS`."""
    if options.smoke:
        return {"dm": {"method": "dm"}}
    found: dict[str, dict[str, Any]] = {}
    for method in sorted(METHODS):
        if not recipe_of(METHODS[method]).trains:
            found[method] = {"method": method}
            continue
        found |= {f"{method} {name}": {"method": method, **NAMED[name]} for name in GRADIENTS}
    return found


def hypergradient(seed: int, chosen: dict[str, Any], bits: int | None) -> Meta:
    """The hypergradient at the start of a run, the factors of all products rounded to so many bits."""
    data, key = jd.load("digits"), jax.random.key(seed)
    config = resolve(Config(**chosen), Facts.of(data.info))
    network = build.learner(config, data.info)
    with jd.platform("gpu"), rounded(bits), warnings.catch_warnings():
        warnings.simplefilter("ignore", Caution)
        method = build.method(config, data, network, key)
        experts = None
        if build.source(config).bank == "trajectories":  # random ones: products of the same sizes
            experts = jax.vmap(jax.vmap(network.init))(jax.random.split(key, (2, 30)))
        state = method.init(key)
        gradient, _ = jax.jit(lambda *arguments: method.gradient(*arguments))(
            state, Data(data.train, experts), key
        )
    return gradient


@contextlib.contextmanager
def rounded(bits: int | None) -> Iterator[None]:
    """Inside, traced products round both factors to a mantissa of so many bits; None for no rounding.

    Derivatives are products of their own, and round theirs.
    """
    if bits is None:
        yield
        return
    products = (primitives.dot_general_p, primitives.conv_general_dilated_p)
    round_off = partial(lax.reduce_precision, exponent_bits=8, mantissa_bits=bits)

    def bind(before: Any, a: Any, b: Any, **parameters: Any) -> Any:
        a, b = (round_off(x) if jnp.issubdtype(x.dtype, jnp.floating) else x for x in (a, b))
        return before(a, b, **parameters)

    originals = [(product, product.bind) for product in products]
    for product, original in originals:
        product.bind = partial(bind, original)
    try:
        yield
    finally:
        for product, _ in originals:
            del product.bind
