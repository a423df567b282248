"""The agenda: pieces, failures, results, archives, bad input; with items that take milliseconds."""

import json
import os
import select
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
from helpers import message
from tiny_runs import ROOT, command

from experiments.gpu_agenda import __main__ as script
from experiments.gpu_agenda import runner
from experiments.gpu_agenda.__main__ import Options
from experiments.gpu_agenda.items import PRESETS, Item, items
from jaxdistill.core.checks import UserError

FOLDER = """
import os, pathlib, signal, sys
folder = pathlib.Path(sys.argv[-1].partition("=")[2])
(folder / "checkpoints" / "7").mkdir(parents=True, exist_ok=True)
state, older = folder / "checkpoints/7/state", folder / "checkpoints/5"
def ready(): os.kill(os.getppid(), signal.SIGTERM)
"""
ENDS = "(folder / 'result.json').write_text('{}')"
IN_TWO = f"""
if state.exists():
    {ENDS}
else:
    older.mkdir()
    (older / "state").write_text("5")
    def stop(number, frame):
        state.write_text("7")
        sys.exit(143)
    signal.signal(signal.SIGTERM, stop)
    ready()
    signal.pause()
"""
DEAF = "signal.signal(signal.SIGTERM, signal.SIG_IGN); ready(); signal.pause()"
WAITS = "signal.pause()"
FAILS = "print('out of luck'); sys.exit(3)"
BLOCKED = ("tensorflow_datasets", "array_record", "jinja2", "tensorflow")
BLOCK = f"""
import sys
for name in {BLOCKED!r}:
    sys.modules[name] = None
"""


def fake(name, text, **more):
    return Item(name, f"what {name} is", ["-c", FOLDER + text], {"result.json": ".json"}, **more)


@pytest.fixture
def agenda(tmp_path, monkeypatch):
    """Runs a piece of fake items; `state.json` is given back with an error, if there is one."""

    def piece(*fakes, says="", folder=tmp_path / "agenda", **more):
        monkeypatch.setattr(script, "items", lambda data, run_dir: list(fakes))
        more = {"any_device": True, "run_dir": str(folder)} | more
        if not says:
            return script.run(Options(**more))
        with pytest.raises(UserError, match=says) as error:
            script.run(Options(**more))
        message(error)
        file = Path(folder) / "state.json"
        return json.loads(file.read_text()) if file.is_file() else None

    return piece


def names(archive):
    with zipfile.ZipFile(archive) as file:
        assert file.testzip() is None
        return sorted(file.namelist())


def test_an_item_is_stopped_and_goes_on_here_and_on_another_machine(agenda, tmp_path):
    fakes = fake("first", ENDS), fake("slow", IN_TWO), fake("last", ENDS)
    state = agenda(*fakes)
    assert {name: each["state"] for name, each in state.items()} == {"first": "done", "slow": "begun"}
    folder = tmp_path / "agenda"
    assert names(folder / "results.zip") == ["results/first.json"]
    kept = ["config.json", "results/first.json", "runs/slow/checkpoints/7/state", "state.json"]
    assert names(folder / "state.zip") == kept
    before = folder.stat().st_mtime_ns
    other = tmp_path / "other"
    moved = agenda(*fakes, folder=other, resume_from=folder / "state.zip")
    assert [each["state"] for each in moved.values()] == ["done"] * 3
    assert sorted(path.name for path in (other / "results").iterdir()) == [
        "first.json",
        "last.json",
        "slow.json",
    ]
    assert folder.stat().st_mtime_ns == before
    assert [each["state"] for each in agenda(*fakes).values()] == ["done"] * 3
    assert names(folder / "state.zip")[-1] == "state.json" and len(names(folder / "state.zip")) == 5


def test_a_piece_ends_in_time(agenda):
    state = agenda(fake("slow", WAITS), fake("never", ENDS), piece_seconds=0.3)
    assert list(state) == ["slow"] and state["slow"]["state"] == "begun" and state["slow"]["seconds"] < 30


