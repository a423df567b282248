"""Activations of bfloat16 on weights of float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import SHAPE, message, tiny_batch, tiny_net

import jaxdistill as jd
from jaxdistill.core.checks import UserError
from jaxdistill.inner.losses import cross_entropy
from jaxdistill.learners.mixed_precision import DTYPES
from jaxdistill.runs.plan import planned

EPSILON = 2.0**-8
"""Half a unit in the last place of bfloat16, relative."""
SHORT = {"learner": "linear", "num_learners": 1, "real_batch_size": 8}
SHORT |= {"num_outer_steps": 1}


def test_float32_is_the_learner_itself():
    net = tiny_net()
    assert jd.mixed_precision(net, "float32") is net


def test_an_unknown_dtype_lists_the_known_ones():
    with pytest.raises(UserError) as error:
        jd.mixed_precision(tiny_net(), "float16")
    assert "dtype: expected one of bfloat16, float32, got 'float16'" in message(error)
    with pytest.raises(UserError, match="one of bfloat16, float32"):
        jd.Config(dtype="half")


@pytest.mark.parametrize("norm", ["instance", "group", "batch"])
def test_logits_are_those_of_float32_to_rounding(norm, key):
    net = tiny_net("convnet", width=4, depth=1, norm=norm)
    low, x = jd.mixed_precision(net, "bfloat16"), tiny_batch(5).x + 3.0
    params = net.init(key)
    calibrate = jax.jit(lambda params, x: [each.calibrate(params, x) for each in (net, low)])
    trained, calibrated = calibrate(params, x)
    jax.tree.map(np.testing.assert_array_equal, calibrated, trained)
    applied = jax.jit(lambda params, x: [each.apply(params, x) for each in (net, low)])
    exact, rounded = jax.device_get(applied(trained, x))
    features, every = jax.eval_shape(lambda p, x: (low.embed(p, x), low.embed_all(p, x)), trained, x)
    assert {a.dtype for a in (rounded, features, *every)} == {np.dtype(np.float32)} and len(every) == 1
    error = np.linalg.norm(rounded - exact) / np.linalg.norm(exact)
    assert 0 < error < 8 * EPSILON  # some roundings in a row: images, weights, map, norm, features, logits


def test_means_and_variances_are_float32():
    """Statistics of bfloat16 would miss a map of small deviations from a large mean."""
    net = tiny_net("convnet", width=4, depth=1, norm="batch")
    program = str(jax.make_jaxpr(jd.mixed_precision(net, "bfloat16").apply)(
        net.init(jax.random.key(0)), jnp.zeros((2, *SHAPE))
    ))  # fmt: skip
    roots = [line for line in program.splitlines() if "rsqrt" in line]
    assert roots and all("f32[" in line for line in roots)
    assert "bf16[2," in program


def test_remembered_statistics_are_not_rounded():
    remembering = tiny_net()._replace(apply=lambda params, x: params["batch_stats"]["mean"])
    mean = jnp.full((1,), 1 + 2.0**-12)
    low = jd.mixed_precision(remembering, "bfloat16")
    assert low.apply({"params": mean, "batch_stats": {"mean": mean}}, mean) == mean


def test_gradients_are_float32_and_flow(key):
    net = tiny_net("convnet", width=4, depth=1)
    low, batch = jd.mixed_precision(net, "bfloat16"), tiny_batch(4)
    params = net.init(key)

    def both(apply):
        def loss(params, x):
            return cross_entropy(apply(params, x), batch.y)

        return jax.jit(jax.grad(loss, argnums=(0, 1)))(params, batch.x)

    exact, rounded = both(net.apply), both(low.apply)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(rounded))
    flat = [np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]) for tree in (exact, rounded)]
    cosine = flat[0] @ flat[1] / np.linalg.norm(flat[0]) / np.linalg.norm(flat[1])
    assert 0.99 < cosine < 1 - 1e-9


@pytest.mark.parametrize("chosen", [{}, {"gradient": "implicit"}, {"method": "dc"}])
def test_an_option_of_a_run(chosen):
    """A part of its identity; an outer step has activations of bfloat16, and state and metrics of float32."""
    programs = {}
    for dtype in ("float32", "bfloat16"):
        plan = planned(jd.Config(**SHORT, **chosen, dtype=dtype))
        assert plan.identity["dtype"] == dtype
        start = jax.eval_shape(plan.method.init, plan.key)
        program, out = jax.make_jaxpr(plan.method.update, return_shape=True)(start, plan.arguments, plan.key)
        programs[dtype] = str(program)
        assert not any(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(out))
        assert "bf16" not in str(jax.make_jaxpr(plan.learner.apply)(
            plan.learner.init(plan.key), plan.data.test.x[:1]
        ))  # fmt: skip
    assert "bf16" in programs["bfloat16"] and "bf16" not in programs["float32"]


@pytest.mark.slow
@pytest.mark.parametrize("chosen", [{"gradient": "implicit"}, {"method": "dc"}])
def test_a_run_with_bfloat16(chosen):
    images = {d: jd.distill(**SHORT, **chosen, dtype=d, progress=False).images for d in DTYPES}
    assert images["bfloat16"].dtype == np.float32 and np.isfinite(images["bfloat16"]).all()
    assert (images["bfloat16"] != images["float32"]).any()
