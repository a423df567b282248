"""The study: its cells, resuming, failures, and what it refuses."""

import contextlib
import io
import json
import shlex

import pytest
from conftest import CACHE
from helpers import message
from tiny_runs import ROOT

from experiments import cli, experts
from experiments.report import tables as ordered
from experiments.report import write as report
from experiments.report.fields import MEASURED
from experiments.study import run as script
from experiments.study import scores
from experiments.study.cells import GRADIENTS, PRESETS, TEACHERS
from experiments.study.run import Task, full_size, run
from experiments.study.setting import SMOKE, Options, cell_options, prepared
from jaxdistill.config import build
from jaxdistill.config.resolve import resolve
from jaxdistill.config.table import LEARNER_OPTIONS, Config
from jaxdistill.core.checks import UserError
from jaxdistill.learners import options_of
from jaxdistill.learners.spec import name_and_options
from jaxdistill.methods.recipe import Facts
from jaxdistill.runs import distill

RESULTS = ROOT / "experiments/results"
FACTS = {"digits": Facts((8, 8, 1), 10), "mnist": Facts((28, 28, 1), 10)}
TINY = SMOKE | {
    "learner": "linear",
    "architectures": (),
    "equal_time": False,
    "num_search_learners": 2,
    "num_epochs": 2,
    "num_augmented_epochs": 2,
}


def tiny_study(path, **options):
    """(result, what was printed)."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        result = run(Options(**(TINY | {"run_dir": str(path)} | options)))
    return result, out.getvalue()


@pytest.fixture(scope="module")
def study():
    """The digits preset with its data, nothing chosen."""
    return prepared(resolve(Options()), "study")


@pytest.fixture(scope="module", autouse=True)
def fast():
    """One protocol, and no pictures of each run: what these show is tested where it belongs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scores, "PROTOCOLS", ("dc",))
        patch.setattr(distill, "export", lambda run, directory: None)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory, fast):
    """A study of two cells: (folder, result, what was printed)."""
    path = tmp_path_factory.mktemp("study") / "run"
    return path, *tiny_study(path)


@pytest.fixture
def folder(finished, tmp_path):
    """A copy of the rows of that study, as if all else were to be made again."""
    for name in ("config.json", *(f"rows/{p.name}" for p in (finished[0] / "rows").iterdir())):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text((finished[0] / name).read_text())
    return tmp_path


@pytest.fixture
def no_training(monkeypatch, finished):
    """Cells are not distilled but take the numbers of the finished study; no baselines, no plots."""
    names = (*MEASURED, "all_bytes", "picture")
    measured = {row["gradient"]: {n: row[n] for n in names} for row in finished[1]["rows"]}
    monkeypatch.setattr(script, "baselines", lambda study, directory, rows: [])
    monkeypatch.setattr(report, "trade_off", lambda *points, **options: b"")
    monkeypatch.setattr(script, "_distilled", lambda study, folder, cell, *others: measured[cell.gradient])


def at(folder, name):
    return folder / "rows" / f"{name}.json"


@pytest.mark.parametrize("preset", PRESETS)
def test_every_cell_is_a_run_that_distill_takes(preset):
    made = [*PRESETS[preset].cells(TEACHERS, GRADIENTS), *PRESETS[preset].ablations]
    names = [cell.name for cell in made]
    assert len(set(names)) == len(names) >= 16 + 9
    assert {(cell.teacher, cell.gradient) for cell in PRESETS[preset].grid} == {
        (teacher, gradient) for teacher in TEACHERS for gradient in GRADIENTS
    }
    for cell in made:
        config = resolve(Config(**cell.options), FACTS[preset])
        typed = cli.parsed(Config, "", ["distill", *cli.as_flags(cell.options)])
        assert resolve(typed, FACTS[preset]) == config
        if build.recipe(config).trains and "learning_rate" in config.learned:
            assert config.max_inner_learning_rate == 2.0  # as the committed rows had it
    # the order of a report
    assert (tuple(TEACHERS), tuple(GRADIENTS)) == (ordered.TEACHER_ORDER, ordered.GRADIENT_ORDER)
    assert len({cell.options["images_per_class"] for cell in made if not cell.change}) == 1
    changed = " ".join(cell.change for cell in PRESETS[preset].ablations)
    for word in ("k = 16", "k = 128", "fixed", "fresh", "per class", "Neumann term", "alpha", "inner steps"):
        assert word in changed


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("study_digits", ["--ablations"]),
        ("study_mnist_2core", [f"--flagfile={ROOT}/experiments/presets/study_mnist_2core.cfg"]),
    ],
)
def test_the_cells_are_those_of_the_committed_rows(name, flags, study):
    """The options of every cell, and the network and sizes that a preset file chooses, as they were then."""
    options = resolve(cli.parsed(Options, "", ["study", *flags]))
    setting = study._replace(options=options, preset=PRESETS[options.preset])
    now = {cell.name: cell for cell in (*setting.cells, *setting.preset.ablations)}
    rows = json.loads((RESULTS / name / "rows.json").read_text())["rows"]
    assert len({row["name"] for row in rows}) >= 16
    for row in rows:
        assert script._identity(setting, Task(now[row["name"]], row["reading"], 0)) == row["identity"]


