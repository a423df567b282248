"""Where the learners of an outer step come from."""

from collections.abc import Callable

from jaxdistill.core.types import Learner, Population
from jaxdistill.populations.fixed import fixed
from jaxdistill.populations.fresh import fresh

POPULATIONS: dict[str, Callable[[Learner], Population]] = {"fixed": fixed, "fresh": fresh}
