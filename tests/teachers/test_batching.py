"""Minibatches of synthetic images that have equally many of every class."""

import jax
import numpy as np
import pytest
from helpers import CLASSES, SHAPE, message, tiny_net

from jaxdistill.core.checks import UserError
from jaxdistill.methods.dc import dc
from jaxdistill.methods.dd import dd
from jaxdistill.teachers.batching import minibatches, some_of_each_class
from jaxdistill.teachers.images import images

KEY = jax.random.key(0)


def five(**options):
    """Five images of each of three classes."""
    given = {"images_per_class": 5, "distill_epochs": 5} | options
    return images(image_shape=SHAPE, num_classes=CLASSES, **given)


def test_a_method_asks_a_teacher_for_its_shapes_once():
    traced, teacher = [], five(distill_epochs=1)
    counted = teacher._replace(batches=lambda phi, key: traced.append(key) or teacher.batches(phi, key))
    dd(tiny_net("linear"), counted)
    assert len(traced) == 1


def rows_of(made, every):
    """The images of each step, as (class, number)."""
    gaps = np.abs(np.asarray(made)[:, :, None, None] - np.asarray(every)[None, None]).max((4, 5, 6))
    assert (gaps.min((2, 3)) == 0).all()
    return [[divmod(int(gap.argmin()), every.shape[1]) for gap in step] for step in gaps]


def test_a_balanced_step_has_equally_many_of_every_class_and_each_in_its_turn():
    teacher = five()
    phi = teacher.init(KEY)
    every = teacher.by_class(phi, KEY)
    made = jax.jit(minibatches(teacher, 6, balanced=True).batches)(phi, jax.random.key(3))
    assert made.x.shape == (5, 6, *SHAPE)
    steps = rows_of(made.x, every.x)
    for step, y in zip(steps, np.asarray(made.y), strict=True):
        assert [label for label, _ in step] == [0, 0, 1, 1, 2, 2] == y.argmax(-1).tolist()
    orders = [[number for step in steps for of, number in step if of == label] for label in range(CLASSES)]
    for order in orders:
        assert sorted(order[:5]) == sorted(order[5:]) == list(range(5))  # five steps of two
        assert order[:5] != order[5:]
    assert len(set(map(tuple, orders))) == CLASSES


def test_some_of_each_class_are_drawn_anew_and_the_gradient_goes_to_them_alone():
    teacher = five()
    phi, some = teacher.init(KEY), some_of_each_class(teacher, 2)
    draw = jax.jit(some.by_class)
    made, other = draw(phi, KEY), draw(phi, jax.random.key(1))
    assert made.x.shape == (CLASSES, 2, *SHAPE) and (made.y.argmax(-1) == np.arange(3)[:, None]).all()
    every = teacher.by_class(phi, KEY).x
    rows, others = rows_of(made.x, every), rows_of(other.x, every)
    assert all(label == of and len(set(step)) == 2 for label, step in enumerate(rows) for of, _ in step)
    assert rows != others
    slope = jax.jit(jax.grad(lambda phi: some.by_class(phi, KEY).x.sum()))(phi)
    felt = np.asarray(teacher.by_class(slope, KEY).x).reshape(CLASSES, 5, -1).max(-1)
    assert {(label, n) for label, n in np.argwhere(felt).tolist()} == {pair for step in rows for pair in step}


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: minibatches(five(), 4, balanced=True), "batch_size a multiple of the 3 classes, got 4"),
        (lambda: minibatches(five(), 18, balanced=True), "batch_size <= 15, the synthetic images, got 18"),
        (lambda: some_of_each_class(five(), 6), "synthetic_batch_size <= 5, images of a class, got 6"),
        (lambda: some_of_each_class(five(), 0), "synthetic_batch_size >= 1, got 0"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(make, expected):
    with pytest.raises(UserError) as error:
        teacher = make()
        phi = teacher.init(KEY)
        jax.eval_shape(teacher.batches, phi, KEY), jax.eval_shape(teacher.by_class, phi, KEY)
    assert expected in message(error)


def test_methods_refuse_draws_that_leave_images_out_or_have_no_classes():
    net = tiny_net("linear")
    with pytest.raises(UserError) as error:
        dd(net, five(distill_epochs=2), inner_batch_size=6)
    assert "inner steps x inner_batch_size >= 15, the images, got 12" in message(error)
    with pytest.raises(UserError) as error:
        dc(net, five(), by_class=False, synthetic_batch_size=2)
    assert "by_class with synthetic_batch_size" in message(error)


def test_a_method_trains_on_the_drawn_batches_and_gives_them():
    method = dd(tiny_net("linear"), five(), inner_batch_size=6, num_learners=1, real_batch_size=4)
    state = method.init(KEY)
    batch = jax.jit(method.synthesize)(state, KEY)
    assert batch.x.shape == (5, 6, *SHAPE)
    assert method.stored(state).scalars == 15 * 16 + 5  # a learned step size of each inner step
    assert method.stored(state).bits == (15 * 16 + 5) * 32
    assert len(np.unique(np.asarray(batch.x).reshape(30, -1), axis=0)) == 15  # all images are exported
