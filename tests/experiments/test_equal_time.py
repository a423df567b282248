"""`experiments.equal_time`: each contender gets its time, the best on validation is shown, runs resume."""

import json
from pathlib import Path

import pytest
from helpers import message
from tiny_runs import TINY, command, flags

from experiments import equal_time
from experiments.equal_time import Options
from experiments.measure import fitting
from jaxdistill.config.option import UNSET
from jaxdistill.config.resolve import filled, resolve
from jaxdistill.core.checks import UserError
from jaxdistill.methods.recipe import Facts
from jaxdistill.runs.plan import identity_from, identity_of, planned, splits

SMALL = {
    "contenders": ["unrolled", "neumann"],
    "inner_learning_rates": [0.1, 0.3],
    "time_limit": 0.05,
    "neumann_terms": 2,
    "max_inner_steps": 3,
    "unrolled_steps": 2,
    **{
        name: value
        for name, value in TINY.items()
        if name in Options.options() and name not in ("full_data_epochs", "width", "depth")
    },
    "learner": "linear",
}
UNCHOSEN = dict.fromkeys(("neumann_terms", "max_inner_steps", "unrolled_steps"), UNSET)
DIGITS = Facts((8, 8, 1), 10)
FITTING = {"num_outer_steps": 5, "seconds_per_step": 0.01, "program_bytes": 2**20, "all_bytes": 2**21}


def run(path, **chosen):
    return equal_time.run(Options(**SMALL | chosen, run_dir=path))


