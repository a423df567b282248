"""Where the learners of an outer step come from."""

from collections.abc import Callable

from jaxdistill.core.types import Population
from jaxdistill.populations.experts import experts
from jaxdistill.populations.fixed import fixed
from jaxdistill.populations.fresh import fresh
from jaxdistill.populations.persistent import persistent
from jaxdistill.populations.pretrained import fixed_pretrained, pretrained

POPULATIONS: dict[str, Callable[..., Population]] = {
    "experts": experts,
    "fixed": fixed,
    "fixed_pretrained": fixed_pretrained,
    "fresh": fresh,
    "persistent": persistent,
    "pretrained": pretrained,
}
"""Factories; `learner` and `teacher`, for those that take them, are their arguments of these names."""
