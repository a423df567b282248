"""Inner hyper-parameters: positive, learned or fixed, per step or shared; outer schedule, clip and bounds."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import message

from jaxdistill.core.checks import UserError
from jaxdistill.core.types import Meta
from jaxdistill.inner.optimizers import POSITIVE, adam, keep_in_range, sgd
from jaxdistill.methods import outer

MAPPED = sorted(set(POSITIVE) - {"projected"})
"""Positive whatever the raw value; a projected one is kept so by the outer optimiser."""


@pytest.mark.parametrize("name", MAPPED)
def test_positive_maps_round_trip(name):
    values = jnp.asarray([1e-30, 1e-8, 1e-3, 0.02, 1.0, 20.0, 90.0, 1e4])
    to_raw, from_raw = POSITIVE[name]
    raw = to_raw(values)
    assert np.isfinite(raw).all()
    # exp amplifies the rounding of a raw value r by |r|, at most 69 here
    np.testing.assert_allclose(from_raw(raw), values, rtol=70 * 1.2e-7)
    spread = from_raw(jnp.linspace(-50.0, 50.0, 101))
    assert (np.asarray(spread) > 0).all() and (np.diff(spread) > 0).all()


@pytest.mark.parametrize("positive", MAPPED)
@pytest.mark.parametrize("per_step", [True, False])
def test_what_is_learned_has_its_shape_and_start(per_step, positive):
    optimizer = sgd(
        num_steps=4,
        learning_rate=0.02,
        momentum=0.5,
        learned=("learning_rate", "momentum"),
        per_step=per_step,
        positive=positive,
    )
    raw = optimizer.init()
    values = optimizer.values(raw)
    length = 4 if per_step else 1
    assert {name: value.shape for name, value in raw.items()} == dict.fromkeys(values, (length,))
    np.testing.assert_allclose(values["learning_rate"], 0.02, rtol=1e-6)
    np.testing.assert_allclose(values["momentum"], 0.5, rtol=1e-6)
    moved = optimizer.values(jax.tree.map(lambda a: a - 10.0, raw))
    assert all((np.asarray(value) > 0).all() for value in moved.values())


def test_what_is_fixed_is_not_in_the_state():
    optimizer = sgd(num_steps=3, learning_rate=[0.1, 0.2, 0.3], momentum=0.9, learned=())
    assert optimizer.init() == {}
    values = optimizer.values({})
    np.testing.assert_array_equal(values["learning_rate"], np.asarray([0.1, 0.2, 0.3], np.float32))
    np.testing.assert_array_equal(values["momentum"], np.asarray([0.9], np.float32))
    half = sgd(num_steps=3, momentum=0.9)
    assert set(half.init()) == {"learning_rate"} and set(half.values(half.init())) == set(values)
    one_each = sgd(num_steps=3, learning_rate=[0.1, 0.2, 0.3])
    np.testing.assert_allclose(one_each.values(one_each.init())["learning_rate"], [0.1, 0.2, 0.3], rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: sgd(num_steps=2, learning_rate=-0.1), "learning_rate > 0.0"),
        (lambda: sgd(num_steps=2, learning_rate=0.0, learned=()), "learning_rate > 0.0"),
        (lambda: sgd(num_steps=2, learning_rate=float("nan")), "learning_rate > 0.0"),
        (lambda: sgd(num_steps=2, learning_rate=[0.1, 0.2, 0.3]), "one learning_rate or 2 of them"),
        (lambda: sgd(num_steps=2, momentum=1.0), "momentum in [0, 1)"),
        (lambda: sgd(num_steps=2, momentum=-0.1), "momentum in [0, 1)"),
        (lambda: sgd(num_steps=2, momentum=[0.1] * 3), "one momentum or 2 of them"),
        (lambda: sgd(num_steps=2, learning_rate=[0.1, 0.2], per_step=False), "since all steps share it"),
        (lambda: sgd(num_steps=2, learned=("momentum",)), "a learned momentum > 0.0"),
        (lambda: sgd(num_steps=2, learned=("rate",)), "one of learning_rate, momentum"),
        (lambda: sgd(num_steps=2, positive="square"), "one of exp, projected, softplus"),
        (lambda: sgd(num_steps=0), "num_steps >= 1"),
        (lambda: adam(num_steps=2, learning_rate=-1.0), "learning_rate > 0.0"),
        (lambda: adam(num_steps=2, eps_root=0.0), "eps_root > 0.0"),
        (lambda: adam(num_steps=2, learned=("momentum",)), "one of learning_rate"),
        (lambda: adam(num_steps=-1), "num_steps >= 1"),
        (
            lambda: outer.outer_schedule("step", learning_rate=0.1, num_steps=5),
            "one of constant, cosine, halving",
        ),
        (lambda: outer.outer_schedule("cosine", learning_rate=0.0, num_steps=5), "outer_learning_rate > 0.0"),
        (lambda: outer.outer_adam(clip=0.0), "clip > 0.0"),
        (lambda: outer.outer_adam(max_inner_learning_rate=-1.0), "max_inner_learning_rate > 0.0"),
        (
            lambda: outer.outer_adam(max_inner_learning_rate=1.0, positive="square"),
            "one of exp, projected, softplus",
        ),
    ],
)
def test_bad_values_are_refused(make, expected):
    with pytest.raises(UserError) as error:
        make()
    assert expected in message(error)


# ---------------------------------------------------------------- outer loop


def test_keep_in_range_projects():
    project = keep_in_range(-1.0, 2.0)
    params = {"a": jnp.asarray([0.0, 0.0, 1.5, 5.0])}
    updates = {"a": jnp.asarray([-3.0, 0.5, 1.0, 0.0])}
    updates, _ = project.update(updates, project.init(params), params)
    np.testing.assert_array_equal(optax.apply_updates(params, updates)["a"], [-1.0, 0.5, 2.0, 2.0])


@pytest.mark.parametrize("positive", sorted(POSITIVE))
def test_the_bound_is_on_learned_step_sizes_alone(positive):
    optimizer = sgd(
        num_steps=2,
        learning_rate=0.9,
        momentum=0.9,
        learned=("learning_rate", "momentum"),
        positive=positive,
    )
    step = outer.outer_adam(learning_rate=5.0, max_inner_learning_rate=1.0, positive=positive)
    meta = Meta({"x": jnp.ones(3)}, optimizer.init())

    @jax.jit
    def updated(meta):
        gradient = jax.tree.map(lambda a: -jnp.ones_like(a), meta)
        updates, _ = step.update(gradient, step.init(meta), meta)
        new = optax.apply_updates(meta, updates)
        return new, optimizer.values(new.inner)

    new, values = updated(meta)
    np.testing.assert_allclose(values["learning_rate"], 1.0, rtol=1e-6)
    assert (np.asarray(values["momentum"]) > 0.99).all() and (np.asarray(values["momentum"]) <= 1).all()
    # Adam's first step has the size of its learning rate, up to the float32 rounding of 1 - b2
    np.testing.assert_allclose(new.teacher["x"], 6.0, rtol=1e-4)


def test_the_clip_comes_before_adam():
    """A large gradient and a small one, clipped to the same, weigh the same in Adam's averages."""
    step = outer.outer_adam(learning_rate=1.0, b1=0.5, b2=0.5, clip=1.0)
    meta = Meta({"x": jnp.zeros(2)}, {})
    state, update = step.init(meta), jax.jit(step.update)
    _, state = update(Meta({"x": jnp.asarray([3e3, 4e3])}, {}), state, meta)
    updates, _ = update(Meta({"x": jnp.asarray([0.6, 0.8])}, {}), state, meta)
    # averages of two equal gradients: |first| / sqrt(second) = 1; without the clip it would be 0.58
    np.testing.assert_allclose(updates.teacher["x"], -1.0, rtol=1e-5)


