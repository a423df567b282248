"""A pool of networks of all ages."""

import jax
import numpy as np
import optax
import pytest
from helpers import CLASSES, SHAPE, message, same_bits, tiny_net

from jaxdistill.core.checks import UserError
from jaxdistill.core.types import Batch, Meta
from jaxdistill.inner.losses import inner_loss
from jaxdistill.populations.ages import ages
from jaxdistill.teachers import images

KEY = jax.random.key(0)
NET = tiny_net()
TEACHER = images(image_shape=SHAPE, num_classes=CLASSES, images_per_class=2, distill_steps=2, labels="free")
META = Meta(TEACHER.init(KEY), {})
ONE_HOT = np.repeat(np.eye(CLASSES, dtype=np.float32)[:, None], 2, axis=1)
SMALL = {"pool_size": 3, "max_age": 6, "inner_loss": "squared"}


def row(tree, i):
    return jax.tree.map(lambda a: np.asarray(a[i]), tree)


def told(x, seen):
    """The images, which the list gets when the program runs."""
    jax.debug.callback(seen.append, x, ordered=True)
    return x


def same(a, b):
    return all((x == y).all() for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))


def test_a_use_without_training_ages_too():
    population = ages(NET, TEACHER, num_learners=1, pool_size=1, max_age=2, age_steps=0, inner_loss="squared")
    state, advance = jax.jit(population.init)(KEY), jax.jit(population.advance)
    counted, first = [], state.params
    for number in range(4):
        state = advance(state, META, None, jax.random.key(number))
        counted += state.ages.tolist()
        assert same(first, state.params) == (number == 0)
    assert counted == [1, 0, 1, 0]


@pytest.mark.slow
def test_a_network_that_was_used_is_trained_on_all_images():
    """Two steps of Adam, its state kept from one use to the next."""
    population = ages(NET, TEACHER, **SMALL, num_learners=3, age_learning_rate=0.1)
    first = jax.jit(population.init)(KEY)
    assert first.ages.tolist() == [0, 2, 4] and sorted(first.drawn.tolist()) == [0, 1, 2]
    advance = jax.jit(population.advance)
    after = advance(advance(first, META, None, KEY), META, None, jax.random.key(1))
    batches = TEACHER.batches(META.teacher, KEY)
    everything = Batch(batches.x.reshape(-1, *SHAPE), batches.y.reshape(-1, CLASSES))
    gradient_of = jax.jit(jax.grad(inner_loss(NET, loss="squared", labels="free"), argnums=1))
    optimizer = optax.adam(0.1)
    params = row(first.params, 0)
    state = optimizer.init(params)
    for _ in range(2):
        updates, state = optimizer.update(gradient_of(META, params, everything), state, params)
        params = optax.apply_updates(params, updates)
    assert int(after.ages[0]) == 2
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5), row(after.params, 0), params
    )


def test_one_network_is_used_at_a_time_and_the_old_are_replaced():
    population = ages(NET, TEACHER, **SMALL, age_steps=1, max_age_steps=3)
    state, advance = jax.jit(population.init)(KEY), jax.jit(population.advance)
    used, steps, replaced = set(), set(), 0
    for number in range(30):
        (who,) = state.drawn.tolist()
        same_bits(
            population.context(state, None, KEY, 1), jax.tree.map(lambda a, w=who: a[w : w + 1], state.params)
        )
        after = advance(state, META, None, jax.random.key(number))
        used.add(who)
        for i in range(3):
            assert same(row(state.params, i), row(after.params, i)) == (i != who)
        age = int(after.ages[who])
        if age == 0:
            replaced += 1
            assert int(state.ages[who]) + 3 >= 6 and not np.any(jax.tree.leaves(row(after.optimizer, who))[0])
        else:
            steps.add(age - int(state.ages[who]))
            assert age < 6
        state = after
    assert used == {0, 1, 2} and steps == {1, 2, 3} and 5 <= replaced <= 20
    assert len({float(leaf) for leaf in state.params["params"]["classifier"]["kernel"][:, 0, 0]}) == 3


