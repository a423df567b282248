"""The generator: its networks by hand, labels, statistics, curricula, and one making per outer step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.signal
from helpers import SHALLOW, message, tiny_data, tiny_net, to_float64

from jaxdistill.core.checks import UserError
from jaxdistill.core.types import Data, Meta
from jaxdistill.inner.losses import inner_loss
from jaxdistill.inner.optimizers import sgd
from jaxdistill.inner.unrolled import unrolled
from jaxdistill.methods.dd import dd
from jaxdistill.teachers import CURRICULA, generator, images, shuffled
from jaxdistill.teachers.networks import Compact, Upsampling

SHAPE = (4, 4, 1)
KEY = jax.random.key(0)
SMALL = {"image_shape": SHAPE, "num_classes": 3, "generator_width": 4, "generator_hidden": 6, "noise_size": 5}


def make(**options):
    return generator(**SMALL | {"batch_size": 4, "distill_steps": 3} | options)


def start(teacher):
    return jax.device_get(jax.jit(teacher.init)(KEY))


def drawn(function, phi, *keys):
    """What `batches` or `by_class` of a teacher gives at each of the keys, by one program."""
    function = jax.jit(function)
    return [jax.device_get(function(phi, key)) for key in keys or (KEY,)]


# ---------------------------------------------------------------- networks against NumPy and SciPy


def norm(x, params, steps):
    rows = x.reshape(steps, -1, x.shape[-1])
    rows = (rows - rows.mean(1, keepdims=True)) / np.sqrt(rows.var(1, keepdims=True) + 1e-5)
    return (rows * params["scale"] + params["bias"]).reshape(x.shape)


def leaky(x):
    return np.where(x > 0, x, 0.1 * x)


def weights(layer):
    kernel = layer["kernel"]
    if "gain" not in layer:
        return kernel
    flat = kernel.reshape(-1, kernel.shape[-1])
    return (flat / np.linalg.norm(flat, axis=0) * layer["gain"]).reshape(kernel.shape)


def dense(x, layer):
    return x @ weights(layer) + layer.get("bias", 0)


def conv(x, layer, mode):
    kernel = weights(layer)
    x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode=mode)
    out = [
        [scipy.signal.correlate(image, kernel[..., o], mode="valid")[..., 0] for o in range(kernel.shape[-1])]
        for image in x
    ]
    return np.moveaxis(np.asarray(out), 1, -1) + layer.get("bias", 0)


def upsampling(p, x, steps):
    x = leaky(norm(dense(x, p["dense1"]), p["norm1"], steps))
    x = leaky(norm(dense(x, p["dense2"]), p["norm2"], steps)).reshape(-1, 2, 1, 8)
    x = conv(x.repeat(2, 1).repeat(2, 2), p["conv1"], "reflect")
    x = leaky(norm(x, p["norm3"], steps))
    return 2 * np.tanh(conv(x.repeat(2, 1).repeat(2, 2), p["conv2"], "reflect"))


def compact(p, x, steps):
    x = leaky(norm(dense(x, p["dense1"]), p["norm1"], steps))
    x = leaky(norm(dense(x, p["dense2"]).reshape(-1, 8, 4, 2), p["norm2"], steps))
    x = leaky(norm(conv(x, p["conv1"], "constant"), p["norm3"], steps))
    return np.tanh(leaky(norm(conv(x, p["conv2"], "constant"), p["norm4"], steps)))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("weight_norm", [True, False])
@pytest.mark.parametrize("name", ["upsampling", "compact"])
def test_networks_equal_an_independent_computation(name, weight_norm):
    shape = (8, 4, 2)
    module, reference = {
        "upsampling": (Upsampling(shape, 4, 6, 2, weight_norm, 2.0), upsampling),
        "compact": (Compact(shape, 4, weight_norm, 1.0), compact),
    }[name]
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6, 5))
    shapes = jax.eval_shape(lambda x: module.init(KEY, x, steps=2), x)["params"]
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), shapes)
    assert ("gain" in params["conv1"]) == weight_norm
    made = jax.jit(lambda params, x: module.apply({"params": params}, x, steps=2))(params, x)
    assert made.shape == (6, *shape) and made.dtype == jnp.float64
    np.testing.assert_allclose(made, reference(params, x, 2), rtol=1e-9, atol=1e-12)


def test_weight_normalisation_starts_at_the_plain_network_and_ignores_the_scale_of_its_directions():
    plain, normalised = make(weight_norm=False), make(weight_norm=True)
    phi, batches = start(normalised), jax.jit(normalised.batches)
    images = batches(phi, KEY).x
    (unnormalised,) = drawn(plain.batches, start(plain))
    np.testing.assert_allclose(unnormalised.x, images, rtol=1e-4, atol=1e-5)
    scaled = jax.tree.map(lambda a: a, phi)
    scaled["network"]["conv1"]["kernel"] = 7 * phi["network"]["conv1"]["kernel"]
    np.testing.assert_allclose(batches(scaled, KEY).x, images, rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------- batches


def test_labels_are_balanced_over_the_run_and_within_one_in_a_batch():
    teacher = make(batch_size=5, distill_steps=4, distill_epochs=2)
    phi = start(teacher)
    (batches,), (by_class,) = (drawn(function, phi) for function in (teacher.batches, teacher.by_class))
    assert batches.x.shape == (8, 5, *SHAPE)
    labels = batches.y.argmax(-1)
    np.testing.assert_array_equal(labels[:4].reshape(-1), np.arange(20) % 3)
    np.testing.assert_array_equal(batches.x[4:], batches.x[:4])
    counts = np.stack([(labels == c).sum(1) for c in range(3)])
    assert (counts.max(0) - counts.min(0) <= 1).all()
    assert by_class.x.shape == (3, 6, *SHAPE) and (by_class.y.argmax(-1) == np.arange(3)[:, None]).all()
    np.testing.assert_allclose(by_class.x[1, :2], batches.x.reshape(-1, *SHAPE)[[1, 4]], atol=1e-6)


def test_fewer_images_than_classes_have_no_order_by_class():
    assert make(batch_size=2, distill_steps=1).by_class is None


def test_statistics_are_those_of_each_step():
    teacher = make()
    phi, batches = start(teacher), jax.jit(teacher.batches)
    moved = np.random.default_rng(0).normal(size=phi["z"].shape) * np.array([0, 1, 0])[:, None, None]
    other = phi | {"z": phi["z"] + moved.astype(np.float32)}
    before, after = (np.asarray(batches(p, KEY).x) for p in (phi, other))
    changed = [np.abs(a - b).max() > 1e-3 for a, b in zip(before, after, strict=True)]
    assert changed == [False, True, False]


@pytest.mark.usefixtures("x64")
def test_making_a_few_steps_at_a_time_changes_nothing():
    whole, parts = (make(distill_steps=4, steps_at_once=n, soft_labels=True, **SHALLOW) for n in (None, 2))
    phi = to_float64(start(whole))

    def with_gradient(teacher):
        def total(phi):
            batch = teacher.batches(phi, KEY)
            return jnp.sum(batch.x**3) + jnp.sum(batch.y[..., 0] ** 2)

        return jax.jit(jax.value_and_grad(total))(phi)

    for a, b in zip(*(jax.tree.leaves(with_gradient(teacher)) for teacher in (whole, parts)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9)


def test_steps_at_once_need_less_memory():
    def size(steps_at_once):
        teacher = make(batch_size=64, distill_steps=16, generator_width=16, steps_at_once=steps_at_once)
        phi = jax.eval_shape(teacher.init, KEY)
        step = jax.jit(jax.grad(lambda phi: jnp.sum(teacher.batches(phi, KEY).x ** 2)))
        return step.lower(phi).compile().memory_analysis().temp_size_in_bytes

    assert size(1) < 0.4 * size(None)


# ---------------------------------------------------------------- noise and order


def test_noise_is_learned_fixed_or_fresh():
    learned, fixed, fresh = (make(noise=noise) for noise in ("learned", "fixed", "fresh"))
    phi, other = start(learned), jax.random.key(1)
    assert phi["z"].shape == (3, 4, 5)
    weights = start(fixed)
    assert set(weights) == set(jax.eval_shape(fresh.init, KEY)) == {"network"}
    images = [
        [batch.x for batch in drawn(teacher.batches, phi, KEY, other)] for teacher in (learned, fixed, fresh)
    ]
    assert [(one == two).all() for one, two in images] == [True, True, False]
    (again,) = drawn(make(noise="fixed", noise_key=other).batches, weights)
    assert np.abs(again.x - images[1][0]).max() > 0.01
    twice = jax.eval_shape(make(noise="fresh", distill_epochs=2).batches, weights, KEY)
    assert twice.x.shape[0] == 6
    uniform = start(make(distribution="uniform", batch_size=200))["z"]
    assert uniform.min() >= 0 and uniform.max() <= 1 and abs(uniform.mean() - 0.5) < 0.05


@pytest.mark.parametrize("kind", ["generator", "images"])
def test_curricula_order_the_same_images(kind):
    teacher = (
        make()
        if kind == "generator"
        else images(image_shape=SHAPE, num_classes=3, distill_steps=4, images_per_class=4)
    )
    phi = start(teacher)
    (plain,) = drawn(teacher.batches, phi)
    assert set(CURRICULA) == {"full", "batch_shuffled", "all_shuffled", "none", "fixed"}
    assert shuffled(teacher, CURRICULA["full"].shuffle) is teacher

    def rows(batch):
        return np.concatenate([batch.x.reshape(12, -1), batch.y.reshape(12, -1)], axis=1)

    def sorted_rows(batch):
        return np.asarray(sorted(rows(batch).tolist()))

    keys = [jax.random.key(seed) for seed in range(6)]
    by_batches, by_images = (
        shuffled(teacher, CURRICULA[n].shuffle) for n in ("batch_shuffled", "all_shuffled")
    )
    orders = [
        tuple(np.abs(plain.x - x).max((1, 2, 3, 4)).argmin() for x in found.x)
        for found in drawn(by_batches.batches, phi, *keys)
    ]
    assert all(sorted(order) == list(range(len(plain.x))) for order in orders) and len(set(orders)) > 1
    found = drawn(by_images.batches, phi, *keys)
    for one in found:
        np.testing.assert_allclose(sorted_rows(one), sorted_rows(plain), atol=1e-6)
        assert np.abs(rows(one) - rows(plain)).max() > 0.1
    assert np.abs(rows(found[0]) - rows(found[1])).max() > 0.1
    assert by_images.by_class is teacher.by_class


# ---------------------------------------------------------------- through an outer step


@pytest.mark.usefixtures("x64")
def test_the_hypergradient_equals_central_differences():
    net, teacher = tiny_net(), make(distill_steps=2, soft_labels=True)
    optimizer = sgd(
        num_steps=2, learning_rate=0.3, momentum=0.4, learned=("learning_rate", "momentum"), positive="exp"
    )
    solve = unrolled(teacher, inner_loss(net), optimizer)
    params = to_float64(net.init(KEY))
    meta = to_float64(Meta(start(teacher), optimizer.init()))
    real = tiny_data()

    @jax.jit
    @jax.value_and_grad
    def run(meta):
        trained, _ = solve(meta, params, None, KEY)
        return -jnp.mean(jnp.sum(jax.nn.log_softmax(net.apply(trained, real.x)) * real.y, -1))

    _, gradient = jax.device_get(run(meta))
    noise = np.random.default_rng(0)
    for path, leaf in jax.tree.leaves_with_path(gradient):
        assert np.abs(leaf).max() > 1e-9, path
    meta = jax.device_get(meta)
    direction = jax.tree.map(lambda a: noise.normal(size=a.shape), meta)
    eps = 1e-6
    ends = [run(jax.tree.map(lambda a, d, s=s: a + s * eps * d, meta, direction))[0] for s in (1, -1)]
    slope = sum(jax.tree.leaves(jax.tree.map(np.vdot, gradient, direction)))
    assert abs(float(slope)) > 1e-4
    assert float(slope) == pytest.approx(float(ends[0] - ends[1]) / (2 * eps), rel=1e-5)


def test_images_made_once_give_the_gradient_of_images_made_for_every_learner():
    teacher = shuffled(make(soft_labels=True, distill_steps=2, **SHALLOW), "images")
    every_time = teacher._replace(make=None)
    data, ends = Data(tiny_data(), None), []
    for one in (teacher, every_time):
        method = dd(
            tiny_net("linear"), one, num_learners=2, real_batch_size=6, outer_optimizer=optax.sgd(0.1)
        )
        state = jax.jit(method.init)(KEY)
        new, metrics = jax.device_get(jax.jit(method.update)(state, data, KEY))
        moved = jax.tree.map(lambda a, b: a - np.asarray(b), new.meta, state.meta)
        ends.append((moved, metrics["gradient_norm"], metrics["loss"]))
    for a, b in zip(jax.tree.leaves(ends[0]), jax.tree.leaves(ends[1]), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-6)  # float32, summed in another order
    assert float(ends[0][1]) > 1e-3


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"batch_size": 0}, "batch_size >= 1, got 0"),
        ({"image_shape": (6, 4, 1)}, "image sides that are multiples of 4 (upsamplings=2), got 6x4"),
        ({"upsamplings": 3}, "multiples of 8"),
        ({"architecture": "dcgan"}, "one of compact, upsampling, got 'dcgan'"),
        ({"architecture": "compact", "generator_width": 2}, "generator_width >= 4"),
        ({"noise": "random"}, "one of fixed, fresh, learned"),
        ({"distribution": "cauchy"}, "one of gaussian, uniform"),
        ({"steps_at_once": 2}, "a divisor of the 3 distinct batches, got 2"),
        ({"soft_labels": True, "label_confidence": 1.0}, "label_confidence in (1/3, 1)"),
    ],
)
def test_bad_options_are_refused(options, says):
    with pytest.raises(UserError) as error:
        make(**options)
    assert says in message(error)


def test_an_unknown_order_is_refused():
    with pytest.raises(UserError) as error:
        shuffled(make(), "classes")
    assert "one of batches, images, none, got 'classes'" in message(error)
