"""Run directories: one writer, nothing half-written, every refusal said."""

import contextlib
import json
import math
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import message

from jaxdistill.core.checks import UserError
from jaxdistill.core.types import Meta
from jaxdistill.runtime import atomic, rundir
from jaxdistill.runtime.checkpoint import Checkpoints

CHILD = """
import jax.numpy as jnp
from jaxdistill.runtime.checkpoint import Checkpoints
from jaxdistill.runtime.rundir import open_run
run = open_run({path!r}, {{"seed": 0}}, experiment="test")
checkpoints = Checkpoints(run.checkpoints)
for step in range(1, 100000):
    checkpoints.save(step, {{"x": jnp.full(20000, float(step))}})
    print(step, flush=True)
"""


def test_a_run_is_resumed_with_the_same_config_only(tmp_path):
    config = {
        "seed": 0,
        "rate": 0.1,
        "shape": (8, 8),
        "inner": {"steps": 3, "clip": math.inf},
        "log_every": 10,
    }
    with rundir.open_run(tmp_path / "a", config, experiment="test") as run:
        assert run.read_result() is None
        run.write_json("result.json", {"accuracy": np.float32(0.5), "loss": jnp.nan})
    stored = json.loads((tmp_path / "a/config.json").read_text())
    assert stored["config"]["shape"] == [8, 8]
    assert stored["config"]["inner"]["clip"] == "inf"
    assert {"jax", "jaxlib", "flax", "optax", "jaxdistill", "python", "device", "platform", "commit"} <= set(
        stored["environment"]
    )
    with rundir.open_run(
        tmp_path / "a", {**config, "log_every": 5}, experiment="test", free_fields=("log_every",)
    ) as run:
        assert run.read_result() == {"accuracy": 0.5, "loss": None}
        assert run.notes == []
    assert json.loads((tmp_path / "a/config.json").read_text())["config"]["log_every"] == 5
    changed = {"seed": 1, "rate": 0.1, "shape": (8, 8), "inner": {"steps": 4, "clip": None}, "new": True}
    with pytest.raises(UserError) as error:
        rundir.open_run(tmp_path / "a", changed, experiment="test", free_fields=("log_every",))
    text = message(error)
    for part in ("seed: 0 there, 1 here", "inner.steps: 3 there, 4 here", "new: absent there, true here"):
        assert part in text
    assert 'inner.clip: "inf" there, null here' in text
    assert "rate" not in text and "log_every" not in text
    with pytest.raises(UserError) as error:
        rundir.open_run(tmp_path / "a", config, experiment="other")
    assert "a run of experiments.other in" in message(error) and "one of experiments.test" in message(error)
    with pytest.raises(UserError) as error:  # no more than a line can hold
        rundir.open_run(tmp_path / "a", {f"option_{i}": "0" * 64 for i in range(9)}, experiment="test")
    assert "; 9 more" in message(error) and len(message(error)) < 450
    with rundir.open_run(
        tmp_path / "a", {**config, "log_every": 5}, experiment="test"
    ):  # the refusal let the lock go
        pass


def test_a_changed_environment_is_a_note(tmp_path):
    rundir.open_run(tmp_path, {"seed": 0}, experiment="test").close()
    stored = json.loads((tmp_path / "config.json").read_text())
    stored["environment"]["jax"] = "0.0.1"
    atomic.write_json(tmp_path / "config.json", stored)
    with rundir.open_run(tmp_path, {"seed": 0}, experiment="test") as run:
        assert run.notes == [f'jax: started with "0.0.1", resumes with "{jax.__version__}"']


@contextlib.contextmanager
def offset(number):
    """Inside, JAX adds a number to every seed."""
    jax.config.update("jax_random_seed_offset", number)
    try:
        yield
    finally:
        jax.config.update("jax_random_seed_offset", 0)


