"""What a run has to know of a population: what it draws from, and which networks test the images."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxdistill.core.types import Population


class Source(NamedTuple):
    """A member of `POPULATIONS`."""

    make: Callable[..., Population]
    """Its keyword-only arguments are the options that it takes; `learner` and `teacher` are given by name."""
    bank: str | None = None
    """What it draws from: `trajectories` of experts, a `pool` of networks, or nothing."""
    only_one: bool = False
    """Whether all K networks are the same one."""
    segments: bool = False
    """Whether its contexts are segments of training, which trajectory matching alone takes."""
    tested_on: str = "fresh networks"
    """The networks that images are tested on, in words."""


def source_of(member: Any) -> Source:
    """A member of `POPULATIONS` as a `Source`; a bare factory makes untrained networks."""
    return member if isinstance(member, Source) else Source(member)