def test_a_process_that_does_not_stop_is_killed(agenda):
    state = agenda(fake("deaf", DEAF), grace_seconds=0.2)
    assert state["deaf"]["state"] == "begun" and "killed" in state["deaf"]["note"]


@pytest.mark.parametrize("deaf", [True, False])
def test_the_processes_of_an_item_end_with_it(deaf, agenda, tmp_path):
    os.mkfifo(tmp_path / "alive")
    alive = os.open(tmp_path / "alive", os.O_RDONLY | os.O_NONBLOCK)
    ignore = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    text = f"""
held = os.open(folder.parents[2] / "alive", os.O_WRONLY)
if os.fork() == 0:
    {ignore}
    signal.pause()
os.close(held)
{ignore if deaf else "pass"}
ready()
signal.pause()
"""
    try:
        assert agenda(fake("parent", text), grace_seconds=0.2)["parent"]["state"] == "begun"
        ended, _, _ = select.select([alive], [], [], 10)
        assert ended and os.read(alive, 1) == b""  # the child does not hold the other end any more
    finally:
        os.close(alive)


def test_a_failure_is_told_and_tried_again_and_stops_no_other(agenda):
    fakes = fake("bad", FAILS), fake("empty", "pass"), fake("good", ENDS)
    state = agenda(*fakes, says="bad: exit 3: out of luck; empty: ended without result.json")
    assert [each["state"] for each in state.values()] == ["failed", "failed", "done"]
    state = agenda(fake("bad", ENDS), fake("empty", ENDS), fake("good", FAILS))
    assert [each["state"] for each in state.values()] == ["done"] * 3


def test_an_item_waits_for_the_one_it_needs(agenda, tmp_path):
    fakes = fake("experts", FAILS), fake("mtt", ENDS, after="experts")
    state = agenda(*fakes, items=["mtt"], says="experts: exit 3")
    assert list(state) == ["experts"] and state["experts"]["state"] == "failed"
    assert (tmp_path / "agenda/logs/experts.log").read_text().count("$ ") == 1
    assert list(agenda(*fakes, says="experts: exit 3")) == ["experts"]
    assert (tmp_path / "agenda/logs/experts.log").read_text().count("$ ") == 2
    fakes = fake("experts", ENDS), fakes[1]
    assert [each["state"] for each in agenda(*fakes, items=["mtt"]).values()] == ["done", "done"]


def test_a_large_run_stays_out_of_the_archive(agenda, tmp_path, capsys):
    text = "(folder / 'big').write_bytes(b'0' * 5000); " + FAILS
    agenda(fake("large", text), archive_mib=0.001, says="large")
    assert names(tmp_path / "agenda/state.zip") == ["config.json", "state.json"]
    assert "without large" in capsys.readouterr().out


def write(path, **content):
    x = np.random.default_rng(0).integers(0, 256, (40, 28, 28), np.uint8)
    np.savez(path, x=x, y=np.arange(40) % 4, **content)


def test_items_without_data_are_left_out_and_listed(agenda, tmp_path, capsys):
    write(tmp_path / "mnist.npz", name="mnist")
    fakes = fake("a", ENDS, data="mnist"), fake("b", ENDS, data="cifar10")
    assert agenda(*fakes, data=tmp_path, list=True) == {}
    assert not (tmp_path / "agenda").exists()
    assert list(agenda(*fakes, data=tmp_path)) == ["a"]
    out = capsys.readouterr().out
    assert "no cifar10.npz" in out and "a: python -c" in out and "what b is" in out


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "an intact .npz"), ({}, "name 'mnist' in"), ({"name": "kmnist"}, "got 'kmnist'")],
)
def test_a_file_that_is_not_the_set_is_an_error(agenda, tmp_path, content, says):
    if content is None:
        (tmp_path / "mnist.npz").write_bytes(b"no archive")
    else:
        write(tmp_path / "mnist.npz", **content)
    assert agenda(fake("a", ENDS, data="mnist"), data=tmp_path, says=says) is None


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"items": ["b"]}, "one of a, c, got 'b'"),
        ({"items": ["c"]}, "mnist.npz for c"),
        ({"data": "nowhere"}, "data, a folder"),
        ({"piece_seconds": 0}, "piece_seconds > 0"),
        ({"resume_from": "nowhere.zip"}, "the state.zip of an agenda"),
    ],
)
def test_bad_input_is_one_line(agenda, tmp_path, more, says):
    assert agenda(fake("a", ENDS), fake("c", ENDS, data="mnist"), says=says, **more) is None
    assert not (tmp_path / "agenda").exists()