def test_settings_of_jax_and_xla_that_differ_are_told(tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=false")
    with rundir.open_run(tmp_path, {"seed": 0}, experiment="test") as run:
        recorded = run.environment
    assert recorded["prng"] == "threefry2x32" and recorded["x64"] is False
    monkeypatch.setenv("XLA_FLAGS", " --xla_cpu_enable_fast_math=true ")
    with (
        jax.default_prng_impl("rbg"),
        jax.threefry_partitionable(not recorded["prng_partitionable"]),
        jax.enable_x64(True),
        jax.default_matmul_precision("bfloat16"),
        offset(7),
        rundir.open_run(tmp_path, {"seed": 0}, experiment="test") as run,
    ):
        notes = run.notes
    assert 'prng: started with "threefry2x32", resumes with "rbg"' in notes
    assert "x64: started with false, resumes with true" in notes
    assert "seed_offset: started with 0, resumes with 7" in notes
    fast = '"--xla_cpu_enable_fast_math='
    assert f'xla_flags: started with {fast}false", resumes with {fast}true"' in notes
    assert [note.partition(":")[0] for note in notes if note.startswith(("prec", "prng_p"))] == [
        "precision",
        "prng_partitionable",
    ]
    stored = json.loads((tmp_path / "config.json").read_text())
    for name in ("prng", "x64", "xla_flags"):  # of a run of an older version: nothing is known, nothing told
        del stored["environment"][name]
    atomic.write_json(tmp_path / "config.json", stored)
    with jax.enable_x64(True), rundir.open_run(tmp_path, {"seed": 0}, experiment="test") as run:
        assert run.notes == []


def test_run_refuses_what_it_would_spoil(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UserError) as error:
        rundir.open_run(tmp_path, {}, experiment="test")
    assert "thesis.tex" in message(error)
    assert [item.name for item in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(UserError) as error:
        rundir.open_run(tmp_path / "thesis.tex" / "run", {}, experiment="test")
    assert "directory to write to" in message(error)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b'{"config": 3}'])
def test_damaged_config_is_said(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(UserError) as error:
        rundir.open_run(tmp_path, {}, experiment="test")
    assert "config.json" in message(error)


def test_a_start_that_was_killed_early_does_not_block(tmp_path):
    (tmp_path / "lock").write_text("1")
    (tmp_path / ".config.json.1.tmp").write_text("{")
    rundir.open_run(tmp_path, {"seed": 0}, experiment="test").close()
    assert (tmp_path / "config.json").exists()


def test_kill_frees_the_run_and_leaves_a_whole_checkpoint(tmp_path):
    path = str(tmp_path / "run")
    command = [sys.executable, "-c", CHILD.format(path=path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        try:
            seen = [int(child.stdout.readline()) for _ in range(3)]
            with pytest.raises(UserError) as error:
                rundir.open_run(path, {"seed": 0}, experiment="test")
            assert f"held by another live run (pid {child.pid})" in message(error)
        finally:
            child.send_signal(signal.SIGKILL)
        rest = child.stdout.read().split()
    last = int(rest[-1]) if rest else seen[-1]
    with (
        rundir.open_run(path, {"seed": 0}, experiment="test") as run,
        Checkpoints(run.checkpoints) as checkpoints,
    ):
        state, step, notes = checkpoints.restore({"x": jax.ShapeDtypeStruct((20000,), jnp.float32)})
        assert step in (last, last + 1) and not notes  # the child may die between a save and its print
        np.testing.assert_array_equal(state["x"], np.full(20000, step, np.float32))


def test_atomic_write_keeps_the_old_file_when_the_writer_fails(tmp_path):
    atomic.write_json(tmp_path / "a.json", {"a": 1})

    def fails(file):
        file.write(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        atomic.atomic_write(tmp_path / "a.json", fails)
    assert [item.name for item in tmp_path.iterdir()] == ["a.json"]
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": 1}


def test_jsonable_is_plain():
    value = {
        "path": Path("a"),
        "n": Meta(np.int64(3), jnp.ones(2, jnp.bfloat16)),
        "f": [math.nan, True, None],
    }
    assert atomic.jsonable(value) == {
        "path": "a",
        "n": {"teacher": 3, "inner": [1.0, 1.0]},
        "f": [None, True, None],
    }


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts open files under /proc")
def test_a_refused_run_leaves_nothing_open(tmp_path):
    def count():
        return sum(1 for _ in Path("/proc/self/fd").iterdir())

    rundir.open_run(tmp_path, {"seed": 0}, experiment="test").close()
    before = count()
    with pytest.raises(UserError):
        rundir.open_run(tmp_path, {"seed": 1}, experiment="test")
    assert count() == before
