"""`--gradient`: defaults, implicit runs end to end, failed solves, the choice by memory."""

import json

import jax
import numpy as np
import pytest
from helpers import message
from tiny_runs import TINY, tiny_run

from experiments import cli, distill
from experiments.gradients import FAULTS, within_budget
from experiments.gradients import resolve as resolved
from experiments.options import complete
from jaxdistill.core.checks import Caution, UserError
from jaxdistill.core.types import Data
from jaxdistill.runtime import loop
from jaxdistill.runtime.memory import format_bytes, parse_bytes, total_bytes
from jaxdistill.runtime.metrics import read_metrics

IMPLICIT = {"gradient": "implicit", "distill_epochs": None, "max_inner_steps": 20}
REPORTED = {
    "inner_gradient",
    "inner_steps",
    "residual",
    "worst_residual",
    "cosine",
    "curvature_v",
    "curvature_g",
}


def config(**chosen):
    return complete(distill.GROUPS, chosen)


def test_defaults_follow_the_gradient():
    names = ("learned", "weight_decay", "inner_momentum", "distill_epochs", "backprop_last", "linear_solver")
    found = {g: resolved(config(gradient=g)) for g in ("unrolled", "truncated", "implicit")}
    assert [found["unrolled"][n] for n in names] == [["learning_rate"], 0.0, 0.0, 10, None, None]
    assert [found["truncated"][n] for n in names] == [["learning_rate"], 0.0, 0.0, 10, 5, None]
    assert [found["implicit"][n] for n in names] == [[], 0.01, 0.9, 1, None, "cg"]
    assert resolved(config(gradient="implicit", weight_decay=0.5, damping=0.0))["weight_decay"] == 0.5


SOLVERS = {
    "recording_cg": {"solver_tolerance": 0.01, "solver_steps": 30, "warm_start": True},
    "gauss_newton_cg": {"inner_optimizer": "adam", "inner_momentum": 0.0, "inner_learning_rate": 0.02},
    "nystrom": {"nystrom_rank": 5, "on_failed_solve": "skip"},
    "identity": {"identity_scale": 0.1},
}


@pytest.mark.parametrize(
    "solver",
    [s if s == "recording_cg" else pytest.param(s, marks=pytest.mark.slow) for s in SOLVERS],
)
def test_a_run_with_implicit_gradients(tmp_path, solver):
    options = IMPLICIT | {"linear_solver": solver, "num_outer_steps": 10} | SOLVERS[solver]
    result, printed = tiny_run(tmp_path / "run", **options)
    rows = read_metrics(tmp_path / "run/metrics.jsonl")
    assert all(set(row) >= REPORTED for row in rows) and all(row["inner_steps"] <= 20 for row in rows)
    assert all(f"  {name} " in printed for name in ("inner_gradient", "residual", "cosine", "curvature_v"))
    assert ("solver_steps" in rows[0]) == (solver == "recording_cg")
    assert abs(rows[0]["cosine"] - 1) < 1e-4 or solver != "identity"
    assert 0 < result["test_accuracy_mean"] <= 1 and 0 < result["validation_accuracy_mean"] <= 1
    with np.load(tmp_path / "run/synthetic.npz") as file:  # every image in every step
        assert file["order"].shape[1] == 10 and 1 <= file["order"].shape[0] <= 20
        assert (file["order"] == np.arange(10)).all()


def test_a_run_without_baselines_has_none(tmp_path):
    result, printed = tiny_run(tmp_path / "run", num_outer_steps=5, num_baseline_learners=0)
    assert result["random_real_mean"] is None and result["full_data_mean"] is None
    assert "random real" not in printed and "distilled images" in printed


@pytest.mark.slow
def test_an_implicit_run_goes_on_bit_for_bit(tmp_path, monkeypatch):
    options = IMPLICIT | {"linear_solver": "cg", "warm_start": True, "num_baseline_learners": 0}
    tiny_run(tmp_path / "whole", **options)
    write, rows = loop.MetricsLog.write, []

    def stop_at_ten(self, step, metrics):
        write(self, step, metrics)
        rows.append(step)
        if step == 15:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop.MetricsLog, "write", stop_at_ten)
    with pytest.raises(KeyboardInterrupt):
        tiny_run(tmp_path / "cut", **options)
    monkeypatch.undo()
    _, printed = tiny_run(tmp_path / "cut", **options)
    assert rows[-1] == 15 and "goes on from outer step 10" in printed
    assert (tmp_path / "cut/synthetic.npz").read_bytes() == (tmp_path / "whole/synthetic.npz").read_bytes()


# Step size 20 leaves nothing of a minimum: the Hessian where it ends is not positive, and the solve fails.
FAILING = IMPLICIT | {"damping": 0.0, "weight_decay": 0.0, "solver_steps": 3, "activation": "tanh"}


def test_a_failed_solve_stops_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxdistill.inner.implicit.FAILED_ABOVE", 1e-6)
    with pytest.warns(UserWarning, match="no finite minimum"), pytest.raises(UserError) as error:
        tiny_run(tmp_path / "run", **FAILING)
    text = message(error)
    assert "failed_solves = 1, worst_residual = " in text and "at outer step 1." in text
    assert FAULTS["failed_solves"] in text and "There was no checkpoint yet." in text


def _then_stop(save):
    """Saves once, and ends as if by `kill -9`."""

    def saves(self, step, state):
        save(self, step, state)
        raise KeyboardInterrupt

    return saves


