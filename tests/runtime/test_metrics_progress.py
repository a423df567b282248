"""Metrics on disk and progress on the screen."""

import contextlib
import io
import math
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import message

from jaxdistill.core.checks import UserError
from jaxdistill.core.reporting import report
from jaxdistill.runtime import metrics, progress
from jaxdistill.runtime.expected_time import Shorter, duration, expected


def test_metrics_resume_drops_later_rows_and_a_torn_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with metrics.MetricsLog(path) as log:
        for step in (0, 10, 20, 30):
            log.write(step, {"loss": jnp.float32(step), "rates": jnp.arange(2.0), "bad": jnp.nan})
    with path.open("a") as file:
        file.write('{"step": 40, "lo')
    assert [row["step"] for row in metrics.read_metrics(path)] == [0, 10, 20, 30]
    with metrics.MetricsLog(path, resume_step=20) as log:
        log.write(30, {"loss": np.float64(0.5)})
    rows = metrics.read_metrics(path)
    assert [row["step"] for row in rows] == [0, 10, 20, 30]
    assert rows[3] == {"step": 30, "loss": 0.5}
    assert math.isnan(rows[1].pop("bad")) and rows[1] == {"step": 10, "loss": 10.0, "rates": [0.0, 1.0]}
    assert "NaN" not in path.read_text()
    metrics.MetricsLog(path).close()
    assert metrics.read_metrics(path) == []