def test_a_damaged_archive_leaves_nothing(agenda, tmp_path):
    file = tmp_path / "state.zip"
    file.write_bytes(b"PK no archive")
    agenda(fake("a", ENDS), resume_from=file, says="an intact state.zip")
    with zipfile.ZipFile(file, "w") as other:
        other.writestr("letter.txt", "hello")
    agenda(fake("a", ENDS), resume_from=file, says="without config.json")
    assert [path.name for path in tmp_path.iterdir()] == ["state.zip"]
    (tmp_path / "agenda").mkdir()
    (tmp_path / "agenda/mine").write_text("")
    agenda(fake("a", ENDS), resume_from=file, says="a new run_dir")


@pytest.mark.parametrize("content", ["{", "[1]", '{"a": {"state": "odd", "seconds": 1, "note": ""}}'])
def test_a_damaged_state_is_an_error_and_left_alone(agenda, tmp_path, content):
    agenda(fake("a", ENDS))
    file = tmp_path / "agenda/state.json"
    file.write_text(content)
    with pytest.raises(UserError, match="a damaged file"):
        runner.read_state(tmp_path / "agenda")
    assert file.read_text() == content


def test_a_run_of_another_experiment_is_an_error(agenda, tmp_path):
    (tmp_path / "agenda").mkdir()
    (tmp_path / "agenda/config.json").write_text(json.dumps({"experiment": "distill", "config": {}}))
    agenda(fake("a", ENDS), says="a run of experiments.gpu_agenda")


def test_without_a_gpu_it_says_so(monkeypatch, tmp_path):
    ended = subprocess.CompletedProcess([], 0, stdout='["cpu", "cpu"]\n', stderr="")
    monkeypatch.setattr(script.subprocess, "run", lambda *a, **b: ended)
    with pytest.raises(UserError, match=r"a GPU that JAX sees, got cpu.*any_device") as error:
        script.run(Options(run_dir=str(tmp_path / "new")))
    message(error)
    assert not (tmp_path / "new").exists()


def test_every_item_has_its_preset_and_every_preset_of_a_gpu_its_item():
    agenda = items(Path("data"), Path("run"))
    flagged = {item.name for item in agenda if any("--flagfile" in part for part in item.command)}
    unrun = {path.stem for path in PRESETS.glob("*.cfg") if "Not yet run" in path.read_text()}
    assert unrun | {"mnist_random"} == flagged and all(
        (PRESETS / f"{name}.cfg").is_file() for name in flagged
    )
    assert tuple(item.name for item in agenda) == script.NAMES


def test_nothing_that_a_machine_may_lack_is_imported(tmp_path):
    needed = ("gpu_agenda.__main__", "benchmark.__main__", "distill", "experts")
    text = BLOCK + "sys.modules['rich'] = None\n" + "".join(f"import experiments.{name}\n" for name in needed)
    text += "import jaxdistill.runs.result, jaxdistill.runs.bank_training, jaxdistill.runtime.figures\n"
    ended = command("-c", text)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.slow
def test_a_trial_runs_without_them(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(BLOCK)
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    arguments = ("-m", "experiments.gpu_agenda", "--smoke", f"--run_dir={tmp_path / 'agenda'}")
    ended = command(*arguments, PYTHONPATH=path)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert names(tmp_path / "agenda/results.zip")[-1] == "results/gpu_evaluation.json"
