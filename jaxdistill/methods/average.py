"""A method whose output is an average of what it learned on its way."""

import jax
import jax.numpy as jnp

from jaxdistill.core.checks import fail
from jaxdistill.core.types import Array, Data, DistillState, Method, Metrics


def averaged(method: Method, decay: float) -> Method:
    """The method with the exponential moving average of what is learned as its output.

    average <- decay average + (1 - decay) meta after every outer step, from the first meta on. Outer steps
    are those of the method itself; the average is in the state, and a step that the method skipped leaves it
    as it is.

    Args:
      method: any.
      decay: in (0, 1); 0.99 in RCIG.

    Returns:
      The method; `synthesize`, `hyperparameters`, `stored` and `DistillState.output` are of the average.

    Raises:
      UserError: a decay out of range.

    Example:
      >>> net = jd.learner("mlp", image_shape=(8, 8, 1), num_classes=10)
      >>> method = averaged(jd.dd(net, jd.images(image_shape=(8, 8, 1), num_classes=10)), 0.99)

    References: Polyak & Juditsky 1992; Loo et al. 2023, "Dataset Distillation with Convexified Implicit
    Gradients" (the output is an average).
    """
    if not 0 < decay < 1:
        raise fail("averaged", "decay in (0, 1)", decay)

    def init(key: Array) -> DistillState:
        state = method.init(key)
        return state._replace(average=state.meta)

    def update(state: DistillState, data: Data, key: Array) -> tuple[DistillState, Metrics]:
        new, metrics = method.update(state, data, key)
        skipped = metrics.get("skipped", jnp.zeros(())) > 0

        def moved(old: Array, now: Array) -> Array:
            return jnp.where(skipped, old, decay * old + (1 - decay) * now)

        return new._replace(average=jax.tree.map(moved, state.average, new.meta)), metrics

    def of_output(state: DistillState) -> DistillState:
        return state._replace(meta=state.output)

    return method._replace(
        init=init,
        update=update,
        synthesize=lambda state, key: method.synthesize(of_output(state), key),
        hyperparameters=lambda state: method.hyperparameters(of_output(state)),
        stored=lambda state: method.stored(of_output(state)),
    )
