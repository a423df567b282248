"""Configs that were saved: other names, options of another version, nulls, whose a folder is."""

import json

import pytest
from helpers import message

from jaxdistill.config import saved
from jaxdistill.config.option import UNSET
from jaxdistill.config.saved import DIGESTS, chosen_of, config_from, experiment_of
from jaxdistill.config.table import Config
from jaxdistill.core.checks import UserError


def test_a_saved_config_is_read_back():
    config = Config(method="dc", step_sizes=[0.1], width=None, augment=(), seed=3, per_step=False)
    assert config_from(json.loads(json.dumps(config.chosen())), "here") == config


def test_an_older_null_is_a_choice_only_where_none_is_a_value():
    found = config_from({"method": "dm", "distill_epochs": None, "width": None, "protocol": None}, "here")
    assert found.distill_epochs is UNSET and found.width is None
    assert found.chosen() == {"method": "dm", "width": None, "protocol": None}


def test_an_older_name_is_read_as_the_present_one(monkeypatch):
    monkeypatch.setitem(saved.RENAMED, "outer_steps", "num_outer_steps")
    assert config_from({"outer_steps": 7}, "here") == Config(num_outer_steps=7)


def test_digests_are_no_options():
    assert config_from(dict.fromkeys(DIGESTS, "abc") | {"seed": 1}, "here") == Config(seed=1)


def test_options_of_another_version_are_named():
    with pytest.raises(UserError) as error:
        config_from({"seed": 1, "temperature": 2.0, "annealing": None}, "runs/a/config.json")
    text = message(error)
    assert text.startswith("runs/a/config.json: expected options that this version knows, got ")
    assert "annealing, temperature." in text and "Another version wrote the run." in text


@pytest.mark.parametrize(
    ("stored", "script"),
    [
        ({"experiment": "adapt", "config": {"method": "dd"}}, "adapt"),
        ({"config": {"method": "dd", "seed": 0}}, "distill"),
        ({"config": {"method": "dd", "attack_class": 1}}, "attack"),
        ({"config": {"num_networks": 4}}, "pretrain"),
        ({"config": {"num_experts": 4}}, "experts"),
        ({"config": {}}, "unknown"),
        ({}, "unknown"),
    ],
)
def test_a_folder_says_whose_it_is(stored, script):
    assert experiment_of(stored) == script


def test_what_was_chosen_is_kept_without_places():
    config = Config(seed=1, run_dir="runs/a", data_dir="data", pool="pool", mesh="learner:1")
    assert chosen_of(config) == {"seed": 1}
