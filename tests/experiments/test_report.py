"""Reports from rows made by hand, from committed results, and from runs."""

import contextlib
import io
import json
import re

import numpy as np
import pytest
from report_rows import BASELINES, ENVIRONMENT, NET, failed, row, save, scores
from tiny_runs import ALONE, ROOT, tiny_run

from experiments.cli import as_flags, parsed
from experiments.report.cautions import cautions
from experiments.report.content import Content, time_taken
from experiments.report.data import load, without_repeats
from experiments.report.distilled import differing, title_of
from experiments.report.findings import findings
from experiments.report.pictures import Point, picture, trade_off
from experiments.report.run import Options, run
from experiments.report.tables import tables
from experiments.report.values import Value, tied
from experiments.report.write import _rates, markdown, show, write
from jaxdistill.config.option import UNSET
from jaxdistill.config.resolve import resolve
from jaxdistill.config.table import Config
from jaxdistill.core.checks import UserError
from jaxdistill.methods import METHODS
from jaxdistill.methods.recipe import Facts
from jaxdistill.runs.plan import identity_of

RESULTS = ROOT / "experiments/results"


def test_tries_are_pooled_and_the_best_and_ties_are_marked():
    rows = [row(own=0.90), row(own=0.94, **{"try": 1, "program_bytes": 3 * 2**20})]
    rows += [row(gradient="implicit_cg", own=0.94), row(gradient="matching_all", own=0.80)]
    (table,) = tables(rows, BASELINES)
    unrolled, matching, implicit = table.lines  # in the order of the study, not of the rows
    assert (unrolled.gradient, matching.gradient, implicit.gradient) == (
        "unrolled",
        "matching_all",
        "implicit_cg",
    )
    every = [0.88, 0.92, 0.92, 0.96]
    assert unrolled.values["own"] == pytest.approx((np.mean(every), np.std(every), 4))
    assert unrolled.values["memory"] == pytest.approx((2 * 2**20, 2**20, 2))
    assert table.marks[implicit.label, "own"] == "best"
    assert (matching.label, "own") not in table.marks  # 0.14 away with deviations of 0.02
    assert table.marks[unrolled.label, "own"] == "tie"  # 0.02 away, its own deviation is 0.028
    assert table.marks[unrolled.label, "memory"] == "tie"  # its own deviation is the difference
    assert [line.label for line in table.baselines] == ["random real", "full set"]


def test_lines_of_other_protocols_are_no_rivals():
    rows = [row(own=0.90), row(gradient="implicit_cg", own=0.80)]
    for name, own in (("idc", 0.99), ("frepo", 0.98), ("rcig", 0.97)):
        rows.append(row(gradient=name, accuracies=[scores(own, architecture=NET, protocol=name)]))
    (table,) = tables(rows, BASELINES)
    lines = {line.gradient: line for line in table.lines}
    assert "own" not in lines["idc"].values and lines["idc"].values["augmented"].mean == 0.99
    assert "own" not in lines["frepo"].values and lines["rcig"].values["own"].mean == 0.97
    assert not {"own", "augmented"} & {
        column for _, column in table.marks
    }  # dc and rcig, dc_augmented and idc
    (plain, augmented) = cautions(rows)
    assert "column 'training network': dc:" in plain and "; rcig:" in plain
    assert all(name in augmented for name in ("dc_augmented:", "idc:", "frepo:"))


def test_a_tie_is_a_difference_within_the_larger_deviation():
    assert tied(Value(0.90, 0.03, 2), Value(0.92, 0.01, 2))
    assert not tied(Value(0.90, 0.01, 2), Value(0.92, 0.01, 2))


def test_fair_scores_come_from_the_means_of_the_rows():
    (table,) = tables([row(own=0.9)], BASELINES)
    values = table.lines[0].values
    # LRS: 0.5 * (0.9 - 0.6) - 0.5 * (0.95 - 0.9); ARS: 0.5 * (0.8 - 0.4) + 0.5 * (0.9 - 0.6)
    for name, advantage in (("lrs", 0.125), ("ars", 0.35)):
        expected = (np.exp(advantage) - np.exp(-1)) / (np.e - np.exp(-1))
        assert values[name].mean == pytest.approx(expected)
    # over the networks 0.88 and 0.92: half of their deviation, times the slope of the map
    assert values["lrs"].std == pytest.approx(0.02 * np.exp(0.125) / (np.e - np.exp(-1)), rel=1e-3)
    (table,) = tables([row(dataset="mnist")], BASELINES)
    assert not {"lrs", "ars"} & table.lines[0].values.keys()  # baselines of another set


