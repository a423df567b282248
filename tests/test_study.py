"""The study: its cells, resuming, failures, and what it refuses."""

import contextlib
import io
import json
import shlex
from collections import defaultdict
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from tiny_runs import command

from experiments import build, cli, distill, gradients, study, study_search
from experiments.options import complete
from experiments.study_cells import GRADIENTS, PRESETS, TEACHERS, ablations, cells
from experiments.study_scores import Setting
from jaxdistill.core.checks import UserError

TINY = study.SMOKE | {
    "num_eval_learners": 2,
    "num_search_learners": 1,
    "learner": "mlp:width=8:depth=1",
    "architectures": [],
    "equal_time": False,
}


def tiny_study(path, **options):
    """(result, what was printed)."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        result = study.run(**(TINY | {"run_dir": str(path)} | options))
    return result, out.getvalue()


@pytest.mark.parametrize("preset", PRESETS)
def test_every_cell_is_a_run_that_distill_takes(preset):
    made = [*cells(PRESETS[preset], list(TEACHERS), list(GRADIENTS)), *ablations(PRESETS[preset])]
    names = [cell.name for cell in made]
    assert len(set(names)) == len(names) >= 16 + 9
    for cell in made:
        config = build.with_inner_loop(complete(distill.GROUPS, cell.options))
        gradients.resolve(config)
        typed = cli._parse(distill.GROUPS, "", ["distill", *cli.as_flags(cell.options)])
        assert complete(distill.GROUPS, typed) == complete(distill.GROUPS, cell.options)
    images = {cell.options["images_per_class"] for cell in made if not cell.change}
    assert len(images) == 1  # the grid compares at equal images
    changed = " ".join(cell.change for cell in ablations(PRESETS[preset]))
    for word in ("k = 16", "k = 128", "fixed", "fresh", "per class", "Neumann term", "alpha", "inner steps"):
        assert word in changed


def test_images_per_class_are_those_of_the_grid_and_not_of_an_ablation_of_them():
    config, preset, _, _ = study.prepared(complete(study.GROUPS, {"images_per_class": 3}), "study")
    images = {cell.options["images_per_class"] for cell in cells(preset, ["images"], list(GRADIENTS))}
    changed = {cell.options["images_per_class"] for cell in ablations(preset)}
    assert images == {config["images_per_class"]} == {3} and changed == {3, 10, 50}
    assert study.prepared(complete(study.GROUPS, {}), "study")[0]["images_per_class"] == 1


@pytest.mark.parametrize(
    ("smaller", "whole"),
    [
        ({}, True),
        ({"num_eval_learners": 99, "tries": 5}, True),
        ({"images_per_class": 2}, False),
        ({"learner": "mlp"}, False),
        ({"architectures": []}, False),
        ({"step_sizes": [0.1]}, False),
        ({"num_epochs": 10}, False),
        ({"steps_scale": 0.5}, False),
        ({"full_data_epochs": 1}, False),
    ],
)
def test_a_row_of_fewer_things_is_not_of_full_size(smaller, whole):
    config, preset, data, learners = study.prepared(complete(study.GROUPS, smaller), "study")
    setting = Setting(config, preset, data, learners, None, "")
    assert study._full_size(setting, "images") is whole
    if "steps_scale" in smaller:
        assert study._full_size(setting, "time")  # its number of steps is another
    setting.config["time_limit"] = 1.0
    assert not study._full_size(setting, "time")


def test_a_study_goes_on_where_it_stopped(tmp_path):
    first, _ = tiny_study(tmp_path, gradients=["unrolled"])
    (row,) = first["rows"]
    assert row["status"] == "done" and row["images"] == 10 and not row["full_size"]
    assert row["wall_seconds"] > row["seconds"] + row["compile_seconds"]
    assert row["program_bytes"] > 0 and row["compile_seconds"] > 0 and len(row["as_distilled"]["every"]) == 2
    assert [(a["architecture"], a["protocol"]) for a in row["accuracies"]] == [
        ("mlp:width=8:depth=1", "dc"),
        ("mlp:width=8:depth=1", "dc_augmented"),
    ]
    assert {b["what"] for b in first["baselines"]} == {"random real", "full set"}
    file = tmp_path / "rows" / "images-images-unrolled-0.json"
    before = file.stat().st_mtime_ns
    second, printed = tiny_study(tmp_path, gradients=["unrolled", "matching_all"], equal_time=True)
    assert file.stat().st_mtime_ns == before and "done before" in printed
    assert [(r["reading"], r["gradient"]) for r in second["rows"]] == [
        ("images", "matching_all"),
        ("images", "unrolled"),
        ("time", "matching_all"),
        ("time", "unrolled"),
    ]
    assert (tmp_path / "report.html").exists() and (tmp_path / "report.md").exists()
    with pytest.raises(UserError, match="learner: "):
        tiny_study(tmp_path, learner="mlp:width=4:depth=1")
    (tmp_path / "rows" / "time-images-unrolled-0.json").unlink()  # as if stopped while it was scored
    third, _ = tiny_study(tmp_path, gradients=["unrolled"], equal_time=True)
    again = {(r["reading"], r["gradient"]): r for r in third["rows"]}["time", "unrolled"]
    assert again["program_bytes"] > 0 and again["compile_seconds"] == row["compile_seconds"]
    changed = row["identity"].replace("outer_learning_rate=0.02", "outer_learning_rate=0.5")
    file.write_text(json.dumps(row | {"identity": changed}))
    (tmp_path / "rows" / "images-images-matching_all-0.json").unlink()
    with pytest.raises(UserError) as error:  # before others are made again
        tiny_study(tmp_path, gradients=["unrolled", "matching_all"])
    assert f"options --outer_learning_rate=0.02 in {file}, got --outer_learning_rate=0.5." in str(error.value)
    assert not (tmp_path / "rows" / "images-images-matching_all-0.json").exists()


def test_a_cell_that_fails_is_a_row_and_is_tried_again(tmp_path, monkeypatch):
    real = distill.planned

    def broken(options):
        if options["method"] == "dc":
            raise MemoryError("no more\nto be had")
        return real(options)

    monkeypatch.setattr(distill, "planned", broken)
    found, printed = tiny_study(tmp_path, equal_time=True)
    notes = {(r["reading"], r["gradient"]): (r["status"], r["note"]) for r in found["rows"]}
    assert notes["images", "matching_all"] == ("failed", "no more to be had")
    assert notes["images", "unrolled"] == notes["time", "unrolled"] == ("done", "")
    assert ("time", "matching_all") not in notes and "Failed: images, matching_all" in printed
    with pytest.raises(UserError, match="at least one finished cell"):
        tiny_study(tmp_path / "none", gradients=["matching_all"])
    monkeypatch.undo()
    found, _ = tiny_study(tmp_path)
    assert {r["status"] for r in found["rows"]} == {"done"}


def test_another_preset_in_the_same_folder_is_refused(tmp_path):
    pinned = complete(study.GROUPS, TINY | {"preset": "mnist"})
    (tmp_path / "config.json").write_text(json.dumps({"config": pinned, "environment": {}}))
    with pytest.raises(UserError, match='preset: "mnist" there, "digits" here'):
        tiny_study(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"preset": "digit"}, "preset: expected one of digits, mnist, got 'digit'"),
        ({"gradients": ["unroled"]}, "unrolled, unrolled_remat, got 'unroled'"),
        ({"teachers": []}, "at least one of teachers"),
        ({"time_limit": 0.0}, "time_limit > 0"),
        ({"steps_scale": -1.0}, "steps_scale > 0"),
        ({"architectures": ["lenet"]}, "at least 16x16 pixels, got 8x8"),
        ({"step_sizes": []}, "at least one of step_sizes"),
        ({"tries": 0}, "tries >= 1"),
        ({"images_per_class": 0}, "images_per_class >= 1"),
        ({"images_per_class": 500}, "study: expected images_per_class <= "),
        ({"smoke": True, "teachers": []}, "at least one of teachers"),
        ({"smoke": True, "mesh": "lerner:1"}, "mesh: expected one of data, learner, got 'lerner'"),
        ({"smoke": True, "mesh": "data:7"}, "sizes whose product is the number of devices, 1, got data:7"),
    ],
)
def test_bad_input_leaves_nothing(tmp_path, arguments, expected):
    with pytest.raises(UserError) as error:
        study.run(**arguments, run_dir=str(tmp_path / "study"))
    assert expected in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "study").exists()


def test_a_preset_misspelt_is_one_line():
    ended = command("-m", "experiments.study", "--preset=digit")
    assert ended.returncode == 1 and ended.stderr.count("\n") == 1
    assert "preset: expected one of digits, mnist, got 'digit'" in ended.stderr


SEARCH = {n: v for n, v in TINY.items() if any(n in group for group in study_search.GROUPS.values())}
SEARCH |= {"gradients": ["matching_all"], "factors": [0.5, 1.0]}


def tiny_search(path, **options):
    """(result, what was printed)."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        result = study_search.run(**(SEARCH | {"run_dir": str(path)} | options))
    return result, out.getvalue()


