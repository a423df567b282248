"""The outer loop: chunks, signals, checkpoints and divergence, on a problem of three classes."""

import json
import os
import signal
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import CLASSES, SHAPE, message, same_bits, tiny_data, tiny_net

from jaxdistill.core.checks import Caution, UserError
from jaxdistill.core.types import Data
from jaxdistill.inner.optimizers import sgd
from jaxdistill.methods.dd import dd
from jaxdistill.runtime import loop
from jaxdistill.runtime.checkpoint import Checkpoints
from jaxdistill.runtime.loop import Interrupted, distill
from jaxdistill.runtime.metrics import read_metrics
from jaxdistill.runtime.rundir import open_run
from jaxdistill.runtime.stalls import Bound, Stalls
from jaxdistill.teachers.images import images

KEY = jax.random.key(0)
STEPS = 10


def make(outer_optimizer=None):
    return dd(
        tiny_net("linear"),
        images(image_shape=SHAPE, num_classes=CLASSES, distill_epochs=2),
        inner_optimizer=sgd(num_steps=2, learning_rate=0.1),
        outer_optimizer=outer_optimizer,
        num_learners=2,
        real_batch_size=8,
    )


METHOD = make()
DATA = Data(tiny_data(), None)


def run(path, method=METHOD, **options):
    """(what the loop gives back, the rows of metrics)."""
    with open_run(path, {}, experiment="test") as directory:
        finished = distill(
            method, DATA, KEY, directory, **({"num_steps": STEPS, "chunk_length": 5} | options)
        )
    return finished, read_metrics(path / "metrics.jsonl")