def test_findings_compare_with_unrolled_and_with_images():
    rows = [row(), row(gradient="implicit_cg", own=0.8, program_bytes=2**18, seconds_per_step=0.3)]
    rows += [row(teacher="generator", gradient="implicit_cg", own=0.8, other=0.9)]
    (table,) = tables(rows, BASELINES)
    first, other = findings(table)
    assert first == (
        "images, implicit cg: 80.0 ± 2.0 behind 90.0 ± 2.0 of unrolled, 0.25 times its memory, "
        "3 times its time per outer step."
    )
    assert other == (
        "Other networks, implicit cg: generator 90.0 ± 2.0 ahead of 80.0 ± 2.0 of learned images."
    )


def test_mixed_versions_small_and_failed_cells_are_named():
    rows = [row(), row(gradient="implicit_cg", environment=ENVIRONMENT | {"jax": "0.11.2"})]
    rows += [row(gradient="matching_all", full_size=False), failed(gradient="implicit_neumann")]
    found = " ".join(cautions(rows))
    assert "mixed versions, jax: 0.10.2: images, unrolled, equal images, try 1; images, matching" in found
    assert "0.11.2: images, implicit_cg, equal images, try 1" in found
    assert "1 of 4 rows are smaller" in found
    assert "Failed: images, implicit_neumann, equal images, try 1 (seed 0): out of memory" in found
    late = row(reading="time", time_limit=1.5)  # it took 2 s
    assert "1 rows at equal time are more than a tenth off it, 2 to 2 s" in " ".join(cautions([late]))
    broken = {"what": "random real", "architecture": "vgg11", "note": "out of memory"}
    assert "Failed: random real images, vgg11: out of memory" in " ".join(cautions([row()], [broken]))


def test_an_ablation_stands_below_the_cell_that_it_changes():
    rows = [row(), row(gradient="implicit_cg"), row(change="5 inner steps", images=20)]
    rows += [row(change="9 inner steps"), row(dataset="mnist", own=0.5)]
    grid, other, changed = tables(rows, BASELINES)
    assert "mnist" in other.title and not other.baselines
    assert findings(changed) == []  # these are of other comparisons
    assert "one choice changed" in changed.title and "10 images" in grid.title
    assert not changed.marks
    assert [line.change for line in changed.lines] == [
        "",
        "5 inner steps (20 images)",
        "9 inner steps (10 images)",
    ]
    assert changed.lines[0].values["own"].mean == pytest.approx(0.9)


def test_the_page_needs_nothing_but_itself(tmp_path):
    path = save(
        tmp_path,
        [row(), row(teacher="generator", gradient="implicit_cg"), failed(gradient="matching_all")],
        BASELINES,
    )
    with contextlib.redirect_stdout(io.StringIO()) as out:
        run(Options(runs=[path]))
    page = (tmp_path / "report.html").read_text()
    sources = re.findall(r'(?:src|href|srcset)="([^"]{5})', page)
    assert sources and set(sources) == {"data:"}
    assert "http" not in re.sub(r'xmlns[^"]*"[^"]*"', "", page)
    assert 'name="viewport"' in page and "prefers-color-scheme: dark" in page
    assert "<script>" not in page and "out of memory: &lt;script&gt;" in page
    text = (tmp_path / "report.md").read_text()
    assert "| images, unrolled | 90.0 ± 2.0" in text and "| images, matching all | failed |" in text
    for name in re.findall(r"\]\((.*?)\)", text):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert "python -m experiments.distill --teacher=generator" in text
    assert "digits, mlp:width=8, 10 images: equal images" in out.getvalue()


@pytest.mark.parametrize(
    ("seconds", "says"),
    [
        ((30.0, 60.5), "Making 2 of 3 rows, scored, took 1 min 30 s, what was stopped left out."),
        ((30.0, None), "Making 1 of 3 rows, scored, took 30.0 s, what was stopped left out."),
        ((None, None), None),
    ],
)
def test_the_time_of_all_rows_is_told_where_they_say_it(seconds, says):
    cells = zip(("unrolled", "implicit_cg"), seconds, strict=True)
    rows = [row(gradient=name, wall_seconds=taken) for name, taken in cells]
    assert time_taken([*rows, failed(gradient="matching_all", wall_seconds=9.0)]) == says


def test_other_networks_are_averaged_network_by_network():
    accuracies = [scores(0.9, architecture=NET, protocol="dc")]
    accuracies += [scores(mean, architecture=name, protocol="dc") for name, mean in (("a", 0.9), ("b", 0.5))]
    (table,) = tables([row(accuracies=accuracies)], [])
    assert table.lines[0].values["others"] == pytest.approx((0.7, 0.02, 2))


