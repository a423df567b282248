"""One set of defaults: `Config(method=X)` and `jd.X(learner, teacher)` make one program."""

from functools import cache

import jax
import numpy as np
import pytest
from helpers import same_bits

import jaxdistill as jd
from jaxdistill.config import build
from jaxdistill.config.resolve import resolve
from jaxdistill.config.table import Config
from jaxdistill.core.fingerprint import fingerprint
from jaxdistill.core.types import Data
from jaxdistill.methods import METHODS
from jaxdistill.methods.recipe import Facts

pytestmark = pytest.mark.filterwarnings("ignore:real_batch_size.*are drawn with replacement")
KEY = jax.random.key(0)
SIDES = {"small": 8, "large": 20}
CLASSES = 3


@cache
def problem(side):
    """(data set of three classes, a network of a hundred weights, trajectories of two that stay at zero)."""
    y = np.arange(30) % CLASSES
    x = np.random.default_rng(0).normal(size=(30, side, side, 1)).astype(np.float32)
    data = jd.splits(x, y, x[:6], y[:6])
    net = jd.learner("linear", image_shape=(side, side, 1), num_classes=CLASSES)
    shapes = jax.eval_shape(net.init, KEY)
    return data, net, jax.tree.map(lambda leaf: np.zeros((2, 30, *leaf.shape), leaf.dtype), shapes)


def both(method, side, **chosen):
    """(method of the config, method of the library's function, arguments of their outer steps)."""
    data, net, trajectories = problem(side)
    config = resolve(Config(method=method, **chosen), Facts(data.info.image_shape, CLASSES))
    built = build.method(config, data, net, KEY)
    teacher = build.teacher(config, data, KEY)
    return built, getattr(jd, method)(net, teacher), Data(data.train, trajectories)


def programs(method, data):
    """Digests of the start of a run and of an outer step as they are traced: equal ones, equal numbers."""
    state = jax.eval_shape(method.init, KEY)
    return fingerprint(method.init, KEY), fingerprint(method.update, state, data, KEY)


CASES = [(method, "small") for method in sorted(METHODS)]
CASES += [
    (method, "large")
    if method in ("dd", "dm", "gtn")
    else pytest.param(method, "large", marks=pytest.mark.slow)
    for method in sorted(METHODS)
]
"""Every method on small images; on large ones a method of each kind, the others in the slow tier."""


@pytest.mark.parametrize(("method", "size"), CASES)
def test_a_config_and_a_function_are_one_program(method, size):
    configured, called, data = both(method, SIDES[size])
    found = programs(configured, data)
    assert None not in found and found == programs(called, data)


def test_a_config_and_a_function_end_with_the_same_bits():
    configured, called, data = both("dd", SIDES["small"])
    ends = []
    for each in (configured, called):
        state, update = jax.jit(each.init)(KEY), jax.jit(each.update)
        for _ in range(2):
            state, _ = update(state, data, KEY)
        ends.append(state)
    same_bits(*ends)
    assert int(ends[0].step) == 2


def test_another_default_is_another_program():
    """The check sees a step size, a schedule and a clip."""
    one, _, data = both("dd", 8)
    text = programs(one, data)
    for chosen in ({"inner_learning_rate": 0.06}, {"schedule_end": 0.5}, {"clip": 2.0}):
        other, _, _ = both("dd", 8, **chosen)
        assert programs(other, data) != text
