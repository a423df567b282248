"""The scaling study: points that can be compared, files, and what one device of eight gives."""

import json

import jax
import pytest
from helpers import message
from test_mesh import FAKE
from tiny_runs import command

from experiments import scaling
from experiments.options import complete
from jaxdistill.core.checks import UserError


def test_points_are_those_that_the_devices_allow(monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 6)
    config = complete(scaling.GROUPS, {"num_learners": 8, "learners_per_device": 3})
    points = [(p.work, p.devices, p.num_learners) for p in scaling.points_of(config)]
    assert points == [("fixed", 1, 8), ("fixed", 2, 8), ("fixed", 4, 8)] + [
        ("fixed per device", n, 3 * n) for n in (1, 2, 4)
    ]


def test_efficiency_is_of_each_kind_of_work():
    rows = [
        {"work": w, "devices": n, "images_per_second": r}
        for w, n, r in (("a", 1, 10), ("a", 2, 15), ("b", 2, 8))
    ]
    scaling.with_efficiency(rows)
    assert [row["efficiency"] for row in rows] == [1.0, 0.75, 1.0]


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        ({"num_devices": [3]}, "mesh: expected 1 to 1 devices, got 3. XLA_FLAGS="),
        ({"num_devices": [0]}, "num_devices >= 1, got 0"),
        ({"method": "mtt"}, "experts: expected --experts=FOLDER, got none"),
    ],
)
def test_what_cannot_be_compared_is_one_line(chosen, says, tmp_path):
    with pytest.raises(UserError) as error:
        scaling.run(**chosen, run_dir=str(tmp_path / "scaling"))
    assert says in message(error) and not (tmp_path / "scaling").exists()


def test_two_devices_are_measured(tmp_path):
    ended = command("-m", "experiments.scaling", "--smoke", f"--run_dir={tmp_path}", XLA_FLAGS=f"{FAKE}2")
    assert (ended.returncode, ended.stderr) == (0, "")
    result = json.loads((tmp_path / "scaling.json").read_text())
    assert [(row["work"], row["devices"], row["K"]) for row in result["rows"]] == [
        ("fixed", 1, 2),
        ("fixed", 2, 2),
        ("fixed per device", 1, 1),
        ("fixed per device", 2, 2),
    ]
    one, two, *_ = result["rows"]
    assert (
        one["sent_bytes"] == 0 and two["sent"] == "all-reduce" and two["sent_bytes"] > 4 * 640
    )  # ten images
    assert two["images_per_second"] > 0 and "share" in result["note"] and "share" in ended.stdout
    assert {"scaling.csv", "scaling.md", "scaling.png"} <= {item.name for item in tmp_path.iterdir()}
