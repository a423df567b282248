"""The benchmark's parts: turns are taken fairly, both sides compute the same, bad input is one line.

`pytest -m benchmark` measures: it wants a quiet machine.
"""

import importlib
import json
import statistics

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import message

from experiments import measure
from experiments.benchmark import __main__ as benchmark
from experiments.benchmark import matching_steps, torch_reference
from experiments.benchmark.convolutions import conv_times
from experiments.benchmark.dtypes import STEPS, dtypes
from experiments.benchmark.options import Options
from experiments.benchmark.precisions import rounded
from experiments.benchmark.problems import problem, program_of
from experiments.benchmark.torch_steps import COMPARED
from jaxdistill.core.checks import UserError
from jaxdistill.learners import learner
from jaxdistill.learners.mixed_precision import DTYPES

TINY = {"channels": 2, "side": 4, "batch": 2}


def test_sides_take_turns_after_a_warm_up():
    calls = []

    def side(name, time):
        def seconds():
            calls.append(name)
            return time

        return seconds

    times = measure.interleaved({"a": side("a", 1.0), "b": side("b", 2.0)}, 3)
    assert times == {"a": [1.0] * 3, "b": [2.0] * 3}
    assert calls == ["a", "b"] * 4
    assert measure.ratio_of_medians(times, "b", "a") == 2.0


def test_the_impatient_get_fewer_rounds(monkeypatch):
    clock = iter(range(99))
    monkeypatch.setattr(measure.time, "perf_counter", lambda: next(clock))  # a second per look
    sides = {"a": lambda: 0.0}
    assert len(measure.interleaved(sides, 9, patience=1.5)["a"]) == 3
    assert len(measure.interleaved(sides, 9, patience=0.0)["a"]) == 1
    assert len(measure.interleaved(sides, 9, patience=100.0)["a"]) == 9


def test_operations_of_a_convnet_by_hand():
    net = learner("convnet", image_shape=(28, 28, 1), num_classes=10, width=4)
    by_layer = 9 * 1 * 4 * 32**2, 9 * 4 * 4 * 16**2, 9 * 4 * 4 * 8**2, 4 * 4 * 4 * 10
    assert matching_steps.forward_flops(net) == 2 * sum(by_layer)
    steps = matching_steps.STEPS
    assert [matching_steps.epochs_between(step) for step in steps.values()] == [0, 50, 50, 0]
    assert matching_steps.passes(steps["dc 10"], 256) == 10 * (3 * 256 + (9 + 150) * 10)


@pytest.mark.parametrize("order", [1, 2])
def test_a_scan_of_gradient_steps_computes_what_calls_compute(order):
    programs, times = conv_times(None, order, 1, **TINY)
    start, stepped = programs["scan"].arguments[0], {w: p.call(*p.arguments) for w, p in programs.items()}
    # the same float32 operations, fused differently: a few units in the last place
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
        stepped["scan"],
        stepped["outside"],
    )
    moved = jax.tree.map(lambda a, b: float(abs(a - b).max()), stepped["scan"], start)
    assert min(moved) > 0
    assert all(len(t) == 1 and t[0] > 0 for t in times.values())


def test_an_outer_step_is_compiled_once_and_timed_per_step():
    program = program_of(problem("mlp", 0, num_steps=2, real_batch_size=2), 3)
    state, metrics, finite = program.call(*program.arguments)
    assert int(state.step) == program.steps == 3
    assert metrics["loss"].shape == (3,) and bool(finite)
    assert program.compile_seconds > 0 and program.temp_bytes > 0 and program.seconds() > 0


def test_rows_are_appended_to_a_json_list(tmp_path):
    file = tmp_path / "new" / "rows.json"
    program = measure.Program(call=abs, arguments=(1,), steps=1, compile_seconds=0.5, temp_bytes=7)
    first = measure.row("conv", "a", [3.0, 1.0, 2.0], program, K=4)
    measure.append_rows(file, [first])
    measure.append_rows(file, [measure.row("conv", "b")])
    found = json.loads(file.read_text())
    assert found[0] == {
        "what": "conv",
        "variant": "a",
        "K": 4,
        "seconds_median": 2.0,
        "seconds_min": 1.0,
        "repeats": 3,
        "compile_seconds": 0.5,
        "temp_bytes": 7,
    }
    assert found[1]["variant"] == "b" and found[1]["seconds_median"] is None


