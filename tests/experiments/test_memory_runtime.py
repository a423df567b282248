"""`experiments.memory_runtime`: the grid and its files, the exact reference, what does not fit."""

import contextlib
import csv
import json
import subprocess
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import message

import jaxdistill as jd
from experiments.memory_runtime import __main__ as script
from experiments.memory_runtime import cells, estimators, processes, reference
from experiments.memory_runtime.options import ESTIMATORS, MATCHING, WITHOUT_STEPS, Options
from jaxdistill.config import build
from jaxdistill.config.option import UNSET
from jaxdistill.config.resolve import resolve
from jaxdistill.core.checks import UserError
from jaxdistill.core.types import Batch, Meta
from jaxdistill.data import from_arrays
from jaxdistill.data.dataset import DatasetInfo, Splits
from jaxdistill.inner.losses import cross_entropy
from jaxdistill.runs.plan import identity_from, identity_of, splits

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
MLP = {"learner": "mlp", "width": 4, "depth": 1}


@pytest.fixture(autouse=True)
def compile_cache(monkeypatch):
    """Tests may read what others compiled; compile times are not what they look at."""
    monkeypatch.setattr(cells, "no_compile_cache", contextlib.nullcontext)


def options_of(**chosen):
    return resolve(Options(**SMALL | chosen))


def problem_of(**chosen):
    """(options, data, problem) for one learner."""
    options = options_of(**chosen)
    data = splits(options)
    return options, data, estimators.problem(options, data, 1)


def gradient_of(name, num_steps, options, data, problem):
    """(hypergradient, what is reported)."""
    step = estimators.estimator(name, options, data, problem, num_steps)
    return jax.device_get(jax.jit(step)(*problem.arguments))


def run(path, **chosen):
    return script.run(Options(**SMALL | chosen, run_dir=path))


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
    monkeypatch.setattr(cells, "cell", None)  # what is there is not measured again
    (tmp_path / "run/result.json").unlink()
    assert run(tmp_path / "run", **GRID)["rows"] == rows
    (tmp_path / "run/cells/K2-T1.json").write_text("{")
    with pytest.raises(UserError, match=r"saved results: expected a readable .*K2-T1"):
        run(tmp_path / "run", **GRID)


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

    @jax.jit
    def hypergradient(w, x):
        g = jax.grad(lambda w: cross_entropy(problem.learner.apply(unravel(w), real.x), real.y))(w)
        v = jnp.linalg.solve(jax.hessian(loss)(w, x), g)
        return -jax.grad(lambda x: jnp.vdot(jax.grad(loss)(w, x), v))(x)

    return hypergradient(jnp.asarray(found.x), batch.x)


@pytest.mark.slow
def test_the_reference_is_the_dense_one_and_implicit_gradients_reach_it():
    made = problem_of(weight_decay=0.1, start="real", inner_momentum=0.5, damping=0.0, solver_tolerance=1e-5)
    _, _, problem = made
    found = reference.reference(*made)
    with jax.enable_x64(True):
        x = jnp.asarray(problem.meta.teacher["x"][0], jnp.float64)
        expected = np.asarray(dense(problem, Batch(x, jnp.eye(10))))
    # scipy ends at gradients near 1e-8, ours far below
    np.testing.assert_allclose(
        found.gradient["x"][0], expected, rtol=1e-4, atol=1e-6 * float(abs(expected).max())
    )
    gradient, reported = gradient_of("implicit_cg", 400, *made)
    cosine, error = reference.compare(gradient, found.gradient)
    assert cosine > 0.9999 and error < 1e-2 and reported["residual"] < 1e-4  # float32


def test_the_accumulated_gradient_is_the_unrolled_one_for_one_step():
    made = problem_of(**MLP, inner_momentum=0.0, inner_learning_rate=1.0)
    for num_steps, low, high in ((1, 1 - 1e-6, 1.01), (8, 0.3, 0.9999)):
        both = [gradient_of(name, num_steps, *made)[0] for name in ("accumulated", "unrolled")]
        assert low < reference.compare(*both)[0] < high


