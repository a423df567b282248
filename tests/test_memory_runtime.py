"""`experiments.memory_runtime`: the grid and its files, the exact reference, what does not fit."""

import contextlib
import csv
import json
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import message

from experiments import build, estimators, memory_runtime, reference
from experiments.options import complete
from jaxdistill.core.checks import UserError
from jaxdistill.core.types import Batch, Meta
from jaxdistill.inner.losses import cross_entropy

SMALL = {
    "learner": "linear",
    "image_size": 4,
    "inner_steps": [1, 2],
    "estimators": ["unrolled", "implicit_identity"],
    "measure": ["program", "time", "error"],
    "real_batch_size": 16,
    "repeats": 1,
    "inner_learning_rate": 0.5,
}


@pytest.fixture(autouse=True)
def compile_cache(monkeypatch):
    """Tests may read what others compiled; compile times are not what they look at."""
    monkeypatch.setattr(memory_runtime, "no_compile_cache", contextlib.nullcontext)


def config(**chosen):
    return complete(memory_runtime.GROUPS, SMALL | chosen)


def run(path, **chosen):
    return memory_runtime.run(**SMALL | chosen, run_dir=str(path))


GRID = {"num_learners": [2], "inner_steps": [2, 1]}


def test_a_comparison_from_start_to_end(tmp_path, capsys, monkeypatch):
    result = run(tmp_path / "run", **GRID)
    rows = result["rows"]
    assert [(r["K"], r["T"], r["estimator"]) for r in rows] == [
        (2, t, e) for t in (1, 2) for e in SMALL["estimators"]
    ]
    for row in rows:
        assert row["all_bytes"] > row["program_bytes"] > 0 and row["compile_seconds"] > 0
        assert row["seconds_median"] >= row["seconds_min"] > 0 and row["note"] == ""
        assert -1 <= row["cosine_to_reference"] <= 1 + 1e-6 and row["relative_error"] > 0
        assert row["reference"].startswith("exact to ")
        assert ("residual" in row) == (row["estimator"] == "implicit_identity")
    with (tmp_path / "run/rows.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["estimator"] for row in table] == [row["estimator"] for row in rows]
    assert json.loads((tmp_path / "run/result.json").read_text())["rows"] == rows
    assert (tmp_path / "run/memory_runtime.png").read_bytes()[:4] == b"\x89PNG"
    text = (tmp_path / "run/memory_runtime.md").read_text()
    assert text.count("| implicit_identity |") == 2 and "reference: exact to" in text
    out = capsys.readouterr().out
    assert (
        "One hypergradient: linear on digits" in out
        and max(map(len, out.split("\n\n")[-1].splitlines())) <= 80
    )
    monkeypatch.setattr(memory_runtime, "cell", None)  # what is there is not measured again
    (tmp_path / "run/result.json").unlink()
    assert run(tmp_path / "run", **GRID)["rows"] == rows


def dense(problem, batch):
    """The hypergradient of a linear learner from its dense Hessian, where `scipy`'s optimiser ends."""
    from jax.flatten_util import ravel_pytree
    from scipy.optimize import minimize

    start, unravel = ravel_pytree(jax.tree.map(lambda a: jnp.asarray(a[0], jnp.float64), problem.contexts))
    real = Batch(*(jnp.asarray(a, jnp.float64) for a in problem.real))

    def loss(w, x):
        return problem.loss(Meta((), {}), unravel(w), Batch(x, batch.y))

    by_w = jax.jit(jax.value_and_grad(loss))
    found = minimize(lambda w: jax.device_get(by_w(w, batch.x)), start, jac=True, tol=1e-13, method="BFGS")
    w = jnp.asarray(found.x)
    g = jax.grad(lambda w: cross_entropy(problem.learner.apply(unravel(w), real.x), real.y))(w)
    v = jnp.linalg.solve(jax.hessian(loss)(w, batch.x), g)
    return -jax.grad(lambda x: jnp.vdot(jax.grad(loss)(w, x), v))(batch.x)


def test_the_reference_is_the_dense_one_and_implicit_gradients_reach_it():
    chosen = config(weight_decay=0.1, start="real", inner_momentum=0.5, damping=0.0, solver_tolerance=1e-5)
    data = build.splits(chosen)
    problem = estimators.problem(chosen, data, 1)
    found = reference.reference(chosen, data, problem)
    with jax.enable_x64(True):
        x = jnp.asarray(problem.meta.teacher["x"][0], jnp.float64)
        expected = dense(problem, Batch(x, jnp.eye(10)))
    # scipy ends at gradients near 1e-8, ours far below
    np.testing.assert_allclose(
        found.gradient["x"][0], expected, rtol=1e-4, atol=1e-6 * float(abs(expected).max())
    )
    solve = estimators.solve("implicit_cg", chosen, data, problem, 400)
    gradient, told = jax.jit(estimators.hypergradient(problem.learner, solve, chosen))(*problem.arguments)
    cosine, error = reference.compare(jax.device_get(gradient), found.gradient)
    assert cosine > 0.9999 and error < 1e-2 and told["residual"] < 1e-4  # float32


def test_the_accumulated_gradient_is_the_unrolled_one_for_one_step():
    chosen = config(learner="mlp", width=4, depth=1, inner_momentum=0.0, inner_learning_rate=1.0)
    data = build.splits(chosen)
    problem = estimators.problem(chosen, data, 1)

    def gradient(name, num_steps):
        step = estimators.estimator(name, chosen, data, problem, num_steps)
        return jax.device_get(jax.jit(step)(*problem.arguments)[0])

    for num_steps, low, high in ((1, 1 - 1e-6, 1.01), (8, 0.3, 0.9999)):
        both = [gradient(name, num_steps) for name in ("accumulated", "unrolled")]
        assert low < reference.compare(*both)[0] < high


@pytest.mark.slow
def test_a_network_that_is_not_smooth_is_compared_with_a_long_unroll():
    chosen = config(learner="mlp", width=4, depth=1, activation="relu", reference_steps=3)
    data = build.splits(chosen)
    problem = estimators.problem(chosen, data, 1)
    found = reference.reference(chosen, data, problem)
    assert found.name == "unrolled, 3 inner steps (not smooth)"
    solve = estimators.solve("unrolled", chosen, data, problem, 3)
    gradient, _ = jax.jit(estimators.hypergradient(problem.learner, solve, chosen))(*problem.arguments)
    assert reference.compare(jax.device_get(gradient), found.gradient)[0] > 0.99999
    assert not estimators.is_smooth({"learner": "lenet", "activation": None, "pooling": None})


def test_a_generator_is_compared_and_matching_is_measured_alone():
    small = {"batch_size": 12, "generator_width": 4, "generator_hidden": 8, "inner_learning_rate": 0.1}
    chosen = config(teacher="generator", weight_decay=0.1, damping=0.0, solver_tolerance=1e-5, **small)
    data = build.splits(chosen)
    problem = estimators.problem(chosen, data, 1)
    found = reference.reference(chosen, data, problem)
    solve = estimators.solve("implicit_cg", chosen, data, problem, 600)
    gradient, told = jax.jit(estimators.hypergradient(problem.learner, solve, chosen))(*problem.arguments)
    cosine, _ = reference.compare(jax.device_get(gradient), found.gradient)
    assert cosine > 0.99 and told["residual"] < 1e-3
    matching = estimators.estimator("gradient_matching", chosen, data, problem, 1)
    gradient, told = jax.jit(matching)(*problem.arguments)
    assert jax.tree.structure(gradient) == jax.tree.structure(problem.meta.teacher) and told["loss"] > 0


def test_a_reference_that_is_not_reached_is_none(monkeypatch):
    monkeypatch.setattr(reference, "TOLERANCE", 0.0)
    chosen = config()
    data = build.splits(chosen)
    found = reference.reference(chosen, data, estimators.problem(chosen, data, 1))
    assert found.gradient is None and "not reached" in found.name


def test_a_reference_whose_linear_solve_stopped_early_is_not_reached(monkeypatch):
    chosen = config()
    data = build.splits(chosen)
    problem = estimators.problem(chosen, data, 1)
    assert reference.reference(chosen, data, problem).gradient is not None
    solver = reference.cg
    monkeypatch.setattr(reference, "cg", lambda *args, tol, maxiter: solver(*args, tol=tol, maxiter=2))
    assert reference.reference(chosen, data, problem).gradient is None


def test_memory_that_runs_out_on_the_way_is_a_row(tmp_path, monkeypatch, capsys):
    compiled = memory_runtime.compiled

    def boom(*arguments):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    monkeypatch.setattr(memory_runtime, "total_bytes", lambda call: 1)
    monkeypatch.setattr(memory_runtime, "compiled", lambda *a: compiled(*a)._replace(call=boom))
    rows = run(tmp_path / "run", inner_steps=[1], measure=["program", "time"])["rows"]
    assert all(row["note"] == "did not run: RESOURCE_EXHAUSTED: Out of memory" for row in rows)
    monkeypatch.setattr(memory_runtime, "compiled", boom)
    rows = run(tmp_path / "other", inner_steps=[1], measure=["program"])["rows"]
    assert all(row["note"].startswith("not compiled: RESOURCE_EXHAUSTED") for row in rows)


def test_what_does_not_fit_is_a_row(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(memory_runtime, "free_bytes", lambda: 1000)
    result = run(tmp_path / "run", inner_steps=[1])
    assert all(
        row["note"].startswith("not run: needs ") and "1 kB free" in row["note"] for row in result["rows"]
    )
    assert all("seconds_median" not in row for row in result["rows"])
    assert "not run: needs" in capsys.readouterr().out


@pytest.mark.slow
def test_a_process_of_its_own_tells_its_peak(tmp_path):
    result = run(tmp_path / "run", inner_steps=[1], estimators=["unrolled"], measure=["process"])
    (row,) = result["rows"]
    assert row["process_bytes"] >= row["process_before_bytes"] > 10**8 and row["note"] == ""


FAILING = {
    "import os, signal; os.kill(os.getpid(), signal.SIGKILL)": "ended with -9",
    "raise MemoryError('much')": "ended with 1: MemoryError: much",
    "pass": "said nothing",
    "import time; time.sleep(60)": "took more than 0.5 s",
}


def test_processes_that_fail_are_notes_and_do_not_stay(monkeypatch):
    for worker, note in FAILING.items():
        monkeypatch.setattr(memory_runtime, "WORKER", worker)
        slow = "sleep" in worker
        chosen = config(process_time_limit=1.0) | {"process_time_limit": 0.5 if slow else 60.0}
        found = memory_runtime.in_processes(chosen, ["unrolled"], 1, 1)
        assert note in found["unrolled"]["note"]


def test_no_process_outlives_the_one_that_is_stopped(monkeypatch):
    started = []

    class Popen(subprocess.Popen):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            started.append(self)

    monkeypatch.setattr(memory_runtime, "WORKER", "import time; time.sleep(600)")
    monkeypatch.setattr(memory_runtime.subprocess, "Popen", Popen)
    monkeypatch.setattr(memory_runtime, "_peak_of", lambda *a: (_ for _ in ()).throw(SystemExit(143)))
    with pytest.raises(SystemExit):
        memory_runtime.in_processes(config(), ["unrolled", "implicit_cg"], 1, 1)
    assert [process.wait(timeout=60) for process in started] == [-9, -9]


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        ({"inner_steps": []}, "at least one of inner_steps, got none"),
        ({"inner_steps": [10, 0]}, "inner_steps >= 1, got 0"),
        ({"num_learners": []}, "at least one of num_learners, got none"),
        ({"num_learners": [-1]}, "num_learners >= 1, got -1"),
        ({"estimators": ["implicit_gc"]}, "expected one of accumulated, gradient_matching, implicit_cg"),
        ({"measure": ["memory"]}, "expected one of error, process, program, time"),
        ({"damping": -0.1}, "damping >= 0, got -0.1"),
        ({"inner_momentum": 1.0}, "momentum in [0, 1)"),
        ({"estimators": ["accumulated"], "inner_momentum": 0.5}, "sgd without momentum"),
        ({"nystrom_rank": 3}, "a linear solver that takes nystrom_rank, got identity"),
        ({"learner": "mlpp"}, "learner: expected one of"),
    ],
)
def test_bad_input_starts_nothing(tmp_path, chosen, says):
    with pytest.raises(UserError) as error:
        run(tmp_path / "run", **chosen)
    assert says in message(error)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_memory_of_compiled_programs_grows_as_claimed():
    """ConvNet on MNIST's shapes; the compiler's figures are deterministic, and nothing is run."""
    from jaxdistill.data.dataset import DatasetInfo, Splits, from_arrays

    generator = np.random.default_rng(0)
    arrays = from_arrays(generator.normal(size=(512, 28, 28, 1)), np.arange(512) % 10, 10)
    info = DatasetInfo("random", (28, 28, 1), 10, tuple("0123456789"), 255.0, (0.0,), (1.0,))
    data = Splits(arrays, arrays, arrays, info)
    chosen = config(learner="convnet", width=32, real_batch_size=256, inner_learning_rate=0.02)
    problem = estimators.problem(chosen, data, 1)

    def size(name, num_steps):
        solve = estimators.solve(name, chosen, data, problem, num_steps)
        step = estimators.hypergradient(problem.learner, solve, chosen)
        return jax.jit(step).lower(*problem.arguments).compile().memory_analysis().temp_size_in_bytes

    implicit = {t: size("implicit_cg", t) for t in (10, 300, 1000)}
    unrolled = size("unrolled", 300)
    assert implicit[1000] <= 1.1 * implicit[10]
    assert unrolled >= 10 * implicit[300]
    assert size("unrolled_sqrt", 300) <= 0.25 * unrolled