@pytest.mark.parametrize("name", ["lenet", "convnet"])
def test_torch_weights_give_the_same_logits(name):
    torch = pytest.importorskip("torch")
    side = importlib.import_module("experiments.benchmark.torch_side")
    shape, more = (28, 28, 1), {"width": 4} if name == "convnet" else {}
    network = learner(name, image_shape=shape, num_classes=10, **more)
    params = jax.device_get(network.init(jax.random.key(0)))
    x = np.random.default_rng(0).standard_normal((2, *shape), np.float32)
    weights = [torch.tensor(a) for a in torch_reference.torch_weights(network, params, shape)]
    if name == "lenet":
        theirs = side.lenet(weights, torch.tensor(x.transpose(0, 3, 1, 2)))
    else:
        made = side.convnet(4, 10)
        made.load_state_dict(dict(zip(made.state_dict(), weights, strict=True)))
        theirs = made(torch.tensor(x.transpose(0, 3, 1, 2))).detach()
    # float32 sums of up to 400 terms of size one, in another order
    np.testing.assert_allclose(jax.jit(network.apply)(params, x), theirs.numpy(), atol=1e-5)


@pytest.mark.slow
def test_torch_computes_the_same_outer_steps(tmp_path, capsys, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # on a busy machine threads wait for one another
    rows = benchmark.run(Options(what=["torch"], smoke=True, repeats=1, run_dir=str(tmp_path)))
    variants = [f"{step}: {side}" for step in COMPARED for side in ("pytorch", "jaxdistill")]
    assert [r["variant"] for r in rows] == variants
    assert all(0 <= r["error"] < torch_reference.TOLERANCE for r in rows[1::2])
    trained = {r["variant"]: r["trained_error"] for r in rows if "trained_error" in r}
    assert list(trained) == ["dc_10: jaxdistill", "dsa_10: jaxdistill"]
    assert max(trained.values()) < 5e-3  # measured 1e-3; one of 50 steps of training too few is 2e-2
    assert json.loads((tmp_path / "rows.json").read_text()) == rows
    assert capsys.readouterr().out.count("both compute the same;") == len(COMPARED)


@pytest.mark.parametrize(
    "chosen, says",
    [
        (
            {"what": ["foo"]},
            "one of chunk, conv, decoders, dtype, evaluation, generator",
        ),
        ({"repeats": 0}, "repeats >= 1"),
        ({"what": ["conv"], "stream_gb": 3.0}, "no stream_gb without what=streaming, where it has no effect"),
        ({"what": ["conv"], "torch_steps": ["dc_1"]}, "no torch_steps without what=torch"),
        ({"torch_steps": ["dc_2"]}, "one of dc_1, dc_10, dm_10, dsa_10"),
        ({"rounds": 3}, "an option, got .rounds."),
    ],
)
def test_bad_choices_are_one_line_and_write_nothing(tmp_path, chosen, says):
    with pytest.raises(UserError, match=says) as error:
        benchmark.run(Options(run_dir=str(tmp_path), **chosen))
    message(error)
    assert not any(tmp_path.iterdir())


def test_a_missing_pytorch_is_an_error_where_it_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "available", lambda: False)
    with pytest.raises(UserError, match=r"expected PyTorch, got none\. pip install") as error:
        benchmark.run(Options(what=["torch"], run_dir=str(tmp_path)))
    message(error)


def test_a_missing_pytorch_is_left_out_of_all_parts(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "available", lambda: False)
    monkeypatch.setattr(benchmark, "PARTS", {"torch": benchmark.torch})
    assert benchmark.run(Options(run_dir=str(tmp_path))) == []
    assert "torch: left out" in capsys.readouterr().out


