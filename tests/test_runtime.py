"""Runs on disk: one writer, nothing half-written, and every damage said or mended."""

import io
import json
import math
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import matplotlib.image
import numpy as np
import optax
import pytest

import jaxdistill
from jaxdistill.core.checks import UserError
from jaxdistill.core.types import Batch, DistillState, Meta
from jaxdistill.runtime import atomic, compile_cache, export, figures, metrics, profile, progress, rundir
from jaxdistill.runtime.checkpoint import Checkpoints

CHILD = """
import jax.numpy as jnp
from jaxdistill.runtime.checkpoint import Checkpoints
from jaxdistill.runtime.rundir import open_run
run = open_run({path!r}, {{"seed": 0}})
checkpoints = Checkpoints(run.checkpoints)
for step in range(1, 100000):
    checkpoints.save(step, {{"x": jnp.full(20000, float(step))}})
    print(step, flush=True)
"""
INFO = SimpleNamespace(name="tiny", scale=16.0, mean=(0.25,), std=(0.5,), class_names=("zéro", "one"))


def message(error) -> str:
    text = str(error.value)
    assert "\n" not in text and ": expected " in text and ", got " in text
    return text


# ---------------------------------------------------------------- run directory


def test_run_goes_on_with_the_same_config_only(tmp_path):
    config = {
        "seed": 0,
        "rate": 0.1,
        "shape": (8, 8),
        "inner": {"steps": 3, "clip": math.inf},
        "log_every": 10,
    }
    with rundir.open_run(tmp_path / "a", config) as run:
        assert run.read_result() is None
        run.write_json("result.json", {"accuracy": np.float32(0.5), "loss": jnp.nan})
    stored = json.loads((tmp_path / "a/config.json").read_text())
    assert stored["config"]["shape"] == [8, 8]
    assert stored["config"]["inner"]["clip"] == "inf"
    assert {"jax", "jaxlib", "flax", "optax", "jaxdistill", "python", "device", "platform", "commit"} <= set(
        stored["environment"]
    )
    with rundir.open_run(tmp_path / "a", {**config, "log_every": 5}, free_fields=("log_every",)) as run:
        assert run.read_result() == {"accuracy": 0.5, "loss": None}
        assert run.notes == []
    assert json.loads((tmp_path / "a/config.json").read_text())["config"]["log_every"] == 5
    changed = {"seed": 1, "rate": 0.1, "shape": (8, 8), "inner": {"steps": 4, "clip": None}, "new": True}
    with pytest.raises(UserError) as error:
        rundir.open_run(tmp_path / "a", changed, free_fields=("log_every",))
    text = message(error)
    for part in ("seed: 0 there, 1 here", "inner.steps: 3 there, 4 here", "new: absent there, true here"):
        assert part in text
    assert 'inner.clip: "inf" there, null here' in text
    assert "rate" not in text and "log_every" not in text
    with rundir.open_run(tmp_path / "a", {**config, "log_every": 5}):  # the refusal let the lock go
        pass


def test_a_changed_environment_is_a_note(tmp_path):
    rundir.open_run(tmp_path, {"seed": 0}).close()
    stored = json.loads((tmp_path / "config.json").read_text())
    stored["environment"]["jax"] = "0.0.1"
    atomic.write_json(tmp_path / "config.json", stored)
    with rundir.open_run(tmp_path, {"seed": 0}) as run:
        assert run.notes == [f'jax: started with "0.0.1", goes on with "{jax.__version__}"']


def test_run_refuses_what_it_would_spoil(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UserError) as error:
        rundir.open_run(tmp_path, {})
    assert "thesis.tex" in message(error)
    assert [item.name for item in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(UserError) as error:
        rundir.open_run(tmp_path / "thesis.tex" / "run", {})
    assert "directory to write to" in message(error)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b'{"config": 3}'])
