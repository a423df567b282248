"""What the README shows is real: its Python runs as written, its numbers are those of committed results."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from experiments import baselines
from jaxdistill.data import load
from jaxdistill.runtime.export import write_synthetic

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
RESULTS = sorted((ROOT / "experiments" / "results").glob("*.json"))


def block(containing: str) -> str:
    (found,) = [code for code in BLOCKS if containing in code]
    return found


def percent(printed: str) -> float:
    return float(re.search(r"(\d+)% ", printed)[1])


@pytest.mark.filterwarnings("ignore")
def test_the_library_example_learns(capsys):
    code = block("import jaxdistill as jd")
    shorter = code.replace("range(300)", "range(120)")  # the test has less patience than a reader
    assert shorter != code
    import jax

    with jax.numpy_rank_promotion("allow"):  # the session forbids it for our code, not for a user's
        exec(compile(shorter, "README.md", "exec"), {})
    # an untrained network reads 10%; 300 steps give what the README prints
    assert percent(capsys.readouterr().out) > 60


def test_the_numpy_example_trains_from_a_file(tmp_path, monkeypatch, capsys):
    splits = load("digits")
    label = np.asarray(splits.train.y).argmax(-1)
    means = np.stack([np.asarray(splits.train.x)[label == c].mean(axis=0) for c in range(10)])
    (tmp_path / "runs" / "readme").mkdir(parents=True)
    write_synthetic(
        tmp_path / "runs" / "readme" / "synthetic.npz",
        images=means,
        labels=np.eye(10),
        order=[range(10)],
        hyperparameters={"learning_rate": [0.1]},
        info=splits.info,
        method="mean",
        learner={},
        inner={},
    )
    monkeypatch.chdir(tmp_path)
    exec(compile(block("runs/readme/synthetic.npz"), "README.md", "exec"), {})
    assert percent(capsys.readouterr().out) > 80  # class means separate digits well; chance is 10%


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_results_are_whole_and_the_readme_quotes_them(path):
    result = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(result, list) or "test_accuracy_mean" not in result:
        return  # not a distillation
    assert (ROOT / "experiments" / "presets" / f"{path.stem}.cfg").is_file()
    assert {"config", "environment", "seconds", "compile_seconds", "outer_steps"} <= set(result)
    every = np.asarray(result["test_accuracies"])
    assert result["num_learners"] == len(every)
    np.testing.assert_allclose(result["test_accuracy_mean"], every.mean(), atol=1e-6)
    row = next(line for line in README.splitlines() if line.startswith(f"| `{path.stem}` |"))
    for name in ("test_accuracy", "random_real", "full_data"):
        if result[f"{name}_mean"] is not None:
            assert f"{100 * result[f'{name}_mean']:.1f}" in row


def test_the_readme_quotes_the_pool_of_digits():
    result = json.loads((ROOT / "experiments/results/pretrain_digits.json").read_text(encoding="utf-8"))
    held_out = np.mean(result["test_accuracies"][-result["config"]["num_test_networks"] :])
    assert (
        f"the 20 already read {100 * held_out:.1f}%" in README and result["config"]["num_test_networks"] == 20
    )


def test_the_readme_quotes_attack_baselines_and_analyses():
    results = ROOT / "experiments" / "results"
    attack, compared, analyses = (
        json.loads((results / f"{name}_digits.json").read_text(encoding="utf-8"))
        for name in ("attack", "baselines", "analyses")
    )
    text = " ".join(README.split())
    chosen = {
        row["series"]: [f"{100 * row[name]:.1f}" for name in ("success_mean", "others_lost")]
        for row in attack["chosen"]
    }
    (ours, cost), (real, real_cost) = chosen["distilled"], chosen["mislabelled real"]
    assert f"take {ours}% of the zeros for ones, and costs the other classes {cost} points" in text
    assert f"the labels of 0 changed to 1 reach {real}% for {real_cost} points" in text
    mnist = json.loads((results / "attack_mnist.json").read_text(encoding="utf-8"))
    rows = {row["series"]: row for row in mnist["chosen"]}
    shown = {n: [f"{100 * row[k]:.1f}" for k in ("success_mean", "others_lost")] for n, row in rows.items()}
    assert "succeed with {}% for {} points on 15".format(*shown["distilled"]) in text
    assert "changed labels do as well: {}% for {}.".format(*shown["mislabelled real"]) in text
    for row in compared["rows"]:
        assert (
            f"| {100 * row['mean']:.1f} ± {100 * row['std']:.1f} | {100 * row['neighbors_mean']:.1f}"
            in README
        )
    found = {
        row["series"]: row for row in analyses["rows"] if (row["analysis"], row["value"]) == ("steps", 10)
    }
    ordered, shuffled = (found[f"distilled{more}"] for more in ("", ", batches shuffled"))
    numbers = [f"{100 * row['mean']:.1f} ± {100 * row['std']:.1f}" for row in (ordered, shuffled)]
    assert f"in order, reach {numbers[0]}, and shuffled {numbers[1]}" in text


@pytest.mark.parametrize("path", [p for p in RESULTS if p.stem.startswith("adapt_")], ids=lambda p: p.stem)
def test_the_readme_quotes_adaptation(path):
    result = json.loads(path.read_text(encoding="utf-8"))
    rows = {row["set"]: row for row in result["rows"]}
    if path.stem == "adapt_mirrored":  # printed as it was
        printed = [re.split(r" {2,}", line) for line in README.splitlines()]
        for cells in baselines.table(result["rows"])[1]:
            assert cells in printed
        return
    line = next(line for line in README.splitlines() if line.startswith(f"| `{path.stem}` |"))
    for name in ("nothing", "distilled", "random real", "optimised real", "whole target set"):
        assert f"{100 * rows[name]['mean']:.1f}" in line, name
