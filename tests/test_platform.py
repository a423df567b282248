"""The choices of an accelerator, traced and run on the CPU: the same numbers, and every part compiles.

The fast tier has conjugate gradients, convolutions and float64; the whole of `conformance` under an
accelerator's choices, and every method with every gradient and solver, are slow tests.
"""

import json
import threading
from functools import partial

import conformance
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conformance import SMALLEST
from helpers import CLASSES, fixed_sgd, images_teacher, message, tiny_data, tiny_net, to_float64
from tiny_runs import lighter

import jaxdistill as jd
from jaxdistill.config import build
from jaxdistill.config.gradients import of_method
from jaxdistill.config.resolve import resolve
from jaxdistill.config.table import Config
from jaxdistill.core.checks import UserError
from jaxdistill.core.platform import PLATFORMS, choices, precision, present, target
from jaxdistill.core.types import Data
from jaxdistill.inner.implicit import implicit
from jaxdistill.inner.solvers import LINEAR_SOLVERS, linear_solver
from jaxdistill.layers.conv import conv2d
from jaxdistill.learners import LEARNERS
from jaxdistill.methods import METHODS
from jaxdistill.methods.recipe import Facts, recipe_of
from jaxdistill.populations import POPULATIONS

KEY = jax.random.key(0)


def test_a_platform_is_told_and_forgotten():
    assert target() == present()
    with jd.platform("tpu"):
        assert target() == "tpu" and choices().strategy == "vmap"
        with jd.platform("cpu"):
            assert choices() == PLATFORMS["cpu"]
        assert target() == "tpu"
    assert target() == present()


def test_an_unknown_platform_lists_the_known_ones():
    with pytest.raises(UserError) as error, jd.platform("cuda"):
        pass
    assert "cpu, gpu, tpu" in message(error)


def test_a_platform_is_told_to_one_thread():
    found = []
    with jd.platform("tpu"):
        thread = threading.Thread(target=lambda: found.append(target()))
        thread.start()
        thread.join()
    assert found == [present()]


def test_a_program_of_another_platform_is_not_taken_from_the_cache():
    conv = jax.jit(conv2d)
    image, kernel = jnp.ones((1, 5, 5, 1)), jnp.ones((3, 3, 1, 2))
    lowered = {}
    for name in ("cpu", "tpu"):
        with jd.platform(name):
            lowered[name] = conv.lower(image, kernel).as_text()
    assert "convolution" in lowered["tpu"] and "convolution" not in lowered["cpu"]


def test_products_are_as_exact_as_asked_for():
    image, kernel = jnp.ones((1, 5, 5, 1)), jnp.ones((3, 3, 1, 2))
    for name, inside in {"float32": "HIGHEST", "tensorfloat32": "HIGH", "bfloat16": "DEFAULT"}.items():
        with jd.platform("tpu"), precision(name):
            program = str(jax.make_jaxpr(conv2d)(image, kernel))
        assert f"precision=(Precision.{inside}, Precision.{inside})" in program
    with pytest.raises(UserError) as error:
        precision("half")
    assert "precision: expected one of bfloat16, float32, tensorfloat32, got 'half'" in message(error)


def test_a_run_has_float32_unless_asked_for_less(tmp_path):
    """Recorded with the run, but no part of its identity: it is where the run is computed."""
    short = {"learner": "linear", "num_outer_steps": 1, "num_learners": 1, "real_batch_size": 8}
    for name in ("float32", "bfloat16"):
        chosen = {} if name == "float32" else {"precision": name}
        with lighter():
            run = jd.distill(**short, **chosen, distill_epochs=1, run_dir=tmp_path / name, progress=False)
        saved = json.loads((tmp_path / name / "config.json").read_text())
        assert saved["environment"]["precision"] == name and "precision" not in saved["config"]
        assert run.config.precision == name


FAST_SOLVERS = ("cg",)
"""The other solvers are in the slow tier."""


def on_both(function, *arguments):
    """What a function gives with the choices of the CPU, and with those of an accelerator."""
    found = []
    for name in ("cpu", "gpu"):
        with jd.platform(name):
            found.append(jax.device_get(jax.jit(function)(*arguments)))
    return found


def close(a, b, *, rtol, atol):
    """Trees of equal structure and of equal numbers, up to rounding."""
    jax.tree.map(partial(np.testing.assert_allclose, rtol=rtol, atol=atol), a, b)


def slow_unless(name, fast):
    return name if name in fast else pytest.param(name, marks=pytest.mark.slow)