def untimed(rows):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run, two chunks of 5."""
    return run(tmp_path_factory.mktemp("loop") / "run")


def test_a_row_per_chunk(whole):
    finished, rows = whole
    assert [row["step"] for row in rows] == [5, 10]
    assert set(rows[0]) == {
        "step",
        "loss",
        "accuracy",
        "inner_loss",
        "gradient_norm",
        "learning_rate",
        "seconds",
    }
    assert int(finished.state.step) == STEPS
    assert finished.compile_seconds > 0 and finished.seconds >= rows[-1]["seconds"] - 0.001 > 0


def test_a_run_without_a_directory_has_the_same_bits(whole, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    finished = distill(METHOD, DATA, KEY, num_steps=STEPS, chunk_length=5)
    same_bits(finished.state, whole[0].state)
    assert untimed(finished.rows) == untimed(whole[1]) and not list(tmp_path.iterdir())


@pytest.mark.parametrize(("chunk_length", "sizes"), [(4, (4, 4, 2)), (20, (10,))])
def test_how_steps_are_cut_into_chunks_changes_nothing(whole, tmp_path, chunk_length, sizes):
    """A last chunk that is shorter; more than there are steps. Tolerances: rounding of other programs."""
    finished, rows = run(tmp_path, chunk_length=chunk_length)
    assert [row["step"] for row in rows] == np.cumsum(sizes).tolist()
    for got, expected in zip(
        jax.tree.leaves(finished.state.meta), jax.tree.leaves(whole[0].state.meta), strict=True
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(rows[-1]["learning_rate"], whole[1][-1]["learning_rate"], rtol=1e-4)
    # a row is the mean over its chunk
    mean = np.average([row["loss"] for row in rows], weights=sizes)
    assert mean == pytest.approx(np.mean([row["loss"] for row in whole[1]]), rel=1e-4)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_the_next_start_ends_with_the_same_bits(whole, tmp_path, monkeypatch, number):
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    write = loop.MetricsLog.write

    def interrupting(log, step, metrics):
        write(log, step, metrics)
        if step == 5:
            signal.raise_signal(number)

    monkeypatch.setattr(loop.MetricsLog, "write", interrupting)
    with pytest.raises(Interrupted) as stop:
        run(tmp_path, checkpoint_every=100)
    monkeypatch.undo()
    assert stop.value.exit_code == 128 + number and int(stop.value.finished.state.step) == 5
    assert str(stop.value) == "stopped after outer step 5, saved; run the same command again to resume"
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    finished, rows = run(tmp_path)
    same_bits(finished.state, whole[0].state)
    assert untimed(rows) == untimed(whole[1])
    assert finished.seconds > rows[0]["seconds"]  # the time of both starts


def test_a_signal_in_the_last_chunk_stops_too(tmp_path, monkeypatch, whole):
    """What comes after the loop, evaluation, may take an hour."""
    write = loop.MetricsLog.write

    def interrupting(log, step, metrics):
        write(log, step, metrics)
        if step == STEPS:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loop.MetricsLog, "write", interrupting)
    with pytest.raises(Interrupted, match="after outer step 10"):
        run(tmp_path)
    monkeypatch.undo()
    finished, _ = run(tmp_path)
    same_bits(finished.state, whole[0].state)
    assert finished.compile_seconds == 0


def test_a_second_signal_acts_at_once(tmp_path, monkeypatch):
    def twice(log, step, metrics):
        first = signal.getsignal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        while signal.getsignal(signal.SIGINT) is first:  # two at once are one to Python
            pass
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(loop.MetricsLog, "write", twice)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_corrupt_last_checkpoint_costs_one_interval(tmp_path, capsys, whole):
    run(tmp_path, checkpoint_every=5)
    (damaged,) = [path for path in (tmp_path / "checkpoints").iterdir() if path.name == "10"]
    for file in (damaged / "state").rglob("*"):
        if file.is_file():
            file.write_bytes(b"\x00" * file.stat().st_size)
    capsys.readouterr()
    finished, rows = run(tmp_path, checkpoint_every=5)
    printed = capsys.readouterr().out
    assert "checkpoint of step 10 does not restore" in printed and "went back to step 5" in printed
    assert "resumes from outer step 5" in printed
    same_bits(finished.state, whole[0].state)
    assert untimed(rows) == untimed(whole[1])


def test_divergence_names_step_and_quantity_and_keeps_the_last_good_state(tmp_path):
    """The outer step size jumps at step 8 (the 9th update), so the loss of the 10th step is not finite."""
    method = make(optax.sgd(lambda step: jnp.where(step < 8, 0.01, jnp.inf)))
    options = {"checkpoint_every": 5, "remedy": "Lower something."}
    with pytest.raises(UserError) as error:
        run(tmp_path, method, **options)
    text = message(error)
    assert "at outer step 10." in text and "loss" in text and "gradient_norm" in text
    assert text.endswith("Lower something. The checkpoint of step 5 is kept.")
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [5]
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        state, step, notes = checkpoints.restore(jax.eval_shape(method.init, KEY))
    assert (step, notes) == (5, [])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.meta))
    with pytest.raises(UserError) as again:  # the same command says the same
        run(tmp_path, method, **options)
    assert message(again) == text


def test_divergence_in_the_last_update_of_a_chunk_is_found(tmp_path):
    """Its metrics are those of before the update: finite."""
    method = make(optax.sgd(lambda step: jnp.where(step < 4, 0.01, jnp.inf)))
    with pytest.raises(UserError) as error:
        run(tmp_path, method)
    text = message(error)
    assert "in what is learned by outer step 5." in text and "There was no checkpoint yet." in text
    assert not list((tmp_path / "checkpoints").iterdir())


@pytest.mark.parametrize("name", ["num_steps", "chunk_length", "checkpoint_every"])
def test_counts_below_one_are_refused(tmp_path, name):
    with open_run(tmp_path, {}, experiment="test") as directory, pytest.raises(UserError) as error:
        distill(METHOD, DATA, KEY, directory, **({"num_steps": STEPS} | {name: 0}))
    assert ">= 1, got 0" in message(error)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_checkpoints_come_at_whole_chunks(tmp_path, monkeypatch):
    saved = []
    save = Checkpoints.save
    monkeypatch.setattr(
        Checkpoints, "save", lambda self, step, state: (saved.append(step), save(self, step, state))
    )
    run(tmp_path, chunk_length=4, checkpoint_every=5)
    assert saved == [8, 10]
    assert json.loads((tmp_path / "config.json").read_text())["config"] == {}


def test_a_step_size_that_stays_at_its_bound_is_a_caution(tmp_path):
    bound = Bound(0.0, 0.1, "too low", "Raise max_inner_learning_rate.")
    with pytest.warns(
        Caution, match=r"learning_rate: at its bound 0\.1 from outer step 5 to 10\. Raise max"
    ) as told:
        run(tmp_path / "run", bounds={"learning_rate": bound}, method=make(optax.sgd(0.0)))
    assert len(told) == 1


def test_stalls_are_told_once_and_only_if_everything_stands_still():
    stalls = Stalls({"learning_rate": Bound(1e-6, np.inf, "low", "high")})
    rows = [{"step": step, "gradient_norm": 1.0, "learning_rate": [1e-6, 0.1]} for step in (5, 10, 15)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for end in range(4):
            stalls.check(rows[:end])
    rows = [{**row, "gradient_norm": 0.0, "learning_rate": [1e-6, 1e-6]} for row in rows]
    with pytest.warns(Caution) as told:
        for end in range(4):
            stalls.check(rows[:end])
    said = [str(each.message) for each in told]
    rows = [{"step": step, "gradient_norm": 1.0, "learning_rate": [1e-9, 1e-6]} for step in (5, 10)]
    with pytest.warns(Caution, match="at its bound 1e-06"):  # a step size that no projection holds
        Stalls({"learning_rate": Bound(1e-6, np.inf, "low", "high")}).check(rows)
    assert len(said) == 2 and "gradient of what is learned is 0 in every step up to outer step 5" in said[0]
    assert said[1] == "learning_rate: at its bound 1e-06 from outer step 5 to 10. low"
