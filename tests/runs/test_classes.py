"""What is said of classes of different sizes, and where tables show balanced accuracy."""

import types

import numpy as np
import pytest

from jaxdistill.config.resolve import resolve
from jaxdistill.config.table import Config
from jaxdistill.runs import baseline_files, compare, evaluate
from jaxdistill.runs.classes import say_uneven, uneven


@pytest.mark.parametrize(
    ("counts", "expected"),
    [([5421, 6742], False), ([10, 15], False), ([10, 16], True), ([0, 1], True), ((), False)],
)
def test_classes_are_uneven_if_one_is_half_as_large_again(counts, expected):
    assert uneven(counts) is expected


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"method": "dd"}, "drawn uniformly over images"),
        ({"method": "dc"}, "as many images of every class"),
        ({"method": "dc", "by_class": False}, "drawn uniformly over images"),
        ({"method": "dm"}, "as many images of every class"),
        ({"method": "mtt"}, "no real images are drawn"),
    ],
)
def test_a_run_says_how_it_draws_from_uneven_classes(capsys, options, says):
    def plan(*counts):
        data = types.SimpleNamespace(
            train=types.SimpleNamespace(counts=np.array(counts)),
            info=types.SimpleNamespace(class_names=("cat", "dog")),
        )
        method = types.SimpleNamespace(draw=None if options["method"] == "mtt" else print)
        return types.SimpleNamespace(data=data, config=resolve(Config(**options)), method=method)

    say_uneven(plan(9, 10))
    assert capsys.readouterr().out == ""
    say_uneven(plan(3, 10))
    printed = capsys.readouterr().out
    assert printed.startswith("note: classes are uneven, 10 training images of dog to 3 of cat; ")
    assert says in printed


def test_tables_show_balanced_accuracy_of_uneven_test_images(capsys):
    cell = {"mean": 0.9, "std": 0.0, "balanced_mean": 0.625}
    job = types.SimpleNamespace(
        protocols={"dc": None},
        data=types.SimpleNamespace(info=types.SimpleNamespace(name="mine")),
        images=types.SimpleNamespace(y=[0]),
        options=types.SimpleNamespace(num_learners=2),
    )
    rows = {"rows": [{"learner": "mlp", "dc": cell}]}
    sets = {"rows": [{"set": "random", "num_learners": 2, "trained_by": "dc", **cell}]}
    for counts, shown in (({"test": [90, 10]}, True), ({"test": [9, 10]}, False), (None, False)):
        about = {} if counts is None else {"class_counts": counts}  # older files have none
        evaluate.show(job, rows | about)
        printed = capsys.readouterr().out
        assert ("90.0 ± 0.0 (62.5)" in printed) is shown and ("(balanced)" in printed) is shown
        columns, (line,) = baseline_files.table(sets | about)
        assert len(columns) == len(line) and ("balanced" in columns) is shown and ("62.5" in line) is shown
        assert compare.tested_unevenly(about) is shown
