"""A network as one text: `convnet`, `convnet:width=32:norm=none` or `convnet:widths=128-256-512`."""

import inspect
import types
import typing
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxdistill.core.checks import IN_WORDS, fail
from jaxdistill.core.registry import find, unknown
from jaxdistill.core.types import Learner
from jaxdistill.learners import LEARNERS, learner, options_of

HOW_TO_MAKE = "jd.from_flax(module, image_shape) makes one of a Flax module."
"""The remedy for something else in the place of a `Learner`."""
TRUTH = {"true": True, "false": False}
READERS: dict[type, Callable[[str], Any]] = {
    bool: lambda text: TRUTH[text.lower()],
    int: int,
    float: float,
    str: str,
    tuple: lambda text: tuple(int(part) for part in text.split("-")),
}
"""By type of an option: how its text is read."""
WORDS: dict[type, str] = {**IN_WORDS, tuple: "whole numbers with hyphens, as in 128-256-512"}
"""By type of an option: what the user calls such a text."""


def parse_learner(text: str, info: Any) -> Learner:
    """The network that a text names, for the images of a data set.

    Args:
      text: a key of `LEARNERS`, and options after colons.
      info: a `DatasetInfo`; of it `image_shape` and `num_classes` are used.

    Returns:
      The learner.

    Raises:
      UserError: an unknown network or option (lists the near ones), a value of another type or out of range.

    Example:
      >>> info = jd.load("digits").info
      >>> net = parse_learner("mlp:width=4:depth=1", info)
      >>> net.apply(net.init(jax.random.key(0)), jnp.zeros((5, 8, 8, 1))).shape
      (5, 10)
    """
    name, options = name_and_options(text)
    return learner(name, image_shape=info.image_shape, num_classes=info.num_classes, **options)


def name_and_options(text: str) -> tuple[str, dict[str, Any]]:
    """The name in a text and its options, each in the type of the option's default.

    Raises:
      UserError: as `parse_learner`.

    Example:
      >>> name_and_options("convnet:width=32:norm=none")
      ('convnet', {'width': 32, 'norm': 'none'})
    """
    name, *parts = text.split(":")
    factory, options = find(LEARNERS, name), {}
    kinds = {option: _kind(factory, option, default) for option, default in options_of(name).items()}
    known = {option: kind for option, kind in kinds.items() if kind in READERS}
    for part in parts:
        option, equals, value = part.partition("=")
        if not equals:
            raise fail(f"learner {name}", "OPTION=VALUE after each colon", repr(part))
        if option not in known:
            raise unknown(f"learner {name}", "an option", option, known)
        try:
            options[option] = READERS[known[option]](value)
        except (ValueError, KeyError):
            raise fail(f"learner {name}", f"{option} as {WORDS[known[option]]}", repr(value)) from None
    return name, options


def check_fits(net: Learner, info: Any, where: str = "learner") -> None:
    """Raises unless a network of the user's own reads the images and tells the classes apart.

    Args:
      net: the network.
      info: a `DatasetInfo`; of it `image_shape` and `num_classes` are used.
      where: which network it is, for the error.
    """
    shape, classes = info.image_shape, info.num_classes
    expected = f"a network for images of {'x'.join(map(str, shape))} and {classes} classes"
    images = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    try:
        logits = jax.eval_shape(lambda key, x: net.apply(net.init(key), x), jax.random.key(0), images)
    except Exception as error:  # of the user's own code: anything
        reason = " ".join(str(error).split())
        raise fail(where, expected, f"one that does not read them ({reason})") from error
    if logits.shape != (2, classes):
        raise fail(where, expected, f"one whose logits of 2 images are {logits.shape}")


def _kind(factory: Callable[..., Any], option: str, default: Any) -> type:
    """The type of an option's default; where that is None, the type that its annotation names first.

    A tuple is one of whole numbers.
    """
    if default is not None:
        return type(default)
    hint = typing.get_type_hints(inspect.unwrap(factory)).get(option, str)
    named = (kind for kind in (typing.get_args(hint) or (hint,)) if kind is not types.NoneType)
    return next(named)
