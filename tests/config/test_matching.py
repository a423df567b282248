"""The matching methods as configs: their augmentation, their protocols, what they tell."""

import jax
import numpy as np
import pytest
from helpers import message
from tiny_runs import tiny_run

from jaxdistill.config import build
from jaxdistill.config.resolve import resolve
from jaxdistill.config.table import Config
from jaxdistill.core.checks import Caution, UserError
from jaxdistill.data import load
from jaxdistill.runs.plan import planned
from jaxdistill.runs.protocols import protocol_name

KEY = jax.random.key(0)
SMALL = {"learner": "linear", "num_outer_steps": 10, "real_batch_size": 8, "num_learners": 1}


def test_augmentation_by_default_is_that_of_the_data_set():
    config, digits = resolve(Config(method="dsa")), load("digits").info
    x = jax.random.normal(KEY, (1, 8, 8, 1))
    keys = jax.random.split(KEY, 60)

    def draws(name, **chosen):
        made = build.augmentation(config.replace(**chosen), digits._replace(name=name))
        seen = np.asarray(jax.jit(lambda keys: jax.lax.map(lambda key: made.siamese(key, x), keys))(keys))
        return sum(np.array_equal(one, x[:, :, ::-1]) for one in seen)

    assert draws("mnist") == draws("a set of mine") == 0 and draws("cifar10") > 0
    with pytest.warns(Caution, match="mirror images of digits do not keep their class"):
        assert draws("digits", augment=["flip"]) > 10
    assert build.augmentation(config.replace(augment=[]), digits) is None


@pytest.mark.parametrize(
    ("chosen", "protocol"),
    [
        ({"method": "dd"}, "as_distilled"),
        ({"method": "dc"}, "dc"),
        ({"method": "dc", "dataset": "mnist"}, "dc_augmented"),
        ({"method": "dsa"}, "dsa"),
        ({"method": "dm"}, "dsa"),
        ({"method": "dm", "protocol": "dc"}, "dc"),
        ({"method": "mtt"}, "dsa"),
    ],
)
def test_images_are_evaluated_by_the_papers_protocol(chosen, protocol):
    assert protocol_name(resolve(Config(**chosen))) == protocol


def test_a_run_is_evaluated_by_the_papers_protocol(tmp_path):
    options = SMALL | {"method": "dc", "num_baseline_learners": 0, "num_eval_learners": 1}
    options |= {"width": None, "depth": None, "distill_epochs": 1, "num_outer_steps": 5}
    result, printed = tiny_run(tmp_path / "run", **options)
    assert result["protocol"] == "dc" and "dc, step size 0.01" in printed
    with np.load(tmp_path / "run/synthetic.npz") as file:
        assert file["x"].shape == (10, 8, 8, 1) and not any(name.startswith("hyper_") for name in file)


@pytest.mark.slow
def test_numbers_that_are_not_finite_name_options_of_the_method(tmp_path):
    chosen = {"method": "dc", "matches": 2, "match_epochs": 1, "match_learning_rate": 1e30}
    chosen |= {"learner": "mlp", "distill_epochs": 1}
    with pytest.raises(UserError) as error:
        tiny_run(tmp_path / "run", **SMALL | chosen)
    text = "Lower outer_learning_rate or match_learning_rate, or bound the outer gradient with clip."
    assert text in message(error)


def test_a_batch_beyond_a_class_is_told():
    chosen = SMALL | {"method": "dm", "real_batch_size": 300}
    with pytest.warns(Caution, match="300 are drawn with replacement"):
        planned(Config(**chosen))