def test_failed_solves_are_skipped_where_the_user_chose_so(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxdistill.inner.implicit.FAILED_ABOVE", 1e-6)
    monkeypatch.setattr(loop, "MOST_SKIPPED", 15)
    with pytest.warns(UserWarning), pytest.raises(UserError) as error:
        tiny_run(tmp_path / "run", **FAILING, on_failed_solve="skip")
    assert "fewer than 15 skipped steps in a row, got 15 by outer step 15" in message(error)
    rows = read_metrics(tmp_path / "run/metrics.jsonl")
    assert [row["skipped"] for row in rows] == [1.0, 1.0] and np.isnan(rows[0]["loss"])
    monkeypatch.setattr(loop, "MOST_SKIPPED", 50)
    with pytest.warns(UserWarning), pytest.raises(UserError) as error:  # every step of a shorter run
        tiny_run(tmp_path / "short", **FAILING | {"num_outer_steps": 6}, on_failed_solve="skip")
    assert "fewer than 6 skipped steps in a row, got 6 by outer step 6" in message(error)
    monkeypatch.setattr(loop, "MOST_SKIPPED", 15)
    stopped = FAILING | {"chunk_length": 5, "checkpoint_every": 5}
    with monkeypatch.context() as patch, pytest.warns(UserWarning), pytest.raises(KeyboardInterrupt):
        patch.setattr(loop.Checkpoints, "save", _then_stop(loop.Checkpoints.save))
        tiny_run(tmp_path / "stopped", **stopped, on_failed_solve="skip")
    with pytest.warns(UserWarning), pytest.raises(UserError) as error:  # those before the stop count
        tiny_run(tmp_path / "stopped", **stopped, on_failed_solve="skip")
    assert "got 15 by outer step 15" in message(error)


def test_a_caution_is_one_line_of_a_script_said_once(capsys):
    told = set()
    for _ in range(2):
        cli._show_warning(told, Caution("implicit: without weight decay"), Caution, "file.py", 1)
    cli._show_warning(told, UserWarning("another"), UserWarning, "file.py", 1)
    first, second, *_ = capsys.readouterr().err.splitlines()
    assert first == "note: implicit: without weight decay" and "another" in second


SIZES = {"unrolled": 900, "step": 500, "sqrt": 300, "implicit": 100}


def needs(chosen):
    return SIZES[chosen["gradient"] if chosen["remat"] == "none" else chosen["remat"]]


@pytest.mark.parametrize(
    ("budget", "allow", "gradient", "remat"),
    [
        ("1kB", False, "unrolled", "none"),
        ("500", False, "unrolled", "step"),
        ("499", True, "unrolled", "sqrt"),
        ("299", True, "implicit", "none"),
    ],
)
def test_the_fastest_that_fits_is_taken(budget, allow, gradient, remat):
    said = []
    chosen = config(gradient="auto", memory_budget=budget, allow_implicit=allow, distill_epochs=7)
    found = within_budget(chosen, needs, said.append)
    assert (found["gradient"], found["remat"]) == (gradient, remat)
    assert found["memory_budget"] == budget and found["learned"] == (
        ["learning_rate"] * (gradient != "implicit")
    )
    assert (found["distill_epochs"], found["max_inner_steps"]) == (
        (1, 7) if gradient == "implicit" else (7, None)
    )
    (line,) = said
    assert line.startswith(f"gradient: {gradient}") and "the fastest that fits" in line


def test_what_fits_nothing_names_the_least():
    with pytest.raises(UserError) as error:
        within_budget(config(gradient="auto", memory_budget="99"), needs, print)
    assert "at least 300 B, what unrolled, remat sqrt needs, got 99" in message(error)
    assert "allow_implicit" in message(error)
    learned = config(gradient="auto", memory_budget="99", allow_implicit=True, linear_solver="neumann")
    with pytest.raises(UserError) as error:
        within_budget(learned, needs, print)
    assert "at least 100 B, what implicit needs" in message(error)


def test_auto_runs_what_it_chose(tmp_path, monkeypatch):
    chosen = resolved(config(**TINY))
    data = distill.build.splits(chosen)
    size = distill.bytes_of(chosen, splits=data, data=Data(data.train, None), key=jax.random.key(0))
    options = {
        "gradient": "auto",
        "memory_budget": f"{size}",
        "num_outer_steps": 5,
        "num_baseline_learners": 0,
    }
    result, printed = tiny_run(tmp_path / "run", **options)
    assert "gradient: unrolled, the fastest that fits: it needs" in printed
    assert result["config"]["gradient"] == "unrolled" and result["config"]["memory_budget"] == f"{size}"
    assert json.loads((tmp_path / "run/config.json").read_text())["config"]["gradient"] == "unrolled"


@pytest.mark.parametrize(
    ("text", "size"),
    [("2GB", 2 * 10**9), ("1.5 GiB", 3 * 2**29), ("512m", 512 * 10**6), ("70000", 70000), ("1e6", 10**6)],
)
def test_sizes_are_read(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "GB", "0", "2XB", "1e999", "-1GB", "nan", "1..5GB", "i"])
def test_sizes_that_are_none(text):
    with pytest.raises(UserError) as error:
        parse_bytes(text)
    assert "2GB" in message(error)


def test_sizes_are_shown():
    assert [format_bytes(n) for n in (999, 1000, 14_230_000, 1_620_000_000)] == [
        "999 B",
        "1 kB",
        "14.2 MB",
        "1.62 GB",
    ]


def test_a_program_needs_its_arguments_too():
    compiled = jax.jit(lambda x: x * 2).lower(np.zeros(1000, np.float32)).compile()
    assert total_bytes(compiled) >= 8000
