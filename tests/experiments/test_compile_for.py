"""`experiments.compile_for`: what is compiled, what a row says, and the compilers if they are installed."""

import importlib.util
import json
from functools import partial

import jax
import jax.numpy as jnp
import pytest
from helpers import message
from jax import lax

from experiments.compile_for import __main__ as script
from experiments.compile_for import chips, rows
from experiments.compile_for.flops import work_of
from experiments.programs import SETS, Program, data, programs, tiny
from jaxdistill.config.gradients import of_method
from jaxdistill.core.checks import UserError
from jaxdistill.layers.conv import conv2d
from jaxdistill.methods import METHODS
from jaxdistill.runtime.profile import git_commit
from jaxdistill.runtime.progress import silent

SQUARE = jax.ShapeDtypeStruct((4, 4), jnp.float32)


def needs(chip):
    """Skips where the compiler of a chip is not installed."""
    module = chips.CHIPS[chip].module
    found = importlib.util.find_spec(module) is not None
    return pytest.mark.skipif(not found, reason=f"{module} is not installed")


def test_operations_count_loops_and_the_longest_branch():
    product = 2 * 4**3

    def looped(a):
        return lax.scan(
            lambda c, _: (lax.scan(lambda c, _: (c @ a, None), c, None, length=3)[0], None), a, None, 5
        )

    assert work_of(looped, SQUARE).flops == 5 * 3 * product
    assert work_of(jax.jit(lambda a: jax.checkpoint(jnp.matmul)(a, a)), SQUARE).flops == product
    assert (
        work_of(jax.vmap(jnp.matmul), *[jax.ShapeDtypeStruct((6, 4, 4), jnp.float32)] * 2).flops
        == 6 * product
    )
    branches = work_of(lambda a: lax.cond(a[0, 0] > 0, lambda a: a @ a @ a, lambda a: a @ a, a), SQUARE)
    assert branches == (2 * product, 0)
    until = work_of(lambda a: lax.while_loop(lambda a: a[0, 0] < 9, lambda a: a @ a, a), SQUARE)
    assert until == (product, 1)


def test_operations_of_convolutions_and_their_gradients():
    image, kernel = (
        jax.ShapeDtypeStruct((2, 6, 6, 3), jnp.float32),
        jax.ShapeDtypeStruct((3, 3, 3, 5), jnp.float32),
    )

    def conv(x, k):
        return conv2d(x, k, padding=1, formulation="lax")

    forward = 2 * (2 * 6 * 6 * 5) * 27
    assert work_of(conv, image, kernel).flops == forward
    both = work_of(jax.grad(lambda x, k: jnp.sum(conv(x, k) ** 2), (0, 1)), image, kernel)
    assert both.flops == pytest.approx(3 * forward)
    networks = [jax.ShapeDtypeStruct((4, *each.shape), each.dtype) for each in (image, kernel)]
    assert work_of(jax.vmap(conv), *networks).flops == 4 * forward  # one convolution in groups
    grouped = partial(
        lax.conv_general_dilated,
        window_strides=(1, 1),
        padding="VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        batch_group_count=2,
    )
    many = jax.ShapeDtypeStruct((3, 3, 3, 4), jnp.float32)
    assert work_of(grouped, image, many).flops == 2 * (1 * 4 * 4 * 4) * 27  # two outputs for an image


def test_every_method_and_gradient_is_a_program():
    found = programs(SETS, "tpu")
    assert set(METHODS) <= set(found)
    assert {f"{m}/{g}" for m in METHODS for g in of_method(m) if g != "unrolled"} <= set(found)
    assert {"unrolled_sqrt/T1000", "implicit_cg/T10", "dd/pod256", "dd/pod256/data"} <= set(found)
    assert "unrolled_fixed/T10/generator" in programs(SETS, "gpu")


def test_a_mesh_that_a_chip_does_not_have():
    with pytest.raises(UserError) as error:
        chips.layout("tpu_v5e", (3, 1), 3)
    assert "a product of 1, 4, 16, 256 chips of tpu_v5e, got 3x1" in message(error)
    with pytest.raises(UserError) as error:
        chips.layout("h100", (2, 2), 4)
    assert "a product of 1 chips of h100, got 2x2" in message(error)


def test_a_compiler_that_is_missing_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError) as error:
        script.run(script.Options(platforms=("h100",), run_dir=str(tmp_path / "run")))
    assert 'got none. pip install -e ".[cuda-compiler]" installs it' in message(error)
    assert not (tmp_path / "run").exists()