@pytest.fixture
def pretended(monkeypatch):
    """The configs of distillations that only pretend to run; the larger step size is the better one."""
    configs = []

    def pretend(config):
        configs.append(config)
        folder = Path(config.run_dir)
        folder.mkdir(exist_ok=True)
        row = {"step": 5, "loss": 1.0} | ({"residual": 0.5} if config.gradient == "implicit" else {})
        (folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
        random = {"random_real_mean": 0.5, "random_real_std": 0.1} if config.num_baseline_learners else {}
        rate = config.chosen().get("inner_learning_rate", 0.2)
        accuracy = {"test_accuracy_mean": 0.9 - rate, "test_accuracy_std": 0.01}
        accuracy |= {"validation_accuracy_mean": rate, "num_learners": 2}
        return accuracy | random | {"seconds": 1.0, "compile_seconds": 2.0}

    monkeypatch.setattr(equal_time, "run_to_result", pretend)
    monkeypatch.setattr(equal_time, "show_result", lambda result: None)
    monkeypatch.setattr(equal_time, "fitting", lambda plan, time_limit: FITTING)
    return configs


def check_comparison(result, folder, out):
    assert [row["contender"] for row in result["rows"]] == SMALL["contenders"]
    assert len(result["candidates"]) == 4
    for row in result["rows"]:
        own = [c for c in result["candidates"] if c["contender"] == row["contender"]]
        assert row["validation_accuracy_mean"] == max(c["validation_accuracy_mean"] for c in own)
        assert row["num_outer_steps"] % 5 == 0 and row["all_bytes"] > row["program_bytes"] > 0
        assert ("residual" in row) == (row["contender"] == "neumann")
    assert result["random_real_mean"] is not None
    assert json.loads((folder / "result.json").read_text())["rows"] == result["rows"]
    assert "Test accuracy (%) after 0.05 s: linear on digits, K = 2" in out and "random real images: " in out


def test_a_comparison_is_told_by_its_best_candidates_and_resumed(tmp_path, capsys, monkeypatch, pretended):
    result = run(tmp_path / "run")
    check_comparison(result, tmp_path / "run", capsys.readouterr().out)
    assert [row["inner_learning_rate"] for row in result["rows"]] == [0.3, 0.3]
    unrolled, *_, last = pretended
    assert [config.gradient for config in pretended] == [*["unrolled"] * 2, *["implicit"] * 2, "unrolled"]
    assert (unrolled.num_outer_steps, unrolled.distill_epochs, unrolled.num_baseline_learners) == (5, 2, 0)
    assert last.num_baseline_learners == 2 and last.run_dir == str(tmp_path / "run/unrolled-0.3")
    monkeypatch.setattr(equal_time, "fitting", None)  # what is there is not measured again
    assert run(tmp_path / "run", checkpoint_every=7)["rows"] == result["rows"]
    with pytest.raises(UserError, match=r"time_limit: 0\.05 there, 9\.0 here"):
        run(tmp_path / "run", time_limit=9.0)
    (tmp_path / "run/plans/unrolled-0.1.json").write_text("{")
    with pytest.raises(UserError, match=r"saved results: expected a readable .*plans"):
        run(tmp_path / "run")


def test_a_candidate_that_fails_is_a_row(tmp_path, capsys, monkeypatch, pretended):
    def fails(config):
        raise UserError("distill: expected failed_solves = 0, got 1.\nRaise damping.")

    monkeypatch.setattr(equal_time, "run_to_result", fails)
    with pytest.raises(UserError) as error:
        run(tmp_path / "run", contenders=["unrolled"], inner_learning_rates=[0.1], **UNCHOSEN)
    assert "at least one contender that finishes, got none (unrolled: distill: expected" in message(error)
    result = json.loads((tmp_path / "run/result.json").read_text())
    (row,) = result["rows"]
    assert "failed_solves = 0, got 1. Raise damping." in row["note"] and "random_real_mean" not in result
    assert row["note"] in capsys.readouterr().out


def test_a_candidate_that_runs_out_of_memory_when_it_is_measured_is_a_row(tmp_path, monkeypatch, pretended):
    def measured(plan, time_limit):
        if plan.config.gradient == "unrolled":
            raise MemoryError("no memory left")
        return FITTING

    monkeypatch.setattr(equal_time, "fitting", measured)
    failed, done = run(tmp_path / "run", inner_learning_rates=[0.1])["rows"]
    assert failed == {"contender": "unrolled", "inner_learning_rate": 0.1, "note": "no memory left"}
    assert done["contender"] == "neumann" and "note" not in done


def test_a_candidate_is_what_was_chosen_less_the_options_of_other_gradients():
    chosen = Options(remat="step", damping=0.2, solver_steps=7, neumann_terms=3, outer_learning_rate=0.1)

    def cell(name):
        return resolve(equal_time.cell(chosen, name, 0.3, 5), DIGITS)

    unrolled, fixed, cg, neumann = map(cell, ("unrolled", "unrolled_fixed", "cg", "neumann"))
    head = resolve(equal_time.cell(chosen, "convexified", None, 5), DIGITS)
    assert (head.solver_steps, head.distill_epochs, head.outer_loss) == (7, 1, "squared")
    assert (head.weight_decay, head.outer_learning_rate, head.num_baseline_learners) == (0.0, 0.1, 0)
    assert (unrolled.learned, fixed.learned, cg.learned) == (("learning_rate",), (), ())
    assert (unrolled.remat, unrolled.distill_epochs, unrolled.inner_momentum) == ("step", 5, 0.0)
    assert (cg.damping, cg.solver_steps, cg.distill_epochs, cg.inner_momentum) == (0.2, 7, 1, 0.9)
    assert (neumann.neumann_terms, neumann.solver_steps) == (3, None)
    assert (cg.on_failed_solve, unrolled.on_failed_solve) == ("skip", "stop")
    for config in (unrolled, fixed, cg, neumann):
        assert (config.weight_decay, config.inner_learning_rate, config.outer_learning_rate) == (
            0.01,
            0.3,
            0.1,
        )
        assert (config.full_data_epochs, config.num_baseline_learners) == (0, 0)
    momentum = equal_time.cell(Options(inner_momentum=0.5), "cg", 0.1, 5)
    assert momentum.inner_momentum == 0.5


def test_a_contender_without_inner_steps_has_one_candidate(tmp_path, capsys, pretended):
    result = run(tmp_path / "run", contenders=["closed_form", "neumann"], unrolled_steps=UNSET)
    names = [(row["contender"], row["inner_learning_rate"]) for row in result["candidates"]]
    assert names == [("closed_form", None), ("neumann", 0.1), ("neumann", 0.3)]
    assert (
        pretended[-1].run_dir == str(tmp_path / "run/closed_form") and pretended[0].gradient == "closed_form"
    )
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("closed_form  "))
    assert line.split()[3] == "-"  # its step size


