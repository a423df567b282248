"""Bad input of `experiments.distill`: one line that says what is wrong, and nothing is written."""

import sys

import numpy as np
import pytest
from helpers import message
from tiny_runs import TINY

from experiments import distill
from jaxdistill.config.option import UNSET
from jaxdistill.core.checks import UserError
from jaxdistill.runs import plan


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """The default run directory would be made here."""
    monkeypatch.chdir(tmp_path)


def refused(tmp_path, **options) -> str:
    """The line; `run` is not made, nor is a default directory."""
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError) as error:
        distill.run(distill.Options(**options))
    assert sorted(tmp_path.rglob("*")) == before
    return message(error)


IMPLICIT = {"gradient": "implicit", "distill_epochs": UNSET}
MATCHING = {"method": "dc", "distill_epochs": UNSET, "real_batch_size": 8, "num_learners": 1}
CLOSED = {"gradient": "closed_form", "distill_epochs": UNSET}
COMPACT = {"teacher": "generator", "architecture": "compact", "generator_width": 4}
FREPO = CLOSED | {"method": "frepo", "learner": "linear", "width": UNSET, "depth": UNSET, "num_learners": 1}
RCIG = {"method": "rcig", "distill_epochs": UNSET, "num_learners": 1}
OPTIONS = [
    (CLOSED, "closed_form: expected at least 10 features, as many as classes, got 8"),
    (CLOSED | {"width": 16, "ridge": -1.0}, "ridge >= 0, got -1"),
    (CLOSED | {"width": 16, "ridge_unit": "rows"}, "ridge_unit: expected one of images, trace, got 'rows'"),
    (CLOSED | {"width": 16, "distill_epochs": 2}, "distill_epochs"),
    (CLOSED | {"width": 16, "inner_learning_rate": 0.3}, "no inner_learning_rate with gradient=closed_form"),
    (CLOSED | {"width": 16, "protocol": "as_distilled"}, "with gradient=closed_form, which trains no inner"),
    (
        CLOSED | {"method": "dc", "num_learners": 1},
        "no gradient with method=dc, got closed_form. It trains no",
    ),
    (
        CLOSED | {"method": "mtt", "real_batch_size": UNSET},
        "a method that tests trained networks on real images, with gradient=closed_form",
    ),
    ({"ridge": 0.1}, "gradient: expected no ridge with gradient=unrolled, got 0.1"),
    ({"labels": "logits"}, "labels: expected one of free, probabilities, got 'logits'"),
    (
        {"labels": "free"},
        "expected labels=probabilities, got labels=free. Free labels want inner_loss=squared",
    ),
    ({"labels": "free", "inner_loss": "squared", "soft_labels": True}, "no soft_labels with labels=free"),
    ({"outer_loss": "hinge"}, "outer_loss: expected one of cross_entropy, platt, squared, got 'hinge'"),
    ({"label_margin": -0.1}, "label_margin >= 0, got -0.1"),
    (FREPO | {"pool_size": 0}, "pool_size >= 1, got 0"),
    (FREPO | {"num_learners": 11}, "num_learners <= pool_size = 10, got 11"),
    (RCIG | {"num_learners": 31}, "num_learners <= pool_size = 30, got 31"),
    (
        RCIG | {"width": 9, "depth": 3},
        "convexified: expected at least 10 features, as many as cl",
    ),
    (
        RCIG | {"norm": "batch"},
        "norm: expected another one than batch for a linearised network, got batch norm",
    ),
    (RCIG | {"inner_loss": "cross_entropy"}, "got labels=free. Free labels want inner_loss=squared"),
    (RCIG | {"population": "fixed"}, "no eval_activation with networks whose weights are given"),
    ({"dataset": "mnistt"}, "digits, fashion_mnist, kmnist, mnist"),
    ({"learner": "convnet", "norm": "batchnorm"}, "norm: expected one of batch, group, instance"),
    ({"learner": "convnet", "activation": "gelu2"}, "activation: expected one of"),
    ({"learner": "convnet", "pooling": "min"}, "pooling: expected one of"),
    ({"initialization": "zeros"}, "initialization: expected one of"),
    ({"teacher": "pictures"}, "teacher: expected one of generator, images"),
    ({"start": "zeros"}, "start: expected one of noise, real"),
    ({"remat": "all"}, "remat: expected one of none, sqrt, step"),
    ({"strategy": "pmap"}, "strategy: expected one of auto, map, vmap"),
    ({"schedule": "linear"}, "schedule: expected one of constant, cosine, halving"),
    ({"inner_optimizer": "lion"}, "inner_optimizer: expected one of adam, rmsprop, sgd"),
    ({"learned": ["nonsense"]}, "expected one of learning_rate, momentum"),
    ({"norm": "instance"}, "learner mlp: expected an option among"),
    ({"width": 0}, "width >= 1, got 0"),
    ({"image_size": 0}, "image_size >= 1, got 0"),
    ({"learner": "convnet", "depth": 5}, "depth <= 3 for images of 8x8x1, got 5"),
    ({"learner": "alexnet"}, "alexnet"),
    ({"images_per_class": 0}, "images_per_class >= 1, got 0"),
    ({"images_per_class": 1000, "start": "real"}, "images_per_class <= 124, the training images of class"),
    ({"images_per_class": 3, "distill_steps": 2}, "a multiple of distill_steps = 2, got 3"),
    ({"distill_steps": 0}, "distill_steps >= 1, got 0"),
    ({"distill_epochs": 0}, "distill_epochs >= 1, got 0"),
    ({"num_outer_steps": 0}, "num_outer_steps >= 1, got 0"),
    ({"num_outer_steps": -5}, "num_outer_steps >= 1, got -5"),
    ({"num_learners": 0}, "num_learners >= 1, got 0"),
    ({"real_batch_size": 0}, "real_batch_size >= 1, got 0"),
    ({"microbatch": 0}, "microbatch >= 1, got 0"),
    ({"learner_chunk": 0}, "learner_chunk >= 1, got 0"),
    ({**MATCHING, "method": "dm", "soft_labels": True}, "no soft_labels with method=dm, where it has no"),
    (
        {"label_confidence": 0.5},
        "no label_confidence with soft_labels=False, where it",
    ),
    ({"learned": [], "hyper_learning_rate": 0.1}, "no hyper_learning_rate with learned=none, where"),
    (CLOSED | {"hyper_learning_rate": 0.1, "outer_loss": "squared"}, "no hyper_learning_rate with learned=n"),
    ({"label_margin": 0.5}, "no label_margin with soft_labels=False, where"),
    (CLOSED | {"inner_loss": "platt"}, "no inner_loss with gradient=closed_form, where"),
    (
        {"inner_momentum": 0.5, "learned": ["momentum"], "positive": "exp"},
        "no positive with learned=momentum",
    ),
    ({"schedule": "constant", "schedule_end": 0.1}, "no schedule_end with schedule=constant"),
    ({**MATCHING, "method": "dc", "augment": [], "augment_strength": 0.5}, "augment_strength"),
    ({"fit": "stretch"}, "no fit with image_size=None, where it has no effect, got stretch"),
    (
        {**MATCHING, "match_epochs": 0, "match_learning_rate": 0.1},
        "no match_learning_rate with match_epochs=0",
    ),
    ({**MATCHING, "by_class": False, "class_strategy": "map"}, "no class_strategy with by_class=False"),
    ({**COMPACT, "generator_hidden": 9}, "no generator_hidden with architecture=compact, where it has no"),
    ({**COMPACT, "upsamplings": 1}, "no upsamplings with architecture=compact"),
    ({"chunk_length": 0}, "chunk_length >= 1, got 0"),
    ({"checkpoint_every": 0}, "checkpoint_every >= 1, got 0"),
    ({"seed": -1}, "seed >= 0, got -1"),
    ({"seed": 2**32}, "seed <= 4294967295"),  # JAX would take it for seed 0
    ({"backprop_last": 0}, "backprop_last >= 1, got 0"),
    ({"gradient": "truncated", "backprop_last": 3}, "backprop_last in 1 ... 2 (inner steps), got 3"),
    (IMPLICIT | {"damping": -0.1}, "damping >= 0, got -0.1"),
    (IMPLICIT | {"inner_tolerance": 1.0}, "tolerance in [0, 1)"),
    (IMPLICIT | {"inner_tolerance": -0.5}, "inner_tolerance >= 0, got -0.5"),
    (IMPLICIT | {"max_inner_steps": -1}, "max_inner_steps >= 0, got -1"),
    (
        IMPLICIT | {"linear_solver": "gc"},
        "linear_solver: expected one of cg, gauss_newton_cg, identity, neumann",
    ),
    (IMPLICIT | {"linear_solver": "neumann", "neumann_alpha": 0.0}, "alpha > 0"),
    (IMPLICIT | {"solver_steps": 0}, "solver_steps >= 1, got 0"),
    (IMPLICIT | {"on_failed_solve": "wait"}, "on_failed_solve: expected one of skip, stop"),
    (IMPLICIT | {"learned": ["learning_rate"]}, "their implicit gradient is zero"),
    (
        {"gradient": "auto", "memory_budget": "much"},
        "a size such as 2GB, 512MiB or 2000000 (bytes), got 'much'",
    ),
    ({"gradient": "auto", "memory_budget": "-2GB"}, "a size such as 2GB"),
    ({"inner_learning_rate": 0.0}, "learning_rate > 0.0, got 0.0"),
    ({"inner_momentum": 1.0}, "momentum in [0, 1)"),
    ({"inner_momentum": -0.1}, "inner_momentum >= 0, got -0.1"),
    ({"learned": ["momentum"]}, "a learned momentum > 0"),
    ({"inner_optimizer": "adam", "learned": ["momentum"]}, "expected one of learning_rate"),
    ({"outer_learning_rate": 0.0}, "outer_learning_rate > 0"),
    ({"outer_learning_rate": float("inf")}, "a finite outer_learning_rate, got inf"),
    ({"clip": -1.0}, "clip >= 0, got -1"),
    ({"relative_clip": -1.0}, "relative_clip >= 0, got -1"),
    ({"method": "rat", "backprop_last": 9}, "backprop_last in 1 ... 2 (inner steps), got 9"),
    (
        MATCHING | {"method": "idc", "age_data": "both"},
        "age_data: expected one of real, synthetic, got 'both'",
    ),
    (MATCHING | {"method": "idc", "age_cutmix": 2.0}, "cutmix: expected probability in [0, 1], got 2.0"),
    ({"max_inner_learning_rate": -1.0}, "max_inner_learning_rate >= 0, got -1"),
    ({"weight_decay": -1e-3}, "weight_decay >= 0, got -0.001"),
    ({"weight_decay": float("nan")}, "a finite weight_decay, got nan"),
    ({"num_eval_learners": 0}, "num_eval_learners >= 1, got 0"),
    ({"num_baseline_learners": -1}, "num_baseline_learners >= 0, got -1"),
    ({"num_search_learners": 0}, "num_search_learners >= 1, got 0"),
    ({"full_data_epochs": -1}, "full_data_epochs >= 0, got -1"),
    (MATCHING | {"labels": "free"}, "labels=probabilities with method=dc, got labels=free"),
    (MATCHING | {"method": "dm", "labels": "free"}, "labels=probabilities with method=dm, got labels=free"),
    (
        MATCHING | {"distance": "l3"},
        "distance: expected one of cosine, kernels_l1, kernels_l2, l2, layerwise",
    ),
    (MATCHING | {"matches": 0}, "matches >= 1, got 0"),
    (MATCHING | {"match_learning_rate": 0.0}, "options: expected match_learning_rate > 0, got 0.0"),
    (
        MATCHING | {"protocol": "as_distilled"},
        "one of dc, dc_augmented, dsa, idc, idc_unmixed, frepo, rcig, rat with method=dc, which",
    ),
    (
        MATCHING | {"protocol": "papers"},
        "protocol: expected one of as_distilled, dc, dc_augmented, dsa, frepo,",
    ),
    (MATCHING | {"outer_momentum": 1.5}, "momentum in [0, 1), got 1.5"),
    (MATCHING | {"teacher": "generator", "batch_size": 4}, "at least one synthetic image of every class"),
    (MATCHING | {"method": "dm", "feature_layers": "first"}, "feature_layers: expected one of all, last"),
    (
        MATCHING | {"method": "dsa", "augment": ["crop", "kutout"]},
        "cutout, flip, rotate, scale, got 'kutout'",
    ),
    (MATCHING | {"method": "dsa", "augment": []}, "at least one operation in augment, with method=dsa"),
    (MATCHING | {"method": "dsa", "augment_strength": 3}, "augment_strength <= 2, got 3"),
]