def test_a_program_that_the_compiler_refuses_says_by_how_much():
    text = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.00G of 15.75G hbm. Exceeded by"
    row = rows._too_large(text, 16 * 2**30)
    assert row["all_bytes"] == 20 * 2**30 and not row["fits"]
    assert row["note"] == "needs 21.5 GB, 4.29 GB too much"


@pytest.fixture
def made_up(monkeypatch):
    """Rows that no compiler made: the second program fails once."""
    done = []

    def row(name, program, chip, data):
        done.append(name)
        if name == "dm" and done.count("dm") == 1:
            raise ArithmeticError("no rule\nfor that")
        size = {"temp_bytes": 5, "argument_bytes": 7, "all_bytes": 12, "fits": True, "note": ""}
        work = {"flops_per_step": 2e9, "open_loops": 1, "compile_seconds": 1.5}
        about = {"chip": chip, "kind": program.kind, "program": name, "chips": 1, "T": None}
        return about | size | work | {"mesh": {"learner": 1, "data": 1}, "sent": {}}

    monkeypatch.setattr(script, "row", row)
    monkeypatch.setattr(script, "check_there", lambda names: None)
    monkeypatch.setattr(script, "data", lambda side, count: None)
    return done


def test_a_program_that_fails_stops_no_other_and_is_tried_again(made_up, tmp_path):
    chosen = script.Options(run_dir=str(tmp_path / "run"), programs=("dd", "dm", "mtt"), smoke=False)
    with silent(), pytest.raises(UserError) as error:
        script.run(chosen)
    assert "programs that compile, got dm for h100: ArithmeticError no rule." in message(error)
    assert made_up == ["dd", "dm", "mtt"]
    with silent():
        result = script.run(chosen)
    assert made_up == ["dd", "dm", "mtt", "dm"]  # the others are read
    assert [row["program"] for row in result["rows"]] == ["dd", "dm", "mtt"]
    assert {row["commit"] for row in result["rows"]} == {git_commit()}
    assert json.loads((tmp_path / "run/result.json").read_text())["rows"] == result["rows"]
    table = (tmp_path / "run/compile_for.md").read_text()
    assert "| dm | h100 | 1 | 5 B | 7 B | yes | >= 2 | 2 s | - |" in table
    (tmp_path / "run/rows/h100-dd.json").write_text("{")
    with silent(), pytest.raises(UserError, match=r"saved results: expected a readable .*h100-dd"):
        script.run(chosen)


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        ({"platforms": ("h200",)}, "one of h100, tpu_v5e"),
        ({"sets": ("everything",)}, "one of gradients, memory, methods, pods"),
        ({"programs": ("dcc",)}, "programs: expected one of"),
    ],
)
def test_bad_input_compiles_nothing(made_up, tmp_path, chosen, says):
    with pytest.raises(UserError) as error:
        script.run(script.Options(**chosen, run_dir=str(tmp_path / "run")))
    assert says in message(error) and not made_up and not (tmp_path / "run").exists()


# ---------------------------------------------------------------- with the compilers


@pytest.mark.slow
@pytest.mark.parametrize("chip", [pytest.param(name, marks=needs(name)) for name in chips.CHIPS])
def test_tiny_programs_compile(chip):
    for name in script.SMOKE:
        program = tiny(programs(("methods", "gradients"), chips.CHIPS[chip].platform)[name])
        row = rows.row(name, program, chip, data(8, 2000))
        assert row["fits"] and row["all_bytes"] > row["argument_bytes"] > 0 and row["flops_per_step"] > 0


@pytest.mark.slow
@needs("tpu_v5e")
def test_a_pod_of_256_chips_sends_one_sum_and_keeps_a_learner_each():
    options = {"method": "dd", "num_learners": 256, "learner": "lenet", "real_batch_size": 64}
    given = data(28, 2000)
    pod = rows.row("pod", Program("pods", options, (256, 1)), "tpu_v5e", given, count_work=False)
    one = rows.row("one", Program("pods", {**options, "num_learners": 1}), "tpu_v5e", given, count_work=False)
    learned = 4 * (10 * 28 * 28 + 3)  # images and step sizes
    assert list(pod["sent"]) == ["all-reduce"]
    assert learned <= pod["sent"]["all-reduce"]["bytes"] < 1.05 * learned
    assert pod["temp_bytes"] == pytest.approx(one["temp_bytes"], rel=0.1)
    assert one["sent"] == {}
