"""Eight fake devices have the numbers of one, send the hypergradient alone, and share the memory."""

import json
import types

import jax
import numpy as np
import pytest
from fake_devices import CLOSE, FAKE, check_same, on_devices
from helpers import message
from tiny_runs import TINY, command, flags, tiny_run

from experiments import evaluate, experts, pretrain
from jaxdistill.core.checks import UserError
from jaxdistill.runtime import mesh


def check_sent(name: str, found: dict) -> None:
    """One all-reduce of the size of what is learned, beside the worst residual of implicit gradients.

    By the compiled text; the tiny network alone has 340 bytes for each of eight learners: no weights travel.
    """
    assert {kind for kind, _ in found["sent"]} == {"all-reduce"}
    limit = found["learned_bytes"] + 4 * found["metrics"]
    total = sum(size for _, size in found["sent"])
    print(f"{name}: {total} bytes per outer step and device, {limit} allowed")
    assert len(found["sent"]) == (2 if name == "implicit" else 1) and total <= limit


@pytest.fixture(scope="module")
def found():
    return on_devices(meshes=["learner:8", "learner:4,data:2"], methods=["dd"])


def test_eight_devices_have_the_numbers_of_one(found):
    check_same(found["dd"]["learner:8"], found["dd"]["one"])
    check_sent("dd", found["dd"]["learner:8"])


def test_real_batches_are_split(found):
    both = found["dd"]["learner:4,data:2"]
    check_same(both, found["dd"]["one"])
    # the gradient by one learner's 83 trained weights and two means; then what is learned, and three metrics
    assert sorted(size for _, size in both["sent"]) == [4 * 85, both["learned_bytes"] + 4 * 3]


def test_a_number_of_learners_that_the_mesh_does_not_divide(found):
    assert found["padded"] == [10.0, 32.0, 54.0, 76.0, 98.0, 120.0]


@pytest.mark.slow
def test_a_device_keeps_its_share_alone():
    """16 learners on 8 devices, all at once on each, against 2 on one."""
    found = on_devices(meshes=["learner:8"], methods=[], memory=True)["memory"]
    assert found["one"] > 1e6 and abs(found["mesh"] / found["one"] - 1) < 0.1


@pytest.mark.slow
def test_every_method_on_every_mesh():
    """Matching, generators, banks; and both axes."""
    names = ["dd_vmap", "implicit", "dc", "dm", "gtn"]
    every = on_devices(meshes=["learner:8", "learner:4,data:2", "learner:1,data:8"], methods=names)
    for name in names:
        one = every[name].pop("one")
        for each in every[name].values():
            check_same(each, one)
        check_sent(name, every[name]["learner:8"])
    every = on_devices(meshes=["learner:8"], methods=["pretrained", "mtt"])
    for name in ("pretrained", "mtt"):
        check_same(every[name]["learner:8"], every[name]["one"])
        check_sent(name, every[name]["learner:8"])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("lerner:1", "mesh: expected one of data, learner, got 'lerner'"),
        ("learner:1,data:1,pipe:1", "expected one of data, learner, got 'pipe'"),
        ("learner", "learner:SIZE,data:SIZE"),
        ("learner:two", "learner:SIZE,data:SIZE"),
        ("learner:0", "sizes from 1, got 'learner:0'"),
        ("learner:-2", "sizes from 1"),
        ("learner:1,learner:1", "each at most once"),
        ("", "expected one of data, learner, got ''"),
        ("learner:4,data:2", "sizes whose product is the number of devices, 1, got learner:4,data:2 (8)"),
    ],
)
def test_text_that_is_no_mesh_of_these_devices(text, says):
    with pytest.raises(UserError) as error:
        mesh.layout(text, 8, 16)
    assert says in message(error)


@pytest.fixture
def six_devices(monkeypatch):
    """Checks alone: nothing can run there."""
    devices = [types.SimpleNamespace(process_index=0) for _ in range(6)]
    for name, value in {"device_count": 6, "local_device_count": 6, "devices": devices}.items():
        monkeypatch.setattr(jax, name, lambda value=value: value)
    monkeypatch.setattr(
        jax,
        "make_mesh",
        lambda sizes, names, **_: types.SimpleNamespace(shape=dict(zip(names, sizes, strict=True))),
    )


