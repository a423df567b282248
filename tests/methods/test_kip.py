"""Kernel Inducing Points: loss and gradient against dense formulas, the kernel's accuracy, equal images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import CLASSES, SHAPE, images_teacher, message, tiny_batch, tiny_data, tiny_net, to_float64

import jaxdistill as jd
from jaxdistill.core.checks import UserError
from jaxdistill.core.types import Data
from jaxdistill.evaluation import Score
from jaxdistill.layers.infinite import infinite_mlp
from jaxdistill.methods.kip import kip
from jaxdistill.runs import compare
from jaxdistill.runs.distill import FAULTS
from jaxdistill.runs.protocols import inner_training, protocol_of
from jaxdistill.teachers.images import images

KEY = jax.random.key(0)
SHORT = {"method": "kip", "num_outer_steps": 3, "num_eval_learners": 1, "num_baseline_learners": 0}
SHORT |= {"learner": "linear", "progress": False}


@pytest.mark.parametrize("labels", ["probabilities", "free"])
def test_loss_and_gradient_are_those_of_the_dense_formula(labels, x64):
    """Two batches of three images, labels learned too; an inverse in the place of Cholesky."""
    real = tiny_batch(7)
    teacher = images_teacher(distill_steps=2, labels=labels, soft_labels=labels == "probabilities")
    method = kip(tiny_net(), teacher, draw=lambda data, key: real, kernel_depth=2, kernel_lambda=1e-3)
    state = to_float64(method.init(KEY))
    gradient, metrics = jax.jit(method.gradient)(state, Data(tiny_data(), None), KEY)
    assert metrics["singular_kernels"] == 0
    kernel = infinite_mlp("ntk", depth=2)
    scale_of_free = np.sqrt(CLASSES / 10) if labels == "free" else 1  # such labels start at this scale

    @jax.jit
    def expected(phi):
        x = phi["x"].reshape(-1, *SHAPE)
        y = (phi["y"] if labels == "free" else jax.nn.softmax(phi["y"]) - 1 / CLASSES).reshape(-1, CLASSES)
        gram = kernel(x, x)
        inverse = jnp.linalg.inv(gram + 1e-3 * jnp.trace(gram) / 6 * jnp.eye(6))
        error = kernel(real.x, x) @ inverse @ y - scale_of_free * (real.y - 1 / CLASSES)
        return 0.5 * jnp.mean(error**2)

    value, slope = jax.value_and_grad(expected)(state.meta.teacher)
    assert float(metrics["loss"]) == pytest.approx(float(value), rel=1e-9)
    for name, right in slope.items():
        scale = np.abs(right).max()
        assert scale > 1e-4
        np.testing.assert_allclose(gradient.teacher[name], right, rtol=0, atol=1e-8 * scale)


def test_the_kernel_machine_is_fitted_to_the_images_that_are_stored():
    method = kip(tiny_net(), images(image_shape=SHAPE, num_classes=CLASSES, stored_as="uint8"))
    state = method.init(KEY)
    _, params = method.predictor(state, KEY)
    np.testing.assert_allclose(params.x, method.synthesize(state, KEY).x[0], atol=1e-6)
    assert np.abs(params.x - state.meta.teacher["x"][0]).max() > 1e-3  # 8 bits


@pytest.mark.slow
def test_the_kernel_machine_of_a_run_is_tested(capsys, monkeypatch):
    monkeypatch.setattr(compare, "score", lambda *given: Score(0.5, 0.0, [0.5], 0))  # of networks
    run = jd.distill(**SHORT, outer_ema=0.5)
    result = run.compare(progress=False)
    machine, params = run.method.predictor(run.state, KEY)
    np.testing.assert_array_equal(params.x, run.batch.x)  # those of the average
    outputs = np.asarray(jax.jit(machine.apply)(params, run.data.test.x))
    right = np.mean(outputs.argmax(-1) == np.asarray(run.data.test.y).argmax(-1))
    assert result["closed_form_accuracy"] == pytest.approx(right, abs=1e-6)
    assert 0.5 < result["closed_form_accuracy"] < 1  # ten real digits; chance is 0.1
    assert result["closed_form_validation_accuracy"] != result["closed_form_accuracy"]
    compare.show(result)
    assert "closed form, no network" in capsys.readouterr().out


def test_a_singular_kernel_is_told():
    """Equal images and hardly a ridge; the loss stays finite, so that a run names the fault."""
    twice = jnp.ones((CLASSES, 2, *SHAPE))
    teacher = images(image_shape=SHAPE, num_classes=CLASSES, images_per_class=2, start=twice)
    method = kip(tiny_net(), teacher, draw=lambda data, key: tiny_batch(7), kernel_lambda=1e-30)
    _, metrics = jax.jit(method.gradient)(method.init(KEY), Data(tiny_data(), None), KEY)
    assert float(metrics["singular_kernels"]) == 1 and np.isfinite(metrics["loss"])
    assert "kernel_lambda" in FAULTS["singular_kernels"]


def test_equal_images_are_named(tmp_path):
    start = np.random.default_rng(0).normal(size=(CLASSES, 2, *SHAPE)).astype(np.float32)
    start[2, 1] = start[0, 1]
    teacher = images(image_shape=SHAPE, num_classes=CLASSES, images_per_class=2, start=jnp.asarray(start))
    method = kip(tiny_net(), teacher)
    with pytest.raises(UserError) as error:
        method.check(method.init(KEY), KEY)
    assert "kip: expected images that differ from one another, got equal images 1 and 5." in message(error)
    x = np.repeat(np.arange(4.0)[:, None, None, None], 64, 1).reshape(4, 8, 8, 1)
    x = np.tile(x[:1], (40, 1, 1, 1)) + (np.arange(40) % 2)[:, None, None, None]
    y = np.arange(40) % 2
    with pytest.raises(UserError) as error:
        jd.distill(**SHORT, data=jd.splits(x, y, x, y), images_per_class=2, run_dir=tmp_path / "run")
    assert "equal images 0 and 1, 2 and 3" in message(error) and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"num_learners": 2}, "num_learners=1 with method=kip, which distills without networks, got 2"),
        ({"population": "fixed"}, "population=fresh with method=kip"),
        ({"dtype": "bfloat16"}, "dtype=float32 with method=kip"),
        ({"infinite_kernel": "conv"}, "one of nngp, ntk, got 'conv'"),
        ({"kernel_lambda": 0.0}, "ridge > 0.0, got 0.0"),
    ],
)
def test_bad_options_are_refused(options, says):
    with pytest.raises(UserError) as error:
        jd.distill(**SHORT | options)
    assert says in message(error)


@pytest.mark.slow
def test_free_labels_are_learned_and_tested():
    run = jd.distill(method="kip", labels="free", learner="linear", num_outer_steps=300, progress=False)
    labels, start = (
        np.asarray(run.method.synthesize(s, KEY).y) for s in (run.state, run.method.init(run.key))
    )
    assert np.abs(labels - start).max() > 0.1 and np.abs(start.sum(-1)).max() < 1e-6
    machine, params = run.method.predictor(run.state, KEY)
    assert float(jd.accuracy_on(machine, params, run.data.validation)) > 0.9
    assert protocol_of(run).labels == "free" and inner_training(run)["loss"] == "squared"


@pytest.mark.slow
def test_ten_digits_beat_random_real_ones_as_a_kernel_and_by_networks():
    run = jd.distill(method="kip", num_eval_learners=5, num_baseline_learners=5, full_data_epochs=0)
    result = run.compare(progress=False)
    machine, _ = run.method.predictor(run.state, KEY)
    first = run.method.init(run.key)
    _, started = run.method.predictor(first, KEY)
    assert result["closed_form_accuracy"] > float(jd.accuracy_on(machine, started, run.data.test)) + 0.1
    assert result["test_accuracy_mean"] > result["random_real_mean"] + 0.15
