"""Runs whose images have a decoder: what they store, what is evaluated, and what they refuse."""

import json

import jax
import numpy as np
import pytest
from helpers import message
from tiny_runs import ALONE, tiny_run

import jaxdistill as jd
from jaxdistill.config.resolve import resolve
from jaxdistill.config.table import Config
from jaxdistill.core.checks import UserError
from jaxdistill.methods.recipe import Facts
from jaxdistill.runtime.latents import latents_arrays, write_latents
from jaxdistill.teachers.decoders.pixels import pixels
from jaxdistill.teachers.storage import as_read

STORING = {
    "method": "dm",
    "learner": "linear",
    "width": None,
    "depth": None,
    "distill_epochs": 1,
    "augment": ["crop"],
    "decoder": "bases",
    "num_bases": 8,
    "budget": "ipc:1",
    "stored_as": "uint8",
    "start": "noise",
    "outer_learning_rate": 0.1,
    "outer_ema": 0.9,
    "protocol": "dc",
} | ALONE


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """(folder, result, what was printed) of a run that stores the average of its bases in 8 bits."""
    path = tmp_path_factory.mktemp("stored") / "run"
    return path, *tiny_run(path, **STORING)


def test_a_result_says_what_was_stored_and_trained_on(stored):
    path, result, text = stored
    with np.load(path / "synthetic.npz") as file:
        images = len(file["x"])
    assert images > 40 and result["images_trained_on"] == images  # four times the numbers in as many bits
    assert result["scalars_stored"] == 8 * 16 + 8 * images + 4
    assert result["bits_per_class"] == (8 * (8 * 16 + 8 * images) + 4 * 32) / 10 <= 64 * 32
    assert f"{images} images trained on, {result['scalars_stored']} scalars stored, " in text
    assert json.loads((path / "result.json").read_text())["bits_per_class"] == result["bits_per_class"]


def test_numpy_decodes_the_images_that_are_evaluated(stored, tmp_path, capsys):
    path, *_ = stored
    jd.export(path, tmp_path / "copy.npz", to="latents")
    assert f"{stored[1]['images_trained_on']} images of digits: {tmp_path}" in capsys.readouterr().out
    for file in (path / "latents.npz", tmp_path / "copy.npz"):
        with np.load(file) as content, np.load(path / "synthetic.npz") as synthetic:
            found = {"path": file}
            exec(str(content["code"]), found)
            np.testing.assert_allclose(found["images"], synthetic["x_standardised"], atol=1e-4)
            np.testing.assert_array_equal(content["classes"], synthetic["y"])
            np.testing.assert_array_equal(found["labels"], np.eye(10)[synthetic["y"]])
            pixels = (found["images"] * content["std"] + content["mean"]) * content["scale"]
            np.testing.assert_allclose(pixels, synthetic["x"], atol=2e-3)
            assert content["latents/bases"].dtype == np.uint8
    run = jd.load_run(path, progress=False)
    assert run.stored.scalars == stored[1]["scalars_stored"]
    made = run.method.synthesize(run.state, jax.random.key(0)).x
    np.testing.assert_allclose(made.reshape(run.batch.x.shape), run.batch.x, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "kind"), [({"soft_labels": True}, "probabilities"), ({"labels": "free"}, "free")]
)
def test_numpy_decodes_learned_labels_of_each_kind(options, kind, tmp_path):
    info = jd.load("digits").info
    teacher = jd.images(image_shape=(8, 8, 1), num_classes=10, stored_as="uint8", **options)
    phi = teacher.init(jax.random.key(0))
    arrays = latents_arrays(teacher.stored(phi), pixels(image_shape=(8, 8, 1)), info, 1, kind)
    write_latents(tmp_path / "latents.npz", arrays)
    found = {"path": tmp_path / "latents.npz"}
    exec(str(arrays["code"]), found)
    expected = as_read(teacher, phi).value.y[0]
    np.testing.assert_allclose(found["labels"], expected, atol=1e-5)
    assert str(arrays["label_kind"]) == kind and (found["labels"].min() < 0) == (kind == "free")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            {"budget": "ipc:1", "images_per_class": 2},
            "images_per_class <= 1, which fit ipc:1, or no images_per_class, got 2",
        ),
        (
            {"method": "dd", "budget": "ipc:1", "distill_steps": 2},
            "distill_steps <= 1, the images of a class",
        ),
        ({"budget": "kb:1"}, "ipc:N, scalars:N or bits:N"),
        ({"budget": "ipc:0.5"}, "at least scalars:640 or bits:2048"),
        ({"decoder": "bases", "budget": "scalars:100", "num_bases": 16}, "num_bases <= 3 fits"),
        ({"decoder": "multiformation", "factor": 9}, "factor <= 8"),
        ({"decoder": "palette", "num_colors": 1}, "num_colors in 2 ... 256"),
        ({"decoder": "spline"}, "bases, dct, field, multiformation, none, palette"),
        ({"decoder": "bases", "teacher": "generator"}, "no decoder with teacher=generator"),
        ({"factor": 2}, "an option"),
        ({"stored_as": "uint4"}, "float16, float32, uint8"),
    ],
)
def test_bad_choices_are_refused(options, expected):
    with pytest.raises(UserError) as error:
        jd.distill(**{"dataset": "digits", "method": "dm", "num_outer_steps": 2, **options})
    assert expected in message(error)


def test_a_budget_gives_a_multiple_of_the_steps_or_fewer_images_where_chosen():
    facts = Facts((8, 8, 1), 10)
    given = {"method": "dd", "learner": "linear", "budget": "ipc:1", "decoder": "bases", "num_bases": 8}
    assert resolve(Config(**given), facts).images_per_class == 6
    assert resolve(Config(**given, distill_steps=4), facts).images_per_class == 4
    assert resolve(Config(**given, images_per_class=2), facts).images_per_class == 2


@pytest.mark.slow
@pytest.mark.parametrize("decoder", ["bases", "palette"])
@pytest.mark.parametrize(
    "options",
    [
        {"method": "dd", "gradient": "unrolled", "inner_batch_size": 10, "distill_epochs": 8},
        {"method": "dd", "gradient": "truncated", "distill_epochs": 4},
        {"method": "dd", "gradient": "accumulated", "distill_epochs": 2},
        {"method": "dd", "gradient": "implicit", "max_inner_steps": 3, "soft_labels": True},
        {"method": "dm", "synthetic_batch_size": 2, "augment": ["crop"]},
        {"method": "dc", "match_epochs": 1, "matches": 2},
    ],
    ids=lambda options: "-".join(str(value) for value in list(options.values())[:2]),
)
def test_every_method_and_gradient_learns_through_a_decoder(options, decoder):
    chosen = {"dataset": "digits", "learner": "linear", "num_learners": 1, "real_batch_size": 16}
    chosen |= {"decoder": decoder, "budget": "ipc:1", "outer_learning_rate": 1e-3}
    chosen |= {"num_bases": 8} if decoder == "bases" else {"num_colors": 4}
    run = jd.distill(**chosen | options, num_outer_steps=3, progress=False)
    start = run.method.init(run.key).meta.teacher["latents"]
    for name, learned in run.state.meta.teacher["latents"].items():
        assert np.abs(learned - start[name]).max() > 0, name
    assert len(run.images) == 10 * run.config.images_per_class > 10
    labels = 32 * len(run.images) * 10 if options.get("soft_labels") else 0
    sizes = 32 * sum(leaf.size for leaf in jax.tree.leaves(run.state.meta.inner))
    assert labels + sizes < run.stored.bits <= (64 + 10 * bool(labels)) * 320 + sizes
