"""The scaling study: points that can be compared, files, and what one device of two gives."""

import json

import jax
import numpy as np
import pytest
from fake_devices import FAKE
from helpers import message
from tiny_runs import command

from experiments import scaling
from experiments.scaling import Options
from jaxdistill.config.resolve import filled
from jaxdistill.core.checks import UserError


def test_points_are_those_that_the_devices_allow(monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 6)
    options = filled(Options(learners_per_device=3))
    points = [(p.work, p.devices, p.num_learners) for p in scaling.points_of(options, 8)]
    assert points == [("fixed", 1, 8), ("fixed", 2, 8), ("fixed", 4, 8)] + [
        ("fixed per device", n, 3 * n) for n in (1, 2, 4)
    ]
    chosen = filled(Options(num_devices=[4, 2, 4]))
    assert [p.devices for p in scaling.points_of(chosen, 8)] == [2, 4, 2, 4]


def test_efficiency_is_of_each_kind_of_work():
    rows = [
        {"work": w, "devices": n, "images_per_second": r}
        for w, n, r in (("a", 1, 10), ("a", 2, 15), ("b", 2, 8))
    ]
    scaling.with_efficiency(rows)
    assert [row["efficiency"] for row in rows] == [1.0, 0.75, 1.0]


def test_the_ideal_is_half_of_the_time_and_memory_on_twice_the_devices_at_fixed_work():
    times = np.asarray([1.0, 2.0, 4.0])
    assert scaling.ideal_of("seconds_median", scaling.FIXED, times).tolist() == [1.0, 0.5, 0.25]
    assert scaling.ideal_of("program_bytes", scaling.PER_DEVICE, times).tolist() == [1.0] * 3
    assert scaling.ideal_of("images_per_second", scaling.PER_DEVICE, times).tolist() == [1.0, 2.0, 4.0]


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        ({"num_devices": [3]}, "mesh: expected 1 to 1 devices, got 3. XLA_FLAGS="),
        ({"num_devices": [0]}, "num_devices >= 1, got 0"),
        ({"method": "mtt", "experts": "nowhere"}, "a folder of experiments.experts, got nowhere"),
    ],
)
def test_what_cannot_be_compared_is_one_line(chosen, says, tmp_path):
    with pytest.raises(UserError) as error:
        scaling.run(Options(**chosen, run_dir=tmp_path / "scaling"))
    assert says in message(error) and not (tmp_path / "scaling").exists()


def test_one_device_is_measured(tmp_path, capsys):
    chosen = {"width": 4, "num_devices": [1], "num_learners": 1, "repeats": 1, "length": 1}
    result = scaling.run(Options(smoke=True, **chosen, run_dir=tmp_path))
    assert json.loads((tmp_path / "scaling.json").read_text()) == result
    rows = result["rows"]
    assert [(row["work"], row["devices"], row["K"]) for row in rows] == [
        ("fixed", 1, 1),
        ("fixed per device", 1, 1),
    ]
    for row in rows:
        assert row["sent_bytes"] == 0 and row["sent"] == "" and row["images_per_second"] > 0
        assert row["repeats"] == row["efficiency"] == 1 and row["program_bytes"] > 0
    assert (result["config"]["width"], result["config"]["length"]) == (4, 1)  # what is chosen wins
    assert result["note"] == "" and "share" not in capsys.readouterr().out
    assert {"scaling.csv", "scaling.md", "scaling.png"} <= {item.name for item in tmp_path.iterdir()}


@pytest.mark.slow
def test_two_devices_are_measured(tmp_path):
    flags = ["--smoke", "--width=4", "--repeats=1", f"--run_dir={tmp_path}"]
    ended = command("-m", "experiments.scaling", *flags, XLA_FLAGS=f"{FAKE}2")
    assert (ended.returncode, ended.stderr) == (0, "")
    result = json.loads((tmp_path / "scaling.json").read_text())
    assert result["config"]["width"] == 4  # what is chosen wins over the trial run's
    assert [(row["work"], row["devices"], row["K"]) for row in result["rows"]] == [
        ("fixed", 1, 2),
        ("fixed", 2, 2),
        ("fixed per device", 1, 1),
        ("fixed per device", 2, 2),
    ]
    one, two, *_ = result["rows"]
    images = 4 * 640  # bytes of the gradient by ten images
    assert one["sent_bytes"] == 0 and two["sent"] == "all-reduce" and two["sent_bytes"] > images
    assert two["images_per_second"] > 0 and "share" in result["note"] and "share" in ended.stdout
    assert {"scaling.csv", "scaling.md", "scaling.png"} <= {item.name for item in tmp_path.iterdir()}
