"""Reports from rows made by hand, and from runs."""

import contextlib
import io
import json
import re

import numpy as np
import pytest
from tiny_runs import command, tiny_run

from experiments import distill, report
from experiments.report_data import cautions, chosen, encoded, load, without_repeats
from experiments.report_findings import findings
from experiments.report_rows import Value, tables, tied
from jaxdistill.core.checks import UserError
from jaxdistill.runtime.report_pictures import Point, picture, trade_off

NET = "mlp:width=8"
PICTURE = encoded(np.zeros((2, 4, 4, 1)), np.eye(2), 16)
ENVIRONMENT = {"jaxdistill": "0.1", "jax": "0.10.2", "device": "cpu", "commit": "abc"}


def scores(mean, spread=0.02, **about):
    return {"every": [mean - spread, mean + spread], "step_size": 0.1, "num_diverged": 0, **about}


def row(teacher="images", gradient="unrolled", own=0.9, other=0.8, **more):
    """A finished cell of two networks per architecture."""
    accuracies = [
        scores(own, architecture=NET, protocol="dc"),
        scores(own - 0.1, architecture=NET, protocol="dc_augmented"),
        scores(other, architecture="linear", protocol="dc"),
    ]
    return {
        "name": f"{teacher}-{gradient}",
        "teacher": teacher,
        "gradient": gradient,
        "change": "",
        "reading": "images",
        "try": 0,
        "seed": 0,
        "learner": NET,
        "dataset": "digits",
        "full_size": True,
        "command": f"python -m experiments.distill --teacher={teacher}",
        "identity": f"{teacher} {gradient} {more}" if more.get("change") else f"{teacher} {gradient}",
        "environment": ENVIRONMENT,
        "status": "done",
        "note": "",
        "images": 10,
        "as_distilled": None,
        "accuracies": accuracies,
        "hard_labels": None,
        "outer_steps": 20,
        "seconds": 2.0,
        "seconds_per_step": 0.1,
        "compile_seconds": 1.0,
        "program_bytes": 2**20,
        "diagnostics": {},
        "picture": PICTURE,
    } | more


def failed(**more):
    kept = ("accuracies", "images", "seconds", "seconds_per_step", "program_bytes", "picture", "outer_steps")
    made = row(**more) | {"status": "failed", "note": "out of memory: <script>"}
    return {name: value for name, value in made.items() if name not in kept}


OF = {"dataset": "digits", "learner": NET}
BASELINES = [
    {"what": "random real", "images": 10, **OF, **scores(0.6, architecture=NET, protocol="dc")},
    {"what": "random real", "images": 10, **OF, **scores(0.4, architecture=NET, protocol="dc_augmented")},
    {"what": "full set", "images": 1000, **OF, **scores(0.95, architecture=NET, protocol="20 epochs")},
]


def save(folder, rows, baselines=()):
    folder.mkdir(exist_ok=True)
    (folder / "rows.json").write_text(json.dumps({"rows": rows, "baselines": list(baselines)}))
    return str(folder / "rows.json")


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
    assert [name for name, _, _ in table.baselines] == ["random real", "full set"]


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
        report.run(runs=[path])
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
def test_the_time_of_all_rows_is_told_where_they_say_it(tmp_path, seconds, says):
    cells = zip(("unrolled", "implicit_cg"), seconds, strict=True)
    with contextlib.redirect_stdout(io.StringIO()) as out:
        rows = [row(gradient=name, wall_seconds=taken) for name, taken in cells]
        report.run(runs=[save(tmp_path, [*rows, failed(gradient="matching_all", wall_seconds=9.0)])])
    for text in (out.getvalue(), *((tmp_path / f"report.{kind}").read_text() for kind in ("html", "md"))):
        assert text.count("Making ") == (says is not None) and (says or "") in text


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


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"method": "dc", "start": "noise"},
        {"method": "dm", "teacher": "generator"},
        {"gradient": "implicit", "weight_decay": 0.01, "linear_solver": "neumann"},
        {"method": "gtn", "curriculum": "fixed"},
        {"gradient": "auto", "memory_budget": "2GB"},
    ],
)
def test_the_command_of_a_run_makes_the_same_run(options):
    choices = distill.planned({"width": 4, "num_outer_steps": 20, "seed": 3} | options).choices
    short = chosen(choices)
    again = distill.planned(short).choices
    kept = {name: value for name, value in choices.items() if name != "memory_budget"}  # it chose a gradient
    assert len(short) < 16 and {name: again[name] for name in kept} == kept


def test_a_report_can_be_made_again_from_its_rows(tmp_path):
    path = save(tmp_path, [row(), row(gradient="implicit_cg")], BASELINES)
    with contextlib.redirect_stdout(io.StringIO()):
        report.run(runs=[path])
        first = (tmp_path / "report.md").read_text()
        report.run(runs=[str(tmp_path)])
    assert (tmp_path / "report.md").read_text() == first


