"""Dataset Distillation on a pool of networks whose last layer is solved for: what FRePo and RCIG share."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxdistill.core.types import Learner, Method, Solve, Teacher
from jaxdistill.methods.dd import dd
from jaxdistill.methods.recipe import Recipe, Settings, settings_of
from jaxdistill.populations.ages import ages


def headed(
    learner: Learner,
    teacher: Teacher,
    solve: Callable[[Settings], Callable[..., Solve]],
    options: Mapping[str, Any],
    *,
    recipe: Recipe,
    pool: Sequence[str] = (),
) -> Method:
    """`dd` with a pool of networks of all ages and a solve of its own, unless others were given.

    Args:
      learner: the network.
      teacher: what is learned.
      solve: the settings of the recipe -> the factory of the solve.
      options: the given options of `dd`.
      recipe: of the method; one in `options` replaces it.
      pool: the settings of the recipe that are options of the pool.

    Returns:
      The method.
    """
    recipe = options.get("recipe") or recipe
    shared = ("num_learners", "inner_loss")
    chosen = settings_of(recipe, teacher, **{name: options.get(name) for name in shared})
    given = {name: value for name, value in options.items() if value is not None}
    if "population" not in given:
        own = {name: chosen[name] for name in (*shared, *pool)}
        augmentation, strategy = options.get("augmentation"), options.get("strategy", "auto")
        per_image = None if augmentation is None else augmentation.per_image
        given["population"] = ages(learner, teacher, **own, augment=per_image, strategy=strategy)
    if "solve" not in given:
        given["solve"] = solve(chosen)
    return dd(learner, teacher, **{**given, "recipe": recipe})
