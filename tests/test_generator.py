"""The generator: its networks by hand, labels, statistics, curricula, and one making per outer step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.signal
from helpers import message, tiny_data, tiny_net, to_float64

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
    x = np.random.default_rng(0).normal(size=(6, 5))
    params = module.init(KEY, jnp.asarray(x), steps=2)["params"]
    noise = np.random.default_rng(1)
    params = jax.tree.map(lambda a: np.asarray(a, np.float64) + 0.3 * noise.normal(size=a.shape), params)
    assert ("gain" in params["conv1"]) == weight_norm
    made = module.apply({"params": params}, jnp.asarray(x), steps=2)
    assert made.shape == (6, *shape) and made.dtype == jnp.float64
    np.testing.assert_allclose(made, reference(params, x, 2), rtol=1e-9, atol=1e-12)


def test_weight_normalisation_starts_at_the_plain_network_and_ignores_the_scale_of_its_directions():
    plain, normalised = make(weight_norm=False), make(weight_norm=True)
    phi = normalised.init(KEY)
    images = normalised.batches(phi, KEY).x
    np.testing.assert_allclose(plain.batches(plain.init(KEY), KEY).x, images, rtol=1e-4, atol=1e-5)
    scaled = jax.tree.map(lambda a: a, phi)
    scaled["network"]["conv1"]["kernel"] = 7 * phi["network"]["conv1"]["kernel"]
    np.testing.assert_allclose(normalised.batches(scaled, KEY).x, images, rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------- batches


def test_labels_are_balanced_over_the_run_and_within_one_in_a_batch():
    teacher = make(batch_size=5, distill_steps=4, distill_epochs=2)
    batches = jax.device_get(teacher.batches(teacher.init(KEY), KEY))
    assert batches.x.shape == (8, 5, *SHAPE)
    labels = batches.y.argmax(-1)
    np.testing.assert_array_equal(labels[:4].reshape(-1), np.arange(20) % 3)
    np.testing.assert_array_equal(batches.x[4:], batches.x[:4])
    counts = np.stack([(labels == c).sum(1) for c in range(3)])
    assert (counts.max(0) - counts.min(0) <= 1).all()
    by_class = jax.device_get(teacher.by_class(teacher.init(KEY), KEY))
    assert by_class.x.shape == (3, 6, *SHAPE) and (by_class.y.argmax(-1) == np.arange(3)[:, None]).all()
    np.testing.assert_array_equal(by_class.x[1, :2], batches.x.reshape(-1, *SHAPE)[[1, 4]])


def test_fewer_images_than_classes_have_no_order_by_class():
    assert make(batch_size=2, distill_steps=1).by_class is None


def test_statistics_are_those_of_each_step():
    teacher = make()
    phi = teacher.init(KEY)
    other = phi | {"z": phi["z"].at[1].add(jax.random.normal(KEY, phi["z"][1].shape))}
    before, after = (np.asarray(teacher.batches(p, KEY).x) for p in (phi, other))
    changed = [np.abs(a - b).max() > 1e-3 for a, b in zip(before, after, strict=True)]
    assert changed == [False, True, False]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("soft_labels", [False, True])
def test_making_a_few_steps_at_a_time_changes_nothing(soft_labels):
    whole, parts = (make(distill_steps=4, steps_at_once=n, soft_labels=soft_labels) for n in (None, 2))
    phi = to_float64(whole.init(KEY))

    def total(teacher, phi):
        batch = teacher.batches(phi, KEY)
        return jnp.sum(batch.x**3) + jnp.sum(batch.y[..., 0] ** 2)

    for a, b in zip(
        jax.tree.leaves(jax.value_and_grad(lambda phi: total(whole, phi))(phi)),
        jax.tree.leaves(jax.value_and_grad(lambda phi: total(parts, phi))(phi)),
        strict=True,
    ):
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
    assert learned.init(KEY)["z"].shape == (3, 4, 5)
    assert set(fixed.init(KEY)) == set(fresh.init(KEY)) == {"network"}
    other = jax.random.key(1)
    same = {}
    for name, teacher in (("learned", learned), ("fixed", fixed), ("fresh", fresh)):
        phi = teacher.init(KEY)
        same[name] = bool((teacher.batches(phi, KEY).x == teacher.batches(phi, other).x).all())
    assert same == {"learned": True, "fixed": True, "fresh": False}
    again = make(noise="fixed", noise_key=other)
    phi = fixed.init(KEY)
    assert float(jnp.abs(again.batches(phi, KEY).x - fixed.batches(phi, KEY).x).max()) > 0.01
    assert make(noise="fresh", distill_epochs=2).batches(fresh.init(KEY), KEY).x.shape[0] == 6
    uniform = make(distribution="uniform", batch_size=200).init(KEY)["z"]
    assert float(uniform.min()) >= 0 and float(uniform.max()) <= 1 and abs(float(uniform.mean()) - 0.5) < 0.05


@pytest.mark.parametrize("kind", ["generator", "images"])
def test_curricula_order_the_same_images(kind):
    teacher = (
        make()
        if kind == "generator"
        else images(image_shape=SHAPE, num_classes=3, distill_steps=4, images_per_class=4)
    )
    phi = teacher.init(KEY)
    plain = jax.device_get(teacher.batches(phi, KEY))
    assert set(CURRICULA) == {"full", "batch_shuffled", "all_shuffled", "none", "fixed"}
    assert shuffled(teacher, CURRICULA["full"].shuffle) is teacher

    def rows(batch):
        return [
            x.tobytes() + y.tobytes()
            for x, y in zip(batch.x.reshape(-1, *SHAPE), batch.y.reshape(-1, 3), strict=True)
        ]

    keys = [jax.random.key(seed) for seed in range(6)]
    by_batches, by_images = (
        shuffled(teacher, CURRICULA[n].shuffle) for n in ("batch_shuffled", "all_shuffled")
    )
    drawn = [jax.device_get(by_batches.batches(phi, key)) for key in keys]
    orders = [
        tuple(next(j for j in range(len(plain.x)) if (b == plain.x[j]).all()) for b in d.x) for d in drawn
    ]
    assert all(sorted(order) == list(range(len(plain.x))) for order in orders) and len(set(orders)) > 1
    drawn = [jax.device_get(by_images.batches(phi, key)) for key in keys]
    assert all(sorted(rows(d)) == sorted(rows(plain)) and rows(d) != rows(plain) for d in drawn)
    assert rows(drawn[0]) != rows(drawn[1])
    np.testing.assert_array_equal(by_images.by_class(phi, KEY).x, teacher.by_class(phi, KEY).x)


# ---------------------------------------------------------------- through an outer step


@pytest.mark.usefixtures("x64")
def test_the_hypergradient_equals_central_differences():
    net, teacher = tiny_net(), make(distill_steps=2, soft_labels=True)
    optimizer = sgd(
        num_steps=2, learning_rate=0.3, momentum=0.4, learned=("learning_rate", "momentum"), positive="exp"
    )
    solve = unrolled(teacher, inner_loss(net), optimizer)
    params = to_float64(net.init(KEY))
    meta = to_float64(Meta(teacher.init(KEY), optimizer.init()))
    real = tiny_data()

    @jax.jit
    def loss(meta):
        trained, _ = solve(meta, params, None, KEY)
        return -jnp.mean(jnp.sum(jax.nn.log_softmax(net.apply(trained, real.x)) * real.y, -1))

    gradient = jax.jit(jax.grad(loss))(meta)
    noise = np.random.default_rng(0)
    for path, leaf in jax.tree.leaves_with_path(gradient):
        assert float(jnp.abs(leaf).max()) > 1e-9, path
    direction = jax.tree.map(lambda a: jnp.asarray(noise.normal(size=a.shape)), meta)
    eps = 1e-6
    ends = [loss(jax.tree.map(lambda a, d, s=s: a + s * eps * d, meta, direction)) for s in (1, -1)]
    slope = sum(jax.tree.leaves(jax.tree.map(jnp.vdot, gradient, direction)))
    assert abs(float(slope)) > 1e-4
    assert float(slope) == pytest.approx(float(ends[0] - ends[1]) / (2 * eps), rel=1e-5)


@pytest.mark.parametrize("curriculum", ["full", "all_shuffled"])
def test_images_made_once_give_the_gradient_of_images_made_for_every_learner(curriculum):
    teacher = shuffled(make(soft_labels=True), CURRICULA[curriculum].shuffle)
    every_time = teacher._replace(once=None)
    data, ends = Data(tiny_data(), None), []
    for one in (teacher, every_time):
        method = dd(tiny_net(), one, num_learners=3, real_batch_size=6, outer_optimizer=optax.sgd(0.1))
        state = method.init(KEY)
        new, metrics = jax.jit(method.update)(state, data, KEY)
        moved = jax.tree.map(lambda a, b: a - b, new.meta, state.meta)
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
