"""The platform that programs are traced for: the only module that asks JAX for it.

A CPU and an accelerator want other formulations of the same maths. What differs stands in one table; a
program is traced for JAX's own platform, or for another one when told:

    with jd.platform("tpu"):
        jax.jit(method.update).lower(...)       # the program of a TPU, traced on any machine
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib.metadata import version
from typing import Any, Literal, NamedTuple

import jax
from jax.core import Tracer

from jaxdistill.core.checks import one_of

Layout = Literal["NHWC", "CHWB"]


class Choices(NamedTuple):
    """What a platform computes differently; the numbers are the same to rounding."""

    convolution_by_size: bool
    """Whether a convolution's sizes decide how it is computed (`jaxdistill.layers.conv`); `lax` otherwise."""
    few_channel_layout: Layout
    """Layout of networks of few channels: `CHWB`, batch minor, or `NHWC`."""
    strategy: str
    """How an axis of networks, or of classes, is computed: `map`, one by one, or `vmap`, all at once."""
    batches_in_parts: bool
    """Whether real batches are computed a few images at a time."""
    chunk_length: int
    """Outer steps of one compiled program (`experiments.benchmark` has the measurement)."""
    networks_at_once: int
    """Networks that are pre-trained in one program."""


_CPU = Choices(
    convolution_by_size=True,
    few_channel_layout="CHWB",
    strategy="map",
    batches_in_parts=True,
    chunk_length=20,
    networks_at_once=1,
)
_ACCELERATOR = Choices(
    convolution_by_size=False,
    few_channel_layout="NHWC",
    strategy="vmap",
    batches_in_parts=False,
    chunk_length=100,
    networks_at_once=10,
)
PLATFORMS = {"cpu": _CPU, "gpu": _ACCELERATOR, "tpu": _ACCELERATOR}
PRECISIONS = ("float32", "tensorfloat32", "bfloat16")
"""What an accelerator makes of a product of float32 numbers. JAX's own default is `tensorfloat32` on GPUs and
`bfloat16` on TPUs."""
QUICK: dict[str, Any] = {"xla_backend_optimization_level": 0, "xla_cpu_parallel_codegen_split_count": 1}
"""Options of a short compilation. XLA's fusion emitters, in versions that can do without, take most of it."""
if version("jaxlib").startswith("0.10."):
    QUICK["xla_cpu_use_fusion_emitters"] = False
_told = jax.make_user_context(None)  # a part of the key of `jax.jit`'s caches, and of this thread alone


@contextmanager
def platform(name: str) -> Iterator[None]:
    """Inside, programs are traced for the named platform instead of this machine's.

    What was compiled for another platform is traced anew, not taken from a cache of `jax.jit`.

    Args:
      name: `cpu`, `gpu` or `tpu`.

    Raises:
      UserError: an unknown platform.

    Example:
      >>> with jd.platform("tpu"):
      ...     choices().strategy
      'vmap'
    """
    one_of("platform", name, tuple(PLATFORMS))
    with _told(name):
        yield


def target() -> str:
    """The platform that programs are traced for: as told, or JAX's own; a key of `PLATFORMS`."""
    return _told.value or present()


def present() -> str:
    """The platform of this machine's devices, even inside `platform`; a key of `PLATFORMS`."""
    name = jax.default_backend()
    return name if name in PLATFORMS else "gpu"


def precision(name: str) -> AbstractContextManager:
    """Inside, matrix products and convolutions of float32 are traced to be that exact.

    Args:
      name: one of `PRECISIONS`.
    """
    return jax.default_matmul_precision(one_of("precision", name, PRECISIONS))


def compiled_quickly(function: Callable[..., Any]) -> Callable[..., Any]:
    """`jax.jit` of a function of integers that runs for milliseconds: a CPU compiles it six times as fast.

    It is hardly optimised there. Integers, and random bits, are the same; sums of floats might be rounded
    otherwise, so they are no case for it.

    Args:
      function: pure, of arrays.
    """
    usual = jax.jit(function)
    quick = jax.jit(function, compiler_options=QUICK)

    def call(*arguments: Any) -> Any:
        traced = any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(arguments))
        return (quick if present() == "cpu" and not traced else usual)(*arguments)

    return call


def choices() -> Choices:
    """How programs are computed on the platform that they are traced for."""
    return PLATFORMS[target()]