def test_metrics_errors(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    with pytest.raises(UserError) as error:
        metrics.read_metrics(path)
    assert "no file at" in message(error)
    path.write_text('{"step": 1}\nrubbish\n{"step": 2}\n')
    with pytest.raises(UserError) as error:
        metrics.MetricsLog(path, resume_step=1)
    assert "line 2" in message(error)
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(UserError) as error:
        metrics.MetricsLog(tmp_path / "other", tensorboard_dir=tmp_path / "board")
    assert 'pip install "jaxdistill[tensorboard]"' in message(error)


def test_tensorboard_files_are_written(tmp_path):
    pytest.importorskip("tensorboardX", reason="an optional extra")
    with metrics.MetricsLog(tmp_path / "m", tensorboard_dir=tmp_path / "board") as log:
        log.write(1, {"loss": 1.0, "rates": [1.0, 2.0], "bad": math.nan})
    (events,) = (tmp_path / "board").iterdir()
    assert b"loss" in events.read_bytes() and b"rates" not in events.read_bytes()


# ---------------------------------------------------------------- progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_in_a_log_is_few_plain_lines():
    out, now = io.StringIO(), [0.0]
    with progress.Progress(1000, label="dd", file=out, clock=lambda: now[0]) as bar:
        for step in range(1, 1001):
            now[0] = 9.0 + step  # 9 s of compilation, then a step per second
            bar.update(step, loss=1.0 / step, accuracy=0.5)
        bar.say("done")
    lines = out.getvalue().splitlines()
    assert lines[0] == "dd: compiling ..."
    assert lines[1] == "dd: 1/1000  10.0 s with compilation  loss 1  accuracy 50.0%"
    assert lines[2] == "dd: 6/1000  1/s  16 min 34 s left  loss 0.1667  accuracy 50.0%"
    assert lines[-2].startswith("dd: 1000/1000  took 16 min 49 s  loss") and lines[-1] == "done"
    assert len(lines) < 90 and max(map(len, lines)) <= 80


def test_the_expected_time_comes_from_the_first_steps_without_compilation(capsys):
    now = [0.0]
    shorter = Shorter("full_data_epochs", 20)
    with progress.expecting("full set", 1000, shorter, clock=lambda: now[0]):
        for seconds, done in ((30.0, 1), (31.0, 2), (40.0, 2), (42.0, 4), (43.0, 10), (90.0, 500)):
            now[0] = seconds  # 30 s of compilation before the first step, 9 s after the second
            report("steps", done, 500)
    assert capsys.readouterr().out.splitlines() == [
        "expected: about 16 min 40 s for full set; full_data_epochs=12 takes about 10 min 00 s"
    ]
    assert expected("it", 600.0, shorter) == "expected: about 10 min 00 s for it"
    resumed = Shorter("num_outer_steps", 3000, 1000)
    assert expected("it", 1200.0, resumed).endswith("; num_outer_steps=2000 takes about 10 min 00 s")


def test_the_expected_time_of_rows_comes_from_those_that_were_made(capsys):
    now = [0.0]
    shorter = Shorter("num_candidates", 5)
    rows = progress.Rows(5, shorter, noun="candidate", clock=lambda: now[0])
    for seconds, made in ((0.0, False), (400.0, True), (410.0, False), (440.0, True), (840.0, True)):
        now[0] = seconds
        rows.done(made=made)
    assert capsys.readouterr().out.splitlines() == [
        "expected: about 20 min 00 s for at most 3 more candidates; num_candidates=3 takes about 6 min 40 s"
    ]
    rows = progress.Rows(3, shorter, clock=lambda: now[0])
    for _ in range(3):
        now[0] += 70.0
        rows.done()
    assert capsys.readouterr().out.splitlines() == [
        "expected: about 2 min 20 s for at most 2 more rows",
        "expected: about 1 min 10 s for at most 1 more row",
    ]


def test_progress_says_the_expected_time_once():
    out, now = io.StringIO(), [0.0]
    with progress.Progress(
        100, 50, "experts", shorter="fewer take less", file=out, clock=lambda: now[0]
    ) as bar:
        for step in range(51, 60):
            now[0] = 9.0 + step  # 9 s of compilation, then a second each
            bar.update(step)
    said = [line for line in out.getvalue().splitlines() if line.startswith("expected")]
    assert said == ["expected: about 47.0 s for the experts that are left"]


def test_progress_on_a_terminal_is_a_bar():
    out = Terminal()
    with progress.Progress(4, label="dd", file=out) as bar:
        bar.update(2, loss=0.5)
        bar.say("[not markup]")
        bar.update(4, loss=0.25)
    text = out.getvalue()
    assert "compiling ..." in text and "4/4" in text and "loss 0.25" in text and "[not markup]" in text
    with progress.Progress(4, start=4, file=out) as bar:
        bar.update(4)


def test_table_never_wraps(capsys):
    rows = [["a method with a long name " * 5, 0.123456, 3], ["b", None, 1200]]
    progress.table("Results", ["method", "accuracy", "steps"], rows)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 and max(map(len, lines)) <= 80
    assert lines[0] == "Results" and "…" in lines[3] and lines[3].endswith("0.1235      3")
    assert lines[4].endswith("-   1200")


def test_without_rich_a_terminal_gets_plain_lines(monkeypatch):
    monkeypatch.setitem(progress.sys.modules, "rich", None)
    monkeypatch.setattr(progress.importlib.util, "find_spec", lambda name: None)
    out = Terminal()
    with progress.Progress(2, label="dd", file=out) as shown:
        shown.say("a note")
        shown.update(2, loss=1.0)
    progress.table("title", ["name", "number"], [["a", 1.5]], file=out)
    lines = out.getvalue().splitlines()
    assert lines[:2] == ["dd: compiling ...", "a note"] and lines[2].startswith("dd: 2/2")
    assert lines[3:] == ["title", "name  number", "------------", "a        1.5"]


def test_duration():
    assert [duration(s) for s in (0.04, 59.96, 185, 7620)] == [
        "0.0 s",
        "1 min 00 s",
        "3 min 05 s",
        "2 h 07 min",
    ]


def test_what_the_library_reports_is_shown_though_output_is_put_aside(capsys):
    with progress.counting(seconds=0.0), contextlib.redirect_stdout(io.StringIO()):
        report("preparing mnist, images", 10_000, 60_000)
    assert capsys.readouterr().out == "preparing mnist, images: 10,000 of 60,000\n"


# ---------------------------------------------------------------- outputs that cannot show everything


@pytest.mark.parametrize(("encoding", "shown"), [("ascii", "?"), ("latin-1", "é"), ("utf-8", "é")])
def test_printing_degrades_to_what_the_encoding_has(encoding, shown):
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="\n")
    progress.say("é 1 ± 2 \udce9", out)
    progress.table("猫", ["±" * 50, "learner"], [["98.1 ± 0.2", "é" * 60]], file=out)
    with progress.Progress(10, label="猫", file=out) as bar:
        bar.update(10, loss=1.0)
    out.seek(0)
    text = out.read()
    sign, cat = "+/-" if encoding == "ascii" else "±", "猫" if encoding == "utf-8" else "?"
    assert text.startswith(f"{shown} 1 {sign} 2 ?\n{cat}\n") and f"98.1 {sign} 0.2" in text
    assert f"{cat}: 10/10" in text and max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("columns", ["0", "7", "40"])
def test_terminals_of_odd_widths_show_everything_once(columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    out = Terminal()
    progress.table("title", ["learner", "mean"], [["convnet", 0.5], ["a" * 90, 0.25]], file=out)
    with progress.Progress(10, label="dd", file=out) as bar:
        bar.update(10, loss=1.0)
        bar.say("a line")
    text = out.getvalue()
    assert text.count("convnet") == 1 and "0.25" in text and "a line" in text
    assert len(text) < 4000


def test_no_standard_output_is_no_error(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    progress.say("nobody listens")
    progress.table("title", ["a"], [[1]])
    with progress.Progress(10) as bar:
        bar.update(10, loss=1.0)
