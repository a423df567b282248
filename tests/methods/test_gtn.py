"""Generative Teaching Networks: RMSProp, losses on the way of training, and the recipe."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import message, tiny_batch, tiny_data, tiny_net

from jaxdistill.core.checks import UserError
from jaxdistill.core.types import Data, Meta
from jaxdistill.inner.losses import inner_loss
from jaxdistill.inner.optimizers import rmsprop, sgd
from jaxdistill.inner.train import train
from jaxdistill.inner.unrolled import unrolled
from jaxdistill.methods.gtn import gtn
from jaxdistill.objectives.validation import validation
from jaxdistill.teachers.generator import generator
from jaxdistill.teachers.images import images

KEY = jax.random.key(0)


def test_rmsprop_is_its_definition():
    optimizer = rmsprop(num_steps=3, learning_rate=0.1, learned=())
    target = jnp.asarray([1.0, 3.0, 5.0])
    end, _ = train(lambda w, t: 0.5 * (w - t) ** 2, jnp.asarray(0.0), target, optimizer, optimizer.values({}))
    w, v = 0.0, 0.0
    for t in (1.0, 3.0, 5.0):
        g = w - t
        v = 0.9 * v + 0.1 * g * g
        w -= 0.1 * g / np.sqrt(v + 1e-5)
    assert float(end) == pytest.approx(w, rel=1e-5)


@pytest.mark.parametrize("remat", ["none", "step", "sqrt"])
def test_weights_on_the_way_are_those_of_shorter_training(remat):
    optimizer = sgd(num_steps=6, learning_rate=0.1, momentum=0.7, learned=())
    targets = jnp.arange(6.0)

    def run(steps, **options):
        start, values = jnp.asarray(0.5), optimizer.values({})
        return train(lambda w, t: (w - t) ** 4, start, targets[:steps], optimizer, values, **options)

    kept, losses = run(6, keep_every=2, remat=remat)
    np.testing.assert_allclose(kept, [run(steps)[0] for steps in (2, 4, 6)], rtol=1e-6)
    np.testing.assert_allclose(losses, run(6)[1], rtol=1e-6)
    refused = {"a divisor of the 6": {"keep_every": 4}, "no back": {"keep_every": 2, "backprop_last": 1}}
    for says, options in refused.items():
        with pytest.raises(UserError) as error:
            run(6, **options)
        assert says in message(error)


def test_the_outer_loss_on_the_way_is_the_mean_over_shorter_trainings():
    net, real = tiny_net(), tiny_batch(9)
    losses = []
    for steps in (2, 4):
        teacher = images(image_shape=(4, 4, 1), num_classes=3, distill_epochs=steps)
        optimizer = sgd(num_steps=steps, learning_rate=0.3, learned=())
        meta, params = Meta(teacher.init(KEY), {}), net.init(KEY)
        solve = unrolled(teacher, inner_loss(net), optimizer)
        whole, told = jax.jit(validation(net, solve))(meta, params, real, None, KEY)
        losses.append(whole)
    way = unrolled(teacher, inner_loss(net), optimizer, keep_every=2)
    loss, metrics = jax.jit(validation(net, way, intermediate=True))(meta, params, real, None, KEY)
    assert float(loss) == pytest.approx(float(sum(losses)) / 2, rel=1e-5)
    assert metrics["accuracy"] == told["accuracy"] and float(whole) != pytest.approx(float(loss), rel=1e-3)


@pytest.mark.parametrize(("side", "rate"), [(20, 0.02), (4, 0.1)])
def test_the_recipe_has_the_papers_inner_optimiser_and_one_for_small_images(side, rate):
    small = {"batch_size": 4, "distill_steps": 3, "generator_width": 4, "generator_hidden": 5}
    teacher = generator(image_shape=(side, side, 1), num_classes=3, **small)
    method = gtn(tiny_net(), teacher, real_batch_size=6, outer_optimizer=optax.sgd(0.1))
    state = jax.jit(method.init)(KEY)
    values = method.hyperparameters(state)
    np.testing.assert_allclose(values["learning_rate"], np.full(3, rate), rtol=1e-6)
    np.testing.assert_allclose(values["momentum"], np.full(3, 0.5), rtol=1e-6)
    if side == 4:
        new, _ = jax.jit(method.update)(state, Data(tiny_data(), None), KEY)
        for name in ("learning_rate", "momentum"):
            assert np.abs(new.meta.inner[name] - state.meta.inner[name]).max() > 0
