"""Implicit gradients in the outer step, and what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import fixed_sgd, images_teacher, message, same_bits, tiny_data, tiny_net, to_float64

from jaxdistill.core.checks import Caution, UserError
from jaxdistill.core.types import Data, InnerLoss, Meta
from jaxdistill.inner.implicit import implicit
from jaxdistill.inner.losses import inner_loss
from jaxdistill.inner.optimizers import sgd
from jaxdistill.inner.solvers import linear_solver
from jaxdistill.methods.bilevel import bilevel
from jaxdistill.methods.dd import dd
from jaxdistill.objectives.validation import validation
from jaxdistill.populations.fresh import fresh

pytestmark = pytest.mark.usefixtures("x64")
KEY = jax.random.key(1)
WEIGHT_DECAY = 0.05


def nothing(meta, params, batch):
    """A loss."""
    return jnp.zeros(())


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"optimizer": sgd(num_steps=1)}, "their implicit gradient is zero, got learned learning_rate"),
        ({"optimizer": fixed_sgd([0.1, 0.2], num_steps=2)}, "one learning_rate for all inner steps, got 2"),
        ({"damping": -0.1}, "damping >= 0.0, got -0.1"),
        ({"damping": np.nan}, "damping >= 0.0, got nan"),
        ({"tolerance": 0.0, "max_steps": None}, "got neither: training would not end"),
        ({"tolerance": 1.0}, "tolerance in [0, 1)"),
        ({"tolerance": np.nan}, "tolerance in [0, 1)"),
        ({"max_steps": 0}, "steps >= 1, got 0"),
        (
            {"linear_solver": linear_solver("nystrom")},
            "weight_decay or damping > 0 for this solver, got neither",
        ),
        (
            {"linear_solver": linear_solver("gauss_newton_cg")},
            "a Gauss-Newton product for this solver, got one",
        ),
    ],
)
def test_what_cannot_work_is_refused(options, expected):
    options = {"optimizer": fixed_sgd()} | options
    with pytest.raises(UserError) as error:
        implicit(images_teacher(), InnerLoss(nothing), **options)
    assert expected in message(error) and str(error.value).startswith("implicit: ")


def test_no_weight_decay_is_warned_of():
    with pytest.warns(Caution, match="Set weight_decay"):
        implicit(images_teacher(), inner_loss(tiny_net()), fixed_sgd())


# ---------------------------------------------------------------- in the outer step


def tiny_dd(**options):
    teacher = images_teacher(soft_labels=False)
    return dd(tiny_net("linear"), teacher, num_learners=2, real_batch_size=6, **options)


def test_outer_steps_start_solves_warm_and_skip_failed_ones():
    with jax.enable_x64(False):
        solver = linear_solver("recording_cg")
        method = tiny_dd(
            solve=functools.partial(implicit, linear_solver=solver),
            inner_optimizer=fixed_sgd(),
            weight_decay=WEIGHT_DECAY,
            warm_start=True,
            skip_failed_solves=True,
        )
        update, data, state = jax.jit(method.update), Data(tiny_data(), None), jax.jit(method.init)(KEY)
        new, metrics = update(state, data, KEY)
        assert metrics["skipped"] == metrics["failed_solves"] == 0 and metrics["solver_steps"] > 1
        assert metrics["residual"] < metrics["worst_residual"] < 2e-3  # twice the solver's own tolerance
        assert jnp.abs(new.meta.teacher["x"] - state.meta.teacher["x"]).max() > 1e-3
        assert {leaf.shape[0] for leaf in jax.tree.leaves(new.solver)} == {2}  # K
        # the same learners again, each from its own solution
        again, metrics = update(state._replace(solver=new.solver), data, KEY)
        assert metrics["solver_steps"] == 0
        same_bits(again.solver, new.solver)
        # of one learner the solve fails: nothing is learned, time passes
        bad = new._replace(solver=jax.tree.map(lambda a: a.at[0].set(jnp.nan), new.solver))
        kept, metrics = update(bad, data, KEY)
        assert metrics["failed_solves"] == 0.5 and metrics["skipped"] == 1
        same_bits(kept._replace(solver=()), bad._replace(solver=(), step=bad.step + 1))
        first, second = jax.tree.leaves(kept.solver)[0]  # no place to start from; the other's own solution
        assert jnp.all(first == 0) and jnp.all(jnp.isfinite(second)) and jnp.any(second != 0)


# ---------------------------------------------------------------- clipped to the direct part


def gradient_with(clip):
    """Jitted (state, weight) -> hypergradient and metrics, of a loss that depends on the images directly too:
    the sum of the validation loss and of `weight` times their mean squares."""
    net, teacher = tiny_net("linear"), images_teacher()
    solver = linear_solver("cg", tolerance=1e-12, max_steps=200)
    loss, optimizer = inner_loss(net, weight_decay=WEIGHT_DECAY), fixed_sgd(0.5, momentum=0.9)
    options = {"linear_solver": solver, "tolerance": 1e-9, "max_steps": 300, "clip": clip}
    solve = implicit(teacher, loss, optimizer, **options)
    on_real = validation(net, solve)

    def objective(weight, meta, params, real, probe, key):
        value, metrics = on_real(meta, params, real, probe, key)
        return value + weight * sum(jnp.mean(leaf**2) for leaf in meta.teacher.values()), metrics

    def method(weight):
        return bilevel(
            teacher=teacher,
            inner_optimizer=optimizer,
            population=fresh(net),
            objective=functools.partial(objective, weight),
            outer_optimizer=optax.sgd(0.1),
            num_learners=1,
            real_batch_size=6,
            solve=solve,
        )

    data = Data(to_float64(tiny_data()), None)
    state = to_float64(jax.jit(method(0.0).init)(KEY))
    return state.meta.teacher, jax.jit(lambda weight: method(weight).gradient(state, data, KEY))


def test_the_implicit_part_is_clipped_to_the_norm_of_the_direct_one_by_leaf():
    phi, clipped = gradient_with(clip=True)
    implicit_part = gradient_with(clip=False)[1](0.0)[0].teacher
    for weight, least in ((0.02, 0.0), (1e4, 1.0)):
        found, metrics = clipped(weight)
        factors = []
        for name, leaf in phi.items():
            direct = 2 * weight * leaf / leaf.size
            most, size = np.linalg.norm(direct), np.linalg.norm(implicit_part[name])
            factors.append(min(1.0, most / size))
            expected = direct + factors[-1] * implicit_part[name]
            np.testing.assert_allclose(
                found.teacher[name], expected, rtol=0, atol=1e-8 * np.abs(expected).max()
            )
        assert metrics["implicit_kept"] == pytest.approx(np.mean(factors), rel=1e-7)
        assert min(factors) == 1 if least else 0 < min(factors) < 0.9


def test_a_clip_needs_a_direct_part_and_a_place_in_the_probe():
    solve = implicit(images_teacher(), inner_loss(tiny_net(), weight_decay=0.1), fixed_sgd(), clip=True)
    with pytest.raises(UserError) as error:
        start, meta = tiny_net().init(KEY), Meta(images_teacher().init(KEY), {})
        solve(meta, start, solve.probe(start), KEY)
    assert "zeros like meta in Probe.implicit" in message(error)


@pytest.mark.parametrize("name", ["warm_start", "skip_failed_solves"])
def test_unrolled_training_has_no_solves_to_start_or_skip(name):
    method = tiny_dd(**{name: True})
    with pytest.raises(UserError) as error:
        jax.eval_shape(lambda key: method.update(method.init(key), Data(tiny_data(), None), key), KEY)
    assert f"a solve that reports, with {name}" in message(error)
