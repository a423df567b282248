"""What a class of options says where nobody chooses, and what goes over to another class."""

from typing import ClassVar

import pytest

from jaxdistill.config.option import option, options
from jaxdistill.config.resolve import resolve
from jaxdistill.config.table import Config, NetworkOptions
from jaxdistill.learners import LEARNERS
from jaxdistill.methods.recipe import Facts


@options
class Script(Config):
    title: ClassVar[str] = "script"
    smoke: bool = option(False, "short?")

    @classmethod
    def settings(cls, chosen, facts):
        return {"num_outer_steps": 500, "num_learners": 2 if facts is None or facts.small else 4}


SMALL, LARGE = Facts((8, 8, 1), 10), Facts((28, 28, 1), 10)


def test_settings_of_a_class_go_over_the_recipe_and_under_what_is_chosen():
    assert resolve(Script(), SMALL).num_outer_steps == 500  # the recipe of dd says 1,500
    assert (resolve(Script(), SMALL).num_learners, resolve(Script(), LARGE).num_learners) == (2, 4)
    assert resolve(Script(method="dc", images_per_class=10), SMALL).num_outer_steps == 500
    assert resolve(Script(num_outer_steps=7), SMALL).num_outer_steps == 7
    assert resolve(Script(smoke=True).with_smoke({"num_outer_steps": 3}), SMALL).num_outer_steps == 3


def test_settings_count_as_chosen_in_another_class():
    assert Script(num_outer_steps=7).pick(Config, seed=1).chosen() == {
        "num_learners": 2,
        "num_outer_steps": 7,
        "seed": 1,
    }


def test_settings_that_both_classes_have_stay_unchosen():
    @options
    class Longer(Script):
        title: ClassVar[str] = "longer"

    assert Longer(seed=1).pick(Script).chosen() == {"seed": 1}


def test_options_that_a_member_brings_go_over_where_that_member_does(monkeypatch):
    def mine(image_shape, num_classes, *, sharpness: int = 3):
        raise AssertionError("its signature is read; it is not called")

    monkeypatch.setitem(LEARNERS, "mine", mine)
    chosen = Config(learner="mine", sharpness=4, seed=1)
    assert chosen.pick(NetworkOptions).chosen() == {"learner": "mine", "sharpness": 4}
    assert dict(chosen.pick(NetworkOptions, learner="mlp").own) == {}


@pytest.mark.parametrize("facts", [SMALL, LARGE])
def test_a_config_has_no_settings_of_its_own(facts):
    assert Config.settings({}, facts) == {}