@pytest.mark.parametrize("content", ["{not json", '{"rows": []}', "[1]"])
def test_an_odd_rows_file_is_left_alone(tmp_path, content):
    file = tmp_path / "rows.json"
    file.write_text(content)
    with pytest.raises(UserError, match="Move it away") as error:
        benchmark.run(Options(what=["conv"], smoke=True, run_dir=str(tmp_path)))
    message(error)
    assert file.read_text() == content


def test_a_folder_of_another_experiment_is_left_alone(tmp_path):
    """Such as a study, whose rows have the same name."""
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "rows.json").write_text("[]")
    with pytest.raises(UserError, match=r"a run_dir of its own, got .*, a run of another experiment"):
        benchmark.run(Options(what=["conv"], smoke=True, run_dir=str(tmp_path)))
    assert (tmp_path / "rows.json").read_text() == "[]"


def test_a_run_dir_that_is_a_file_is_an_error(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(UserError, match=r"a run_dir to write to, got .*taken") as error:
        benchmark.run(Options(what=["conv"], smoke=True, run_dir=str(tmp_path / "taken")))
    message(error)


@pytest.mark.benchmark
@pytest.mark.parametrize("order", [1, 2])
def test_a_gradient_in_a_scan_costs_less_than_twice_the_one_outside(order):
    _, times = conv_times(None, order, 7, channels=128, side=16, batch=32 // order**2)
    # rounds are interleaved, so a busy moment hits both; the issue to catch was a factor of 10
    ratios = [inside / outside for inside, outside in zip(times["scan"], times["outside"], strict=True)]
    assert statistics.median(ratios) < 2


def test_rows_are_gone_on_with_and_a_failure_is_told_at_the_end(tmp_path, monkeypatch):
    ran = []

    def part(options, done=()):
        for name in ("a", "b"):
            if name not in done:
                ran.append(name)
                yield measure.row("methods", name)
        if "b" not in done:
            raise UserError("benchmark methods: expected programs that run, got b: out of luck.")

    monkeypatch.setitem(benchmark.PARTS, "methods", part)
    with pytest.raises(UserError, match="out of luck"):
        benchmark.run(Options(what=["methods"], run_dir=str(tmp_path), smoke=True))
    assert benchmark.run(Options(what=["methods"], run_dir=str(tmp_path), smoke=True, resume=True)) == []
    assert ran == ["a", "b"]


@pytest.mark.slow
def test_methods_gradients_and_evaluation(tmp_path):
    what = ["methods", "gradients", "evaluation"]
    rows = benchmark.run(Options(what=what, run_dir=str(tmp_path), smoke=True, repeats=1))
    assert [r["variant"] for r in rows] == ["dd", "dm", "dd", "dm", "dd/implicit_cg", "map", "vmap"]
    assert all(r["seconds_median"] > 0 for r in rows) and all(r["finite"] for r in rows[:5])


def test_every_part_can_be_asked_for():
    assert list(Options.options()["what"].names) == list(benchmark.PARTS)


@pytest.mark.slow
def test_both_dtypes_of_every_method_are_measured():
    rows = list(dtypes(Options(smoke=True, seed=0)))
    assert [row["variant"] for row in rows] == [f"{m}, {d}" for m in STEPS for d in DTYPES]
    assert all(0 <= row["accuracy"] <= 100 and len(row["accuracies"]) == 1 for row in rows)


def test_factors_of_products_are_rounded_and_their_results_are_not():
    x, product = jnp.float32(1 + 2**-9), jax.jit(jnp.vdot)  # 9 bits: TF32 keeps them, bfloat16 does not

    def made(bits):
        with rounded(bits):
            return product(x, x), jax.grad(lambda a, b: 3 * (product(a, b) + a), argnums=1)(x, x)

    exact = np.float32(1 + 2**-9) ** 2, 3 * np.float32(1 + 2**-9)
    for bits, expected in ((None, exact), (7, (1, 3)), (10, exact), (None, exact)):  # and no trace is taken
        np.testing.assert_array_equal(made(bits), expected)  # from the cache of another one
    short = np.float32(1 + 2**-7)  # 7 bits; its square has 14
    with rounded(7):
        assert jax.grad(lambda b: short * product(short, b))(short) == short**2
    assert product(x, x) == exact[0]
