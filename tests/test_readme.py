"""What the READMEs show is real: their Python runs as written, their numbers are in committed results."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from tiny_runs import small_by_default

from jaxdistill.data import load
from jaxdistill.runtime.export import write_synthetic

ROOT = Path(__file__).resolve().parent.parent
FILES = ("README.md", "experiments/README.md", "experiments/results/README.md", "jaxdistill/README.md")
READMES = {name: (ROOT / name).read_text(encoding="utf-8") for name in FILES}
README, RESULTS_README = READMES["README.md"], READMES["experiments/results/README.md"]
BLOCKS = [
    (name, code)
    for name, text in READMES.items()
    for code in re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
]
RESULTS = sorted((ROOT / "experiments" / "results").glob("*.json"))


def block(containing: str) -> str:
    (found,) = [code for _, code in BLOCKS if containing in code]
    return found


def execute(code: str, name: str) -> dict:
    import jax

    namespace: dict = {}
    with jax.numpy_rank_promotion("allow"):  # the session forbids it for our code, not for a user's
        exec(compile(code, name, "exec"), namespace)
    return namespace


def percent(printed: str) -> float:
    return float(re.search(r"(\d+)% ", printed)[1])


@pytest.mark.filterwarnings("ignore")
def test_composing_by_hand_learns(capsys):
    code = block("jd.bilevel(")
    # the test has less patience than a reader: fewer and larger steps, on less data
    for shown, shorter in (
        ("range(300)", "range(60)"),
        ("adam(0.01)", "adam(0.03)"),
        ("size=256", "size=64"),
    ):
        assert code.count(shown) == 1
        code = code.replace(shown, shorter)
    execute(code, "jaxdistill/README.md")
    # an untrained network reads 10%; 300 steps give what the README prints
    assert percent(capsys.readouterr().out) > 60


def with_generator(code: str) -> str:
    """The example by hand, of a generator in the place of images."""
    images = "jd.images(image_shape=(8, 8, 1), num_classes=10, distill_epochs=T)"
    options = "batch_size=20, distill_steps=T, generator_width=8, generator_hidden=32"
    generator = f"jd.generator(image_shape=(8, 8, 1), num_classes=10, {options})"
    assert images in code and "adam(0.01)" in code
    return code.replace(images, generator)


@pytest.mark.filterwarnings("ignore")
def test_the_library_example_takes_a_generator():
    """Traced: its step gives a state of the shapes that it was given, and a gradient."""
    import jax

    setup, _, rest = with_generator(block("jd.bilevel(")).partition("step = jax.jit")
    made = execute(setup, "jaxdistill/README.md")
    assert "method.init(key)" in rest
    state = jax.eval_shape(made["method"].init, made["key"])
    new, metrics = jax.eval_shape(made["method"].update, state, made["data"], made["key"])
    assert jax.tree.map(lambda a: (a.shape, a.dtype), new) == jax.tree.map(
        lambda a: (a.shape, a.dtype), state
    )
    assert "network" in state.meta.teacher and metrics["gradient_norm"].shape == ()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_library_example_learns_a_generator(capsys):
    execute(with_generator(block("jd.bilevel(")).replace("range(300)", "range(60)"), "jaxdistill/README.md")
    assert percent(capsys.readouterr().out) > 40  # chance is 10%


def test_a_learner_of_ones_own_has_logits_and_features():
    import jax

    net = execute(block("class Wide"), "jaxdistill/README.md")["wide"]((8, 8, 1), 10, width=32)
    params, x = net.init(jax.random.key(0)), np.ones((3, 8, 8, 1), np.float32)
    assert net.apply(params, x).shape == (3, 10) and net.embed(params, x).shape == (3, 32)


@pytest.mark.parametrize("containing", ["jd.load_run", "jd.splits"])
def test_the_python_interface_runs_as_shown(containing, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code = block(containing)
    shorter = re.sub(r"num_outer_steps=\d+", "num_outer_steps=5", code)
    shorter = shorter.replace("images_per_class=1)", "images_per_class=1, num_outer_steps=5)")
    assert shorter.count("num_outer_steps=5") == code.count("jd.distill(")  # none is left at its full length
    smaller = shorter.replace("width=16, depth=2", 'learner="linear"')
    assert (smaller != shorter) == ("jd.Config(" in code)
    with small_by_default():
        execute(smaller, "README.md")
    assert capsys.readouterr().out


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
    execute(block("runs/readme/synthetic.npz"), "experiments/README.md")
    assert percent(capsys.readouterr().out) > 80  # class means separate digits well; chance is 10%


def test_mirrored_digits_are_a_data_set_with_the_test_digits_of_digits(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    execute(block("mirrored.npz"), "experiments/README.md")
    mirrored, digits = load("mirrored.npz"), load("digits")
    assert mirrored.test.counts.tolist() == digits.test.counts.tolist()
    assert mirrored.info.image_shape == digits.info.image_shape


def test_every_preset_is_listed():
    names = {path.stem for path in (ROOT / "experiments" / "presets").glob("*.cfg")}
    presets = READMES["experiments/README.md"].partition("## Presets")[2]
    assert names == set(re.findall(r"`(\w+)`", "\n".join(re.findall(r"^\| (`[^|]+) \|", presets, re.M))))


@pytest.mark.parametrize("name", [*FILES, "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_lead_to_files(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith("https://"):
            assert ((ROOT / name).parent / target.partition("#")[0]).exists(), target


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_results_are_whole_and_the_readme_quotes_them(path):
    assert re.search(rf"\b{path.stem}\b", RESULTS_README)
    result = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(result, list) or "test_accuracy_mean" not in result:
        return  # not a distillation
    assert (ROOT / "experiments" / "presets" / f"{path.stem}.cfg").is_file()
    assert {"config", "environment", "seconds", "compile_seconds", "outer_steps"} <= set(result)
    every = np.asarray(result["test_accuracies"])
    assert result["num_learners"] == len(every)
    np.testing.assert_allclose(result["test_accuracy_mean"], every.mean(), atol=1e-6)
    row = next(line for line in RESULTS_README.splitlines() if line.startswith(f"| `{path.stem}` |"))
    for name in ("test_accuracy", "random_real", "full_data"):
        if result[f"{name}_mean"] is not None:
            shown = f"{100 * result[f'{name}_mean']:.1f}"
            assert shown in row
            if result[f"{name}_std"]:
                assert f"{shown} ± {100 * result[f'{name}_std']:.1f}" in row
    assert f"| {result['outer_steps']:,} |" in row


def test_the_table_of_methods_has_the_numbers_of_the_results():
    rows = re.findall(r"^\| .*? \| `(\w+)` \| [^|]* \| ([^|]*) \| ([^|]*) \|$", README, re.M)
    assert {"mnist_fixed", "mnist_dc_1", "mnist_dm_10", "digits_mtt_10"} <= {name for name, *_ in rows}
    for name, ours, papers in rows:
        result = json.loads((ROOT / f"experiments/results/{name}.json").read_text(encoding="utf-8"))
        shown = f"{100 * result['test_accuracy_mean']:.1f}"
        spread = f" ± {100 * result['test_accuracy_std']:.1f}" if result["num_learners"] > 1 else ""
        assert ours == shown + spread, name
        (line,) = [line for line in RESULTS_README.splitlines() if line.startswith(f"| `{name}` |")]
        assert f" {papers.removesuffix(' (1)')} |" in line, name  # both tables quote one paper


def test_the_picture_of_the_readme_says_what_its_result_says():
    text = " ".join(README.split())
    ten = json.loads((ROOT / "experiments/results/mnist_dm_10.json").read_text(encoding="utf-8"))
    assert 'src="experiments/results/mnist_dm_10.png"' in README and ten["num_learners"] == 3
    assert f"read {100 * ten['test_accuracy_mean']:.1f}% of the 10,000 test digits" in text
    assert f"(± {100 * ten['test_accuracy_std']:.1f} over three networks)" in text
    assert f"picked at random give {100 * ten['random_real_mean']:.1f}%" in text
    one = json.loads((ROOT / "experiments/results/mnist_dc_1.json").read_text(encoding="utf-8"))
    assert one["config"]["start"] == "noise" and "mnist_dc_1.png" in README
    ours, real = (100 * one[f"{name}_mean"] for name in ("test_accuracy", "random_real"))
    assert f"give {ours:.1f}% where ten random real ones give {real:.1f}%" in text


def test_the_readme_quotes_the_pool_of_digits():
    result = json.loads((ROOT / "experiments/results/pretrain_digits.json").read_text(encoding="utf-8"))
    held_out = np.mean(result["test_accuracies"][-result["config"]["num_test_networks"] :])
    assert f"the 20 already read {100 * held_out:.1f}%" in RESULTS_README
    assert result["config"]["num_test_networks"] == 20


def test_the_readme_quotes_attack_baselines_and_analyses():
    results = ROOT / "experiments" / "results"
    attack, compared, analyses = (
        json.loads((results / f"{name}_digits.json").read_text(encoding="utf-8"))
        for name in ("attack", "baselines", "analyses")
    )
    text = " ".join(RESULTS_README.split())
    chosen = {
        row["series"]: [f"{100 * row[name]:.1f}" for name in ("success_mean", "others_lost")]
        for row in attack["chosen"]
    }
    (ours, cost), (real, real_cost) = chosen["distilled"], chosen["mislabelled real"]
    assert f"take {ours}% of the zeros for ones, and cost the other classes {cost} points" in text
    assert f"the labels of 0 changed to 1 reach {real}% for {real_cost} points" in text
    mnist = json.loads((results / "attack_mnist.json").read_text(encoding="utf-8"))
    rows = {row["series"]: row for row in mnist["chosen"]}
    shown = {n: [f"{100 * row[k]:.1f}" for k in ("success_mean", "others_lost")] for n, row in rows.items()}
    assert "succeed with {}% for {} points on 15".format(*shown["distilled"]) in text
    assert "changed labels do as well there: {}% for {}.".format(*shown["mislabelled real"]) in text
    for row in compared["rows"]:
        numbers = f"| {100 * row['mean']:.1f} ± {100 * row['std']:.1f} | {100 * row['neighbors_mean']:.1f}"
        assert numbers in RESULTS_README
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
    line = next(line for line in RESULTS_README.splitlines() if line.startswith(f"| `{path.stem}` |"))
    for name in ("nothing", "distilled", "random real", "optimised real", "whole target set"):
        assert f"{100 * rows[name]['mean']:.1f}" in line, name


@pytest.mark.parametrize("name", ["equal_time_mnist", "equal_time_digits"])
def test_the_readme_quotes_gradients_at_equal_time(name):
    result = json.loads((ROOT / f"experiments/results/{name}.json").read_text(encoding="utf-8"))
    for row in result["rows"]:
        shown = f"| {100 * row['test_mean']:.1f} ± {100 * row['test_std']:.1f} | {row['num_outer_steps']:,} |"
        assert shown in RESULTS_README, row["contender"]


def test_the_readme_quotes_the_study_of_digits():
    rows = (ROOT / "experiments/results/study_digits/report.md").read_text(encoding="utf-8").splitlines()
    names = re.findall(r"^\| ((?:images|generator), [\w ]+) \|", RESULTS_README, re.M)
    assert len(names) == 16
    for name in names:
        made = next(
            row for row in rows if row.startswith(f"| {name} |")
        )  # the grid at equal images comes first
        made = re.sub(r" (\(tie\)|\*\*\(best\)\*\*)", "", made)
        cells = [cell.strip() for cell in made.strip("|").split("|")]
        accuracy, others, memory, milliseconds = cells[1], cells[4], cells[5], cells[7]
        assert f"| {name} | {accuracy} | {others} | {memory} | {milliseconds} |" in RESULTS_README


def test_the_readme_quotes_precisions_and_dtypes():
    """Of every gradient and state the three precisions, and both dtypes of every method."""
    lines = RESULTS_README.splitlines()
    quoted = 0
    for row in json.loads((ROOT / "experiments/results/precision_digits.json").read_text(encoding="utf-8")):
        name, _, precision = row["variant"].replace("implicit_", "implicit, ").rpartition(", ")
        if " in the " not in precision:
            (line,) = [line for line in lines if line.startswith(f"| {name} | {row['outer_steps']} |")]
            column = ("bfloat16_3x", "tensorfloat32", "bfloat16").index(precision)
            assert line.split(" | ")[2 + column].strip(" |") == f"{row['cosine']:.3f}, {row['error']:.2g}"
            quoted += 1
    assert quoted == 54
    for row in json.loads((ROOT / "experiments/results/dtype_digits.json").read_text(encoding="utf-8")):
        method, dtype = row["variant"].split(", ")
        lined = f"| `{method}` | {row['outer_steps']} |"
        (line,) = [line for line in lines if line.startswith(lined)]
        shown = line.removeprefix(lined).strip(" |").split(" | ")[dtype == "bfloat16"]
        assert shown == f"{row['accuracy']:.1f} ± {row['spread']:.1f}"