def test_damaged_config_is_said(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(UserError) as error:
        rundir.open_run(tmp_path, {})
    assert "config.json" in message(error)


def test_a_start_that_was_killed_early_does_not_block(tmp_path):
    (tmp_path / "lock").write_text("1")
    (tmp_path / ".config.json.1.tmp").write_text("{")
    rundir.open_run(tmp_path, {"seed": 0}).close()
    assert (tmp_path / "config.json").exists()


def test_kill_frees_the_run_and_leaves_a_whole_checkpoint(tmp_path):
    path = str(tmp_path / "run")
    command = [sys.executable, "-c", CHILD.format(path=path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        try:
            seen = [int(child.stdout.readline()) for _ in range(3)]
            with pytest.raises(UserError) as error:
                rundir.open_run(path, {"seed": 0})
            assert f"held by another live run (pid {child.pid})" in message(error)
        finally:
            child.send_signal(signal.SIGKILL)
        rest = child.stdout.read().split()
    last = int(rest[-1]) if rest else seen[-1]
    with rundir.open_run(path, {"seed": 0}) as run, Checkpoints(run.checkpoints) as checkpoints:
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


# ---------------------------------------------------------------- checkpoints


def make_state(seed=0, step=0) -> DistillState:
    generator = np.random.default_rng(seed)
    meta = Meta({"pixels": jnp.asarray(generator.normal(size=(4, 8, 8, 1)), jnp.float32)}, {})
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.1), optax.identity())
    population = {
        "half": jnp.asarray(generator.normal(size=3), jnp.bfloat16),
        "flags": jnp.array([True, False]),
        "none": jnp.zeros((0, 3)),
        "nan": jnp.array([jnp.nan, -0.0, jnp.inf]),
    }
    solver = (jax.random.split(jax.random.key(seed, impl="rbg"), 2), jax.random.PRNGKey(seed), ())
    return DistillState(meta, optimizer.init(meta), population, solver, jnp.asarray(step, jnp.int32))


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert isinstance(x, jax.Array) and x.dtype == y.dtype and x.shape == y.shape
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            assert jax.random.key_impl(x) == jax.random.key_impl(y)
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def damage(step: Path):
    """Flips bits in every data file of a checkpoint."""
    for file in (step / "state").rglob("d/*"):
        content = bytearray(file.read_bytes())
        for i in range(len(content) // 4, len(content) // 2, 7):
            content[i] ^= 0x55
        file.write_bytes(content)


def test_checkpoint_restores_the_same_bits(tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    state = make_state(step=7)
    template = jax.eval_shape(lambda: make_state())
    with Checkpoints("relative/checkpoints") as checkpoints:
        assert checkpoints.restore(template) is None
        assert checkpoints.latest_step() is None
        checkpoints.save(7, state)
        checkpoints.save(7, make_state(1))  # there already: left alone
        with pytest.raises(UserError, match="a step after 7"):
            checkpoints.save(3, state)
    with Checkpoints("relative/checkpoints") as checkpoints:
        restored, step, notes = checkpoints.restore(template)
        assert (step, notes, checkpoints.latest_step()) == (7, [], 7)
        assert_same(restored, state)
        with pytest.raises(UserError) as error:
            checkpoints.restore(template._replace(step=jax.ShapeDtypeStruct((), jnp.float32)))
        assert ".step is int32[] there, this run has float32[]" in message(error)
        assert checkpoints.latest_step() == 7  # what does not fit is not thrown away
    out, err = capfd.readouterr()
    assert out + err == ""


def test_restored_buffers_can_be_donated(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": jnp.arange(64.0)})
        state, _, _ = checkpoints.restore({"x": jax.ShapeDtypeStruct((64,), jnp.float32)})
    moved = jax.jit(lambda x: x + 1, donate_argnums=0)(state["x"])
    np.testing.assert_array_equal(moved, np.arange(1, 65, dtype=np.float32))


@pytest.mark.parametrize("how", ["bytes", "missing data", "missing info", "empty"])
def test_damaged_checkpoint_falls_back_and_goes_on(tmp_path, how):
    template = jax.eval_shape(lambda: make_state())
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, make_state(step, step))
    assert not (tmp_path / "1").exists()
    if how == "bytes":
        damage(tmp_path / "3")
    elif how == "missing data":
        for file in (tmp_path / "3" / "state").rglob("*"):
            if file.is_file():
                file.unlink()
    elif how == "missing info":
        (tmp_path / "3" / "info" / "metadata").write_text("{")
    else:
        (tmp_path / "4").mkdir()
        damage(tmp_path / "3")
    unfinished = tmp_path / "9.orbax-checkpoint-tmp"
    (unfinished / "state").mkdir(parents=True)
    with Checkpoints(tmp_path) as checkpoints:
        state, step, notes = checkpoints.restore(template)
        assert step == 2
        assert [note.split(" (")[0] for note in notes] == [
            f"checkpoint of step {bad} does not restore" for bad in ((4, 3) if how == "empty" else (3,))
        ]
        assert all(note.endswith("; went back to step 2") for note in notes)
        assert_same(state, make_state(2, 2))
        assert checkpoints.latest_step() == 2
        checkpoints.save(3, make_state(3, 3))
        assert checkpoints.restore(template)[1:] == (3, [])


def test_flipped_bytes_are_found_by_their_digest(tmp_path, monkeypatch):
    """Storage that returns other bytes without an error of its own."""
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": jnp.ones(8)})
        restore = checkpoints._manager.restore

        def other(step, args):
            found = restore(step, args=args)
            return {"state": {"leaf00000": np.zeros(8, np.float32)}} if "state" in args else found

        monkeypatch.setattr(checkpoints._manager, "restore", other)
        with pytest.raises(UserError, match=r"the bytes of .* differ from what was saved"):
            checkpoints.restore({"x": jax.ShapeDtypeStruct((8,), jnp.float32)})
        assert checkpoints.latest_step() == 1


def test_checkpoints_need_a_directory(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="a directory to write to"):
        Checkpoints(tmp_path / "file" / "checkpoints")
    with pytest.raises(UserError, match="keep >= 1"):
        Checkpoints(tmp_path, keep=0)


# ---------------------------------------------------------------- metrics


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
    assert lines[-2].startswith("dd: 1000/1000  1/s  took 16 min 49 s") and lines[-1] == "done"
    assert len(lines) < 90 and max(map(len, lines)) <= 80


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


def test_duration():
    assert [progress.duration(s) for s in (0.04, 59.96, 185, 7620)] == [
        "0.0 s",
        "1 min 00 s",
        "3 min 05 s",
        "2 h 07 min",
    ]


# ---------------------------------------------------------------- synthetic data


def write(path, **changes):
    generator = np.random.default_rng(0)
    content = {
        "images": generator.normal(size=(4, 8, 8, 1)).astype(np.float32),
        "labels": np.array([[0.75, 0.25], [0, 1], [1, 0], [0.5, 0.5]], np.float32),
        "order": np.array([[0, 1], [2, 3], [0, 1]], np.int32),
        "hyperparameters": {"learning_rate": jnp.array([0.1, 0.2, 0.3]), "momentum": jnp.array([0.9])},
        "info": INFO,
        "method": "dd",
        "learner": {"name": "mlp", "hidden": (8, 8)},
        "inner": {"name": "sgd"},
    }
    content |= changes
    export.write_synthetic(path, **content)
    return content


def test_synthetic_round_trip(tmp_path):
    content = write(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as archive:  # what a stranger sees, without this library
        arrays = {name: archive[name] for name in archive.files}
    assert set(arrays) == {
        *("x", "x_standardised", "y", "y_soft", "order", "hyper_learning_rate", "hyper_momentum"),
        *("scale", "mean", "std", "class_names", "dataset", "method", "learner", "inner"),
    }
    assert (arrays["x"].dtype, arrays["y"].dtype, arrays["order"].dtype) == (np.float32, np.int64, np.int32)
    np.testing.assert_allclose(arrays["x"], (content["images"] * 0.5 + 0.25) * 16, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(arrays["y"], [0, 1, 0, 0])
    np.testing.assert_array_equal(arrays["hyper_momentum"], np.full(3, 0.9, np.float32))
    assert str(arrays["dataset"]) == "tiny" and arrays["class_names"].tolist() == ["zéro", "one"]
    assert json.loads(str(arrays["learner"])) == {"name": "mlp", "hidden": [8, 8]}
    synthetic = export.read_synthetic(tmp_path / "a.npz", num_classes=2)
    np.testing.assert_array_equal(synthetic.images, content["images"])
    np.testing.assert_array_equal(synthetic.labels, content["labels"])
    np.testing.assert_array_equal(synthetic.order, content["order"])
    assert set(synthetic.hyperparameters) == {"learning_rate", "momentum"}
    assert synthetic.metadata == {
        "scale": 16.0,
        "mean": (0.25,),
        "std": (0.5,),
        "class_names": ("zéro", "one"),
        "dataset": "tiny",
        "method": "dd",
        "learner": {"name": "mlp", "hidden": [8, 8]},
        "inner": {"name": "sgd"},
    }


def test_equal_data_are_equal_bytes(tmp_path, monkeypatch):
    write(tmp_path / "a.npz")
    monkeypatch.setattr("time.time", lambda: 2e9)
    write(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    write(tmp_path / "b.npz", method="gtn")
    assert (tmp_path / "a.npz").read_bytes() != (tmp_path / "b.npz").read_bytes()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"images": np.full((4, 8, 8, 1), np.nan)}, "finite images"),
        ({"labels": np.ones((4, 2))}, "sum to 1"),
        ({"labels": np.ones((3, 1))}, "one row per image"),
        ({"order": np.array([[4]])}, "order [T, B] with values in 0..3"),
        ({"hyperparameters": {"learning_rate": np.ones(2)}}, "learning_rate finite, of shape (3,)"),
    ],
)
def test_bad_synthetic_data_are_not_written(tmp_path, changes, expected):
    with pytest.raises(UserError) as error:
        write(tmp_path / "a.npz", **changes)
    assert expected in message(error) and not list(tmp_path.iterdir())


def test_a_users_file_is_read(tmp_path):
    np.savez(tmp_path / "mine.npz", x=np.zeros((3, 8, 8), np.uint8), y=np.array([0, 2, 1], np.uint8))
    synthetic = export.read_synthetic(tmp_path / "mine.npz", num_classes=4)
    assert synthetic.pixels.shape == (3, 8, 8, 1) and synthetic.pixels.dtype == np.float32
    np.testing.assert_array_equal(synthetic.labels, np.eye(4, dtype=np.float32)[[0, 2, 1]])
    assert synthetic.images is None and synthetic.order is None
    assert synthetic.hyperparameters == {} and synthetic.metadata == {}


X = np.zeros((2, 8, 8), np.float32)


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        ({"x": X}, "arrays x and y"),
        ({"x": X * np.nan, "y": [0, 1]}, "finite images"),
        ({"x": X[0], "y": [0, 1]}, "x of shape [N, H, W, C]"),
        ({"x": X, "y": [0]}, "one row per image"),
        ({"x": X, "y": [0, -1]}, "y as integers from 0"),
        ({"x": X, "y": [0, 0.5]}, "y as integers from 0"),
        ({"x": X, "y": [0, 2]}, "y below the number of classes, 2"),
        ({"x": X, "y": [[0.5, 0.6], [0, 1]]}, "sum to 1"),
        ({"x": X, "y": [[1, 0, 0], [0, 1, 0]]}, "labels for 2 classes"),
        ({"x": X, "y": ["a", "b"]}, "y as integers or probabilities"),
        ({"x": X, "y": [0, 1], "order": [[0, 5]]}, "values in 0..1"),
    ],
)
def test_bad_users_files_are_refused(tmp_path, arrays, expected):
    np.savez(tmp_path / "mine.npz", **{name: np.asarray(value) for name, value in arrays.items()})
    with pytest.raises(UserError) as error:
        export.read_synthetic(tmp_path / "mine.npz", num_classes=2)
    assert expected in message(error)


