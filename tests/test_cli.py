"""The command line: one line and an exit code for whatever is wrong, help in groups, presets that parse."""

import importlib
import os
import re
import signal
from pathlib import Path

import jax
import pytest
from conftest import CACHE
from helpers import message
from tiny_runs import ROOT, command

from experiments import build, cli, distill, evaluate, gradients
from experiments.options import complete
from jaxdistill.core.checks import UserError, fail
from jaxdistill.data import load
from jaxdistill.runtime.loop import Interrupted

PRESETS = sorted((ROOT / "experiments/presets").glob("*.cfg"))
DISTILLED = [path for path in PRESETS if "python -m experiments.distill " in path.read_text()]


@pytest.fixture
def main(monkeypatch, capsys):
    """Calls `cli.main` with flags: (exit code, what stdout has, the lines of stderr)."""
    monkeypatch.setenv("JAXDISTILL_HUGE_PAGES", "0")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", CACHE)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def call(*flags, run=None, groups=distill.GROUPS, doc=distill.__doc__):
        seen = {}
        try:
            cli.main(run or (lambda **config: seen.update(config)), groups, doc, ["prog", *flags])
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        out, err = capsys.readouterr()
        return code, seen or out, err.splitlines()

    yield call
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_flags_become_options(main):
    code, config, err = main(
        "--seed=3",
        "--clip=2",
        "--learned=learning_rate,momentum",
        "--step_sizes=0.1, 1",
        "--random_window",
        "--noper_step",
        "--dataset=a b.npz",
        "--width=16",
    )
    assert (code, err) == (0, [])
    assert config["seed"] == 3 and config["clip"] == 2.0 and config["width"] == 16
    assert config["learned"] == ["learning_rate", "momentum"] and config["step_sizes"] == [0.1, 1.0]
    assert config["random_window"] is True and config["per_step"] is False and config["dataset"] == "a b.npz"
    assert main("--seed=0")[1] == {"seed": 0}  # what nobody chose is the experiment's matter
    assert complete(distill.GROUPS, {"seed": 0}) == complete(distill.GROUPS, {})
    assert main("--learned=")[1]["learned"] == []


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--sede=3"], "'sede'"),
        (["--seed=three"], "three"),
        (["--clip=much"], "much"),
        (["--step_sizes=0.1,big"], "big"),
        (["--per_step=maybe"], "maybe"),
        (["--seed"], "seed"),
        (["mnist"], "expected flags alone, got 'mnist'"),
        (["--seed=1", "mnist", "--clip=1"], "'mnist'"),
        (["--flagfile=/no/such/preset.cfg"], "preset.cfg"),
    ],
)
def test_flags_that_cannot_be_read_are_one_line(main, flags, says):
    code, out, err = main(*flags)
    assert code == 1 and out == "" and len(err) == 1
    assert says in err[0] and "--help lists" in err[0]


def test_errors_of_a_run_are_one_line_and_a_code(main):
    def bad(**config):
        raise fail("here", "two\n lines", "one")

    def stopped(**config):
        raise Interrupted(7, signal.SIGTERM)

    def killed(**config):
        os.kill(os.getpid(), config["seed"])

    def bug(**config):
        raise ZeroDivisionError

    assert main(run=bad) == (1, "", ["here: expected two lines, got one."])
    line = "stopped after outer step 7, saved; the same command goes on from there"
    assert main(run=stopped) == (143, "", [line])
    assert main("--seed=2", run=killed) == (130, "", ["stopped by SIGINT"])  # outside of the loop
    assert main("--seed=15", run=killed) == (143, "", ["stopped by SIGTERM"])
    with pytest.raises(ZeroDivisionError):  # a bug keeps its traceback
        main(run=bug)


@pytest.mark.parametrize(
    ("script", "titles"),
    [
        (distill, ["data", "teacher", "learner", "inner loop", "outer loop", "evaluation", "run"]),
        (evaluate, ["data", "learner", "evaluation", "run"]),
    ],
)
@pytest.mark.parametrize("flag", ["--help", "-h", "--helpfull"])
def test_help_groups_the_flags(main, script, titles, flag):
    code, out, err = main("--seed=1", flag, groups=script.GROUPS, doc=script.__doc__)
    assert (code, err) == (0, [])
    assert out.startswith(script.__doc__.strip())
    places = [out.index(f"\n{title}:\n") for title in titles]
    assert places == sorted(places)
    for name, option in (item for group in script.GROUPS.values() for item in group.items()):
        assert f"  --{'[no]' if option.kind is bool else ''}{name}" in out
    words = " ".join(out.split())
    for option in (option for group in script.GROUPS.values() for option in group.values()):
        known = f": {', '.join(option.known)}" if option.known else ""
        assert f" {option.help}{known} " in f"{words} "
    assert max(map(len, out.splitlines())) <= 110


