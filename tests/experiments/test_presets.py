"""Presets are the runs that the committed results come from, whatever the defaults are."""

import importlib
import json
import re
from pathlib import Path

import pytest

from experiments import cli
from jaxdistill.config.resolve import facts_before_loading, resolve
from jaxdistill.core.registry import options_of
from jaxdistill.learners import LEARNERS
from jaxdistill.methods.recipe import Facts
from jaxdistill.runs.plan import identity_of

ROOT = Path(cli.__file__).parent
SCRIPTS = ("distill", "adapt", "attack", "experts", "pretrain")
NAMED_OTHERWISE = {"mnist_attack": "attack_mnist"}
"""Results that are not called as their preset is."""


def command_of(path):
    return re.search(r"python -m experiments\.([\w.]+)", path.read_text())[1]


def result_of(path):
    return ROOT / "results" / f"{NAMED_OTHERWISE.get(path.stem, path.stem)}.json"


PRESETS = [
    path
    for path in sorted((ROOT / "presets").glob("*.cfg"))
    if command_of(path) in SCRIPTS and result_of(path).is_file()
]


def test_every_script_has_a_preset_with_a_result():
    assert {command_of(path) for path in PRESETS} == set(SCRIPTS) and len(PRESETS) >= 25


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_a_preset_is_what_its_result_was_made_with(path):
    held = json.loads(result_of(path).read_text())["config"]
    script = importlib.import_module(f"experiments.{command_of(path)}")
    chosen = cli.parsed(script.Options, "", ["script", f"--flagfile={path}"])
    shape = held.get("image_shape")
    facts = facts_before_loading(chosen) if shape is None else Facts(tuple(shape), 10)
    found = resolve(chosen, facts)
    own = options_of(LEARNERS[found.learner])
    table, compared = script.Options.options(), 0
    for name, value in identity_of(found).items():
        before = held.get(name)
        if name not in held or (before is None and not (name in table and table[name].optional)):
            continue  # an option of later or of a member alone; null stands for what the gradient says
        if name == "group_size" and value is None:
            continue  # by platform
        if name == "dataset" and "--dataset=" not in path.read_text().replace("--dataset=FOLDER", ""):
            continue  # a folder, whose place the preset does not know
        defaults = (None, own.get(name)) if before is None else (before,)
        assert value in defaults, f"{name}: {before} in {result_of(path).name}, {value} in the preset"
        compared += 1
    assert compared >= 12