def test_a_report_of_runs_of_distill(tmp_path):
    for name in ("a", "b"):
        tiny_run(tmp_path / name, seed=int(name == "b"))
    with contextlib.redirect_stdout(io.StringIO()) as out:
        report.run(runs=[str(tmp_path / "a"), str(tmp_path / "b")], run_dir=str(tmp_path / "both"))
    rows, baselines = load(tmp_path / "both" / "rows.json")
    assert [row["gradient"] for row in rows] == ["unrolled (a)", "unrolled (b)"]
    assert all(row["program_bytes"] > 0 and row["picture"].startswith("data:image/png") for row in rows)
    assert [row["what"] for row in baselines] == ["random real", "random real"]
    assert "images, unrolled (b)" in out.getvalue()
    random = re.search(r"random real +(\d+\.\d) ± ", out.getvalue())
    assert random and float(random[1]) == pytest.approx(100 * np.mean(baselines[0]["every"]), abs=0.06)
    saved = json.loads((tmp_path / "b/result.json").read_text())
    saved["config"]["population"] = "pretrained"
    (tmp_path / "b/result.json").write_text(json.dumps(saved))
    assert load(tmp_path / "b")[0][0]["command"].endswith(" --pool=FOLDER")
    assert "FOLDER" not in load(tmp_path / "a")[0][0]["command"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "report: expected --runs=RUN,RUN, got nothing."),
        (["--runs=/nowhere"], "got /nowhere with neither rows nor result.json"),
        (
            ["--runs={failed}"],
            "expected at least one finished cell in rows.json, got none of 1 (out of memory",
        ),
        (["--runs={damaged}"], "saved results: expected a readable"),
        (["--runs={other}"], "expected rows.json of a study, or a run directory"),
        (["--runs={short}"], "expected rows of experiments.study in"),
    ],
)
def test_bad_input_leaves_nothing(tmp_path, arguments, expected):
    paths = {"failed": save(tmp_path / "failed", [failed()])}
    for name, text in (("damaged", "{"), ("other", "[]"), ("short", '{"rows": [{}], "baselines": []}')):
        (tmp_path / f"{name}.json").write_text(text)
        paths[name] = str(tmp_path / f"{name}.json")
    before = sorted(tmp_path.rglob("*"))
    runs = [path for each in arguments for path in each.format(**paths).removeprefix("--runs=").split(",")]
    with pytest.raises(UserError) as error:
        report.run(runs=runs)
    assert expected in str(error.value) and "\n" not in str(error.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_report_takes_no_folder_of_another_run(tmp_path):
    study, other = save(tmp_path / "study", [row()]), tmp_path / "other"
    save(other, [row(gradient="implicit_cg")])
    for name, content in (("config.json", "{}"), ("adapt.json", "{}")):
        (other / name).write_text(content)
        before = sorted(tmp_path.rglob("*"))
        for runs in ([study], [study, str(other)], [str(other / "rows.json"), study]):
            with pytest.raises(UserError, match="report: expected a run_dir of its own, got "):
                report.run(runs=runs, run_dir=str(other))
        with pytest.raises(UserError, match="each of runs once"):
            report.run(
                runs=[study, str(tmp_path / "study" / ".." / "study" / "rows.json")], run_dir=str(other)
            )
        assert sorted(tmp_path.rglob("*")) == before
        (other / name).unlink()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([], "a row in "),
        ({"status": "failed"}, "one without the field 'name'"),
        (row(seconds_per_step="fast"), "seconds_per_step = 'fast'. Delete it"),
        (row(images="ten"), "images = 'ten'. Delete it"),
        (row(seconds=None), "seconds = None. Delete it"),
        (row(wall_seconds="long"), "wall_seconds = 'long'. Delete it"),
        (row(environment="here"), "environment = 'here'. Delete it"),
        (row(dataset=7), "dataset = 7. Delete it"),
        (row(picture="data:image/png;base64,AAAA"), "picture = 'data:image/png;base64,AAAA'. Delete it"),
        (row(accuracies=[scores(0.5, architecture=NET)]), "accuracies = [{'every': "),
        (row(as_distilled={"every": [float("nan")]}), "as_distilled = {'every': [nan]}. Delete it"),
        ({"outer_learning_rate": 0.1}, "got those of experiments.study_search."),
    ],
)
def test_a_damaged_row_is_named(tmp_path, content, says):
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows/a.json").write_text(json.dumps(content))
    with pytest.raises(UserError) as error:
        load(tmp_path)
    assert says in str(error.value) and "a.json" in str(error.value)


def test_bad_input_is_one_line():
    ended = command("-m", "experiments.report", "--runs=/nowhere")
    assert ended.returncode == 1 and ended.stderr.count("\n") == 1 and "/nowhere with neither" in ended.stderr


def test_an_unfinished_run_is_no_row(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="a finished run"):
        load(tmp_path)


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
