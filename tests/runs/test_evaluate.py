"""`jd.evaluate`: images of a run or of anyone's file, on any networks; what does not fit is refused."""

import inspect

import jax
import numpy as np
import pytest
from helpers import message

import jaxdistill as jd
from jaxdistill.augment import WITHOUT_FLIP
from jaxdistill.config.build import operations, published_augmentation
from jaxdistill.config.resolve import resolve
from jaxdistill.core.checks import UserError
from jaxdistill.runs import evaluate as module
from jaxdistill.runs.distill import content_of
from jaxdistill.runs.evaluate import EvaluateOptions, evaluated, prepared
from jaxdistill.runs.given_images import content, protocols_for, standardised
from jaxdistill.runs.protocols import paper_protocol, protocol_of
from jaxdistill.runs.reference import steps_of
from jaxdistill.runtime.expected_time import Shorter
from jaxdistill.runtime.export import write_synthetic

SHORT = {
    "learner": "linear",
    "distill_epochs": 2,
    "num_outer_steps": 2,
    "num_learners": 1,
    "real_batch_size": 16,
    "progress": False,
}
QUICK = {
    "num_learners": 2,
    "num_search_learners": 2,
    "step_sizes": [0.1],
    "num_epochs": 2,
    "progress": False,
}


@pytest.fixture(scope="module")
def digits():
    return jd.load("digits")


@pytest.fixture(scope="module")
def real(digits):
    """(pixels [10, 8, 8, 1] in the set's own units, labels): one real image of each class."""
    first = np.asarray(digits.train.starts)
    return np.rint(np.asarray(jd.to_pixels(digits.train.x[first], digits.info))), np.arange(10)


@pytest.fixture(scope="module")
def mine():
    """Sixty images of three classes, as large as digits; validation and test are of one size: one program."""
    generator = np.random.default_rng(0)
    y = np.arange(60) % 3
    x = (generator.normal(size=(60, 8, 8, 1)) + y[:, None, None, None]).astype(np.float32)
    return jd.splits(x, y, x[:10], y[:10], name="mine")


@pytest.fixture(scope="module")
def run(mine):
    """A run of two batches, from arrays."""
    return jd.distill(data=mine, images_per_class=2, distill_steps=2, **SHORT)


@pytest.fixture
def save(tmp_path):
    """Writes an `.npz` of a user and says where."""

    def write(**arrays):
        np.savez(tmp_path / "mine.npz", **arrays)
        return tmp_path / "mine.npz"

    return write


@pytest.fixture
def untrained(monkeypatch):
    def refuse(plan):
        raise AssertionError("it trains")

    monkeypatch.setattr(module, "evaluated", refuse)


def network(side=8, classes=3):
    return jd.learner("linear", image_shape=(side, side, 1), num_classes=classes)


def refused(*arguments, **options) -> str:
    with pytest.raises(UserError) as error:
        jd.evaluate(*arguments, **QUICK | options)
    return message(error)


def test_a_run_of_own_arrays_on_own_networks(run, capsys):
    net = network()
    result = jd.evaluate(run, net, protocols=["as_distilled", "dc"], **QUICK)
    assert capsys.readouterr() == ("", "")
    (row,) = result["rows"]
    assert list(row) == ["learner", "as_distilled", "batches shuffled", "dc", "random_real"]
    assert row["random_real"]["images_per_class"] == 2 and row["dc"]["step_size"] == 0.1
    config = result["config"]
    assert (config["dataset"], config["learners"]) == ("mine", ["own"]) and config["run"] == run.plan.identity
    again = jd.evaluate(run, {"net": net}, protocols=["as_distilled", "dc"], **QUICK | {"progress": True})
    reused = {"random_real": row["random_real"] | {"reused": True}}
    assert again["rows"] == [row | {"learner": "net"} | reused]
    assert (
        "Test accuracy (%) on mine after training on 6 images; mean ± std, K = 2" in capsys.readouterr().out
    )


def test_networks_are_rows_by_their_names(run):
    def names(learners):
        return list(prepared(run, learners, EvaluateOptions()).learners)

    net = network()
    assert names(["mlp:width=4:depth=1", net, "linear"]) == ["mlp:width=4:depth=1", "own", "linear"]
    assert names({"mine": net, "line": "linear"}) == ["mine", "line"]
    assert names("linear") == ["linear"] and names(net) == ["own"]


