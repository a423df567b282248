"""The command line: one line and an exit code for whatever is wrong, help in groups, presets that parse."""

import functools
import importlib
import os
import re
import signal
import subprocess
import sys
import threading
import types
import warnings

import jax
import pytest
from conftest import CACHE
from tiny_runs import ROOT, command

from experiments import cli, distill, signals
from jaxdistill.config import build
from jaxdistill.config.option import option, options
from jaxdistill.config.resolve import resolve
from jaxdistill.config.table import Config, DataOptions, SeedOptions
from jaxdistill.core.checks import Caution, fail
from jaxdistill.data import load
from jaxdistill.methods.recipe import Facts
from jaxdistill.runtime.loop import Finished, Interrupted

PRESETS = sorted((ROOT / "experiments/presets").glob("*.cfg"))
SCRIPTS = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "experiments").rglob("*.py")
    if "cli.main(run, Options, __doc__)" in path.read_text(encoding="utf-8")
)
DISTILLED = [path for path in PRESETS if "python -m experiments.distill " in path.read_text()]


@options
class Small(DataOptions, SeedOptions):
    title = "a small script"
    factor: float = option(2.0, "what all numbers are multiplied by", above=0)


@pytest.fixture
def main(monkeypatch, capsys):
    """Calls `cli.main` with flags: (exit code, the options or what stdout has, the lines of stderr)."""
    monkeypatch.setenv("JAXDISTILL_HUGE_PAGES", "0")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", CACHE)
    for module, name in ((sys, "excepthook"), (sys, "unraisablehook"), (threading, "excepthook")):
        monkeypatch.setattr(module, name, getattr(module, name))  # a signal silences them
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    ended: list[int] = []

    def call(*flags, run=None, cls=distill.Options, doc=distill.__doc__):
        seen = []
        monkeypatch.setattr(signals, "_handled", [])
        monkeypatch.setattr(signals, "end_in", lambda seconds, code: None)
        monkeypatch.setattr(signals, "exit_at_once", ended.append)
        try:
            cli.main(run or seen.append, cls, doc, ["prog", *flags])
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        out, err = capsys.readouterr()
        return code, seen[0] if seen else out, err.splitlines()

    with warnings.catch_warnings():
        call.ended = ended
        yield call
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_a_folder_that_cannot_be_read_is_one_line(main):
    def run(options):
        raise PermissionError(13, "Permission denied", "there/images.gz")

    assert main(run=run) == (1, "", ["there/images.gz: Permission denied"])


def test_an_error_of_the_machine_without_a_file_blames_no_output(main):
    def run(options):
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")

    assert main(run=run) == (1, "", ["No usable temporary directory found in ['/tmp']"])


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
    assert config.seed == 3 and config.clip == 2.0 and config.width == 16
    assert config.learned == ("learning_rate", "momentum") and config.step_sizes == (0.1, 1.0)
    assert config.random_window is True and config.per_step is False and config.dataset == "a b.npz"
    assert main("--seed=0")[1].chosen() == {"seed": 0}  # what nobody chose is the experiment's matter
    assert resolve(distill.Options(seed=0)) == resolve(distill.Options())
    assert main("--learned=")[1].learned == ()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--sede=3"], "command line: expected a flag, got 'sede'. Near: seed, schedule."),
        (["--temprature=3"], "command line: expected a flag, got 'temprature'."),
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
    assert says in err[0] and ("Near: " in err[0] or "lists the" in err[0])


def test_a_flag_file_of_other_bytes_is_one_line(main, tmp_path):
    (tmp_path / "latin.cfg").write_bytes(b"# caf\xe9\n--seed=1\n")
    code, out, err = main(f"--flagfile={tmp_path / 'latin.cfg'}")
    assert (code, out) == (1, "") and err == ["flagfile: expected text in utf-8, got byte 0xe9."]