def test_an_estimator_is_a_distillation_by_a_named_gradient():
    chosen = options_of(damping=0.2, solver_steps=3, neumann_terms=4, backprop_last=5, seed=7)
    made = {n: estimators.distillation(chosen, n, 30) for n in ESTIMATORS.keys() - {*WITHOUT_STEPS}}
    for name, config in made.items():
        steps = 1 if name.startswith("implicit") else 30
        assert (config.learned, config.seed, config.distill_epochs) == ((), 7, steps), name
        assert (config.inner_learning_rate, config.inner_momentum, config.weight_decay) == (0.5, 0.9, 0.01)
    assert [made[n].remat for n in ("unrolled", "unrolled_step", "unrolled_sqrt")] == ["none", "step", "sqrt"]
    assert [estimators.distillation(chosen, "truncated", t).backprop_last for t in (3, 30)] == [3, 5]
    cg, neumann = made["implicit_cg"], made["implicit_neumann"]
    assert (cg.linear_solver, cg.damping, cg.solver_steps, cg.solver_tolerance) == ("cg", 0.2, 3, 0.01)
    assert (cg.inner_tolerance, cg.max_inner_steps) == (0.0, 30)  # exactly T steps
    assert (neumann.neumann_terms, neumann.solver_steps) == (4, None)
    plain, linearised = (estimators.distillation(chosen, n, 30) for n in ("closed_form", "convexified"))
    for config in (plain, linearised):
        assert (config.ridge, config.ridge_unit, config.outer_loss, config.seed) == (
            5e-4,
            "images",
            "squared",
            7,
        )
    assert (linearised.solver_steps, linearised.implicit_clip, linearised.inner_tolerance) == (3, False, 0.01)


def test_estimators_without_steps_are_measured_once(tmp_path):
    result = run(tmp_path / "run", estimators=["closed_form", "unrolled"], measure=["time", "error"])
    first, other = ([row for row in result["rows"] if row["T"] == steps] for steps in (1, 2))
    assert [row["estimator"] for row in first] == [row["estimator"] for row in other]
    (one, unrolled), (two, more) = first, other
    assert two == one | {"T": 2} and one["seconds_median"] > 0 < one["program_bytes"]
    assert "cosine_to_reference" not in one and "cosine_to_reference" in unrolled
    assert more["seconds_median"] != unrolled["seconds_median"]


def test_a_ridge_regression_has_the_hypergradient_of_its_method():
    """The squared loss of the head in closed form, and that of the linearised network, not clipped."""
    chosen = MLP | {"width": 10, "start": "real"}
    options, data, problem = problem_of(**chosen)
    for name in ("closed_form", "convexified"):
        config = estimators.distillation(options, name, 1).replace(num_learners=1)
        method = jd.dd(
            problem.learner,
            estimators.teacher(options, data, name),
            solve=build.solve(config, problem.learner),
            population=jd.given(problem.contexts),
            draw=lambda data, key: problem.real,
            inner_loss="squared",
            outer_loss="squared",
            num_learners=1,
        )
        state = method.init(problem.key)._replace(meta=problem.meta)
        expected, _ = jax.jit(method.gradient)(state, jd.Data(data.train, None), problem.key)
        found, reported = gradient_of(name, 5, options, data, problem)
        np.testing.assert_allclose(found["x"], expected.teacher["x"], rtol=1e-3, atol=1e-6)
        assert reported["singular_kernels"] == 0 and ("residual" in reported) == (name == "convexified")


def test_a_smooth_network_is_compared_with_the_exact_gradient():
    for chosen, smooth in (
        ({}, True),
        ({"learner": "mlp"}, True),  # tanh where nobody chose
        ({"learner": "mlp", "activation": "relu"}, False),
        ({"learner": "convnet", "activation": "tanh"}, True),
        ({"learner": "convnet", "activation": "tanh", "pooling": "max"}, False),
        ({"learner": "convnet", "activation": "tanh", "norm": "batch"}, False),
        ({"learner": "lenet", "image_size": 16}, False),
    ):
        assert estimators.is_smooth(options_of(**chosen)) == smooth


@pytest.mark.slow
def test_a_network_that_is_not_smooth_is_compared_with_a_long_unroll():
    made = problem_of(**MLP, activation="relu", reference_steps=3)
    found = reference.reference(*made)
    assert found.name == "unrolled, 3 inner steps (not smooth)"
    gradient, _ = gradient_of("unrolled", 3, *made)
    assert reference.compare(gradient, found.gradient)[0] > 0.99999


@pytest.mark.slow
def test_a_generator_is_compared():
    small = {"batch_size": 12, "generator_width": 4, "generator_hidden": 8, "inner_learning_rate": 0.1}
    made = problem_of(teacher="generator", weight_decay=0.1, damping=0.0, solver_tolerance=1e-5, **small)
    found = reference.reference(*made)
    gradient, reported = gradient_of("implicit_cg", 600, *made)
    cosine, _ = reference.compare(gradient, found.gradient)
    assert cosine > 0.99 and reported["residual"] < 1e-3