def test_a_relative_clip_is_by_the_average_of_the_norms_before():
    """Norms 1, 4, 0 and 6: the average is 1, then 1, 1.3, 1.17 with a decay of 0.9."""
    clip, meta = outer.clip_by_average_norm(2.0), Meta({"x": jnp.zeros(2)}, {"rate": jnp.zeros(1)})
    state, update = clip.init(meta), jax.jit(clip.update)
    found = []
    for norm in (1.0, 4.0, 0.0, 6.0):
        gradient = Meta({"x": jnp.asarray([0.48, 0.64]) * norm}, {"rate": jnp.asarray([0.6]) * norm})
        clipped, state = update(gradient, state, meta)
        np.testing.assert_allclose(  # the direction stays
            clipped.teacher["x"], clipped.inner["rate"] / 0.6 * jnp.asarray([0.48, 0.64]), rtol=1e-5
        )
        found.append(float(clipped.inner["rate"][0]) / 0.6)
    np.testing.assert_allclose(found, [1.0, 2.0, 0.0, 2 * 1.17], rtol=1e-5)
    np.testing.assert_allclose(state.average, 0.9 * 1.17 + 0.1 * 6, rtol=1e-5)
    for options in ({"factor": 0.0}, {"factor": 2.0, "decay": 1.0}):
        with pytest.raises(UserError) as error:
            outer.clip_by_average_norm(**options)
        assert "clip_by_average_norm: expected" in message(error)