def test_the_list_says_every_option_of_every_cell(tmp_path, capsys):
    assert len(run(Options(list=True, preset="mnist", data_dir="none"))["cells"]) == 20 + 13  # no data needed
    capsys.readouterr()
    found = run(Options(list=True, run_dir=str(tmp_path / "none"), images_per_class=3, seed=7))
    assert not (tmp_path / "none").exists()
    printed = capsys.readouterr().out
    cells = found["cells"]
    assert printed.count("--seed=7") == len(cells) == 20 + len(PRESETS["digits"].ablations)
    lines = printed.splitlines()
    first = lines.index("images-unrolled")
    last = next(i for i in range(first + 1, len(lines)) if not lines[i].startswith("  "))
    typed = cli.parsed(Config, "", ["distill", *" ".join(lines[first + 1 : last]).split()])
    assert typed == Config(**cells["images-unrolled"])
    images = {name: options["images_per_class"] for name, options in cells.items()}
    changed = {name for name in images if name.endswith("images_per_class")}
    assert {images[name] for name in changed} == {10, 50}  # an ablation of them keeps its own
    assert {images[name] for name in images.keys() - changed} == {3}


@pytest.mark.parametrize("learner", ["convnet", "lenet", "mlp:width=16"])
def test_all_cells_are_for_the_network_that_is_scored(learner):
    """Whatever network the method of a cell would bring: each option is the network's own default."""
    name, own = name_and_options(learner)
    wanted = options_of(name) | own
    for preset, facts in FACTS.items():
        options = resolve(Options(preset=preset, learner=learner))
        for cell in PRESETS[preset].grid:
            net = resolve(Config(**cell_options(options, cell)), facts)
            assert net.learner == name
            chosen = {n: getattr(net, n) for n in LEARNER_OPTIONS if getattr(net, n) is not None}
            assert own.items() <= chosen.items() <= wanted.items()


@pytest.mark.parametrize(
    ("smaller", "whole"),
    [
        ({}, True),
        ({"num_eval_learners": 99, "tries": 5}, True),
        ({"images_per_class": 2}, False),
        ({"learner": "mlp"}, False),
        ({"architectures": ()}, False),
        ({"step_sizes": (0.1,)}, False),
        ({"num_epochs": 10}, False),
        ({"steps_scale": 0.5}, False),
        ({"full_data_epochs": 1}, False),
    ],
)
def test_a_row_of_fewer_things_is_not_of_full_size(smaller, whole):
    setting = prepared(resolve(Options(**smaller)), "study")
    assert full_size(setting, "images") is whole
    if "steps_scale" in smaller:
        assert full_size(setting, "time")  # its number of steps is another
    assert not full_size(setting._replace(options=setting.options.replace(time_limit=1.0)), "time")


