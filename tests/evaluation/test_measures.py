"""What a trained network is measured by: accuracy without further training, and confusion of classes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny_data, tiny_net

from jaxdistill.data import sample
from jaxdistill.evaluation import accuracy_on, as_they_are, confusion_on

KEY = jax.random.key(0)


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_networks_as_they_are(norm):
    data, net = tiny_data(counts=(20, 5, 5)), tiny_net("convnet", width=4, depth=1, norm=norm)
    params = jax.jit(jax.vmap(net.init))(jax.random.split(KEY, 2))
    found = as_they_are(net, params, data, data, KEY, batch_size=12, strategy="map")
    batch = sample(data, KEY, 12)
    alone = jax.jit(lambda params, x: accuracy_on(net, net.calibrate(params, x), data))
    for k in range(2):
        one = jax.tree.map(lambda a, k=k: np.asarray(a)[k], params)
        np.testing.assert_allclose(found[k], alone(one, batch.x), atol=1e-6)
    assert len(set(np.asarray(batch.y).argmax(1))) == 3  # not of one class, as the first of a split are


def test_confusion_counts_by_class_and_answer():
    net, data = tiny_net("linear"), tiny_data()
    params = net.init(KEY)
    answers = np.asarray(net.apply(params, data.x)).argmax(1)
    truth = np.asarray(data.y).argmax(1)
    expected = np.zeros((3, 3))
    np.add.at(expected, (truth, answers), 1 / len(truth))
    for microbatch in (4, 256):
        found = confusion_on(net, params, data, microbatch=microbatch)
        np.testing.assert_allclose(found, expected, atol=1e-6)
    assert float(jnp.trace(found)) == pytest.approx(float(accuracy_on(net, params, data)), abs=1e-6)
    broken = jax.tree.map(lambda a: a.at[..., 0].set(jnp.nan), params)
    assert np.isnan(confusion_on(net, broken, data)).any()
