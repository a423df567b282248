"""`jd.distill` and `jd.load_run`: a run as a value, with and without a folder, stopped, resumed, refused."""

import json
import signal
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import message, same_bits
from linear_runs import OWN, QUIET, SHORT, network, refused, three_classes

import jaxdistill as jd
from jaxdistill.config.resolve import KNOWN
from jaxdistill.core.checks import UserError
from jaxdistill.runs.plan import planned
from jaxdistill.runs.result import run_to_result
from jaxdistill.runtime import loop
from jaxdistill.runtime.progress import silent
from jaxdistill.runtime.rundir import open_run


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Whatever a test writes without saying where would lie here."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def whole():
    """The uninterrupted run that others are compared with; nothing of it is on disk."""
    return jd.distill(**QUIET)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of the same run; no test writes into it."""
    path = tmp_path_factory.mktemp("run") / "run"
    jd.distill(**QUIET, run_dir=path)
    return path


def test_a_run_has_images_as_people_and_as_networks_see_them(whole):
    assert whole.images.shape == (10, 8, 8, 1) and whole.images.dtype == np.float32
    assert whole.labels.tolist() == list(range(10))
    np.testing.assert_array_equal(whole.batch.y, np.eye(10, dtype=np.float32))
    info = whole.data.info
    back = (whole.images / info.scale - info.mean) / info.std
    np.testing.assert_allclose(whole.batch.x, back, atol=1e-5)  # pixels up to a few times 16, in float32
    assert whole.order.tolist() == [list(range(10))] * 2
    same_bits(whole.batch.x[whole.order], whole.method.synthesize(whole.state, whole.key).x)


def test_a_run_knows_what_it_is(whole):
    assert repr(whole) == "Run(dd on digits: 1 per class, 4 outer steps)"
    assert whole.step == 4 and whole.path is None and whole.bank is None
    assert (
        whole.config.learner == "linear"
        and whole.config.method == "dd"
        and whole.config.inner_learning_rate == 0.05
    )
    assert [row["step"] for row in whole.metrics] == [2, 4]
    rates = whole.hyperparameters["learning_rate"]
    np.testing.assert_allclose(whole.metrics[-1]["learning_rate"], rates, rtol=1e-6)
    assert np.isfinite([row["loss"] for row in whole.metrics]).all()


def test_a_run_is_scored(whole):
    found = whole.score()
    assert len(found.every) == 2 and 0 <= found.mean <= 1
    assert whole.score().every == found.every
    assert len(whole.score(1).every) == 1
    with pytest.raises(UserError) as error:
        whole.score(1, protocol="papers")
    assert "expected one of as_distilled, dc, dc_augmented, dsa, frepo, idc, idc_unmixed, rat, " in message(
        error
    )


def test_without_a_folder_nothing_is_written(here, whole, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["notebook", "--no_flag_of_ours"])
    again = jd.distill(**QUIET)
    with silent():
        again.compare()
    same_bits(again.state, whole.state)
    assert not list(here.iterdir()) and capsys.readouterr() == ("", "")


def test_the_loop_traces_no_outer_step_that_the_plan_has_traced(monkeypatch):
    traced, before, chunk, net = [], [], loop.compiled_chunk, network()
    counted = net._replace(apply=lambda params, x: traced.append(x) or net.apply(params, x))
    monkeypatch.setattr(loop, "compiled_chunk", lambda *given: before.append(len(traced)) or chunk(*given))
    jd.distill(learner=counted, **OWN | {"num_outer_steps": 2})
    assert before == [len(traced)] and traced


def test_a_thread_may_distill(whole):
    found = []
    thread = threading.Thread(target=lambda: found.append(jd.distill(**QUIET)))
    thread.start()
    thread.join()
    same_bits(found[0].state, whole.state)


def test_options_may_come_as_a_config_and_beside_it_and_progress_is_shown(whole, capsys):
    config = jd.Config(**SHORT | {"seed": 5})
    same_bits(jd.distill(config, seed=0).state, whole.state)
    assert config == jd.Config(**SHORT | {"seed": 5}) and "4/4" in capsys.readouterr().out


def stopping_at(step, number, monkeypatch):
    """A signal arrives after the chunk that ends at an outer step."""
    summary = loop._summary
    done = []

    def then(metrics):
        done.append(np.size(metrics["loss"]))
        if sum(done) == step:
            signal.raise_signal(number)
        return summary(metrics)

    monkeypatch.setattr(loop, "_summary", then)


@pytest.mark.parametrize("run_dir", [None, "run"])
def test_ctrl_c_at_a_prompt_gives_the_run_so_far(monkeypatch, capsys, whole, run_dir):
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    stopping_at(2, signal.SIGINT, monkeypatch)
    run = jd.distill(**SHORT, run_dir=run_dir)
    monkeypatch.undo()
    said = "saved; run the same command again to resume" if run_dir else "not saved"
    assert f"note: stopped after outer step 2, {said}; this is the run so far" in capsys.readouterr().out
    assert run.step == 2 and "2 of 4 outer steps" in repr(run)
    assert len(run.metrics) == 1 and run.images.shape == (10, 8, 8, 1)
    assert np.isfinite(run.score(1).mean)


def test_ctrl_c_in_a_script_is_an_interrupt_and_the_state_is_saved(monkeypatch, here, whole):
    monkeypatch.delattr(sys, "ps1", raising=False)
    with monkeypatch.context() as patch:
        stopping_at(2, signal.SIGINT, patch)
        with pytest.raises(KeyboardInterrupt, match="stopped after outer step 2, saved"):
            jd.distill(**QUIET, run_dir=here / "run")
    with silent():
        assert jd.load_run(here / "run").step == 2
    assert not (here / "run/synthetic.npz").exists()
    again = jd.distill(**QUIET, run_dir=here / "run")
    same_bits(again.state, whole.state)
    assert [row["step"] for row in again.metrics] == [2, 4]


def test_an_average_is_the_output_and_is_resumed(monkeypatch, here, whole):
    monkeypatch.delattr(sys, "ps1", raising=False)
    options = QUIET | {"outer_ema": 0.5}
    expected = jd.distill(**options)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stopping_at(2, signal.SIGINT, patch)
        jd.distill(**options, run_dir="run")
    again = jd.distill(**options, run_dir="run")
    same_bits(again.state, expected.state)
    # the steps are those without an average, of a program that is fused another way
    np.testing.assert_allclose(again.state.meta.teacher["x"], whole.state.meta.teacher["x"], atol=1e-5)
    same_bits(again.batch.x, again.state.average.teacher["x"][0])
    with np.load("run/synthetic.npz") as file:
        same_bits(file["x"], again.images)
    assert np.abs(again.batch.x - again.state.meta.teacher["x"][0]).max() > 1e-4
    same_bits(jd.load_run("run").hyperparameters, again.hyperparameters)
    assert again.hyperparameters["learning_rate"][0] != whole.hyperparameters["learning_rate"][0]


def test_images_are_tested_on_networks_without_norm():
    options = {"dataset": "digits", "method": "dm", "learner": "convnet", "width": 2, "depth": 1}
    plan = planned(jd.Config(**options, norm="batch", eval_norm="none"))
    kept, tested = (net.init(plan.key)["params"].keys() for net in (plan.learner, plan.tested))
    assert set(kept) - set(tested) == {"norm1"} and not set(tested) - set(kept)
    for chosen, says in (
        (
            {"population": "fixed", "num_learners": 1},
            "networks whose weights are given, got population=fixed",
        ),
        ({"learner": "linear"}, "expected an option among initialization, got 'norm'"),
    ):
        assert says in refused(jd.distill, **QUIET | {"learner": "convnet", "eval_norm": "none"} | chosen)


def test_images_are_tested_on_networks_of_another_activation(here):
    options = QUIET | {"learner": "mlp", "width": 4, "depth": 1, "run_dir": "run"}
    run = jd.distill(**options, eval_activation="sigmoid")
    sizes = {"image_shape": (8, 8, 1), "num_classes": 10, "width": 4, "depth": 1}

    def scored(network):
        return replace(run, plan=run.plan._replace(tested=network)).score().every

    assert run.score().every == scored(jd.learner("mlp", **sizes, activation="sigmoid"))
    assert run.score().every != scored(run.learner)
    assert jd.load_run("run").config.eval_activation == "sigmoid"


def test_a_folder_holds_the_run(folder, whole):
    run = jd.load_run(folder)
    same_bits(run.state, whole.state)
    np.testing.assert_array_equal(run.images, whole.images)
    assert run.path == folder and f"in {folder})" in repr(run)
    assert [row["loss"] for row in run.metrics] == [row["loss"] for row in whole.metrics]
    stored = json.loads((folder / "config.json").read_text())
    assert stored["experiment"] == "distill" and stored["chosen"] == json.loads(json.dumps(SHORT))
    assert stored["config"] == whole.plan.identity


def test_a_run_that_ended_is_not_run_again(folder, whole, monkeypatch):
    monkeypatch.setattr(loop, "compiled_chunk", lambda *given: None)  # nothing to call: no outer step
    again = jd.distill(**QUIET, run_dir=str(folder))
    same_bits(again.state, whole.state)
    assert again.finished.compile_seconds == 0


def test_what_a_folder_has_is_not_replaced(folder):
    assert f"the data of {folder}: dataset=digits, got other images in data" in refused(
        jd.load_run, folder, data=three_classes()
    )
    assert f"the data of {folder}: dataset=digits, got mnist" in refused(jd.load_run, folder, dataset="mnist")
    assert f"no learner, since {folder} has linear, got one" in refused(
        jd.load_run, folder, learner=network()
    )


def test_another_choice_is_another_run(folder):
    text = refused(jd.distill, **QUIET | {"seed": 3, "num_learners": 4}, run_dir=folder)
    assert "num_learners: 2 there, 4 here; seed: 0 there, 3 here. Use the same values" in text
    jd.distill(**QUIET, num_search_learners=1, run_dir=folder)  # of evaluation: it stays the same run


def test_another_experiment_is_another_run(here):
    open_run(here / "run", {"seed": 0}, experiment="pretrain").close()
    text = refused(jd.distill, **QUIET, run_dir="run")
    assert "a run of experiments.distill in run, got one of experiments.pretrain" in text
    text = refused(jd.load_run, "run")
    assert "a run of experiments.distill, got one of experiments.pretrain in run" in text


def test_more_networks_may_be_scored_than_the_run_was_tested_on(folder):
    run = jd.load_run(folder)
    assert len(run.score(3).every) == 3
    assert "num_eval_learners >= 1, got 0" in refused(run.score, 0)


def test_a_run_on_its_way_is_compared_and_goes_on(here, whole, monkeypatch):
    monkeypatch.delattr(sys, "ps1", raising=False)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stopping_at(2, signal.SIGINT, patch)
        jd.distill(**QUIET, run_dir="run")
    assert jd.load_run("run").compare()["outer_steps"] == 2
    with silent():
        result = run_to_result(jd.Config(**SHORT, run_dir="run"))
    assert result["outer_steps"] == 4
    same_bits(jd.load_run("run").state, whole.state)


def test_a_network_that_is_no_learner_is_refused(folder):
    assert "learner as a Learner, got str" in refused(jd.load_run, folder, learner="mlp")


def test_images_that_are_gone_are_written_again(here):
    chosen = jd.Config(**SHORT, run_dir="run")
    with silent():
        run_to_result(chosen)
        before = Path("run/synthetic.npz").read_bytes()
        Path("run/synthetic.npz").unlink()
        run_to_result(chosen)
    assert Path("run/synthetic.npz").read_bytes() == before


def test_the_home_of_a_user_is_found(here, monkeypatch):
    monkeypatch.setenv("HOME", str(here / "home"))
    assert jd.Config(run_dir="~/run").run_dir == str(here / "home/run")
    assert jd.Config(dataset=Path("~/mine.npz")).dataset == str(here / "home/mine.npz")


def test_facts_of_named_sets_are_those_of_their_images(whole):
    info = whole.data.info
    assert KNOWN["digits"] == (info.image_shape, info.num_classes)
