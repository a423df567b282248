"""The search of the study's outer learning rates: on validation alone, resumed, and what it refuses."""

import contextlib
import importlib
import io
import json
import shlex
import sys
from collections import defaultdict

import jax.numpy as jnp
import numpy as np
import pytest
from tiny_runs import ROOT

from experiments import cli
from experiments.study import search as script
from experiments.study import setting
from experiments.study.cells import GRADIENTS, PRESETS, TEACHERS
from experiments.study.search import SMOKE, Options, best, run
from experiments.study.setting import cell_options, prepared
from jaxdistill.config.resolve import resolve
from jaxdistill.core.checks import UserError
from jaxdistill.runs import distill

TINY = SMOKE | {"learner": "linear", "num_search_learners": 2, "num_epochs": 2}
TINY |= {"gradients": ("matching_all",), "factors": (0.5, 1.0)}


def tiny_search(path, **options):
    """(result, what was printed)."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        result = run(Options(**(TINY | {"run_dir": str(path)} | options)))
    return result, out.getvalue()


@pytest.fixture
def made_up(monkeypatch):
    """Candidates are not distilled: their accuracy falls with the distance of their rate from 0.3."""

    def scored(study, chosen, folder):
        mean = 1 / (1 + abs(np.log(chosen["outer_learning_rate"] / 0.3)))
        return {"mean": mean, "std": 0.0, "num_learners": 1, "num_diverged": 0, "every": [mean]}

    monkeypatch.setattr(script, "_scored", scored)


def test_the_search_scores_on_validation_alone(tmp_path, monkeypatch):
    """The same numbers whatever the test images are."""
    monkeypatch.setattr(distill, "export", lambda run, directory: None)
    splits, tested = setting.splits, []

    def with_test(change):
        def made(config):
            data = splits(config)
            tested.append(change)
            return data._replace(test=data.test._replace(y=change * data.test.y))

        return made

    found = {}
    for change in (1.0, 0.0):
        monkeypatch.setattr(setting, "splits", with_test(change))
        found[change], _ = tiny_search(tmp_path / str(change), factors=(1.0,))
    assert tested == [1.0, 0.0]
    (row,), (again,) = (found[change]["rows"] for change in found)
    assert row["every"] == again["every"] and 0 < row["mean"] <= 1 and row["num_learners"] == 2
    assert row["wall_seconds"] > 0 and row["environment"]["jax"] and row["outer_learning_rate"] == 0.3
    study = prepared(resolve(Options(**TINY)), "study.search")
    unseen = script._without_test(study)
    assert jnp.array_equal(unseen.data.test.x, study.data.validation.x)


def test_the_search_goes_on_beyond_the_best_and_is_resumed(tmp_path, made_up):
    first, _ = tiny_search(tmp_path, factors=(0.1, 0.3))
    rates = [row["outer_learning_rate"] for row in first["rows"]]
    assert sorted(rates) == [0.03, 0.09, 0.27, 0.81] and first["best"] == {"images-matching_all": 0.27}
    again, printed = tiny_search(tmp_path, factors=(1.0, 1.0, 0.3))  # others, in the same folder
    assert printed.count("done before") == 1 and again["best"] == {"images-matching_all": 0.3}
    assert {row["outer_learning_rate"] for row in again["rows"]} == {0.03, 0.09, 0.27, 0.81, 0.3, 0.9}
    text = (tmp_path / "study_search.md").read_text()
    assert "| matching_all | 0.3 | 0.03: " in text and ", 0.27: " in text
    saved = json.loads((tmp_path / "study_search.json").read_text())
    assert saved["best"] == again["best"] and "every" not in (tmp_path / "study_search.csv").read_text()
    stored = json.loads((tmp_path / "config.json").read_text())
    assert stored["experiment"] == "study.search" and "tries" not in stored["config"]


@pytest.mark.parametrize("damage", [list, lambda: {"name": "a"}, lambda: {"status": "done", "mean": "x"}])
def test_a_damaged_row_is_found_first(tmp_path, made_up, damage):
    tiny_search(tmp_path, factors=(1.0,))
    file = tmp_path / "rows/images-matching_all-0.3.json"
    content = damage()
    file.write_text(json.dumps(json.loads(file.read_text()) | content if "mean" in content else content))
    with pytest.raises(UserError, match=r"a row in .*images-matching_all-0.3.json, got one without"):
        tiny_search(tmp_path, factors=(1.0,))


def test_a_row_with_other_options_is_refused_first(tmp_path, made_up):
    tiny_search(tmp_path, factors=(1.0,))
    file = tmp_path / "rows/images-matching_all-0.3.json"
    row = json.loads(file.read_text())
    file.write_text(json.dumps(row | {"identity": row["identity"].replace("--seed=0", "--seed=1")}))
    with pytest.raises(UserError, match=r"expected options --seed=0 in .*, got --seed=1\."):
        tiny_search(tmp_path, factors=(0.5,))
    assert not (tmp_path / "rows/images-matching_all-0.15.json").exists()


def test_a_candidate_that_fails_is_tried_again(tmp_path, made_up, monkeypatch):
    scored = script._scored

    def fails(study, chosen, folder):
        if chosen["outer_learning_rate"] < 0.2:
            raise UserError("a memory too small")
        return scored(study, chosen, folder)

    monkeypatch.setattr(script, "_scored", fails)
    first, printed = tiny_search(tmp_path)
    assert "failed: a memory too small" in printed and first["best"] == {"images-matching_all": 0.3}
    assert "| 0.15: failed, 0.3: " in (tmp_path / "study_search.md").read_text()
    expected = "at least one candidate of every cell that finishes, got none of images-unrolled"
    with pytest.raises(UserError, match=expected):
        tiny_search(tmp_path, gradients=("unrolled",))  # its rates are 0.01 and 0.02
    monkeypatch.setattr(script, "_scored", scored)
    second, _ = tiny_search(tmp_path, gradients=("matching_all", "unrolled"))
    done = {row["outer_learning_rate"] for row in second["rows"] if row["status"] == "done"}
    assert done >= {0.15, 0.3, 0.01, 0.02}
    assert second["best"].keys() == {"images-matching_all", "images-unrolled"}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"factors": [1.0, 0.0]}, "factors > 0, got 0"),
        ({"factors": [1.0, 1e9]}, "factors <= 10000.0, got 1000000000.0"),
        ({"steps_scale": 1e6}, "steps_scale <= 100, got 1000000.0"),
        ({"factors": []}, "at least one of factors, got none"),
        ({"steps_scale": 0.0}, "steps_scale > 0"),
        ({"preset": "digit"}, "digits, mnist, got 'digit'"),
        ({"gradients": ["implicit"]}, "implicit_cg"),
        ({"teachers": []}, "at least one of teachers"),
        ({"mesh": "lerner:1"}, "lerner"),
        ({"learner": "lenett"}, "lenett"),
        ({"step_sizes": []}, "step_sizes"),
        ({"tries": 2}, "tries"),
    ],
)
def test_a_search_refuses_before_it_starts(tmp_path, options, says):
    with pytest.raises(UserError, match=says):
        run(Options(run_dir=str(tmp_path / "run"), **options))
    assert not (tmp_path / "run").exists()


def test_the_old_command_says_the_new_one(monkeypatch):
    monkeypatch.delitem(sys.modules, "experiments.study_search", raising=False)
    with pytest.raises(SystemExit) as ended:
        importlib.import_module("experiments.study_search")
    assert ended.value.code == "study_search: the command is `python -m experiments.study.search` now."


def test_the_digits_preset_has_the_rates_that_its_search_found_best():
    file = ROOT / "experiments/results/study_search_digits.json"
    found, searched = defaultdict(list), defaultdict(list)
    rows = json.loads(file.read_text(encoding="utf-8"))["rows"]
    for row in rows:
        gradient = row["gradient"].removesuffix("_remat")  # the same gradient: two tries of one candidate
        if row["status"] == "done":
            found[row["teacher"], gradient, row["outer_learning_rate"]].append(row["mean"])
        searched[row["name"]].append(row)
    study = prepared(resolve(Options()), "study.search")
    for cell in PRESETS["digits"].cells(TEACHERS, GRADIENTS):
        flags = {*cli.as_flags(cell_options(study.options, cell))}
        for row in searched[cell.name]:  # nothing else has changed since
            other = set(shlex.split(row["identity"])) ^ {"python", "-m", "experiments.distill"} ^ flags
            assert all(flag.startswith("--outer_learning_rate=") for flag in other), other
        own = (cell.teacher, cell.gradient.removesuffix("_remat"))
        tried = {rate: np.mean(means) for (*of, rate), means in found.items() if tuple(of) == own}
        assert len(tried) >= 3 and max(tried, key=tried.__getitem__) == cell.options["outer_learning_rate"], (
            own
        )
    assert best(rows).keys() == searched.keys()