def test_the_sizes_are_the_preset_s_unless_they_are_chosen():
    assert resolve(Options()).tries == 1 and resolve(Options(preset="mnist")).tries == 3
    chosen = resolve(Options(preset="mnist", tries=2))
    assert (chosen.tries, chosen.time_limit, chosen.images_per_class) == (2, 600.0, 10)
    file = ROOT / "experiments/presets/study_mnist_2core.cfg"
    parsed = resolve(cli.parsed(Options, "", ["study", f"--flagfile={file}"]))
    assert (parsed.preset, parsed.tries, parsed.equal_time, parsed.learner) == (
        "mnist",
        1,
        False,
        "convnet:width=16",
    )
    smoke = Options(smoke=True, time_limit=7.0).with_smoke(SMOKE)
    assert (smoke.time_limit, smoke.learner) == (7.0, "mlp:width=16:depth=1")  # the user's word wins
    assert (
        experts.Options(smoke=True).with_smoke({}).run_dir == "runs/experts_smoke"
    )  # not where the real one goes
    assert experts.Options(smoke=True, run_dir="a").with_smoke({}).run_dir == "a"


def test_a_study_is_a_row_per_cell_with_baselines_and_a_report(finished):
    path, found, printed = finished
    by_gradient = {row["gradient"]: row for row in found["rows"]}
    unrolled, matching = by_gradient["unrolled"], by_gradient["matching_all"]
    for row in by_gradient.values():
        assert row["status"] == "done" and row["images"] == 10 and not row["full_size"]
        assert row["wall_seconds"] > row["seconds"] + row["compile_seconds"]
        assert row["program_bytes"] > 0 and row["compile_seconds"] > 0 and row["outer_steps"] % 20 == 0
        assert [(a["architecture"], a["protocol"]) for a in row["accuracies"]] == [("linear", "dc")]
        assert all(len(a["every"]) == a["num_learners"] == 2 for a in row["accuracies"])
    assert unrolled["as_distilled"]["num_learners"] == 2 and matching["as_distilled"] is None
    assert {b["what"] for b in found["baselines"]} == {"random real", "full set"}
    assert (path / "report.html").exists() and (path / "report.md").exists()
    assert "images, unrolled" in printed and "images, matching all" in printed
    stored = json.loads((path / "config.json").read_text())
    assert stored["experiment"] == "study" and stored["chosen"].keys() == TINY.keys()
    cell = json.loads((path / "cells/images-images-unrolled-0/config.json").read_text())
    assert cell["experiment"] == "distill" and cell["config"]["learner"] == "linear"
    again = cli.parsed(Config, "", shlex.split(unrolled["command"])[2:])
    assert again == Config(**{**cell["chosen"], "checkpoint_every": again.checkpoint_every})


def test_a_study_is_resumed(folder, no_training):
    file = at(folder, "images-images-unrolled-0")
    before = file.read_text()
    second, printed = tiny_study(folder, equal_time=True)
    assert file.read_text() == before and printed.count("done before") == 2
    assert [(r["reading"], r["gradient"]) for r in second["rows"]] == [
        ("images", "matching_all"),
        ("images", "unrolled"),
        ("time", "matching_all"),
        ("time", "unrolled"),
    ]
    assert (folder / "report.md").exists()
    timed = json.loads(at(folder, "time-images-unrolled-0").read_text())
    assert timed["compile_seconds"] == json.loads(before)["compile_seconds"] and timed["time_limit"] == 0.5
    steps = int(dict(f.split("=") for f in shlex.split(timed["command"])[3:])["--num_outer_steps"])
    assert abs(steps * json.loads(before)["seconds_per_step"] - 0.5) < 20 * timed["seconds_per_step"]


def test_a_study_that_was_stopped_while_it_scored_is_scored(finished):
    """Its distillation is at its end: what compiling cost was kept."""
    path, *_ = finished
    file = at(path, "images-images-matching_all-0")
    before = json.loads(file.read_text())
    file.unlink()
    again, printed = tiny_study(path, gradients=("matching_all",))
    row = {r["gradient"]: r for r in again["rows"]}["matching_all"]
    costs = ("compile_seconds", "program_bytes", "all_bytes", "outer_steps", "accuracies")
    assert {name: row[name] for name in costs} == {name: before[name] for name in costs}
    assert "compiling" not in printed