def test_the_same_rows_twice_are_read_once_and_other_runs_are_no_tries():
    again = row(seconds=9.0)  # the same cell with the same seed, made again
    rows, said = without_repeats([failed(), row(), row(), again, row(own=0.8, seed=1)])
    assert [(r["seed"], r["seconds"]) for r in rows] == [(0, 2.0), (1, 2.0)]
    assert said == ["2 rows of the same options and seed as others are left out: the first of each is shown."]
    assert without_repeats([row(), row()]) == ([row()], [])
    others = [row(time_limit=10.0), row(time_limit=60.0), row(full_size=False, time_limit=60.0)]
    assert without_repeats(others[::-1])[0] == others[1::-1]  # of full size, though it comes later
    commit = row(environment=ENVIRONMENT | {"commit": "other"})
    assert without_repeats([row(), commit])[0] == [row()]  # the same seed twice is no second try
    (table,) = tables([row(), row(identity="another", own=0.8)], [])
    assert [line.label for line in table.lines] == ["images, unrolled (1)", "images, unrolled (2)"]
    assert [line.values["own"].count for line in table.lines] == [2, 2]


def test_a_cell_of_two_studies_is_told_apart_by_what_was_chosen():
    flags = [f"--method=dd --outer_learning_rate={rate}" for rate in (0.1, 0.3)]
    (table,) = tables([row(identity=flags[0]), row(identity=flags[1], own=0.5), row(teacher="generator")], [])
    first, second, _ = (line.label for line in table.lines)
    assert first == "images, unrolled (outer_learning_rate=0.1)" and second.endswith("=0.3)")
    assert table.marks[first, "own"] == "best" and (second, "own") not in table.marks
    assert not findings(table)  # which of the two would others be compared with?


def test_a_diagnostic_that_is_not_finite_is_left_out():
    told = [{"residual": None, "cosine": 0.5}, {"residual": None, "cosine": None}]
    rows = [row(gradient="implicit_cg", diagnostics=each, **{"try": i}) for i, each in enumerate(told)]
    (table,) = tables(rows, [])
    assert table.lines[0].notes == {"cosine": "0.5"}


def test_no_label_robust_score_without_a_measurement_with_hard_labels():
    (table,) = tables([row(hard_labels={"every": []})], BASELINES)
    assert "lrs" not in table.lines[0].values and "ars" in table.lines[0].values


DIGITS = Facts((8, 8, 1), 10)


@pytest.mark.parametrize("facts", [DIGITS, Facts((28, 28, 1), 10)])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"method": "dc", "start": "noise", "images_per_class": 10},
        {"method": "dm", "teacher": "generator", "images_per_class": 100},
        {"gradient": "implicit", "weight_decay": 0.01, "linear_solver": "neumann"},
        {"gradient": "truncated", "distill_epochs": 7},
        {"method": "gtn", "curriculum": "fixed"},
        {"method": "mtt", "learner": "mlp", "augment": []},
        {"population": "fixed"},
    ],
)
def test_the_options_that_are_no_defaults_make_the_same_run(options, facts):
    """Of a saved config, with the nulls that older versions wrote for what nobody chose."""
    whole = resolve(Config(**{"width": 4, "num_outer_steps": 20, "seed": 3} | options), facts)
    saved = json.loads(json.dumps(whole.chosen()))
    assert len(saved) > 90 and saved["width"] == 4
    short = differing(saved, facts, "here")
    assert len(short) < 16
    typed = parsed(Config, "", ["distill", *as_flags(short)])
    assert identity_of(resolve(typed, facts)) == identity_of(whole)


def test_a_report_can_be_made_again_from_its_rows(tmp_path):
    path = save(tmp_path, [row(picture=None), row(gradient="implicit_cg", picture=None)], BASELINES)
    write(tmp_path, [path])
    first = (tmp_path / "report.md").read_text()
    write(tmp_path, [tmp_path])
    assert (tmp_path / "report.md").read_text() == first


@pytest.mark.parametrize("name", ["study_digits", "study_mnist_2core"])
def test_committed_rows_make_the_committed_report(name):
    rows, baselines = load(RESULTS / name)
    pictures = {path.stem.removeprefix("report_") for path in (RESULTS / name).glob("report_*.png")}
    committed = (RESULTS / name / "report.md").read_text(encoding="utf-8")
    title = committed.splitlines()[0].removeprefix("# ")
    content = Content(title, tables(rows, baselines), rows, cautions(rows, baselines))
    assert pictures and markdown(content, pictures) == committed


