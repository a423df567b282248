"""Implicit gradients in the outer step, and what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import fixed_sgd, images_teacher, message, same_bits, tiny_data, tiny_net

from jaxdistill.core.checks import Caution, UserError
from jaxdistill.core.types import Data, InnerLoss
from jaxdistill.inner.implicit import implicit
from jaxdistill.inner.losses import inner_loss
from jaxdistill.inner.optimizers import sgd
from jaxdistill.inner.solvers import linear_solver
from jaxdistill.methods.dd import dd

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


@pytest.mark.parametrize("name", ["warm_start", "skip_failed_solves"])
def test_unrolled_training_has_no_solves_to_start_or_skip(name):
    method = tiny_dd(**{name: True})
    with pytest.raises(UserError) as error:
        jax.eval_shape(lambda key: method.update(method.init(key), Data(tiny_data(), None), key), KEY)
    assert f"a solve that reports, with {name}" in message(error)
