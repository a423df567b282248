"""Published methods: recipes that compose teacher, learner, solve, objective and population."""

from collections.abc import Callable

from jaxdistill.core.types import Method
from jaxdistill.methods.dd import dd
from jaxdistill.methods.gtn import gtn

METHODS: dict[str, Callable[..., Method]] = {"dd": dd, "gtn": gtn}