@pytest.mark.parametrize(
    ("chosen", "says"), OPTIONS, ids=lambda value: ",".join(value) if isinstance(value, dict) else ""
)
def test_options_that_cannot_be(tmp_path, chosen, says):
    assert says in refused(tmp_path, **(TINY | {"run_dir": "run"} | chosen))


def images(n=40, classes=4):
    generator = np.random.default_rng(0)
    return {"x": generator.integers(0, 256, (n, 8, 8, 1), np.uint8), "y": np.arange(n) % classes}


def with_nan():
    x = images()["x"].astype(np.float32)
    x[3, 0, 0, 0] = np.nan
    return {**images(), "x": x}


FILES = {
    "no x": (lambda: {"y": images()["y"]}, "arrays x and y, got only y"),
    "no y": (lambda: {"x": images()["x"]}, "arrays x and y, got only x"),
    "NaN": (with_nan, "finite pixels in x, got a NaN or an infinity in image 3"),
    "negative label": (lambda: {**images(), "y": np.arange(40) - 1}, "labels >= 0 in y, got -1"),
    "label of no class in test": (
        lambda: {**images(), "x_test": images()["x"][:4], "y_test": np.arange(4) + 1},
        "labels in y_test that y has too, got 4",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_arrays_that_cannot_be(tmp_path, name):
    make, says = FILES[name]
    np.savez(tmp_path / "mine.npz", **make())
    assert says in refused(tmp_path, **TINY, dataset="mine.npz", run_dir="run")


def test_equal_images_to_start_from_are_named(tmp_path):
    """Their kernel is singular, and gradients would keep them equal."""
    mine = images(classes=10)
    mine["x"][:] = mine["x"][:1]
    np.savez(tmp_path / "mine.npz", **mine)
    chosen = TINY | CLOSED | {"width": 16, "start": "real", "run_dir": "run"}
    text = refused(tmp_path, **chosen, dataset="mine.npz")
    assert (
        "start images with gradient=closed_form that differ from one another" in text
        and "equal images 0 and 1" in text
    )


FAULTS = {
    "a temperature that diverges": (
        {"outer_loss": "platt", "hyper_learning_rate": 100.0, "width": 16},
        "diverged_temperatures = 0, got diverged_temperatures = 1 at outer step 2. The temperature of platt",
    ),
    "a singular kernel": (
        {
            "learner": "linear",
            "width": UNSET,
            "depth": UNSET,
            "ridge": 0.0,
            "start": "real",
            "images_per_class": 7,  # pixels of the border are all alike
        },
        "singular_kernels = 0, got singular_kernels = 1 at outer step 1. The kernel of the images",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_goes_wrong_in_a_run_is_one_line(tmp_path, name):
    chosen, says = FAULTS[name]
    options = TINY | {"num_outer_steps": 5} | CLOSED | chosen
    with pytest.raises(UserError) as error:
        distill.run(distill.Options(**options, run_dir="run"))
    assert says in message(error)
    assert not (tmp_path / "run/synthetic.npz").exists()


def test_files_that_are_not_there_or_not_whole(tmp_path):
    assert "no file of that name" in refused(tmp_path, **TINY, dataset="none.npz", run_dir="run")
    np.savez(tmp_path / "mine.npz", **images())
    whole = (tmp_path / "mine.npz").read_bytes()
    (tmp_path / "mine.npz").write_bytes(whole[: len(whole) // 2])
    assert "an intact .npz archive" in refused(tmp_path, **TINY, dataset="mine.npz", run_dir="run")
    (tmp_path / "empty").mkdir()
    text = refused(
        tmp_path, **TINY, dataset="mnist", manual_dir=str(tmp_path / "empty"), data_dir=str(tmp_path / "data")
    )
    assert "train-images" in text


def test_run_directories_that_cannot_be(tmp_path, monkeypatch):
    monkeypatch.setattr(
        plan, "load", lambda *_, **options: pytest.fail("it loads the data before it says so")
    )
    (tmp_path / "file").write_text("mine")
    assert "a directory to write to" in refused(tmp_path, **TINY, run_dir="file/run")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.tex").write_text("mine")
    assert "chapter.tex" in refused(tmp_path, **TINY, run_dir="thesis")


def test_tensorboard_that_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    text = refused(tmp_path, **TINY, run_dir="run", tensorboard=True)
    assert 'pip install "jaxdistill[tensorboard]"' in text