def test_the_search_scores_on_validation_alone(tmp_path, monkeypatch):
    """The same table whatever the test images are; the best is that of the highest accuracy."""
    first, _ = tiny_search(tmp_path / "a")
    scores = {row["outer_learning_rate"]: row["mean"] for row in first["rows"]}
    assert {0.15, 0.3} < set(scores) and scores[first["best"]["images-matching_all"]] == max(scores.values())
    assert all(0 < score <= 1 for score in scores.values())
    assert all(row["wall_seconds"] > 0 and row["environment"]["jax"] for row in first["rows"])
    splits = build.splits

    def without_test(config):
        data = splits(config)
        return data._replace(test=data.test._replace(y=jnp.zeros_like(data.test.y)))

    monkeypatch.setattr(build, "splits", without_test)
    second, _ = tiny_search(tmp_path / "b")
    assert [row["every"] for row in second["rows"]] == [row["every"] for row in first["rows"]]
    again, printed = tiny_search(tmp_path / "a", factors=[1.0, 1.0, 0.25])  # others, in the same place
    assert printed.count("done before") >= 1
    assert {row["outer_learning_rate"] for row in again["rows"]} >= set(scores) | {0.075}
    text = (tmp_path / "a/study_search.md").read_text()
    assert f"| matching_all | {again['best']['images-matching_all']:g} | 0.0" in text and ", 0.15: " in text


