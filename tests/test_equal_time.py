"""`experiments.equal_time`: every contender gets its time, the best on validation is shown, runs go on."""

import json

import pytest
from helpers import message
from tiny_runs import TINY, command, flags

from experiments import equal_time
from jaxdistill.core.checks import UserError

SMALL = {
    "contenders": ["unrolled", "neumann"],
    "inner_learning_rates": [0.1, 0.3],
    "time_limit": 0.05,
    "neumann_terms": 2,
    "max_inner_steps": 3,
    "full_data_epochs": 0,
    **{name: TINY[name] for name in ("width", "depth", "chunk_length", "num_learners", "schedule")},
    **{name: TINY[name] for name in ("real_batch_size", "num_eval_learners", "num_baseline_learners")},
    **{name: TINY[name] for name in ("num_search_learners", "step_sizes")},
}


@pytest.mark.slow
def test_a_comparison_from_start_to_end(tmp_path, capsys, monkeypatch):
    result = equal_time.run(**SMALL, unrolled_steps=2, run_dir=str(tmp_path / "run"))
    assert [row["contender"] for row in result["rows"]] == SMALL["contenders"]
    assert len(result["candidates"]) == 4
    for row in result["rows"]:
        own = [c for c in result["candidates"] if c["contender"] == row["contender"]]
        assert row["validation_accuracy_mean"] == max(c["validation_accuracy_mean"] for c in own)
        assert row["num_outer_steps"] % 5 == 0 and row["all_bytes"] > row["program_bytes"] > 0
        assert ("residual" in row) == (row["contender"] == "neumann")
    assert result["random_real_mean"] is not None
    assert json.loads((tmp_path / "run/result.json").read_text())["rows"] == result["rows"]
    out = capsys.readouterr().out
    assert "Test accuracy (%) after 0.05 s: mlp on digits, K = 2" in out and "random real images: " in out
    monkeypatch.setattr(equal_time, "plan", None)  # what is there is not measured again
    again = equal_time.run(**SMALL, unrolled_steps=2, run_dir=str(tmp_path / "run"))
    assert again["rows"] == result["rows"]


def test_a_candidate_that_fails_is_a_row(tmp_path, capsys):
    options = SMALL | {"contenders": ["neumann"], "neumann_alpha": 1e6, "inner_learning_rates": [0.1]}
    result = equal_time.run(**options, on_failed_solve="stop", run_dir=str(tmp_path / "run"))
    (row,) = result["rows"]
    assert "failed_solves" in row["note"] and "random_real_mean" not in result
    assert row["note"] in capsys.readouterr().out


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        ({"contenders": []}, "at least one of contenders, got none"),
        ({"contenders": ["unroled"]}, "expected one of cg, gauss_newton_cg"),
        ({"inner_learning_rates": []}, "at least one of inner_learning_rates, got none"),
        ({"inner_learning_rates": [0.0]}, "inner_learning_rates > 0"),
        ({"time_limit": 0.0}, "time_limit > 0"),
        ({"damping": -1.0}, "damping >= 0, got -1"),
        ({"contenders": ["cg"], "neumann_alpha": 0.1}, "neumann_alpha"),
        ({"contenders": ["unrolled"], "damping": 0.1}, "a contender that takes damping"),
        ({"contenders": ["cg"], "remat": "step"}, "a contender that takes remat"),
        ({"contenders": ["identity"], "warm_start": True}, "a linear_solver that starts somewhere"),
    ],
)
def test_bad_input_starts_nothing(tmp_path, chosen, says):
    with pytest.raises(UserError) as error:
        equal_time.run(
            **SMALL | {"neumann_terms": None, "max_inner_steps": None} | chosen, run_dir=str(tmp_path / "run")
        )
    assert says in message(error)
    assert not (tmp_path / "run").exists()


SECONDS_PER_STEP = """
import jax
from experiments import build, equal_time
from experiments.options import complete
config = complete(equal_time.GROUPS, {"num_learners": 2, "contenders": ["cg"], "inner_learning_rates": [0.1]})
options = equal_time.cell(config, "cg", 0.1)
print(equal_time.plan(options, 40.0, build.splits(config), jax.random.key(0))["seconds_per_step"])
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