def test_a_script_without_an_output_opens_no_file_in_its_place(tmp_path):
    """Else native code would print into that file."""
    text = "import os, sys; sys.argv[0] = '-m'; os.environ['JAXDISTILL_HUGE_PAGES'] = '0'; import experiments"
    text += "; number = os.open('number', os.O_CREAT | os.O_WRONLY); os.write(number, b'%d' % number)"
    text += "; print('lost', flush=True)"
    command = f"exec '{sys.executable}' -c \"{text}\" >&- 2>&-"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run(["sh", "-c", command], cwd=tmp_path, env=environment, check=True)
    assert int((tmp_path / "number").read_bytes()) > 2


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--seed=-1"], "options: expected seed >= 0, got -1."),
        (["--schedule=linear"], "schedule: expected one of constant, cosine, halving, got 'linear'."),
        (
            ["--method", "dx"],
            "method: expected one of dc, dd, dm, dsa, frepo, gtn, idc, kip, mtt, rat, rcig, got 'dx'.",
        ),
    ],
)
def test_values_that_cannot_be_are_one_line(main, flags, line):
    assert main(*flags) == (1, "", [line])
    assert main(*flags, "--help") == (1, "", [line])


def test_errors_of_a_run_are_one_line_and_a_code(main):
    def bad(config):
        raise fail("here", "two\n lines", "one")

    def stopped(config):
        finished = Finished(types.SimpleNamespace(step=7), 0.0, 0.0, 0, 0, [])
        raise Interrupted(finished, signal.SIGTERM, saved=True)

    def killed(config):
        os.kill(os.getpid(), config.seed)

    def bug(config):
        raise ZeroDivisionError

    assert main(run=bad) == (1, "", ["here: expected two lines, got one."])
    line = "stopped after outer step 7, saved; run the same command again to resume"
    assert main(run=stopped) == (143, "", [line])
    assert main("--seed=2", run=killed) == (130, "", ["stopped by SIGINT"])  # outside of the loop
    assert main("--seed=15", run=killed) == (143, "", ["stopped by SIGTERM"])
    assert main.ended == [130, 143]  # without Python's own end
    with pytest.raises(ZeroDivisionError):  # a bug keeps its traceback
        main(run=bug)


def test_what_ends_after_the_last_line_adds_nothing(main, capsys):
    """Such as a thread of TensorStore that could not write a checkpoint."""

    def bad(config):
        raise fail("here", "two", "one")

    assert main(run=bad)[0] == 1
    sys.excepthook(RuntimeError, RuntimeError("Event loop is closed"), None)
    assert capsys.readouterr().err == ""


def test_a_caution_is_one_line_said_once(capsys):
    told = set()
    for _ in range(2):
        cli._show_warning(told, Caution("implicit: without weight decay"), Caution, "file.py", 1)
    cli._show_warning(told, UserWarning("another"), UserWarning, "file.py", 1)
    first, second, *_ = capsys.readouterr().err.splitlines()
    assert first == "note: implicit: without weight decay" and "another" in second


@pytest.mark.parametrize(
    ("cls", "titles"),
    [
        (distill.Options, ["data", "teacher", "learner", "inner loop", "outer loop", "evaluation", "run"]),
        (Small, ["data", "run", "a small script"]),
    ],
)
def test_full_help_lists_every_flag_in_groups(main, cls, titles):
    code, out, err = main("--seed=1", "--helpfull", cls=cls, doc="A script.\n")
    assert (code, err) == (0, []) and out.startswith("A script.\n")
    places = [out.index(f"\n{title}:\n") for title in titles]
    assert places == sorted(places)
    words = f" {' '.join(out.split())} "
    for name, each in cls.options().items():
        known = f": {', '.join(each.names)}" if each.names else ""
        assert f" --{'[no]' if each.kind is bool else ''}{name} " in words
        assert f" {each.help}{known} " in words
    assert " --seed [1] " in words
    assert max(map(len, out.splitlines())) <= 110


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_short_help_shows_what_acts_with_its_values(main, flag):
    code, out, err = main(flag)
    assert (code, err) == (0, []) and out.startswith(distill.__doc__.strip())
    assert "\ndd is Dataset Distillation (Wang et al. 2018, https://arxiv.org/abs/1811.10959).\n" in out
    assert "The defaults are its settings for small images.\n" in out
    assert (
        "--learner [mlp]" in out and "--run_dir\n" in out and "--width" not in out and "--damping" not in out
    )
    assert max(map(len, out.splitlines())) <= 110
    _, out, _ = main(flag, "--method", "dsa", "--dataset=mnist", "--images_per_class=10")
    assert "\nThe defaults are its paper's settings.\n" in out
    assert "--learner [convnet]" in out and "--start [real]" in out
    assert "--num_outer_steps [10000]" in out and "--gradient" not in out
    _, out, _ = main(flag, cls=Small)
    assert "--factor [2.0]" in out and "--dataset [digits]" in out and "--learner" not in out


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_has_both_helps(main, name):
    module = importlib.import_module(name)
    code, short, err = main("--help", cls=module.Options, doc=module.__doc__)
    assert (code, err) == (0, []) and short.startswith(module.__doc__.strip())
    code, full, err = main("--helpfull", cls=module.Options, doc=module.__doc__)
    assert (code, err) == (0, []) and full.startswith(module.__doc__.strip())
    flags = re.compile(r"^  --(?:\[no\])?(\w+)", re.M)
    assert sorted(flags.findall(full)) == sorted(module.Options.options())
    assert set(flags.findall(short)) <= module.Options.options().keys()


