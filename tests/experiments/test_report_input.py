"""What a report refuses, before anything is written."""

import json

import pytest
from report_rows import NET, failed, row, save, scores

from experiments.report.data import load
from experiments.report.run import Options, run
from jaxdistill.core.checks import UserError


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
        run(Options(runs=runs))
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
                run(Options(runs=runs, run_dir=str(other)))
        with pytest.raises(UserError, match="each of runs once"):
            again = str(tmp_path / "study" / ".." / "study" / "rows.json")
            run(Options(runs=[study, again], run_dir=str(other)))
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
        ({"outer_learning_rate": 0.1}, "got those of experiments.study.search."),
    ],
)
def test_a_damaged_row_is_named(tmp_path, content, says):
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows/a.json").write_text(json.dumps(content))
    with pytest.raises(UserError) as error:
        load(tmp_path)
    assert says in str(error.value) and "a.json" in str(error.value)


def test_an_unfinished_run_is_no_row(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="a finished run"):
        load(tmp_path)
