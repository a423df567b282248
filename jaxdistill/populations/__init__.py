"""Where the learners of an outer step come from."""

from collections.abc import Callable

from jaxdistill.core.types import Population
from jaxdistill.populations.fixed import fixed
from jaxdistill.populations.fresh import fresh
from jaxdistill.populations.persistent import persistent

POPULATIONS: dict[str, Callable[..., Population]] = {
    "fixed": fixed,
    "fresh": fresh,
    "persistent": persistent,
}
"""Factories of (learner), or of (learner, teacher) where networks are trained on what is learned."""
