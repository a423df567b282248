"""Published methods: recipes that compose teacher, learner, solve, objective and population."""

from collections.abc import Callable

from jaxdistill.core.types import Method
from jaxdistill.methods.dc import dc
from jaxdistill.methods.dd import dd
from jaxdistill.methods.dm import dm
from jaxdistill.methods.dsa import dsa
from jaxdistill.methods.gtn import gtn
from jaxdistill.methods.mtt import mtt

METHODS: dict[str, Callable[..., Method]] = {"dc": dc, "dd": dd, "dm": dm, "dsa": dsa, "gtn": gtn, "mtt": mtt}
