"""What synthetic data take: arrays as they are stored, scalars and bits, and how many images fit a budget."""

import bisect
import functools
import math
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdistill.core.checks import fail, one_of
from jaxdistill.core.registry import make
from jaxdistill.core.types import Array, Params, Stored, Teacher
from jaxdistill.teachers.decoders import DECODERS, Decoder

STORED_AS = ("float32", "float16", "uint8")
BITS = {"float64": 32, "float32": 32, "float16": 16, "uint8": 8}
"""By the type of an array: bits of an entry. A float64, of a run with 64 bits, is stored as float32."""
UNITS = ("ipc", "scalars", "bits")
LEVELS = 255
LARGEST = 1e12
"""Scalars, or bits, of a budget."""


def as_stored(arrays: Mapping[str, Array], stored_as: str) -> dict[str, Array]:
    """Arrays as they are stored; integers stay as they are.

    Args:
      arrays: floats, and integers.
      stored_as: `float32`; `float16`; `uint8`: 256 levels from the smallest to the largest entry of an array,
        which is stored with two more float32, NAME/low and NAME/step.

    Raises:
      UserError: an unknown `stored_as`.

    Example:
      >>> sorted(as_stored({"x": jnp.asarray([0.0, 2.0])}, "uint8"))
      ['x', 'x/low', 'x/step']
    """
    one_of("stored_as", stored_as, STORED_AS)
    found = {}
    for name, array in arrays.items():
        if not jnp.issubdtype(array.dtype, jnp.floating) or stored_as == "float32":
            found[name] = array
        elif stored_as == "float16":
            found[name] = array.astype(jnp.float16)
        else:
            low = jnp.min(array)
            step = (jnp.max(array) - low) * (1 / LEVELS)  # a division is compiled to this product, or is not
            level = jnp.round((array - low) / jnp.where(step > 0, step, 1))
            found |= {name: level.astype(jnp.uint8), f"{name}/low": low, f"{name}/step": step}
    return found


