"""`--gradient`: implicit runs end to end, failed solves, the choice by memory."""

import json

import jax
import numpy as np
import pytest
from helpers import message
from tiny_runs import ALONE, TINY, tiny_run

import jaxdistill as jd
from jaxdistill.config.option import UNSET
from jaxdistill.config.table import Config
from jaxdistill.core.checks import UserError
from jaxdistill.methods.recipe import Facts
from jaxdistill.runs import budget
from jaxdistill.runs.budget import within_budget
from jaxdistill.runs.distill import FAULTS
from jaxdistill.runs.plan import planned
from jaxdistill.runtime import loop
from jaxdistill.runtime.divergence import check, skipped_before
from jaxdistill.runtime.memory import total_bytes
from jaxdistill.runtime.metrics import read_metrics

IMPLICIT = ALONE | {"gradient": "implicit", "distill_epochs": UNSET, "max_inner_steps": 20}
LINEAR = {"learner": "linear", "width": UNSET, "depth": UNSET}
FACTS = Facts((8, 8, 1), 10)
REPORTED = {
    "inner_gradient",
    "inner_steps",
    "residual",
    "worst_residual",
    "cosine",
    "curvature_v",
    "curvature_g",
}
SOLVERS = {
    "recording_cg": {"solver_tolerance": 0.01, "solver_steps": 30, "warm_start": True},
    "gauss_newton_cg": {"inner_optimizer": "adam", "inner_momentum": 0.0, "inner_learning_rate": 0.02},
    "nystrom": {"nystrom_rank": 5, "on_failed_solve": "skip"},
    "identity": {"identity_scale": 0.1},
}


@pytest.mark.filterwarnings("ignore:warm_start")
@pytest.mark.parametrize(
    "solver",
    [s if s == "recording_cg" else pytest.param(s, marks=pytest.mark.slow) for s in SOLVERS],
)
def test_a_run_with_implicit_gradients(tmp_path, solver):
    options = IMPLICIT | LINEAR | {"linear_solver": solver, "num_outer_steps": 10} | SOLVERS[solver]
    result, printed = tiny_run(tmp_path / "run", **options)
    rows = read_metrics(tmp_path / "run/metrics.jsonl")
    assert all(set(row) >= REPORTED for row in rows) and all(row["inner_steps"] <= 20 for row in rows)
    assert all(f"  {name} " in printed for name in ("inner_gradient", "residual", "cosine", "curvature_v"))
    assert ("solver_steps" in rows[0]) == (solver == "recording_cg")
    assert abs(rows[0]["cosine"] - 1) < 1e-4 or solver != "identity"
    assert 0 < result["test_accuracy_mean"] <= 1 and 0 < result["validation_accuracy_mean"] <= 1
    assert result["other_order_mean"] is None and "batches" not in printed
    assert result["random_real_mean"] is None and "random real" not in printed
    with np.load(tmp_path / "run/synthetic.npz") as file:  # every image in every step
        assert file["order"].shape[1] == 10 and 1 <= file["order"].shape[0] <= 20
        assert (file["order"] == np.arange(10)).all()


@pytest.mark.slow
def test_an_implicit_run_is_resumed_bit_for_bit(tmp_path, monkeypatch):
    options = IMPLICIT | {"linear_solver": "cg", "warm_start": True}
    tiny_run(tmp_path / "whole", **options)
    write, rows = loop.MetricsLog.write, []

    def stop_at_fifteen(self, step, metrics):
        write(self, step, metrics)
        rows.append(step)
        if step == 15:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop.MetricsLog, "write", stop_at_fifteen)
    with pytest.raises(KeyboardInterrupt):
        tiny_run(tmp_path / "cut", **options)
    monkeypatch.undo()
    _, printed = tiny_run(tmp_path / "cut", **options)
    assert rows[-1] == 15 and "resumes from outer step 10" in printed
    assert (tmp_path / "cut/synthetic.npz").read_bytes() == (tmp_path / "whole/synthetic.npz").read_bytes()


# Three steps of the solver, and no damping: the residual is above a millionth, where a solve fails here.
FAILING = TINY | IMPLICIT | {"damping": 0.0, "weight_decay": 0.0, "solver_steps": 3, "activation": "tanh"}


@pytest.fixture
def failing(monkeypatch):
    """Distills where every linear solve fails; gives the line of the error."""
    monkeypatch.setattr("jaxdistill.inner.implicit.FAILED_ABOVE", 1e-6)

    def line(**options) -> str:
        with pytest.warns(UserWarning, match="no finite minimum"), pytest.raises(UserError) as error:
            jd.distill(**FAILING | options, progress=False)
        return message(error)

    return line


def test_a_failed_solve_stops_the_run(tmp_path, failing):
    text = failing(run_dir=tmp_path / "run")
    assert "failed_solves = 1, worst_residual = " in text and "at outer step 1." in text
    assert FAULTS["failed_solves"] in text and "There was no checkpoint yet." in text
    assert not (tmp_path / "run/synthetic.npz").exists()


@pytest.mark.slow
def test_failed_solves_are_skipped_where_the_user_chose_so(tmp_path, failing, monkeypatch):
    monkeypatch.setattr(loop, "MOST_SKIPPED", 15)
    options = {"on_failed_solve": "skip", "run_dir": tmp_path / "run"}

    def save(self, step, state):
        """Once, and then ends as if by `kill -9`."""
        saves(self, step, state)
        raise KeyboardInterrupt

    saves = loop.Checkpoints.save
    with monkeypatch.context() as patch, pytest.warns(UserWarning), pytest.raises(KeyboardInterrupt):
        patch.setattr(loop.Checkpoints, "save", save)
        jd.distill(**FAILING | options, progress=False)
    # those before the stop count
    assert "fewer than 15 skipped steps in a row, got 15 by outer step 15" in failing(**options)
    rows = read_metrics(tmp_path / "run/metrics.jsonl")
    assert [row["skipped"] for row in rows] == [1.0, 1.0] and np.isnan(rows[0]["loss"])