def test_matching_is_measured_alone():
    made = problem_of()
    gradient, reported = gradient_of(MATCHING, 1, *made)
    assert jax.tree.structure(gradient) == jax.tree.structure(made[2].meta.teacher) and reported["loss"] > 0


def test_a_reference_that_is_not_reached_is_none(monkeypatch):
    made = problem_of()
    assert reference.reference(*made).gradient is not None
    solver = reference.cg
    monkeypatch.setattr(reference, "cg", lambda *args, tol, maxiter: solver(*args, tol=tol, maxiter=2))
    assert reference.reference(*made).gradient is None  # the linear solve stopped early
    monkeypatch.setattr(reference, "cg", solver)
    monkeypatch.setattr(reference, "TOLERANCE", 0.0)
    found = reference.reference(*made)
    assert found.gradient is None and "not reached" in found.name


def test_memory_that_runs_out_on_the_way_is_a_row(tmp_path, monkeypatch, capsys):
    def boom(*arguments):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    program = cells.Program(boom, (), 1, compile_seconds=0.5, temp_bytes=7)
    monkeypatch.setattr(cells, "total_bytes", lambda call: 1)
    monkeypatch.setattr(cells, "compiled", lambda *arguments: program)
    rows = run(tmp_path / "run", inner_steps=[1], measure=["program", "time"])["rows"]
    assert all(row["note"] == "did not run: RESOURCE_EXHAUSTED: Out of memory" for row in rows)
    monkeypatch.setattr(cells, "compiled", boom)
    rows = run(tmp_path / "other", inner_steps=[1], measure=["program"], repeats=UNSET)["rows"]
    assert all(row["note"].startswith("not compiled: RESOURCE_EXHAUSTED") for row in rows)
    monkeypatch.setattr(cells, "compiled", lambda *arguments: program)
    monkeypatch.setattr(cells, "total_bytes", lambda call: 2000)
    monkeypatch.setattr(cells, "free_bytes", lambda: 1000)
    rows = run(tmp_path / "large", inner_steps=[1])["rows"]
    assert all(row["note"] == "not run: needs 2 kB, 1 kB free" for row in rows)
    assert all("seconds_median" not in row for row in rows)
    assert "not run: needs" in capsys.readouterr().out


def test_a_worker_tells_the_peak_memory_of_its_process(monkeypatch, capsys):
    options = options_of(inner_steps=[1], estimators=["unrolled"])
    task = {"options": options.chosen(), "name": "unrolled", "num_learners": 1, "num_steps": 1}
    monkeypatch.setattr(sys, "argv", ["-c", json.dumps(task)])
    processes.worker()
    found = json.loads(capsys.readouterr().out)
    assert found["process_bytes"] >= found["process_before_bytes"] > 10**8


@pytest.mark.slow
def test_a_process_of_its_own_is_a_row(tmp_path):
    only = {"inner_steps": [1], "estimators": ["unrolled"], "repeats": UNSET}
    result = run(tmp_path / "run", **only, measure=["process"])
    (row,) = result["rows"]
    assert row["process_bytes"] >= row["process_before_bytes"] > 10**8 and row["note"] == ""


@pytest.mark.parametrize(
    ("ended", "note"),
    [
        ((-9, "", ""), "ended with -9"),
        ((1, "", "Traceback\nMemoryError: much"), "ended with 1: MemoryError: much"),
        ((0, "", ""), "said nothing"),
        ((0, "hello", ""), "said nothing"),
        (None, "took more than 2 s"),
    ],
)
def test_processes_that_fail_are_notes(ended, note):
    def communicate(timeout):
        if ended is None:
            raise subprocess.TimeoutExpired("worker", timeout)
        return ended[1:]

    process = SimpleNamespace(returncode=ended and ended[0], communicate=communicate)
    assert note in processes._peak_of(process, 2.0)["note"]


def test_no_process_outlives_the_one_that_is_stopped(monkeypatch):
    started = []

    class Popen(subprocess.Popen):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            started.append(self)

    monkeypatch.setattr(processes, "WORKER", "import time; time.sleep(600)")
    monkeypatch.setattr(processes.subprocess, "Popen", Popen)
    monkeypatch.setattr(processes, "_peak_of", lambda *a: (_ for _ in ()).throw(SystemExit(143)))
    with pytest.raises(SystemExit):
        processes.in_processes(options_of(), ["unrolled"], 1, 1)
    assert [process.wait(timeout=60) for process in started] == [-9]