@pytest.mark.slow
def test_images_are_augmented():
    def after(augment):
        population = ages(NET, TEACHER, **SMALL, augment=augment)
        return jax.jit(lambda meta: population.advance(population.init(KEY), meta, None, KEY).params)

    mirrored = Meta({**META.teacher, "x": -META.teacher["x"]}, {})
    same_bits(after(lambda key, x: -x)(META), after(None)(mirrored))


REFUSED = {
    "pool": ({"pool_size": 2, "num_learners": 3}, "num_learners <= pool_size = 2, got 3"),
    "steps": ({"age_steps": 3, "max_age_steps": 2}, "max_age_steps >= 3, got 2"),
    "age": ({"max_age": 0}, "max_age >= 1, got 0"),
    "rate": ({"age_learning_rate": 0.0}, "age_learning_rate > 0"),
    "rule": ({"age_optimizer": "lion"}, "expected one of adam, momentum, rmsprop, sgd, got 'lion'"),
    "temperature": ({"inner_loss": "platt"}, "an inner_loss without a learned temperature, got platt"),
    "data": ({"age_data": "both"}, "age_data: expected one of real, synthetic, got 'both'"),
    "decay": ({"age_weight_decay": -1.0}, "weight_decay >= 0"),
    "mixing": ({"age_cutmix": 1.5}, "probability in [0, 1], got 1.5"),
    "labels": ({"inner_loss": "cross_entropy"}, "expected labels=probabilities, got labels=free"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_makes_no_pool_is_refused(name):
    options, says = REFUSED[name]
    with pytest.raises(UserError) as error:
        ages(NET, TEACHER, **({"inner_loss": "squared"} | options))
    assert says in message(error)


def test_it_is_for_so_many_learners():
    population = ages(NET, TEACHER, **SMALL, num_learners=2)
    with pytest.raises(UserError) as error:
        population.context(jax.eval_shape(population.init, KEY), None, KEY, 1)
    assert "ages: expected 2 learners, as it was made for, got 1" in message(error)


REAL = Batch(np.random.default_rng(1).normal(size=(CLASSES, 2, *SHAPE)).astype(np.float32), ONE_HOT)


def test_networks_train_on_the_real_images_of_the_step():
    """Six images in two steps of three each, by SGD with momentum and L2; no image is seen twice."""
    seen = []
    options = {"pool_size": 1, "age_steps": 2, "age_optimizer": "momentum", "age_learning_rate": 0.1}
    options |= {"age_data": "real", "age_weight_decay": 0.3, "inner_loss": "cross_entropy"}
    population = ages(NET, TEACHER, **options, augment=lambda key, x: told(x, seen))
    first = population.init(KEY)
    after = jax.jit(population.advance)(first, META, REAL, KEY)
    jax.effects_barrier()
    parts = [np.asarray(x) for x in seen]
    assert [len(x) for x in parts] == [3, 3]
    flat = REAL.x.reshape(-1, *SHAPE)
    order = [int(np.flatnonzero((flat == x).all((1, 2, 3)))[0]) for x in np.concatenate(parts)]
    assert sorted(order) == list(range(6))
    optimizer = optax.sgd(0.1, momentum=0.9)
    params = row(first.params, 0)
    state = optimizer.init(params)
    gradient_of = jax.jit(jax.grad(inner_loss(NET, weight_decay=0.3), argnums=1))
    for rows in (order[:3], order[3:]):
        batch = Batch(flat[rows], REAL.y.reshape(-1, CLASSES)[rows])
        updates, state = optimizer.update(gradient_of(META, params, batch), state, params)
        params = optax.apply_updates(params, updates)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5), row(after.params, 0), params
    )


def test_training_on_real_images_needs_some():
    population = ages(NET, TEACHER, age_data="real", inner_loss="cross_entropy")
    state = jax.eval_shape(population.init, KEY)
    with pytest.raises(UserError) as error:
        population.advance(state, META, None, KEY)
    assert "a method that draws real images, with age_data=real, got none" in message(error)
    population = ages(NET, TEACHER, age_data="real", inner_loss="cross_entropy", age_steps=7)
    with pytest.raises(UserError) as error:
        jax.eval_shape(lambda state: population.advance(state, META, REAL, KEY), state)
    assert "ages: expected age_steps <= 6, the real images of an outer step, got 7" in message(error)