def test_all_networks_share_one_copy_of_the_real_images(run, monkeypatch):
    given = []
    monkeypatch.setattr(module, "_row", lambda job, name, *real: given.append(real) or {"learner": name})
    job = prepared(run, ["mlp:width=4:depth=1", "linear"], EvaluateOptions())
    evaluated(job)
    assert [real[0][0].x is given[0][0][0].x for real in given] == [True, True]


def test_a_run_is_evaluated_as_its_file(run, mine, key, tmp_path):
    options = EvaluateOptions()
    write_synthetic(tmp_path / "synthetic.npz", **content_of(run))
    of_run = prepared(run, "linear", options)
    of_file = prepared(tmp_path / "synthetic.npz", "linear", options, data=mine)
    np.testing.assert_array_equal(of_run.images.x, of_file.images.x)
    np.testing.assert_array_equal(of_run.images.y, of_file.images.y)
    np.testing.assert_array_equal(of_run.images.x, run.batch.x)
    assert list(of_run.protocols) == list(of_file.protocols) == ["as_distilled", "batches shuffled", "dc"]
    own = protocol_of(run)
    for plan in (of_run.protocols["as_distilled"], of_file.protocols["as_distilled"]):
        np.testing.assert_array_equal(plan.order(key), own.order(key))
        np.testing.assert_array_equal(plan.values["learning_rate"], own.values["learning_rate"])
        assert plan.weight_decay == own.weight_decay
    order = of_run.protocols["batches shuffled"].order(jax.random.key(1))
    assert order.tolist() != run.order.tolist() and sorted(order.tolist()) == sorted(run.order.tolist())