@pytest.mark.parametrize("name", [slow_unless(name, FAST_SOLVERS) for name in sorted(LINEAR_SOLVERS)])
def test_implicit_gradients_are_those_of_the_cpu(x64, name):
    solve = partial(implicit, linear_solver=linear_solver(name), damping=2.0, max_steps=20)
    net = tiny_net("convnet", width=2, depth=1, activation="softplus", norm="none")
    method = jd.dd(
        net,
        images_teacher(),
        num_learners=2,
        real_batch_size=4,
        weight_decay=0.1,
        inner_optimizer=fixed_sgd(0.1),
        solve=solve,
    )
    state, data = method.init(KEY), Data(to_float64(tiny_data()), None)
    close(*on_both(method.gradient, state, data, KEY), rtol=1e-10, atol=1e-12)


def test_what_starts_a_run_is_float64_under_x64(x64):
    """Weights, images and step sizes: a step size of 0.1 is no float32."""
    net, teacher = tiny_net("convnet", width=2, depth=1), images_teacher()
    started = [net.init(KEY), teacher.init(KEY), fixed_sgd(0.1).values({})]
    assert {leaf.dtype for leaf in jax.tree.leaves(started)} == {np.dtype(np.float64)}
    assert float(started[-1]["learning_rate"][0]) == 0.1


# ---------------------------------------------------------------- the slow tier: everything there is


@pytest.fixture
def accelerated():
    with jd.platform("gpu"):
        yield


@pytest.mark.slow
@pytest.mark.parametrize("row", conformance.teacher_rows())
def test_teachers_conform(accelerated, row):
    conformance.check_teacher(row)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(POPULATIONS))
def test_populations_conform(accelerated, name):
    conformance.check_population(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(METHODS))
def test_methods_conform(accelerated, name):
    conformance.check_method(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(LEARNERS))
def test_learners_are_those_of_the_cpu(x64, name):
    """Logits, features and the gradient of a loss by weights and images, in float64."""
    image_shape, options = SMALLEST.get(name, ((8, 8, 2), {}))
    net = jd.learner(name, image_shape=image_shape, num_classes=CLASSES, **options)
    x = np.random.default_rng(0).normal(size=(3, *image_shape))
    params = net.init(KEY)

    def run(params, x):
        logits = net.apply(params, x)
        return -jax.nn.log_softmax(logits)[:, 0].mean(), (logits, net.embed(params, x))

    close(*on_both(jax.grad(run, (0, 1), has_aux=True), params, x), rtol=1e-9, atol=1e-11)


def rows():
    """Every method with every gradient that it takes: a name and the options."""
    found = {}
    for method in sorted(METHODS):
        for gradient, options in (of_method(method) or {"": {}}).items():
            found[f"{method} {gradient}".strip()] = {"method": method, **options}
    return found


def differentiated(**chosen):
    """(a method's hypergradient, its arguments): two ConvNets of softplus units on images of 8x8 pixels."""
    y = np.arange(30) % CLASSES
    x = np.random.default_rng(0).normal(size=(30, 8, 8, 1))
    data = jd.splits(x, y, x[:6], y[:6])
    small = {"num_learners": 2, "width": 2, "depth": 1, "activation": "softplus", "learner": "convnet"}
    if not recipe_of(METHODS[chosen["method"]]).networks:
        small["num_learners"] = 1
    if chosen.get("gradient") == "implicit":
        small |= {"damping": 5.0, "weight_decay": 0.1}
    config = resolve(Config(**small | chosen), Facts(data.info.image_shape, CLASSES))
    net = build.learner(config, data.info)
    method = build.method(config, data, net, KEY)
    experts = jax.jit(jax.vmap(jax.vmap(net.init)))(jax.random.split(KEY, (2, 30)))
    return method.gradient, (method.init(KEY), Data(data.train, experts), KEY)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:real_batch_size.*are drawn with replacement")
@pytest.mark.parametrize("row", rows())
def test_hypergradients_are_those_of_the_cpu_in_float64(x64, row):
    gradient, arguments = differentiated(**rows()[row])
    here, there = on_both(gradient, *arguments)
    close(here[0], there[0], rtol=1e-7, atol=1e-9 * largest(here[0]))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:real_batch_size.*are drawn with replacement")
@pytest.mark.parametrize("row", rows())
def test_hypergradients_are_those_of_the_cpu_in_float32(row):
    gradient, arguments = differentiated(**rows()[row])
    here, there = on_both(gradient, *arguments)
    close(here[0], there[0], rtol=1e-3, atol=1e-3 * largest(here[0]))


def largest(tree):
    return max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(tree))
