"""Networks that live for several outer steps."""

import jax
import numpy as np
import pytest
from helpers import CLASSES, SHAPE, message, same_bits, tiny_net

from jaxdistill.core.checks import UserError
from jaxdistill.core.types import Meta
from jaxdistill.inner.losses import inner_loss
from jaxdistill.populations.fresh import fresh
from jaxdistill.populations.persistent import MATCH_SCHEDULES, match_schedule, persistent
from jaxdistill.teachers import images

KEY = jax.random.key(0)
NET = tiny_net()
TEACHER = images(image_shape=SHAPE, num_classes=CLASSES, images_per_class=2)
META = Meta(TEACHER.init(KEY), {})


def moved(a, b):
    return any(np.abs(x - y).max() > 1e-6 for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))


def test_networks_are_trained_between_matches_and_replaced_after_the_last():
    population = persistent(NET, TEACHER, matches=3, epochs=4, learning_rate=0.5)
    state, advance = jax.jit(population.init)(KEY), jax.jit(population.advance)
    loss_of = jax.jit(
        lambda params, batch: inner_loss(NET)(META, jax.tree.map(lambda a: a[0], params), batch)
    )
    states = [state]
    for step in range(4):
        state = advance(state, META, None, jax.random.key(step))
        states.append(state)
    assert [int(s.matches) for s in states] == [0, 1, 2, 0, 1]
    batch = jax.tree.map(lambda a: a[0], TEACHER.batches(META.teacher, KEY))
    loss = [float(loss_of(s.params, batch)) for s in states]
    assert loss[0] > loss[1] > loss[2] and loss[3] > loss[2] and loss[4] < loss[3]
    assert moved(states[3].params, states[0].params)  # new ones, not the first again


def test_training_between_matches_is_gradient_descent_on_all_images():
    population = persistent(NET, TEACHER, matches=2, epochs=1, learning_rate=0.5, batch_size=256)
    state = jax.jit(population.init)(KEY)
    after = jax.jit(population.advance)(state, META, None, KEY)
    start = jax.tree.map(lambda a: a[0], state.params)
    batch = jax.tree.map(lambda a: a[0], TEACHER.batches(META.teacher, KEY))
    gradient = jax.jit(jax.grad(inner_loss(NET), argnums=1))(META, start, batch)
    expected = jax.tree.map(lambda p, g: p - 0.5 * g, start, gradient)
    for a, b in zip(
        jax.tree.leaves(jax.tree.map(lambda a: a[0], after.params)), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_networks_of_one_match_are_fresh_ones():
    population, new = persistent(NET, TEACHER, matches=1, num_learners=2), fresh(NET)
    state = population.advance(population.init(KEY), META, None, KEY)
    keys = jax.random.split(jax.random.fold_in(KEY, 0), 2)
    assert jax.tree.structure(state.params) == jax.tree.structure(new.context((), None, keys[0], 2))
    same_bits(population.context(state, None, KEY, 2), state.params)
    assert moved(state.params, population.init(KEY).params)
    with pytest.raises(UserError) as error:
        population.context(state, None, KEY, 3)
    assert "2 learners, as it was made for, got 3" in message(error)


def test_the_papers_schedule_by_images_per_class():
    assert [match_schedule(count) for count in (1, 9, 10, 49, 50, 100)] == [
        MATCH_SCHEDULES[known] for known in (1, 1, 10, 40, 50, 50)
    ]


def test_networks_see_augmented_images_between_matches():
    def states_after(augment):
        population = persistent(NET, TEACHER, matches=2, epochs=3, learning_rate=0.5, augment=augment)
        return jax.jit(lambda meta: population.advance(population.init(KEY), meta, None, KEY).params)

    plain = states_after(None)
    mirrored = Meta(jax.tree.map(lambda x: -x, META.teacher), {})
    same_bits(states_after(lambda key, x: -x)(META), plain(mirrored))
    # a key of its own for every step
    noise = states_after(lambda key, x: x + jax.random.normal(key, ()))(META)
    assert moved(noise, states_after(lambda key, x: x + jax.random.normal(KEY, ()))(META))