@pytest.mark.parametrize(
    ("unknown", "says"),
    [
        ({"order": None}, "no order"),
        ({"hyperparameters": {}}, "no step sizes"),  # of a method that trains no inner steps
        ({"metadata": {}}, "no inner optimiser"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_steps_that_are_not_known_cannot_be_repeated(run, unknown, says):
    file = content(run)._replace(**unknown)
    assert list(protocols_for(file, (), None, run.data.info)) == ["dc"]
    with pytest.raises(UserError) as error:
        protocols_for(file, ("dc", "as_distilled"), None, run.data.info)
    assert f"order and step sizes with the images, got {says}. Use protocols=dc." in message(error)


def test_images_of_a_user_in_any_units_are_the_same_images(digits, real, save, capsys):
    pixels, y = real
    info, expected = digits.info, np.asarray(digits.train.x)[np.asarray(digits.train.starts)]

    def check(**arrays):
        found = standardised(content(save(**arrays)), info)
        np.testing.assert_allclose(found.x, expected, atol=1e-5)
        np.testing.assert_array_equal(found.y, np.eye(10, dtype=np.float32))

    check(x=pixels.astype(np.uint8), y=y)
    check(x=pixels[..., 0], y=np.eye(10)[y])
    assert "note:" not in capsys.readouterr().out
    check(x=pixels / 16, y=y)
    assert "note: images lie in 0..1; white is 1 in the file and 16 in digits" in capsys.readouterr().out
    check(x=pixels * 255 / 16, y=y, scale=255.0)


def test_a_user_may_leave_classes_out(real, save):
    pixels, y = real
    file = save(x=pixels[:4].repeat(3, axis=0), y=y[:4].repeat(3))
    plan = prepared(file, "linear", EvaluateOptions(dataset="digits"))
    assert plan.images.y.shape == (12, 10) and not plan.images.y[:, 4:].any()
    assert list(plan.protocols) == ["dc"] and plan.real_per_class == 1


def test_the_set_decides_what_a_protocol_is(digits, real, save):
    """Its steps, also where a file has no labels, and its augmentation."""
    file = content(save(x=np.repeat(real[0], 2, axis=0), y=np.repeat(real[1], 2)))
    unlabelled = file._replace(labels=np.zeros((20, 0), np.float32))
    for each in (file, unlabelled):
        plans = protocols_for(each, ("dsa", "frepo"), None, digits.info)
        assert steps_of(plans["frepo"]) == 1000  # two images per class
        assert {plan.augment for plan in plans.values()} == {published_augmentation(digits.info).per_image}
    mirrored = digits.info._replace(name="cifar10")
    assert operations(mirrored) == (*WITHOUT_FLIP, "flip") and operations(digits.info) == WITHOUT_FLIP
    (plan,) = protocols_for(file, ("dsa",), None, mirrored).values()
    assert plan.augment is published_augmentation(mirrored).per_image


@pytest.mark.parametrize(
    ("name", "count", "passes"),
    [("dc", 10, 300), ("dsa", 600, 1000), ("frepo", 600, 1666), ("rcig", 10, 1000), ("frepo", 10_000, 125)],
)
def test_advice_counts_the_passes_of_a_protocol(run, name, count, passes):
    """5,000 steps in epochs of 3 batches, or of 40."""
    job = prepared(run, "linear", EvaluateOptions())
    plan = paper_protocol(run.data.info, name, count)
    assert module.shorter(job, count, [plan]) == Shorter("num_epochs", passes)


def test_more_images_than_a_class_has_are_compared_with_no_real_ones(mine, save, capsys):
    x = np.asarray(jd.to_pixels(mine.train.x, mine.info))
    file = save(x=np.tile(x, (2, 1, 1, 1)), y=np.tile(np.asarray(mine.train.y).argmax(-1), 2))
    assert prepared(file, "linear", EvaluateOptions(), data=mine).real_per_class == 0
    assert "note: no random real images, since a class has only" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("population", "says"),
    [("pretrained", "pre-trained networks"), ("fixed", "one fixed initialisation")],
)
def test_images_for_other_networks_are_told(real, save, capsys, population, says):
    file = save(x=real[0], y=real[1], inner=f'{{"population": "{population}"}}')
    prepared(file, "linear", EvaluateOptions(dataset="digits"))
    assert f"note: distilled for {says}" in capsys.readouterr().out


def test_defaults_are_those_of_the_command(run):
    parameters = inspect.signature(jd.evaluate).parameters
    options = resolve(EvaluateOptions())
    for name in EvaluateOptions.options():
        default = parameters[name].default
        assert getattr(options, name) == (tuple(default) if isinstance(default, list | tuple) else default)


def test_bad_files_are_one_line(real, save, untrained):
    pixels, y = real
    for arrays, says in (
        ({"x": pixels}, "arrays x and y, got only x"),
        ({"x": pixels, "y": y[:5]}, "one row per image"),
        ({"x": pixels[:, :4], "y": y}, "images 8x8x1 as in digits, got 4x8x1"),
        ({"x": np.repeat(pixels, 3, axis=-1), "y": y}, "got 8x8x3"),
        ({"x": pixels, "y": y + 1}, "labels of 10 classes as in digits, got 11"),
        ({"x": pixels, "y": y - 1}, "y as integers from 0"),
        ({"x": pixels * np.nan, "y": y}, "finite"),
        ({"x": np.array(["a"] * 10), "y": y}, "x as numbers"),
    ):
        assert says in refused(save(**arrays), dataset="digits")
    file = save(x=pixels, y=y)
    assert "dataset=NAME with a file that does not name its set" in refused(file)
    text = refused(save(x=pixels, y=y, dataset="my digits"))
    assert "'my digits'" in text and "give dataset=PATH" in text and "data=jd.splits(x, y)" in text


def test_bad_input_is_one_line(run, mine, real, tmp_path, untrained):
    (tmp_path / "config.json").write_text("{}")
    expected = "evaluate: expected images as a Run or the path of an .npz, a .pt or an exported folder, got "
    text = refused(tmp_path)
    assert text.startswith(f"{expected}the run folder {tmp_path}.")
    (tmp_path / "empty").mkdir()
    assert f"{tmp_path / 'empty'}, a folder without distillation.json" in refused(tmp_path / "empty")
    assert f"Take {tmp_path / 'synthetic.npz'}; in Python jd.load_run opens the folder." in text
    assert f"{expected}ndarray. numpy.savez(path, x=..., y=...)" in refused(real[0])
    for arguments, options, says in (
        ((), {"data": mine, "dataset": "digits"}, "either data or dataset, got both"),
        ((), {"data": (1, 2)}, "data as jaxdistill.splits makes it, or a path, got tuple"),
        ((), {"image_size": 16}, "no image_size with images of a run or with data, got 16"),
        ((), {"dataset": "digits", "image_size": 16}, "images 16x16x1 as in digits, got 8x8x1"),
        ((), {"protocols": "dc"}, "protocols as a list, got 'dc'"),
        (([],), {}, "learners among alexnet"),
        ((3,), {}, "learners as a list of texts and Learners, got int"),
        (([3],), {}, "learners as text or a Learner, got int"),
        (([network(), network()],), {}, "a name for each Learner, as in {'mine': net}, got 2 without a name"),
        (({"mine": network(6)},), {}, "learner mine: expected a network for images of 8x8x1 and 3 classes"),
        ((network(8, 10),), {}, "learner own: expected a network for images of 8x8x1 and 3 classes"),
        (("linaer",), {}, "learner: expected one of alexnet"),
    ):
        assert says in refused(run, *arguments, **options)
