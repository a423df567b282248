"""Rows on real images are computed once: everything that they depend on is in their identity."""

import json
import threading
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import CLASSES, SHAPE, tiny_data, tiny_net

from jaxdistill.core.fingerprint import fingerprint
from jaxdistill.core.types import Batch, Dataset
from jaxdistill.data import DatasetInfo, Splits
from jaxdistill.evaluation import (
    STEP_SIZES,
    Evaluation,
    Score,
    Tuned,
    epochs,
    everything,
    random_of_each_class,
)
from jaxdistill.runs import reference as rows
from jaxdistill.runs.networks import new_networks

KEY = jax.random.key(0)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The folder of an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "jaxdistill" / "reference"


@pytest.fixture
def calls(monkeypatch):
    """What `tuned` was called with; it trains nothing."""
    made = []

    def tuned(evaluation, protocols, images, subsets, *, step_sizes):
        made.append(protocols[0].name)
        score = Score(1 / 3, 0.1, [0.25, 5 / 12], 0, 0.4, 0.0, [0.5, None, 0.25])
        return Tuned(score, protocols[0].name, 0.1, {protocols[0].name: dict.fromkeys(step_sizes, 1 / 3)})

    monkeypatch.setattr(rows, "tuned", tuned)
    return made


def splits(seed=0):
    info = DatasetInfo("tiny", SHAPE, CLASSES, ("a", "b", "c"), 1.0, (0.0,), (1.0,))
    return Splits(tiny_data(seed), tiny_data(1), tiny_data(2), info)


DATA = splits()


def asked(data=DATA, net=None, *, fresh=False, step_sizes=(0.1,), subsets=None, plan=None, **changes):
    net = net or tiny_net("linear")
    evaluation = Evaluation(net, new_networks(net), data.validation, data.test, KEY, 2, 1)
    return rows.reference(
        "real",
        evaluation._replace(**changes),
        [plan or epochs(6, num_epochs=2)],
        Batch(data.train.x, data.train.y),
        subsets or everything(6),
        data=data,
        step_sizes=step_sizes,
        fresh=fresh,
        shorter="",
    )


def test_a_row_is_computed_once_and_the_same_again(place, calls, capsys):
    first, again = asked(), asked()
    assert len(calls) == 1 and (first.reused, again.reused) == (False, True)
    assert again.found == first.found and again.made == first.made
    (file,) = place.iterdir()
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("reused: real, "))
    assert str(file) in line and "33.3" in line and first.made[:10] in line
    assert not asked(fresh=True).reused and len(calls) == 2


def test_a_damaged_file_is_made_anew(place, calls, capsys):
    asked()
    (file,) = place.iterdir()
    whole = file.read_text()
    content = json.loads(whole)
    damaged = [whole[:-9], "[]", "\0", json.dumps(content | {"identity": {}})]
    damaged += [json.dumps(content | {"content": {"score": 1}}), json.dumps(content | {"content": None})]
    for count, text in enumerate(damaged, 2):
        file.write_text(text)
        assert not asked().reused and len(calls) == count
        assert "is damaged" in capsys.readouterr().out
    assert asked().reused and len(list(place.iterdir())) == 1


def test_a_cache_that_cannot_be_written_costs_no_run(place, calls, capsys):
    place.parent.mkdir()
    place.write_text("")
    assert not asked().reused and "is not kept" in capsys.readouterr().out