def test_a_relative_clip_keeps_a_spike_out_of_sgd():
    step = outer.outer_sgd(learning_rate=1.0, momentum=0.0, relative_clip=2.0)
    meta = Meta({"x": jnp.zeros(1)}, {})
    state = step.init(meta)
    for size, moved in ((1.0, 1.0), (1e6, 2.0)):
        updates, state = step.update(Meta({"x": jnp.asarray([size])}, {}), state, meta)
        assert float(updates.teacher["x"][0]) == pytest.approx(-moved)


def test_any_rule_of_optax_moves_what_is_learned():
    """RMSProp's first step has the size rate / sqrt(1 - decay), whatever the gradient."""
    step = outer.outer(optax.rmsprop, learning_rate=0.5, hyper_learning_rate=0.1, max_inner_learning_rate=2.0)
    meta = Meta({"x": jnp.asarray([0.0, 1.0])}, {"momentum": jnp.zeros(1)})
    gradient = Meta({"x": jnp.asarray([3.0, -2.0])}, {"momentum": jnp.full(1, 7.0)})
    updates, _ = step.update(gradient, step.init(meta), meta)
    np.testing.assert_allclose(updates.teacher["x"], 0.5 / np.sqrt(0.1) * np.asarray([-1, 1]), rtol=1e-5)
    np.testing.assert_allclose(updates.inner["momentum"], -0.1 / np.sqrt(0.1), rtol=1e-5)


def test_schedules():
    constant, cosine, halving = (
        outer.outer_schedule(name, learning_rate=0.1, num_steps=100) for name in outer.OUTER_SCHEDULES
    )
    assert [float(constant(t)) for t in (0, 99)] == pytest.approx([0.1, 0.1])
    assert [float(cosine(t)) for t in (0, 50, 100)] == pytest.approx([0.1, 0.05, 0.0], abs=1e-8)
    assert [float(halving(t)) for t in (0, 9, 10, 39, 99)] == pytest.approx(
        [0.1, 0.1, 0.05, 0.0125, 0.1 * 0.5**9]
    )


@pytest.mark.parametrize(("name", "step"), [("lamb", 0.5 * 5 / np.sqrt(2)), ("adabelief", 0.5 / 0.9)])
def test_first_steps_of_lamb_and_adabelief(name, step):
    """LAMB's is rate |x| long; AdaBelief's has rate / b1, since the first average is (1 - b1) g."""
    make, _ = outer.OUTER_OPTIMIZERS[name]
    optimizer, meta = make(learning_rate=0.5), Meta({"x": jnp.asarray([3.0, 4.0])}, {})
    gradient = Meta({"x": jnp.asarray([2.0, -7.0])}, {})
    updates, _ = optimizer.update(gradient, optimizer.init(meta), meta)
    np.testing.assert_allclose(updates.teacher["x"], [-step, step], rtol=1e-4)


def test_single_parts_have_learning_rates_of_their_own():
    rates = outer.parse_rates(["labels:0.5", "momentum:0.25"])
    meta = Meta({"x": jnp.ones(2), "y": jnp.ones(2)}, {"learning_rate": jnp.ones(1), "momentum": jnp.ones(1)})
    ones = jax.tree.map(jnp.ones_like, meta)
    for hyper, expected in ((None, 2.0), (3.0, 3.0), (0.0, 0.0)):
        optimizer = outer.outer_sgd(
            learning_rate=2.0, momentum=0.0, hyper_learning_rate=hyper, learning_rates=rates
        )
        updates, _ = optimizer.update(ones, optimizer.init(meta), meta)
        found = [-float(leaf[0]) for leaf in (*updates.teacher.values(), *updates.inner.values())]
        assert found == [2.0, 0.5, expected, 0.25]
    with pytest.raises(UserError) as error:
        optimizer.init(Meta({"x": jnp.ones(2)}, {}))
    assert "parts that are learned: images, got 'labels'" in message(error)


@pytest.mark.parametrize(
    "texts", [["images"], ["images:-1"], [":0.1"], ["images:inf"], ["a:1", "a:2"], ["images:fast"]]
)
def test_rates_of_another_form_are_refused(texts):
    with pytest.raises(UserError) as error:
        outer.parse_rates(texts)
    assert "expected PART:RATE" in message(error)