def test_damaged_files_are_said(tmp_path):
    with pytest.raises(UserError) as error:
        export.read_synthetic(tmp_path / "none.npz")
    assert "no file at" in message(error)
    write(tmp_path / "a.npz")
    whole = (tmp_path / "a.npz").read_bytes()
    flipped = bytearray(whole)
    flipped[300] ^= 0xFF
    np.save(tmp_path / "array.npy", X)
    np.savez(tmp_path / "pickle.npz", x=X, y=np.array([{}, {}], dtype=object))
    damaged = [b"", b"text", whole[: len(whole) // 2], bytes(flipped)]
    damaged += [(tmp_path / name).read_bytes() for name in ("array.npy", "pickle.npz")]
    for content in damaged:
        (tmp_path / "b.npz").write_bytes(content)
        with pytest.raises(UserError) as error:
            export.read_synthetic(tmp_path / "b.npz")
        assert "does not read" in message(error)


def test_dedupe_finds_the_epochs():
    distinct = np.random.default_rng(0).normal(size=(2, 3, 8, 8, 1)).astype(np.float32)
    distinct[0, 1] = distinct[0, 0]  # two equal images in one batch stay two
    labels = np.stack([np.eye(3)[[0, 0, 2]], np.eye(3)]).astype(np.float32)
    again = [0, 1, 1, 0]
    x, y = distinct[again], labels[again]
    x[2], y[2] = x[2, ::-1], y[2, ::-1]  # an epoch that shuffles its batches
    images, classes, order = export.dedupe(Batch(jnp.asarray(x), jnp.asarray(y)))
    assert images.shape == (6, 8, 8, 1) and classes.shape == (6, 3) and order.dtype == np.int32
    np.testing.assert_array_equal(images[order], x)
    np.testing.assert_array_equal(classes[order], y)
    np.testing.assert_array_equal(order, [[0, 1, 2], [3, 4, 5], [5, 4, 3], [0, 1, 2]])
    relabelled = Batch(jnp.asarray(x[:1, :1].repeat(2, axis=0)), jnp.eye(3)[:2][:, None])
    assert len(export.dedupe(relabelled)[0]) == 2


# ---------------------------------------------------------------- figures


@pytest.mark.parametrize(("count", "channels"), [(1, 1), (1, 3), (3, 3)])
def test_image_grid_shows_the_pixels(tmp_path, count, channels):
    pixels = np.zeros((2 * count, 8, 8, channels), np.float32)
    pixels[0, :, :, 0] = 16
    labels = np.repeat([0, 1], count)
    figures.image_grid(tmp_path / "a.png", pixels, labels, ["a $x", "b"], title="t", scale=16)
    image = matplotlib.image.imread(tmp_path / "a.png")[..., :3]
    black, red = (
        int((np.abs(image - np.asarray(colour)).max(axis=-1) < 0.01).sum())
        for colour in ([0, 0, 0], [1, 0, 0])
    )
    assert black > 5000 * (2 * count - 1)
    if channels == 3:  # every image is as large as every other
        assert red * (2 * count - 1) == pytest.approx(black, rel=0.02)


def test_image_grid_says_its_scale_and_checks():
    learned = np.linspace(-10, 30, 640).reshape(10, 8, 8, 1)
    low, high, caption = figures._display_range(learned, 16)
    assert low == pytest.approx(-9.6, abs=0.1) and high == pytest.approx(29.6, abs=0.1)
    assert "percentile" in caption
    assert figures._display_range(np.full((1, 2, 2, 1), 40.0), None)[1] > 40
    for pixels, labels in [(np.zeros((2, 8, 8, 2)), [0, 1]), (np.zeros((2, 8, 8, 1)), [0, 2])]:
        with pytest.raises(UserError) as error:
            figures.image_grid("never.png", pixels, labels, ["a", "b"])
        assert "image_grid" in message(error)
    assert not Path("never.png").exists()


def test_curves(tmp_path):
    rows = [
        {
            "step": t,
            "loss": 10.0**-t,
            "validation_accuracy": t / 4,
            "learning_rate": [0.1, 0.2 * t],
            "momentum": 0.5,
        }
        for t in range(4)
    ]
    rows += [{"step": 4, "loss": math.nan}]
    figures.curves(tmp_path / "a.png", rows, title="t")
    height, width = matplotlib.image.imread(tmp_path / "a.png").shape[:2]
    assert width > 4 * height * 0.9
    with pytest.raises(UserError) as error:
        figures.curves(tmp_path / "b.png", [{"step": 1}])
    assert "rows with a loss" in message(error) and not (tmp_path / "b.png").exists()


# ---------------------------------------------------------------- machine


@pytest.fixture
def cache_config(monkeypatch):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    before = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    yield
    jax.config.update("jax_compilation_cache_dir", before)


def test_compile_cache_is_the_users_or_none(tmp_path, monkeypatch, cache_config):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = compile_cache.enable_compile_cache()
    assert path is not None and path.is_dir() and path.parent == tmp_path / "jaxdistill" / "compile"
    assert jax.config.jax_compilation_cache_dir == str(path)  # type: ignore[attr-defined]
    (tmp_path / "file").write_text("")
    said = []
    assert compile_cache.enable_compile_cache(tmp_path / "file" / "cache", say=said.append) is None
    assert len(said) == 1 and "not writable" in said[0]
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "theirs"))
    assert compile_cache.enable_compile_cache(tmp_path / "mine") == tmp_path / "theirs"
    assert not (tmp_path / "mine").exists()


