"""SIGINT and SIGTERM of a script: one line and an exit code at any moment."""

import os
import signal
import subprocess
import sys
import threading
import time
import warnings

import pytest
from conftest import CACHE
from tiny_runs import ROOT, TINY

from experiments import cli, signals, start
from experiments.cli import as_flags
from experiments.distill import Options as DistillOptions
from jaxdistill.runtime import signals as caught

INT = int(signal.SIGINT)
HOOKS = ((sys, "excepthook"), (sys, "unraisablehook"), (threading, "excepthook"))
"""What a signal silences."""


@pytest.fixture
def watched(monkeypatch, capsys):
    """What the thread does about signals that arrive: (exit codes, lines of standard error)."""
    codes = []
    monkeypatch.setattr(signals, "GRACE", 0.0)
    monkeypatch.setattr(signals, "_handled", [])
    monkeypatch.setattr(os, "_exit", codes.append)

    def watch(*numbers):
        reading, writing = os.pipe()
        os.write(writing, bytes(numbers))
        os.close(writing)
        signals._watch(reading)
        os.close(reading)
        return codes, capsys.readouterr().err.splitlines()

    return watch


def test_a_busy_main_thread_is_ended_by_the_other(watched, monkeypatch):
    monkeypatch.setattr(signal, "getsignal", lambda number: signals.stop)
    assert watched(INT) == ([130], ["stopped by SIGINT"])


def test_the_loop_saves_first_and_says_that_it_waits(watched, monkeypatch):
    monkeypatch.setattr(signal, "getsignal", lambda number: signals.stop)
    monkeypatch.setattr(caught, "_listening", [[]])
    said = "SIGINT: waits for the running outer steps, then saves; again to stop at once"
    assert watched(INT) == ([], [said])
    assert watched(INT, INT) == ([130], [said, "stopped by SIGINT"])


def test_what_the_main_thread_or_another_handler_does_is_left_to_them(watched, monkeypatch):
    assert watched(INT, int(signal.SIGCHLD)) == ([], [])  # the handler is that of this test's process
    monkeypatch.setattr(signal, "getsignal", lambda number: signals.stop)
    monkeypatch.setattr(time, "sleep", lambda seconds: signals._handled.append(INT))
    assert watched(INT) == ([], [])


def test_a_loop_says_that_it_listens():
    assert not caught.listening()
    with caught.caught_signals():
        assert caught.listening()
    assert not caught.listening()


def test_a_signal_while_a_script_imports_or_ends_leaves_at_once(monkeypatch, capfd):
    codes = []
    monkeypatch.setattr(os, "_exit", codes.append)
    start.leave_at_once(signal.SIGTERM)
    assert codes == [143] and capfd.readouterr().err == "stopped by SIGTERM\n"


def test_what_a_signal_tears_down_adds_nothing_to_its_line(monkeypatch, capsys):
    """Such as an event loop of Orbax, which raises another error in the place of the exit."""
    for module, name in (*HOOKS, (signals, "_handled")):
        monkeypatch.setattr(module, name, [] if name == "_handled" else getattr(module, name))
    monkeypatch.setattr(signals, "listen", lambda: None)
    monkeypatch.setattr(signals, "end_in", lambda seconds, code: None)
    monkeypatch.setattr(signals, "exit_at_once", lambda code: None)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)

    def run(options):
        try:
            signals.stop(INT, None)
        finally:
            warnings.warn("coroutine was never awaited", RuntimeWarning, stacklevel=1)
            raise RuntimeError("cannot schedule new futures after shutdown")

    with warnings.catch_warnings(), pytest.raises(SystemExit) as left:
        cli.main(run, DistillOptions, "doc", ["script"])
    assert left.value.code == 130 and capsys.readouterr().err == "stopped by SIGINT\n"


def test_an_exit_that_is_lost_ends_the_process_all_the_same(monkeypatch):
    """Python ignores what a callback raises, and training would go on."""
    codes = []
    for module, name in HOOKS:
        monkeypatch.setattr(module, name, getattr(module, name))
    monkeypatch.setattr(signals, "_handled", [])
    monkeypatch.setattr(signals, "LAST", 0.0)
    monkeypatch.setattr(os, "_exit", codes.append)
    with warnings.catch_warnings(), pytest.raises(SystemExit):
        signals.stop(INT, None)
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.join()
    assert codes == [130]


def test_a_script_listens_from_its_first_import_unless_signals_are_ignored(monkeypatch):
    there, handlers = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}, {}
    monkeypatch.setattr(start, "runs_a_script", lambda: True)
    monkeypatch.setattr(signal, "getsignal", lambda number: there[number])
    monkeypatch.setattr(signal, "signal", handlers.__setitem__)
    start.end_by_signals()
    assert handlers == dict.fromkeys(there, start.leave_at_once)
    there, handlers = dict.fromkeys(there, signal.SIG_IGN), {}
    start.end_by_signals()
    assert not handlers


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seconds", "number"), [(0.3, signal.SIGINT), (0.3, signal.SIGTERM), (None, signal.SIGINT)]
)
def test_a_script_ends_with_one_line(tmp_path, seconds, number):
    flags = as_flags(TINY | {"num_eval_learners": 200_000, "run_dir": tmp_path / "run"})
    command = [sys.executable, "-m", "experiments.distill", *flags]
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": CACHE, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=-1, stderr=-1, text=True, cwd=ROOT, env=environment) as script:
        if seconds is None:
            while "evaluating" not in (script.stdout.readline() if script.stdout else ""):
                assert script.poll() is None
        time.sleep(seconds or 3.0)  # in the imports, and in a compiled program
        script.send_signal(number)
        _, error = script.communicate(timeout=60)
    assert script.returncode == 128 + number and error.splitlines()[-1] == f"stopped by {number.name}"
    assert "Traceback" not in error