@pytest.mark.parametrize(
    ("text", "sizes", "says"),
    [
        ("learner:3,data:2", (8, 16), "num_learners a multiple of learner = 3, got 8. The nearest is 9."),
        ("learner:3,data:2", (7, 16), "got 7. The nearest is 6."),
        ("learner:6", (9, 16), "got 9. The nearest are 6 and 12."),
        ("learner:6", (2, 16), "got 2. The nearest is 6."),
        ("learner:2,data:3", (8, 16), "real_batch_size a multiple of data = 3, got 16. The nearest is 15."),
        ("learner:2,data:3", (8, None), "data:1, since no real batch is drawn, got data:3"),
        ("learner:2,data:2", (8, 16), "the number of devices, 6, got learner:2,data:2 (4). XLA_FLAGS="),
    ],
)
def test_a_mesh_that_does_not_divide(six_devices, text, sizes, says):
    with pytest.raises(UserError) as error:
        mesh.layout(text, *sizes)
    assert says in message(error)


@pytest.mark.parametrize(
    ("num_learners", "used", "says"),
    [
        (12, 6, "6 devices, 2 of 12 learners on each"),
        (8, 4, "4 of 6 devices, 2 of 8 learners on each"),
        (7, 1, "1 of 6 devices"),
    ],
)
def test_by_default_as_many_devices_as_divide(six_devices, num_learners, used, says):
    where = mesh.layout(None, num_learners, 16)
    assert (where is None) == (used == 1) and mesh.described(where) == says
    if where is not None:
        assert where.mesh.shape == {"learner": used, "data": 1}


def test_one_device_has_no_mesh():
    assert mesh.layout(None, 8) is None and mesh.layout("learner:1,data:1", 8) is None
    assert mesh.described(None) == ""


def test_bytes_are_counted_by_the_compiled_text():
    text = """
      %all-reduce.5 = (f32[2,3]{1,0}, bf16[4]{0}, /*index=2*/f32[]) all-reduce(%a, %b), channel_id=1
      %ag = s32[8,2]{1,0} all-gather-start(%c), dimensions={0}
      %p = pred[] collective-permute(%d)
      %sum = f32[100]{0} add(%all-reduce.5, %e)
    """
    found = mesh.communication(types.SimpleNamespace(as_text=lambda: text))
    assert found == [("all-reduce", 24 + 8 + 4), ("all-gather", 64), ("collective-permute", 1)]


@pytest.mark.slow
def test_scripts_on_four_devices(tmp_path):
    """Distilling, evaluating, a pool and experts: the numbers of one device, from the same commands."""
    four = {"XLA_FLAGS": f"{FAKE}4"}
    tiny = {"num_learners": 4, "num_eval_learners": 3}
    one, _ = tiny_run(tmp_path / "one", **tiny)
    ended = command(
        "-m",
        "experiments.distill",
        *flags(**TINY | tiny, mesh="learner:4", run_dir=str(tmp_path / "four")),
        **four,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "devices: 4 devices, 1 of 4 learners on each" in ended.stdout
    many = json.loads((tmp_path / "four/result.json").read_text())
    np.testing.assert_allclose(many["test_accuracies"], one["test_accuracies"], atol=0.01)
    assert many["config"] == one["config"]  # devices are no part of a run
    images = [np.load(tmp_path / name / "synthetic.npz")["x_standardised"] for name in ("one", "four")]
    np.testing.assert_allclose(*images, rtol=0, atol=CLOSE)

    options = {"synthetic": str(tmp_path / "one/synthetic.npz"), "learners": ["linear"], "num_learners": 4}
    options |= {
        "num_search_learners": 1,
        "step_sizes": [0.1],
        "num_epochs": 3,
        "protocols": ["dc"],
        "strategy": "vmap",
    }
    expected = evaluate.run(evaluate.Options(**options))["rows"][0]["dc"]["every"]
    ended = command(
        "-m",
        "experiments.evaluate",
        *flags(**options, mesh="learner:2,data:2", run_dir=str(tmp_path / "e")),
        **four,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    found = json.loads((tmp_path / "e/evaluation.json").read_text())["rows"][0]["dc"]["every"]
    np.testing.assert_allclose(found, expected, atol=0.01)

    small = {"width": 8, "depth": 1, "num_epochs": 2, "group_size": 4}
    for script, own in (
        (pretrain, {"num_networks": 6, "num_test_networks": 2}),
        (experts, {"num_experts": 4}),
    ):
        name = script.__name__
        learner = {"learner": "mlp"} if script is experts else {}
        chosen = script.Options(**small, **own, **learner, run_dir=str(tmp_path / f"{name}_one"))
        expected = script.run(chosen)
        place = tmp_path / f"{name}_four"
        ended = command(
            "-m", name, *flags(**small, **own, **learner, mesh="learner:2,data:2", run_dir=str(place)), **four
        )
        assert (ended.returncode, ended.stderr) == (0, "")
        found = json.loads((place / "result.json").read_text())
        np.testing.assert_allclose(found["test_accuracies"], expected["test_accuracies"], atol=0.01)