def test_profile():
    assert jax.devices()[0].platform in profile.device_description().lower()
    assert profile.peak_rss_bytes() > 2**26  # JAX alone takes more than 64 MiB
    assert profile.peak_device_bytes() is None or profile.peak_device_bytes() >= 0
    commit = profile.environment()["commit"]
    assert commit is None or len(commit.removesuffix("-dirty")) == 40


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts open files under /proc")
def test_a_refused_run_leaves_nothing_open(tmp_path):
    def count():
        return sum(1 for _ in Path("/proc/self/fd").iterdir())

    rundir.open_run(tmp_path, {"seed": 0}).close()
    before = count()
    with pytest.raises(UserError):
        rundir.open_run(tmp_path, {"seed": 1})
    assert count() == before


def test_commit_is_the_checkouts_own(tmp_path, monkeypatch):
    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)

    package = tmp_path / "jaxdistill"
    package.mkdir()
    (package / "a.py").write_text("")
    monkeypatch.setattr(jaxdistill, "__path__", [str(package)])
    assert profile.git_commit() is None
    try:
        git("init")
    except OSError:
        pytest.skip("git is not installed")
    git("add", ".")
    git("commit", "-m", "a")
    commit = profile.git_commit()
    assert commit is not None and len(commit) == 40
    (package / "a.py").write_text("changed")
    assert profile.git_commit() == f"{commit}-dirty"
    monkeypatch.setattr(jaxdistill, "__path__", [str(package / "site-packages" / "jaxdistill")])
    assert profile.git_commit() is None
