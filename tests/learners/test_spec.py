"""Networks as texts: names, options in the types of their defaults, and whether a network fits images."""

import jax
import pytest
from helpers import message

from jaxdistill.core.checks import UserError
from jaxdistill.core.types import Learner
from jaxdistill.data import DatasetInfo
from jaxdistill.learners import LEARNERS, learner, num_params
from jaxdistill.learners.spec import check_fits, name_and_options, parse_learner

INFO = DatasetInfo("tiny", (8, 8, 1), 10, tuple("0123456789"), 16.0, (0.3,), (0.4,))


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("linear", 65 * 10),
        ("mlp:width=4:depth=1:activation=tanh", 65 * 4 + 5 * 10),
        ("convnet:depth=2:widths=2-3:norm=none", 10 * 2 + 19 * 3 + (4 * 3 + 1) * 10),
    ],
)
def test_a_text_names_a_network(text, weights):
    net = parse_learner(text, INFO)
    assert num_params(jax.eval_shape(net.init, jax.random.key(0))) == weights


def test_values_are_read_in_the_type_of_the_default(monkeypatch):
    def network(
        image_shape, num_classes, *, bias=True, rate=0.5, size=8, name="a", more: int | None = None
    ) -> Learner:
        raise AssertionError("its signature is read; it is not called")

    monkeypatch.setitem(LEARNERS, "mine", network)
    text = "mine:bias=False:rate=1e-3:size=2:name=b=c:more=7"
    found = {"bias": False, "rate": 1e-3, "size": 2, "name": "b=c", "more": 7}
    assert name_and_options(text) == ("mine", found)
    for part, says in (("bias=no", "bias as true or false"), ("rate=fast", "rate as a number")):
        with pytest.raises(UserError) as error:
            name_and_options(f"mine:{part}")
        assert says in message(error)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("convnet:widths=4-wide", "widths as whole numbers with hyphens, as in 128-256-512, got '4-wide'"),
        ("foo", "learner: expected one of alexnet, convnet"),
        ("", "learner: expected one of alexnet, convnet"),
        ("mlp:width", "learner mlp: expected OPTION=VALUE after each colon, got 'width'"),
        ("mlp:widht=4", "learner mlp: expected an option, got 'widht'. Near: width."),
        ("mlp:norm=none", "an option among activation, depth, initialization, width, got 'norm'"),
        ("mlp:width=wide", "width as a whole number, got 'wide'"),
        ("mlp:activation=wide", "got 'wide'"),
        ("convnet:depth=5", "depth <= 3"),
    ],
)
def test_a_bad_text_is_one_line(text, says):
    with pytest.raises(UserError) as error:
        parse_learner(text, INFO)
    assert says in message(error)


def test_a_network_for_other_images_does_not_fit():
    check_fits(parse_learner("linear", INFO), INFO)
    for shape, classes, says in (
        (
            (6, 6, 1),
            10,
            "learner mine: expected a network for images of 8x8x1 and 10 classes, got one that does",
        ),
        ((8, 8, 1), 3, "got one whose logits of 2 images are (2, 3)"),
    ):
        with pytest.raises(UserError) as error:
            check_fits(learner("linear", image_shape=shape, num_classes=classes), INFO, "learner mine")
        assert says in message(error)