def test_whatever_changes_the_number_makes_another_row(place, calls, monkeypatch):
    plan, net = epochs(6, num_epochs=2), tiny_net("linear")
    noise = jnp.ones((1, *SHAPE))
    asked()
    changed = [
        partial(asked, splits(5)),
        partial(asked, data=DATA._replace(test=tiny_data(7))),
        partial(asked, net=tiny_net("mlp")),
        partial(asked, net=net._replace(apply=lambda p, x: net.apply(p, x + noise))),
        partial(asked, net=net._replace(apply=lambda p, x: net.apply(p, x + 2 * noise))),
        partial(asked, net=net._replace(init=lambda key: net.init(jax.random.fold_in(key, 1)))),
        partial(asked, step_sizes=(0.1, 0.3)),
        partial(asked, step_sizes=STEP_SIZES),
        partial(asked, step_sizes=STEP_SIZES, plan=plan._replace(step_sizes=(0.1,))),
        partial(asked, subsets=random_of_each_class(DATA.train, 2)),
        partial(asked, subsets=random_of_each_class(DATA.train, 3)),
        partial(asked, key=jax.random.key(1)),
        partial(asked, key=jax.random.key(0, impl="rbg")),
        partial(asked, num_learners=3),
        partial(asked, search_learners=2),
        partial(asked, strategy="vmap"),
        partial(asked, plan=epochs(6, num_epochs=3)),
        partial(asked, plan=plan._replace(weight_decay=0.1)),
        partial(asked, plan=epochs(6, num_epochs=2, momentum=0.5)),
        partial(asked, plan=epochs(6, num_epochs=2, decay_at_half=True)),
        partial(asked, plan=plan._replace(augment=lambda key, x: -x)),
        partial(asked, plan=plan._replace(augment=lambda key, x: 2 * x)),
    ]
    for ask in changed:
        assert not ask().reused
    with jax.default_matmul_precision("bfloat16"):
        assert not asked().reused
    monkeypatch.setenv("XLA_FLAGS", "--another")
    assert not asked().reused
    monkeypatch.setattr(rows, "SEMANTICS", rows.SEMANTICS + 1)
    assert not asked().reused
    assert len(set(place.iterdir())) == len(calls) == len(changed) + 4


@pytest.mark.parametrize("changed", ["train", "validation", "test"])
def test_a_digest_is_of_the_very_images_and_labels_of_every_part(changed, monkeypatch):
    table = jnp.linspace(0.0, 1.0, 256)[:, None].repeat(SHAPE[-1], 1)
    made, digest = [], rows.digest_standardised
    monkeypatch.setattr(rows, "digest_standardised", lambda data: (made.append(data), digest(data))[1])
    pixels = jnp.zeros(DATA.train.pixels.shape, jnp.uint8)  # .x is a new array each time
    data = DATA._replace(train=DATA.train._replace(pixels=pixels, table=table))
    first = rows._digest(data)
    assert rows._digest(data) == first and len(made) == 1
    part = getattr(data, changed)
    for other in (part._replace(pixels=part.pixels + 1), part._replace(y=part.y[::-1])):
        assert rows._digest(data._replace(**{changed: other})) not in (first, rows._digest(data))


def test_an_identity_makes_no_set_float(monkeypatch):
    monkeypatch.setattr(Dataset, "x", property(lambda self: pytest.fail("all images as floats")))
    table = jnp.ones((256, SHAPE[-1]))
    train = DATA.train._replace(pixels=DATA.train.pixels.astype("uint8"), table=table)
    net, plan = tiny_net("linear"), epochs(6, num_epochs=2)
    evaluation = Evaluation(net, new_networks(net), DATA.validation, DATA.test, KEY, 2, 1)
    data = DATA._replace(train=train)
    assert rows.identity(evaluation, [plan], everything(6), data=data, step_sizes=(0.1,)) is not None


def test_a_network_that_calls_python_is_not_kept(place, calls):
    net = tiny_net("linear")

    def seen(params, x):
        return net.apply(params, jax.pure_callback(lambda a: a, jax.ShapeDtypeStruct(x.shape, x.dtype), x))

    one = jax.custom_jvp(seen)
    one.defjvp(lambda primals, tangents: jax.jvp(net.apply, primals, tangents))
    own = net._replace(apply=one)
    assert not asked(net=own).reused and not asked(net=own).reused and len(calls) == 2
    assert not place.exists()


def test_rows_that_are_written_at_once_are_whole(place, calls):
    threads = [threading.Thread(target=partial(asked, fresh=True)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert asked().reused and [file.suffix for file in place.iterdir()] == [".json"]


def test_a_fingerprint_sees_constants_inside_programs():
    def inner(scale):
        constant = np.full(3, scale, np.float32)
        return lambda x: jax.lax.map(jax.jit(lambda a: a * constant), x)

    x = jnp.ones((2, 3))
    assert fingerprint(inner(1.0), x) == fingerprint(inner(1.0), x) != fingerprint(inner(2.0), x)