def test_a_run_of_a_method_of_ones_own_is_a_row(tmp_path, monkeypatch):
    monkeypatch.setitem(METHODS, "toy", METHODS["dd"]._replace(title="Toy Distillation"))
    path = tmp_path / "a"
    short = {"learner": "linear", "width": UNSET, "depth": UNSET, "num_outer_steps": 2, "chunk_length": 2}
    result, _ = tiny_run(path, method="toy", **short, **ALONE)
    random = {"mean": 0.5, "accuracies": [0.4, 0.6], "protocol": "dc"}
    result |= {f"random_real_{name}": value for name, value in random.items()}
    (path / "result.json").write_text(json.dumps(result))
    (row,), baselines = load(path)
    assert row["gradient"] == "Toy Distillation, unrolled (a)" and row["learner"] == "linear"
    assert row["command"].startswith("python -m experiments.distill ") and "--method=toy" in row["command"]
    assert "--run_dir" not in row["command"] and "--inner_learning_rate" not in row["command"]
    assert row["as_distilled"]["every"] == result["test_accuracies"] and row["program_bytes"] > 0
    assert row["picture"].startswith("data:image/png") and [b["what"] for b in baselines] == ["random real"]

    stored = json.loads((path / "config.json").read_text())
    del stored["chosen"]  # as an older version wrote it
    (path / "config.json").write_text(json.dumps(stored))
    assert set(row["command"].split()) >= set(load(path)[0][0]["command"].split())
    result["config"]["population"] = "pretrained"
    (path / "result.json").write_text(json.dumps(result))
    assert load(path)[0][0]["command"].endswith(" --pool=FOLDER") and "FOLDER" not in row["command"]
    assert title_of({"method": "unknown"}) == "unknown"  # registered in another process

    save(tmp_path / "both", [row, row | {"name": "b", "gradient": "Toy (b)", "identity": "b"}], baselines)
    with contextlib.redirect_stdout(io.StringIO()) as out:
        show(write(tmp_path / "both", [tmp_path / "both"]))
    assert "images, Toy Distillation, unrolled (a)" in out.getvalue()
    assert re.search(r"random real +50\.0 ± 10\.0", out.getvalue())


def test_the_title_is_an_option():
    title = parsed(Options, "", ["report", "--runs=a,b", "--title=Two runs"])
    assert (title.runs, title.title) == (("a", "b"), "Two runs")
    assert [*Options.groups()] == ["report"]


def test_pictures_have_the_size_of_their_images_and_both_themes():
    from matplotlib import image

    pixels = np.arange(5 * 16).reshape(5, 4, 4, 1) % 16
    made = image.imread(io.BytesIO(picture(pixels, np.array([0, 0, 0, 1, 1]), scale=16)))
    assert made.shape[:2] == (3 * 5 - 1, 2 * 5 - 1)
    assert made[0, 0, 0] == 0 and made[3, 3, 0] == pytest.approx(15 / 16, abs=0.01)
    points = [Point("unrolled", "images", 1.0, 0.9, 0.1), Point("cg", "generator", 10.0, 0.8, 0.1)]
    light, dark = (trade_off(points, cost="MiB", dark=dark) for dark in (False, True))
    assert light.startswith(b"<?xml") and light != dark and trade_off(points, cost="MiB") == light
    with pytest.raises(UserError, match="points of positive cost"):
        trade_off([points[0]._replace(cost=0.0)], cost="MiB")


def test_accuracy_against_bits_is_a_picture_across_numbers_of_images(tmp_path):
    kept = {"scalars_stored": 640, "bits_per_class": 2048.0}
    rows = [
        row(**kept),
        row(gradient="matching_all", images=40, own=0.95, **kept | {"bits_per_class": 512.0}),
    ]
    other = row(gradient="rcig", accuracies=[scores(0.9, architecture=NET, protocol="rcig")], **kept)
    drawn = _rates(tables([*rows, other], []))
    assert drawn["0_rate_own"]("svg") == _rates(tables(rows, []))["0_rate_own"]("svg")  # dc alone
    made = write(tmp_path / "two", [save(tmp_path / "a", rows)])
    assert not made["cautions"] and (tmp_path / "two/report_0_rate_own.png").stat().st_size > 1000
    text = (tmp_path / "two/report.md").read_text()
    assert "rate_own](report_0_rate_own.png)" in text and "| bits per class |" in text
    assert "Test accuracy against rate_own" in (tmp_path / "two/report.html").read_text()
    write(tmp_path / "one", [save(tmp_path / "b", rows[:1])])  # one rate is no curve
    assert not list((tmp_path / "one").glob("*rate*"))