def test_there_are_presets():
    assert {"digits", "mnist_fixed", "mnist_random"} <= {path.stem for path in PRESETS}


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_presets_say_their_command_and_parse(path):
    text = path.read_text()
    name = re.search(rf"python -m experiments\.(\w+) --flagfile=experiments/presets/{path.name}", text)[1]
    script = importlib.import_module(f"experiments.{name}")
    assert all(line.startswith(("#", "--")) for line in text.splitlines() if line)
    complete(script.GROUPS, cli._parse(script.GROUPS, "", [name, f"--flagfile={path}"]))


@pytest.mark.parametrize("path", DISTILLED, ids=lambda path: path.stem)
def test_presets_of_distillations_build(main, path):
    code, config, err = main(f"--flagfile={path}")
    assert (code, err) == (0, [])
    config = gradients.resolve(complete(distill.GROUPS, config))
    build.check_step_sizes(config)
    data = load("digits", image_size=28 if config["dataset"] == "mnist" else None)  # of the same shape
    key = jax.random.key(config["seed"])
    method = build.method(config, data, build.learner(config, data.info), key)
    batches = jax.eval_shape(method.synthesize, jax.eval_shape(method.init, key), key)
    steps, size = batches.y.shape[:2]
    assert steps == config["distill_steps"] * config["distill_epochs"]
    if config["teacher"] == "images":
        assert config["distill_steps"] * size == 10 * config["images_per_class"]
    else:
        assert size == config["batch_size"]


def test_a_preset_gives_way_to_what_follows_it(main):
    code, config, _ = main(f"--flagfile={DISTILLED[0]}", "--seed=9", "--num_outer_steps=2")
    assert (code, config["seed"], config["num_outer_steps"]) == (0, 9, 2)


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        ({"sede": 1}, "options among dataset, "),
        ({"num_outer_steps": 2.5}, "num_outer_steps as a whole number, got 2.5"),
        ({"num_outer_steps": True}, "num_outer_steps as a whole number, got True"),
        ({"clip": "1"}, "clip as a number, got '1'"),
        ({"per_step": 1}, "per_step as true or false, got 1"),
        ({"dataset": 3}, "dataset as text, got 3"),
        ({"learned": "momentum"}, "learned as a list, got 'momentum'"),
        ({"seed": None}, "seed as a whole number, got None"),
        ({"clip": float("nan")}, "a finite clip, got nan"),
    ],
)
def test_options_are_checked_by_type(chosen, says):
    with pytest.raises(UserError) as error:
        complete(distill.GROUPS, chosen)
    assert says in message(error)


def test_options_are_made_alike():
    config = complete(distill.GROUPS, {"clip": 2, "step_sizes": (1,), "dataset": Path("a.npz")})
    assert repr(config["clip"]) == "2.0" and config["step_sizes"] == [1.0] and config["dataset"] == "a.npz"


def test_scripts_run_as_modules_and_by_path(tmp_path):
    """As a user starts them, huge pages (a second start of the process) included."""
    target = tmp_path / "run"
    first = command(
        "-m", "experiments.distill", "--learner=nonesuch", f"--run_dir={target}", JAXDISTILL_HUGE_PAGES="1"
    )
    assert first.returncode == 1 and first.stdout == "" and not target.exists()
    (line,) = first.stderr.splitlines()
    assert line.startswith("learner: expected one of alexnet, ") and line.endswith("got 'nonesuch'.")
    script = str(ROOT / "experiments/evaluate.py")
    second = command(script, f"--synthetic={tmp_path / 'none.npz'}", JAXDISTILL_HUGE_PAGES="1")
    assert second.returncode == 1 and second.stdout == ""
    (line,) = second.stderr.splitlines()
    assert line.startswith("read_synthetic(") and "/none.npz): expected an .npz file, got no file of" in line