def test_a_short_run_of_skipped_steps_alone_is_stopped():
    metrics = {"skipped": np.ones(6), "loss": np.full(6, np.nan)}
    more = {"most": 6, "faults": {}, "remedy": ""}
    with pytest.raises(UserError) as error:
        check(metrics, True, step=0, skipped=0, **more)
    assert "fewer than 6 skipped steps in a row, got 6 by outer step 6" in message(error)
    metrics = {"skipped": np.array([1, 1, 0, 1]), "loss": np.array([np.nan, np.nan, 1.0, np.nan])}
    assert check(metrics, True, step=0, skipped=3, **more) == 1
    rows = [{"step": 5, "skipped": 0.2}, {"step": 10, "skipped": 1.0}, {"step": 15, "skipped": 1.0}]
    assert skipped_before(rows, 15) == 10  # of a run that is resumed
    row = loop._summary({"loss": np.array([1.0, np.nan]), "skipped": np.array([0, 1])})
    assert row == {"skipped": 0.5, "loss": 1.0}


def test_a_temperature_that_diverged_is_the_cause_of_a_loss_that_did():
    metrics = {"loss": np.array([1.0, np.nan]), "diverged_temperatures": np.array([0, 1])}
    more = {"step": 0, "skipped": 0, "most": 6, "remedy": "Lower the rate."}
    for name, says in (
        ("diverged_temperatures", "Lower the temperature"),
        ("failed_solves", "Lower the rate"),
    ):
        faults = {name: "Lower the temperature."}
        with pytest.raises(UserError) as error:
            check(metrics | {name: np.array([0, 1])}, True, faults=faults, **more)
        assert says in message(error)


SIZES = {"unrolled": 900, "step": 500, "sqrt": 300, "implicit": 100}


def needs(config):
    return SIZES[config.gradient if config.remat == "none" else config.remat]


@pytest.mark.parametrize(
    ("limit", "allow", "gradient", "remat"),
    [
        ("1kB", False, "unrolled", "none"),
        ("500", False, "unrolled", "step"),
        ("499", True, "unrolled", "sqrt"),
        ("299", True, "implicit", "none"),
    ],
)
def test_the_fastest_that_fits_is_taken(limit, allow, gradient, remat):
    said = []
    chosen = Config(gradient="auto", memory_budget=limit, allow_implicit=allow, distill_epochs=7)
    found = within_budget(chosen, FACTS, needs, said.append)
    assert (found.gradient, found.remat) == (gradient, remat)
    assert found.learned == (("learning_rate",) if gradient == "unrolled" else ())
    steps = (found.distill_epochs, found.max_inner_steps)
    assert steps == ((1, 7) if gradient == "implicit" else (7, 100))
    (line,) = said
    assert line.startswith(f"gradient: {gradient}") and "the fastest that fits" in line


def test_what_fits_nothing_names_the_least():
    with pytest.raises(UserError) as error:
        within_budget(Config(gradient="auto", memory_budget="99"), FACTS, needs, print)
    assert "at least 300 B, what unrolled, remat sqrt needs, got 99" in message(error)
    assert "allow_implicit" in message(error)
    chosen = Config(gradient="auto", memory_budget="99", allow_implicit=True, linear_solver="neumann")
    with pytest.raises(UserError) as error:
        within_budget(chosen, FACTS, needs, print)
    assert "at least 100 B, what implicit needs" in message(error)


def test_auto_runs_what_it_chose_and_is_resumed(tmp_path, monkeypatch, capsys):
    asked = []

    def counted(*arguments, **options):
        asked.append(within_budget(*arguments, **options))
        return asked[-1]

    monkeypatch.setattr(budget, "within_budget", counted)
    options = TINY | ALONE | LINEAR | {"num_outer_steps": 5, "gradient": "auto", "memory_budget": "1GB"}
    run = jd.distill(**options, run_dir=tmp_path / "run")
    assert "gradient: unrolled, the fastest that fits: it needs" in capsys.readouterr().out
    assert len(asked) == 1 and run.config.gradient == "unrolled"
    stored = json.loads((tmp_path / "run/config.json").read_text())
    assert stored["config"]["gradient"] == "unrolled" and stored["chosen"]["gradient"] == "auto"
    again = jd.distill(**options, run_dir=tmp_path / "run", progress=False)
    np.testing.assert_array_equal(again.images, run.images)


def test_a_program_needs_its_arguments_too():
    compiled = jax.jit(lambda x: x * 2).lower(np.zeros(1000, np.float32)).compile()
    assert total_bytes(compiled) >= 8000


@pytest.mark.filterwarnings("ignore:warm_start")
def test_a_run_for_linearised_networks_solves_for_the_tangent_and_tests_the_network():
    small = {"learner": "mlp", "width": 4, "depth": 1, "num_learners": 2}
    plan = planned(Config(**small, gradient="implicit", linearized=True, warm_start=True))
    state = jax.eval_shape(plan.method.init, plan.key)
    shapes = jax.eval_shape(plan.tested.init, plan.key)
    assert jax.tree.map(lambda a: a.shape, state.solver) == jax.tree.map(lambda a: (2, *a.shape), shapes)
    for chosen, says in (
        ({"population": "fixed", "num_learners": 1}, "population=fresh, persistent or ages with linearized"),
        ({"method": "dm"}, "no linearized with method=dm, got True. It trains no inner steps."),
    ):
        with pytest.raises(UserError) as error:
            planned(Config(**{"linearized": True} | chosen))
        assert says in message(error)