def test_help_is_as_wide_as_the_terminal(main, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    _, out, _ = main("--helpfull", doc="A script.")
    described = [line for line in out.splitlines() if line.startswith(cli.INDENT)]
    assert max(map(len, described)) <= 40


def test_help_of_a_set_of_unknown_size_names_both_kinds_of_defaults(main):
    assert "experiments.adapt" in SCRIPTS and "experiments.study.search" in SCRIPTS
    adapt = importlib.import_module("experiments.adapt")
    _, out, _ = main("--help", cls=adapt.Options, doc=adapt.__doc__)
    assert "The defaults are its paper's settings, or others for small images.\n" in out
    assert "--source [mnist]" in out and "--target [usps]" in out


def script(name: str):
    """The module that has a script's options."""
    module = importlib.import_module(f"experiments.{name}")
    return importlib.import_module(f"experiments.{name}.__main__") if hasattr(module, "__path__") else module


def test_there_are_presets():
    assert {"digits", "mnist_fixed", "mnist_random"} <= {path.stem for path in PRESETS}


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_presets_say_their_command_and_parse(path):
    text = path.read_text()
    name = re.search(rf"python -m experiments\.(\w+) --flagfile=experiments/presets/{path.name}", text)[1]
    assert all(line.startswith(("#", "--")) for line in text.splitlines() if line)
    cls = script(name).Options
    chosen = cli.parsed(cls, "", [name, f"--flagfile={path}"])
    assert isinstance(chosen, cls) and chosen.chosen()


@functools.cache
def digits(image_size):
    return load("digits", image_size=image_size)


@pytest.mark.parametrize("path", DISTILLED, ids=lambda path: path.stem)
def test_presets_of_distillations_build(main, path):
    code, chosen, err = main(f"--flagfile={path}")
    assert (code, err) == (0, [])
    dataset = chosen.chosen().get("dataset", "digits")
    data = digits(28 if dataset == "mnist" else None)  # of the same shape
    config = resolve(chosen.pick(Config), Facts(data.info.image_shape, data.info.num_classes))
    key = jax.random.key(config.seed)
    method = build.method(config, data, build.learner(config, data.info), key)
    batches = jax.eval_shape(method.synthesize, jax.eval_shape(method.init, key), key)
    steps, size = batches.y.shape[:2]
    assert steps == config.distill_steps * config.distill_epochs
    if config.teacher == "images":
        assert config.distill_steps * size == 10 * config.images_per_class
    else:
        assert size == config.batch_size


def test_a_preset_gives_way_to_what_follows_it(main):
    code, config, _ = main(f"--flagfile={DISTILLED[0]}", "--seed=9", "--num_outer_steps=2")
    assert (code, config.seed, config.num_outer_steps) == (0, 9, 2)


def test_options_as_flags_are_read_back(main):
    chosen = {"seed": 3, "step_sizes": (0.1, 1.0), "per_step": False, "dataset": "a b.npz", "learned": ()}
    assert main(*cli.as_flags(chosen | {"width": None}))[1].chosen() == chosen


def test_scripts_run_by_path(tmp_path):
    """With huge pages, a second start of the process. `test_resume` starts one as a module."""
    target = tmp_path / "run"
    script = str(ROOT / "experiments/distill.py")
    ended = command(script, "--learner=nonesuch", f"--run_dir={target}", JAXDISTILL_HUGE_PAGES="1")
    assert ended.returncode == 1 and ended.stdout == "" and not target.exists()
    (line,) = ended.stderr.splitlines()
    assert line.startswith("learner: expected one of alexnet, ") and line.endswith("got 'nonesuch'.")
