"""Floating-point operations of a traced program, its loops counted."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
from jax.extend import core


class Work(NamedTuple):
    """What a program computes."""

    flops: float
    """Of matrix products and convolutions; a product and a sum are two."""
    open_loops: int
    """Loops whose number of turns depends on the numbers: their bodies count once."""


def work_of(function: Any, *arguments: Any) -> Work:
    """The work of one call; all else than matrix products and convolutions is left out.

    Example:
      >>> work_of(lambda a: jax.lax.scan(lambda c, _: (c @ a, None), a, None, length=3)[0], np.ones((2, 2)))
      Work(flops=48.0, open_loops=0)
    """
    return _work(jax.make_jaxpr(function)(*arguments).jaxpr)


def _work(jaxpr: Any) -> Work:
    flops, loops = 0.0, 0
    for equation in jaxpr.eqns:
        name, parameters = equation.primitive.name, equation.params
        inner = [_work(each) for each in _jaxprs(parameters)]
        if name == "dot_general":
            flops += _dot(equation)
        elif name == "conv_general_dilated":
            flops += _convolution(equation)
        elif name == "cond" and inner:
            most = max(inner)
            flops, loops = flops + most.flops, loops + most.open_loops
        else:
            turns = parameters["length"] if name == "scan" else 1
            flops += turns * sum(each.flops for each in inner)
            loops += sum(each.open_loops for each in inner) + (name == "while")
    return Work(flops, loops)


def _jaxprs(parameters: Any) -> Iterator[Any]:
    """The programs inside an operation; of one with its derivative rules, itself alone."""
    for value in parameters.values():
        for each in value if isinstance(value, tuple | list) else (value,):
            if isinstance(each, core.ClosedJaxpr):
                yield each.jaxpr
            elif isinstance(each, core.Jaxpr):
                yield each


def _dot(equation: Any) -> float:
    (contracted, _), _ = equation.params["dimension_numbers"]
    shape = equation.invars[0].aval.shape
    return 2.0 * equation.outvars[0].aval.size * math.prod(shape[axis] for axis in contracted)


def _convolution(equation: Any) -> float:
    kernel, numbers = equation.invars[1].aval.shape, equation.params["dimension_numbers"]
    inputs = math.prod(size for axis, size in enumerate(kernel) if axis != numbers.rhs_spec[0])
    return 2.0 * equation.outvars[0].aval.size * inputs
