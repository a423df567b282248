"""jaxdistill: dataset distillation in JAX, as pure functions.

`distill` runs any method on any images. Below it is one bilevel problem with five independent choices:
teacher, learner, solve, objective, population. Each is a NamedTuple of pure functions; `bilevel` composes
them into a `Method`, whose `update` is one outer step.

A name is imported when it is first asked for; `__init__.pyi` lists them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