def test_a_folder_of_an_older_version_is_the_same_comparison():
    """It had null where nobody chose, and options that changed nothing."""
    now = identity_of(options_of())
    saved = now | {"matches": None, "match_epochs": None, "batch_size": None, "architecture": "upsampling"}
    assert identity_from(saved, "config.json", Options, splits(options_of()), now) == now


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        ({"inner_steps": []}, "at least one of inner_steps, got none"),
        ({"inner_steps": [10, 0]}, "inner_steps >= 1, got 0"),
        ({"num_learners": []}, "at least one of num_learners, got none"),
        ({"num_learners": [-1]}, "num_learners >= 1, got -1"),
        ({"estimators": ["implicit_gc"]}, "expected one of accumulated, closed_form, convexified, gradi"),
        ({"measure": ["memory"]}, "expected one of error, process, program, time"),
        ({"damping": -0.1}, "damping >= 0, got -0.1"),
        ({"inner_momentum": 1.0}, "momentum in [0, 1)"),
        ({"estimators": ["accumulated"], "inner_momentum": 0.5}, "sgd without momentum"),
        ({"nystrom_rank": 3}, "an estimator that takes nystrom_rank, got unrolled, implicit_identity"),
        ({"estimators": ["unrolled"], "backprop_last": 3}, "an estimator that takes backprop_last"),
        (
            {"estimators": ["closed_form"], "inner_learning_rate": 0.1},
            "an estimator that takes inner_learning_rate, got closed_form",
        ),
        (
            {"estimators": ["convexified"], "inner_learning_rate": UNSET, "neumann_terms": 3},
            "an estimator that takes neumann_terms, got convexified",
        ),
        ({"estimators": ["closed_form"], "ridge": -1.0}, "ridge >= 0, got -1"),
        ({"inner_loss": "platt"}, "memory_runtime: expected an inner_loss without a learned temperature"),
        ({"learner": "mlpp"}, "learner: expected one of"),
        ({"measure": ["program"]}, "no repeats with measure=program, where it has no effect, got 1"),
        ({"process_time_limit": 9.0}, "no process_time_limit with measure=program,time,error, where"),
    ],
)
def test_bad_input_starts_nothing(tmp_path, chosen, says):
    with pytest.raises(UserError) as error:
        run(tmp_path / "run", **chosen)
    assert says in message(error)
    assert not (tmp_path / "run").exists()


def test_the_expected_time_of_a_cell_grows_with_its_timing():
    row = {"estimator": "unrolled", "T": 10, "seconds_median": 0.1, "repeats": 7}
    assert cells.expected_seconds([row], 5.0, 20) == pytest.approx(4.1 + 1.8)
    slow = 5.0 - 0.9 + cells.PATIENCE + 2 * 100.0  # rounds of 100 s: the warm-up and one more
    assert cells.expected_seconds([row], 5.0, 10_000) == pytest.approx(slow)
    assert cells.expected_seconds([row | {"estimator": MATCHING}], 5.0, 20) == 5.0


@pytest.mark.slow
def test_memory_of_compiled_programs_grows_as_claimed():
    """ConvNet on MNIST's shapes; the compiler's figures are deterministic, and nothing is run."""
    generator = np.random.default_rng(0)
    arrays = from_arrays(generator.normal(size=(512, 28, 28, 1)), np.arange(512) % 10, 10)
    info = DatasetInfo("random", (28, 28, 1), 10, tuple("0123456789"), 255.0, (0.0,), (1.0,))
    data = Splits(arrays, arrays, arrays, info)
    options = options_of(learner="convnet", width=32, real_batch_size=256, inner_learning_rate=0.02)
    problem = estimators.problem(options, data, 1)

    def size(name, num_steps):
        step = estimators.estimator(name, options, data, problem, num_steps)
        return jax.jit(step).lower(*problem.arguments).compile().memory_analysis().temp_size_in_bytes

    implicit = {t: size("implicit_cg", t) for t in (10, 300, 1000)}
    unrolled = size("unrolled", 300)
    assert implicit[1000] <= 1.1 * implicit[10]
    assert unrolled >= 10 * implicit[300]
    assert size("unrolled_sqrt", 300) <= 0.25 * unrolled