def test_a_folder_of_an_older_version_is_the_same_comparison():
    """It had null where nobody chose, and options of other methods."""
    now = identity_of(filled(Options(**SMALL, dataset="digits"), DIGITS))
    older = dict.fromkeys(("damping", "inner_tolerance", "matches", "augment", "nystrom_rank"))
    older |= {"distance": "layerwise", "by_class": True, "on_failed_solve": "skip", "weight_decay": 0.01}
    saved = {name: value for name, value in now.items() if name not in older} | older
    assert identity_from(saved, "config.json", Options, splits(Options(dataset="digits")), now) == now


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        ({"contenders": []}, "at least one of contenders, got none"),
        ({"contenders": ["unroled"]}, "expected one of cg, closed_form, convexified, gauss_n"),
        ({"inner_learning_rates": []}, "at least one of inner_learning_rates, got none"),
        ({"inner_learning_rates": [0.0]}, "inner_learning_rates > 0"),
        ({"time_limit": 0.0}, "time_limit > 0"),
        ({"damping": -1.0}, "damping >= 0, got -1"),
        ({"contenders": ["cg"], "neumann_alpha": 0.1}, "a contender that takes neumann_alpha, got cg"),
        ({"contenders": ["unrolled"], "damping": 0.2}, "a contender that takes damping, got unrolled"),
        ({"contenders": ["cg"], "remat": "step"}, "a contender that takes remat"),
        (
            {"contenders": ["cg"], "unrolled_steps": 3},
            "no unrolled_steps with contenders=cg, where it",
        ),
        ({"contenders": ["closed_form"]}, "no inner_learning_rates with contenders=closed_form, where it"),
        ({"contenders": ["closed_form"], "weight_decay": 0.1}, "a contender that takes weight_decay"),
        ({"contenders": ["identity"], "warm_start": True}, "a linear_solver that can start from the last"),
        ({"method": "dc"}, "no inner_learning_rate with method=dc"),
    ],
)
def test_bad_input_starts_nothing(tmp_path, chosen, says):
    with pytest.raises(UserError) as error:
        run(tmp_path / "run", **UNCHOSEN | chosen)
    assert says in message(error)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_comparison_from_start_to_end(tmp_path, capsys, monkeypatch):
    result = run(tmp_path / "run")
    check_comparison(result, tmp_path / "run", capsys.readouterr().out)
    monkeypatch.setattr(equal_time, "fitting", None)  # what is there is not measured again
    assert run(tmp_path / "run")["rows"] == result["rows"]


def test_the_outer_steps_that_fit_are_whole_chunks():
    options = Options(learner="linear", chunk_length=2, num_learners=1, real_batch_size=8)
    found = fitting(planned(equal_time.cell(options, "unrolled_fixed", 0.1, 1)), 0.01)
    assert found["num_outer_steps"] % 2 == 0 and found["num_outer_steps"] > 0
    assert found["all_bytes"] > found["program_bytes"] > 0 and found["seconds_per_step"] > 0
    steps = 0.01 / found["seconds_per_step"]
    assert abs(found["num_outer_steps"] - steps) <= max(2, 0.01 * steps)


SECONDS_PER_STEP = """
from experiments import equal_time
from experiments.measure import fitting
from jaxdistill.runs.plan import planned
options = equal_time.Options(num_learners=2)
print(fitting(planned(equal_time.cell(options, "cg", 0.1, 10)), 40.0)["seconds_per_step"])
"""


@pytest.mark.slow
def test_implicit_gradients_distill_as_well_as_unrolled_ones_in_the_same_time(tmp_path):
    # processes of their own: here programs are compiled without optimisation
    measured = command("-c", SECONDS_PER_STEP, XLA_FLAGS="")
    # 20 s on two quiet cores, more where they are busy; all contenders have the same time
    limit = 1400 * float(measured.stdout.split()[-1])
    options = {"contenders": ["unrolled", "unrolled_fixed", "cg"], "inner_learning_rates": [0.1, 0.3]}
    options |= {"time_limit": limit, "num_learners": 2, "num_baseline_learners": 0}
    arguments = flags(**options, run_dir=str(tmp_path / "run"))
    process = command("-m", "experiments.equal_time", *arguments, wait=False, XLA_FLAGS="")
    out, err = process.communicate(timeout=3000)
    assert process.returncode == 0, (out, err)
    rows = {row["contender"]: row for row in json.loads((tmp_path / "run/result.json").read_text())["rows"]}
    unrolled = max(rows["unrolled"]["test_mean"], rows["unrolled_fixed"]["test_mean"])
    assert rows["cg"]["test_mean"] > unrolled - 0.02, rows
    assert unrolled > 0.5  # not a comparison of failures