def test_other_options_are_refused_before_anything_is_made(folder, no_training):
    with pytest.raises(UserError, match="learner: "):
        tiny_study(folder, learner="mlp:width=4:depth=1")
    file = at(folder, "images-images-unrolled-0")
    row = json.loads(file.read_text())
    changed = row["identity"].replace("outer_learning_rate=0.02", "outer_learning_rate=0.5")
    file.write_text(json.dumps(row | {"identity": changed}))
    at(folder, "images-images-matching_all-0").unlink()
    with pytest.raises(UserError) as error:
        tiny_study(folder)
    assert f"options --outer_learning_rate=0.02 in {file}, got --outer_learning_rate=0.5." in str(error.value)
    assert not at(folder, "images-images-matching_all-0").exists()


def test_a_cell_that_fails_is_a_row_and_is_tried_again(folder, no_training, monkeypatch, tmp_path):
    works = script._distilled

    def broken(study, place, cell, *others):
        if cell.gradient == "matching_all":
            raise MemoryError("no more\nto be had")
        return works(study, place, cell, *others)

    at(folder, "images-images-matching_all-0").unlink()
    monkeypatch.setattr(script, "_distilled", broken)
    found, printed = tiny_study(folder, equal_time=True)
    notes = {(r["reading"], r["gradient"]): (r["status"], r["note"]) for r in found["rows"]}
    assert notes["images", "matching_all"] == ("failed", "no more to be had")
    assert notes["images", "unrolled"] == notes["time", "unrolled"] == ("done", "")
    assert ("time", "matching_all") not in notes and "Failed: images, matching_all" in printed
    with monkeypatch.context() as patch, pytest.raises(UserError) as error:
        patch.setattr(script, "run", lambda options: found)
        script.run_to_end(Options())
    failed = "got 1 that failed (images-matching_all: no more to be had). The report has"
    assert f"study: expected every cell to finish, {failed}" in message(error)
    with pytest.raises(UserError, match="at least one finished cell"):
        tiny_study(tmp_path / "none", gradients=("matching_all",))
    monkeypatch.setattr(script, "_distilled", works)
    found, _ = tiny_study(folder)
    assert {r["status"] for r in found["rows"]} == {"done"}


def test_a_baseline_that_fails_is_a_row_that_says_why(finished, monkeypatch):
    def broken(*arguments, **options):
        raise MemoryError("no more\nto be had")

    monkeypatch.setattr(scores, "full_set", broken)
    path, *_ = finished
    (path / "baselines/full.json").unlink()
    again, printed = tiny_study(path)
    (row,) = (b for b in again["baselines"] if b["what"] == "full set")
    assert row["note"] == "no more to be had" and "Failed: full set images, linear" in printed
    assert not (path / "baselines/full.json").exists()  # it is tried again


def test_another_preset_in_the_same_folder_is_refused(folder):
    stored = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps(stored | {"config": stored["config"] | {"preset": "mnist"}})
    )
    with pytest.raises(UserError, match='preset: "mnist" there, "digits" here'):
        tiny_study(folder)


def test_a_folder_of_an_older_version_is_resumed(folder, no_training):
    """Its config.json says no experiment; the fields of its config are the same."""
    stored = json.loads((folder / "config.json").read_text())
    old = {name: stored[name] for name in ("config", "environment")}
    (folder / "config.json").write_text(json.dumps(old))
    assert tiny_study(folder)[1].count("done before") == 2
    names = "preset teachers gradients ablations equal_time time_limit tries learner images_per_class "
    names += "steps_scale smoke architectures num_eval_learners num_search_learners step_sizes num_epochs "
    names += "num_augmented_epochs full_data_epochs strategy learner_chunk seed checkpoint_every"
    assert set(names.split()) == stored["config"].keys()


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
        ({"learner": "mlp", "width": 4}, "options: expected an option"),
    ],
)
def test_bad_input_leaves_nothing(tmp_path, arguments, expected):
    with pytest.raises(UserError) as error:
        run(Options(**arguments, run_dir=str(tmp_path / "study")))
    assert expected in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "study").exists()


def test_a_preset_misspelt_is_one_line(capsys, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", CACHE)
    with pytest.raises(SystemExit) as ended:
        cli.main(run, Options, "", ["study", "--preset=digit"])
    err = capsys.readouterr().err
    assert ended.value.code == 1 and err.count("\n") == 1
    assert "preset: expected one of digits, mnist, got 'digit'" in err