def restored(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Arrays as they are read from what `as_stored` gives."""
    found = {}
    for name, array in arrays.items():
        if name.endswith(("/low", "/step")):
            continue
        if f"{name}/step" in arrays:
            step, low = arrays[f"{name}/step"], arrays[f"{name}/low"]
            found[name] = array.astype(step.dtype) * step + low
        else:
            found[name] = array.astype(jnp.float32) if array.dtype == jnp.float16 else array
    return found


def counted(arrays: Mapping[str, Array], bits: Mapping[str, int]) -> Stored:
    """Arrays with the number of their scalars and bits.

    Args:
      arrays: as they are stored; of each, shape and type count.
      bits: of an entry of an array, by name; by its type if it is not there.
    """
    every = {name: bits.get(name, BITS.get(str(a.dtype), 8 * a.dtype.itemsize)) for name, a in arrays.items()}
    scalars = sum(math.prod(array.shape) for array in arrays.values())
    return Stored(dict(arrays), scalars, sum(n * math.prod(arrays[name].shape) for name, n in every.items()))


def stored_images(decoder: Decoder, latents: Mapping[str, Array], stored_as: str) -> dict[str, Array]:
    """The arrays to store: the latents that the decoder reads, and its constants."""
    constants = {name: jnp.asarray(value) for name, value in decoder.constants.items()}
    return as_stored(decoder.store(dict(latents)), stored_as) | constants


def stored_of(teacher: Teacher | None, phi: Params) -> Stored:
    """What a teacher stores; all arrays of phi in float32 if it does not say, or if there is none."""
    if teacher is not None and teacher.stored is not None:
        return teacher.stored(phi)
    paths = jax.tree.leaves_with_path(phi)
    return counted({"/".join(str(key.key) for key in path): leaf for path, leaf in paths}, {})


def as_read(teacher: Teacher, phi: Params) -> Params:
    """What a teacher's batches are made of once phi was stored: `Made`, or phi if storing changes nothing."""
    return phi if teacher.read is None else teacher.read(stored_of(teacher, phi))


class Budget(NamedTuple):
    """What may be stored in all; one of the two is infinite."""

    scalars: float
    bits: float
    text: str
    """As it was written."""


def parse_budget(text: str, image_shape: tuple[int, int, int], num_classes: int, *, labels: bool) -> Budget:
    """A budget from its text.

    Args:
      text: `ipc:N`, the bits of N images of a class as float32, with their labels if they are learned;
        `scalars:N`, numbers in all; `bits:N`, for each class.
      image_shape: (H, W, C).
      num_classes: number of classes.
      labels: whether labels are learned.

    Raises:
      UserError: an unknown unit, or a number that is not above 0.

    Example:
      >>> parse_budget("ipc:1", (28, 28, 1), 10, labels=False).bits
      250880.0
    """
    unit, _, number = text.partition(":")
    known = "ipc:N, scalars:N or bits:N"
    if unit not in UNITS:
        raise fail("budget", known, repr(text), "N is a number, as in ipc:1.")
    try:
        size = float(number)
    except ValueError:
        size = math.nan
    of_one = math.prod(image_shape) + (num_classes if labels else 0)
    in_all = {"scalars": 1, "bits": num_classes, "ipc": of_one * num_classes * BITS["float32"]}[unit] * size
    if not 0 < in_all <= LARGEST:
        raise fail("budget", f"{known}, N above 0, at most {LARGEST:.0e} in all", repr(text))
    return Budget(in_all, math.inf, text) if unit == "scalars" else Budget(math.inf, in_all, text)


def images_within(
    budget: str,
    decoder: str,
    image_shape: tuple[int, int, int],
    num_classes: int,
    *,
    stored_as: str = "float32",
    learned_labels: bool = False,
    **options: int | float | str | bool | None,
) -> int:
    """Images of a class that fit a budget.

    Args:
      budget: as for `parse_budget`; learned labels count, learned step sizes do not.
      decoder: a key of `DECODERS`.
      image_shape: (H, W, C).
      num_classes: number of classes.
      stored_as: as for `as_stored`.
      learned_labels: whether labels are learned.
      **options: of the decoder.

    Returns:
      r >= 1, the most images of a class.

    Raises:
      UserError: a budget below one image of a class; says what would fit.

    Example:
      >>> images_within("ipc:1", "bases", (28, 28, 1), 10, num_bases=16)
      29
    """
    return _images_within(
        budget, decoder, image_shape, num_classes, stored_as, learned_labels, tuple(options.items())
    )


@functools.lru_cache(maxsize=64)
def _images_within(
    text: str,
    name: str,
    image_shape: tuple[int, int, int],
    num_classes: int,
    stored_as: str,
    learned_labels: bool,
    options: tuple[tuple[str, int | float | str | bool | None], ...],
) -> int:
    budget = parse_budget(text, image_shape, num_classes, labels=learned_labels)

    def made(**more: int) -> Decoder:
        return make(DECODERS, name, image_shape=image_shape, **{**dict(options), **more})

    decoder = made()

    def cost(decoder: Decoder, per_class: int) -> Stored:
        count = per_class * num_classes

        def arrays() -> dict[str, Array]:
            found = stored_images(decoder, decoder.init(jax.random.key(0), count, None), stored_as)
            labels = {"labels": jnp.zeros((count, num_classes))} if learned_labels else {}
            return found | as_stored(labels, stored_as)

        return counted(jax.eval_shape(arrays), decoder.bits)

    def remedy() -> str:
        """The largest value of the decoder's option with which an image of each class fits."""
        if decoder.sized is None:
            return ""
        option, value = decoder.sized

        def too_large(smaller: int) -> bool:
            needed = cost(made(**{option: smaller}), 1)
            return needed.scalars > budget.scalars or needed.bits > budget.bits

        most = bisect.bisect_left(range(1, value), True, key=too_large)
        return f"{option} <= {most} fits." if most else f"Not even {option}=1 fits."

    one, two = cost(decoder, 1), cost(decoder, 2)  # every image takes the same, beside what all share
    pairs = ((budget.scalars, one.scalars, two.scalars), (budget.bits, one.bits, two.bits))
    fits = min(1 + (limit - first) / (second - first) for limit, first, second in pairs)
    if fits < 1:
        bits = f"bits:{math.ceil(one.bits / num_classes)}"
        expected = f"at least scalars:{one.scalars} or {bits} for an image of each class with decoder={name}"
        raise fail("budget", expected, text, remedy())
    return int(fits + 1e-9)