@pytest.mark.parametrize("damage", [list, lambda: {"name": "a"}, lambda: {"status": "done", "mean": "x"}])
def test_a_search_tells_a_damaged_row_first(tmp_path, damage):
    tiny_search(tmp_path, factors=[1.0])
    file = tmp_path / "rows/images-matching_all-0.3.json"
    content = damage()
    file.write_text(json.dumps(json.loads(file.read_text()) | content if "mean" in content else content))
    with pytest.raises(UserError, match=r"a row in .*images-matching_all-0.3.json, got one without"):
        tiny_search(tmp_path, factors=[1.0])


def test_a_candidate_that_fails_is_tried_again(tmp_path, monkeypatch):
    distilled = distill.distilled

    def fails(plan, directory):
        if plan.config["outer_learning_rate"] < 0.2:
            raise UserError("a memory too small")
        return distilled(plan, directory)

    monkeypatch.setattr(distill, "distilled", fails)
    first, printed = tiny_search(tmp_path)
    assert "failed: a memory too small" in printed and first["best"]["images-matching_all"] >= 0.3
    assert "| 0.15: failed, 0.3: " in (tmp_path / "study_search.md").read_text()
    monkeypatch.setattr(distill, "distilled", distilled)
    second, _ = tiny_search(tmp_path)
    assert all(row["status"] == "done" for row in second["rows"])
    monkeypatch.setattr(
        distill,
        "distilled",
        lambda plan, directory: fails(plan._replace(config={"outer_learning_rate": 0.0}), directory),
    )
    with pytest.raises(
        UserError, match="a candidate of every cell that finishes, got none of images-unrolled"
    ):
        tiny_search(tmp_path, gradients=["unrolled"])
    assert second["best"].items() <= json.loads((tmp_path / "study_search.json").read_text())["best"].items()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"factors": [1.0, 0.0]}, "every one of factors > 0.0, got 0"),
        ({"factors": []}, "at least one of factors, got none"),
        ({"steps_scale": 0.0}, "steps_scale > 0"),
        ({"preset": "digit"}, "digits, mnist, got 'digit'"),
        ({"gradients": ["implicit"]}, "implicit_cg"),
        ({"teachers": []}, "at least one of teachers"),
        ({"mesh": "lerner:1"}, "lerner"),
        ({"learner": "lenett"}, "lenett"),
        ({"step_sizes": []}, "step_sizes"),
    ],
)
def test_a_search_refuses_before_it_starts(tmp_path, options, says):
    with pytest.raises(UserError, match=says):
        study_search.run(run_dir=str(tmp_path / "run"), **options)
    assert not (tmp_path / "run").exists()


def test_the_digits_preset_has_the_rates_that_its_search_found_best():
    file = Path(__file__).parent.parent / "experiments/results/study_search_digits.json"
    found, searched = defaultdict(list), defaultdict(list)
    for row in json.loads(file.read_text(encoding="utf-8"))["rows"]:
        gradient = row["gradient"].removesuffix("_remat")  # the same gradient: two tries of one candidate
        if row["status"] == "done":
            found[row["teacher"], gradient, row["outer_learning_rate"]].append(row["mean"])
        searched[row["name"]].append(row)
    config = study.prepared(complete(study.GROUPS, {}), "study")[0]
    for cell in cells(PRESETS["digits"], list(TEACHERS), list(GRADIENTS)):
        flags = {*cli.as_flags(study.cell_options(config, cell))}
        for row in searched[cell.name]:  # nothing else has changed since
            other = set(shlex.split(row["identity"])) ^ {"python", "-m", "experiments.distill"} ^ flags
            assert all(flag.startswith("--outer_learning_rate=") for flag in other), other
        own = (cell.teacher, cell.gradient.removesuffix("_remat"))
        tried = {rate: np.mean(means) for (*of, rate), means in found.items() if tuple(of) == own}
        assert len(tried) >= 3 and max(tried, key=tried.get) == cell.options["outer_learning_rate"], own
