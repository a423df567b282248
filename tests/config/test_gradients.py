"""Gradients by name: each can be distilled by, and takes what it acts on."""

from typing import ClassVar

import pytest
from helpers import message

from jaxdistill.config.gradients import NAMED, check_used, of_method, taken_by
from jaxdistill.config.option import option, options
from jaxdistill.config.resolve import acting, filled, resolve
from jaxdistill.config.table import Config, ImplicitOptions, NetworkOptions, TeacherOptions
from jaxdistill.core.checks import UserError
from jaxdistill.inner.solvers import LINEAR_SOLVERS
from jaxdistill.methods.recipe import Facts

DIGITS = Facts((8, 8, 1), 10)


@options
class Comparison(TeacherOptions, NetworkOptions, ImplicitOptions):
    title: ClassVar[str] = "comparison"
    left_out = ("soft_labels", "linear_solver")
    compared: tuple[str, ...] = option(("unrolled",), "gradients", known=tuple(NAMED), some=True)

    @classmethod
    def settings(cls, chosen, facts):
        return {"damping": 0.5, "images_per_class": 2}


@pytest.mark.parametrize("name", sorted(NAMED))
def test_every_named_gradient_can_be_distilled_by(name):
    config = resolve(Config(**NAMED[name]), DIGITS)
    assert set(NAMED[name]) <= set(acting(config))


def test_every_linear_solver_has_a_name():
    assert {f"implicit_{name}" for name in LINEAR_SOLVERS} == {n for n in NAMED if n.startswith("implicit")}


@pytest.mark.parametrize(
    ("name", "taken"),
    [
        ("unrolled_step", {"remat", "width"}),
        ("truncated", {"backprop_last", "width"}),
        ("accumulated", {"width"}),
        ("implicit_cg", {"damping", "solver_steps", "warm_start", "width"}),
        ("implicit_neumann", {"damping", "neumann_terms", "warm_start", "width"}),
        ("closed_form", {"ridge", "width"}),
        ("convexified", {"ridge", "solver_steps", "warm_start", "width"}),
    ],
)
def test_a_gradient_takes_its_own_options_and_all_others(name, taken):
    chosen = Config(remat="sqrt", backprop_last=3, damping=0.2, solver_steps=4, neumann_terms=5, width=6)
    chosen = chosen.replace(warm_start=True, ridge=0.1)
    assert set(taken_by(NAMED[name], chosen)) == taken
    matching = chosen.replace(method="dm")
    assert set(taken_by(NAMED[name], matching)) == {"width", "method"}
    steps = {"inner_learning_rate", "weight_decay", "distill_epochs"} if "ridge" not in taken else set()
    inner = Config(inner_learning_rate=0.3, weight_decay=0.1, distill_epochs=7, width=6)
    assert set(taken_by(NAMED[name], inner)) == steps | {"width"}


def test_a_method_has_the_gradients_that_it_can_be_distilled_by():
    assert of_method("dd") == of_method("rcig") == NAMED and of_method("dm") == {}
    assert of_method("mtt").keys() == NAMED.keys() - {"closed_form", "convexified"}  # it has no outer_loss


def test_settings_of_a_comparison_are_taken_as_well():
    assert taken_by(NAMED["unrolled"], Comparison()) == {"images_per_class": 2}
    assert taken_by(NAMED["implicit_cg"], Comparison(damping=0.1)) == {"images_per_class": 2, "damping": 0.1}


def test_an_option_that_no_compared_gradient_takes_is_refused():
    two = {name: NAMED[name] for name in ("unrolled", "implicit_cg")}
    check_used("script", "a way", Config(remat="step", damping=0.2, width=3), two)
    check_used("script", "a way", Config(width=3), {})
    check_used("script", "a way", Config(neumann_terms=None), two)  # as where nobody chose
    with pytest.raises(UserError) as error:
        check_used("script", "a way", Config(neumann_terms=3), two)
    assert message(error) == "script: expected a way that takes neumann_terms, got unrolled, implicit_cg."


def test_a_comparison_has_no_options_that_it_leaves_out():
    assert not {"soft_labels", "linear_solver"} & Comparison.options().keys()
    for name in Comparison.left_out:
        with pytest.raises(UserError, match="an option"):
            Comparison(**{name: True})
    whole = filled(Comparison(width=3))
    assert (whole.width, whole.damping, whole.images_per_class, whole.compared) == (3, 0.5, 2, ("unrolled",))


def test_a_list_may_not_be_empty_where_it_needs_some():
    with pytest.raises(UserError) as error:
        Comparison(compared=[])
    assert message(error) == "options: expected at least one of compared, got none."
    assert Config(learned=[]).learned == ()
