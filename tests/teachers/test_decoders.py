"""Decoders: maps and gradients in float64, what they start from, what is stored, what NumPy reads."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import message

from jaxdistill.core.checks import UserError
from jaxdistill.teachers.decoders import DECODERS
from jaxdistill.teachers.decoders.decoder import NUMPY, interpolation
from jaxdistill.teachers.images import images
from jaxdistill.teachers.storage import as_stored, counted, images_within, restored, stored_images

SHAPE = (6, 5, 2)  # sides that 2 does not divide, and that differ
KEY = jax.random.key(0)
OPTIONS = {
    "bases": {"num_bases": 3},
    "dct": {"frequencies": 7},
    "field": {"field_width": 3},
    "multiformation": {},
    "none": {},
    "palette": {"num_colors": 3},
}


def made(name, shape=SHAPE, **options):
    """A decoder whose functions are compiled: operation by operation they take many times as long."""
    decoder = DECODERS[name](image_shape=shape, **(OPTIONS[name] | options))
    init = jax.jit(decoder.init, static_argnums=1)
    compiled = {n: jax.jit(f) for n in ("decode", "store", "read") if (f := getattr(decoder, n)) is not None}
    return decoder._replace(init=init, **compiled)


@pytest.mark.parametrize("name", sorted(DECODERS))
def test_gradients_are_those_of_finite_differences(name):
    decoder = made(name)
    with jax.enable_x64(True):
        latents = jax.tree.map(lambda a: a.astype(jnp.float64), decoder.init(KEY, 2, None))
        weights = jnp.asarray(np.random.default_rng(0).normal(size=(2, *SHAPE)))

        @jax.jit
        def value_slope(latents, direction, step):
            def loss(at):
                moved = jax.tree.map(lambda a, d: a + at * d, latents, direction)
                return jnp.sum(weights * decoder.decode(moved))

            return jax.grad(loss)(0.0), (loss(step) - loss(-step)) / (2 * step)

        rng = np.random.default_rng(1)
        direction = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape)), latents)
        slope, difference = value_slope(latents, direction, 1e-6)  # a field has waves of frequency 30
        assert abs(float(slope)) > 0.1
        np.testing.assert_allclose(slope, difference, rtol=1e-5)


@pytest.mark.parametrize("name", ["multiformation", "bases", "dct"])
def test_images_in_the_range_of_a_linear_decoder_come_back_and_others_come_as_close_as_they_can(name):
    rng = np.random.default_rng(0)
    decoder = made(name)
    with jax.enable_x64(True):
        encode = jax.jit(partial(decoder.init, KEY, 5))
        latents = jax.tree.map(lambda a: a.astype(jnp.float64), decoder.init(KEY, 5, None))
        inside = decoder.decode(latents)
        np.testing.assert_allclose(decoder.decode(encode(inside)), inside, atol=1e-10)
        target = jnp.asarray(rng.normal(size=(5, *SHAPE)))
        best = encode(target)
        gradient = jax.jit(jax.grad(lambda z: jnp.sum(jnp.square(decoder.decode(z) - target))))(best)
        assert max(float(jnp.abs(g).max()) for g in jax.tree.leaves(gradient)) < 1e-9, name


def test_bases_have_the_least_error_of_their_rank():
    decoder, target = (
        made("bases", (4, 4, 1), num_bases=2),
        np.random.default_rng(0).normal(size=(6, 4, 4, 1)),
    )
    found = np.asarray(decoder.decode(decoder.init(KEY, 6, jnp.asarray(target, jnp.float32))))
    up = np.kron(interpolation(4, 2), interpolation(4, 2))
    q = np.linalg.qr(up)[0]
    inside = target.reshape(6, 16) @ q
    tail = np.linalg.svd(inside, compute_uv=False)[2:]
    least = np.square(target).sum() - np.square(inside).sum() + np.square(tail).sum()
    assert np.square(found - target).sum() == pytest.approx(least, rel=1e-4)


def test_frequencies_are_those_of_the_largest_variance():
    waves = np.cos(np.pi * 3 * (np.arange(6) + 0.5) / 6)  # the third row frequency, flat along columns
    real = (
        np.random.default_rng(0).normal(size=(8, 1, 1, 1))
        * waves[None, :, None, None]
        * np.ones((1, 1, 5, 2))
    )
    decoder = made("dct", frequencies=1, real=jnp.asarray(real, jnp.float32))
    assert decoder.constants["chosen"].tolist() == [3 * 5]
    again = decoder.decode(decoder.init(KEY, 8, jnp.asarray(real, jnp.float32)))
    np.testing.assert_allclose(again, real, atol=1e-5)
    assert made("dct", frequencies=3).constants["chosen"].tolist() == [0, 1, 5]  # the lowest ones


def test_a_field_starts_near_the_images():
    decoder = made("field", (6, 6, 1), field_width=6)
    y, x = np.meshgrid(np.linspace(-1, 1, 6), np.linspace(-1, 1, 6), indexing="ij")
    target = jnp.asarray(np.stack([x, np.exp(-3 * (x * x + y * y))])[..., None], jnp.float32)
    init = jax.jit(partial(decoder.init, KEY, 2))
    error = float(jnp.mean(jnp.square(decoder.decode(init(target)) - target)))
    assert error < 0.1 * float(jnp.var(target))


def test_a_palette_is_stored_as_its_nearest_colours():
    two = np.where(
        np.random.default_rng(0).random((3, *SHAPE[:2], 1)) < 0.5, [[[[-1.0, 2.0]]]], [[[[1.0, 0.0]]]]
    )
    decoder = made("palette", num_colors=2, temperature=1e-3)
    latents = decoder.init(KEY, 3, jnp.asarray(two, jnp.float32))
    stored = decoder.store(latents)
    np.testing.assert_allclose(decoder.read(stored), two, atol=1e-6)  # two colours are exact
    np.testing.assert_allclose(decoder.decode(latents), two, atol=1e-5)
    noisy = latents | {"pixels": latents["pixels"] + 0.3}
    colors, index = (np.asarray(decoder.store(noisy)[name]) for name in ("colors", "index"))
    gaps = np.square(np.asarray(noisy["pixels"])[:, :, :, None] - colors[:, None, None]).sum(-1)
    np.testing.assert_array_equal(index, gaps.argmin(-1))
    assert index.dtype == np.uint8 and set(np.unique(index)) == {0, 1}


@pytest.mark.parametrize("stored_as", ["float32", "float16", "uint8"])
def test_quantisation_is_as_fine_as_its_type(stored_as):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(50,)), jnp.float32)
    arrays = {"x": x, "n": jnp.arange(3, dtype=jnp.int32), "flat": jnp.full((2,), 0.5)}
    stored = as_stored(arrays, stored_as)
    back = restored(stored)
    bound = {"float32": 0.0, "float16": 2e-3, "uint8": float(x.max() - x.min()) / 510 * 1.01}[stored_as]
    assert float(jnp.abs(back["x"] - x).max()) <= bound
    np.testing.assert_array_equal(back["n"], [0, 1, 2])
    np.testing.assert_array_equal(back["flat"], [0.5, 0.5])
    found = counted(stored, {"n": 2})
    scalars, bits = {"float32": (55, 52 * 32 + 6), "float16": (55, 52 * 16 + 6), "uint8": (59, 52 * 8 + 134)}[
        stored_as
    ]
    assert (found.scalars, found.bits) == (scalars, bits)


@pytest.mark.parametrize(
    ("budget", "name", "options", "expected"),
    [
        ("ipc:1", "none", {}, 1),
        ("ipc:10", "none", {"learned_labels": True}, 10),
        ("ipc:1", "none", {"stored_as": "float16"}, 2),
        ("ipc:1", "bases", {"num_bases": 16}, 29),  # the numbers of the paper for MNIST
        ("scalars:7840", "bases", {"num_bases": 32}, 4),
        ("ipc:1", "multiformation", {}, 4),
        ("ipc:1", "multiformation", {"factor": 3}, 7),  # of 10x10 pixels: padded, and counted
        ("bits:25088", "palette", {"num_colors": 4}, 14),  # 784 x 2 bits and 4 x 32
        ("ipc:1", "field", {}, 11),  # of 67 scalars
    ],
)
def test_a_budget_says_how_many_images_there_are(budget, name, options, expected):
    assert images_within(budget, name, (28, 28, 1), 10, **options) == expected


@pytest.mark.parametrize(
    ("budget", "name", "options", "expected"),
    [
        ("kb:3", "none", {}, "ipc:N, scalars:N or bits:N"),
        ("ipc", "none", {}, "ipc:N, scalars:N or bits:N, N above 0"),
        ("ipc:nan", "none", {}, "N above 0"),
        ("ipc:-1", "none", {}, "N above 0"),
        ("ipc:1e306", "none", {}, "N above 0, at most 1e+12 in all, got 'ipc:1e306'"),
        ("bits:1e308", "none", {}, "at most 1e+12 in all"),
        ("ipc:1", "palette", {"num_colors": 2.5}, "num_colors"),
        ("ipc:1", "palette", {"temperature": 1e-45}, "temperature > 1.17"),
        ("ipc:0.5", "none", {}, "at least scalars:640 or bits:2048 for an image of each class"),
        ("scalars:100", "multiformation", {}, "at least scalars:160 or bits:512"),
        ("ipc:1", "bases", {"num_bases": 60}, "num_bases <= 16, the pixels of a basis"),
        ("scalars:200", "bases", {"num_bases": 16}, "at least scalars:416"),
        ("ipc:1", "field", {}, "at least scalars:670"),
        ("ipc:1", "multiformation", {"factor": 9}, "factor <= 8, the side of the images"),
        ("ipc:1", "palette", {"num_colors": 1}, "num_colors in 2 ... 256"),
        ("ipc:1", "dct", {"frequencies": 65}, "frequencies <= 64"),
    ],
)
def test_budgets_and_sizes_that_do_not_fit_are_refused(budget, name, options, expected):
    with pytest.raises(UserError) as error:
        images_within(budget, name, (8, 8, 1), 10, **options)
    assert expected in message(error)


@pytest.mark.parametrize(
    ("budget", "name", "option", "value", "most", "more"),
    [
        ("scalars:190", "bases", "num_bases", 16, 7, {}),
        ("scalars:190", "bases", "num_bases", 7, 3, {"learned_labels": True}),
        ("scalars:182", "bases", "num_bases", 7, 6, {"stored_as": "uint8"}),
        ("bits:104", "bases", "num_bases", 16, 4, {"stored_as": "uint8"}),
        ("scalars:190", "field", "field_width", 6, 2, {}),
        ("scalars:190", "dct", "frequencies", 25, 17, {}),
        ("scalars:190", "dct", "frequencies", 17, 8, {"learned_labels": True}),
    ],
)
def test_an_error_says_what_would_fit(budget, name, option, value, most, more):
    with pytest.raises(UserError) as error:
        images_within(budget, name, (8, 8, 1), 10, **more, **{option: value})
    assert message(error).endswith(f"{option} <= {most} fits.")
    assert images_within(budget, name, (8, 8, 1), 10, **more, **{option: most}) >= 1
    with pytest.raises(UserError):
        images_within(budget, name, (8, 8, 1), 10, **more, **{option: most + 1})


def test_nothing_fits_a_tiny_budget():
    with pytest.raises(UserError, match=r"Not even field_width=1 fits\."):
        images_within("scalars:20", "field", (8, 8, 1), 10, field_width=3)


@pytest.mark.parametrize("seed", range(8))
def test_levels_are_the_same_in_a_compiled_program_and_outside(seed):
    x = {"x": jax.random.normal(jax.random.fold_in(KEY, seed), (200_000,))}
    outside, compiled = as_stored(x, "uint8"), jax.jit(lambda x: as_stored(x, "uint8"))(x)
    for name, array in outside.items():
        np.testing.assert_array_equal(array, compiled[name], strict=True)


@pytest.mark.parametrize("stored_as", ["float32", "uint8"])
@pytest.mark.parametrize("name", sorted(DECODERS))
def test_a_few_lines_of_numpy_decode_a_file(name, stored_as, tmp_path):
    decoder = made(name)
    stored = jax.jit(lambda: stored_images(decoder, decoder.init(KEY, 3, None), stored_as))()
    arrays = {
        n if n.endswith(("/low", "/step")) else f"latents/{n}": np.asarray(a) for n, a in stored.items()
    }
    np.savez(tmp_path / "latents.npz", image_shape=SHAPE, **arrays)
    code = NUMPY + decoder.numpy
    assert len(code.splitlines()) <= 15
    found = {"path": tmp_path / "latents.npz"}
    exec(code, found)
    expected = jax.jit(lambda stored: (decoder.read or decoder.decode)(restored(stored)))(stored)
    assert found["images"].shape == (3, *SHAPE)
    np.testing.assert_allclose(found["images"], expected, atol=2e-4)


@pytest.mark.parametrize("name", ["bases", "palette"])
def test_a_teacher_decodes_once_and_gives_what_is_stored(name):
    start = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4, *SHAPE)), jnp.float32)
    options = {"image_shape": SHAPE, "num_classes": 3, "images_per_class": 4, "distill_steps": 2}
    teacher = images(**options, start=start, soft_labels=True, decoder=made(name), stored_as="uint8")
    phi = jax.jit(teacher.init)(KEY)
    decoder, by_class_of = made(name), jax.jit(teacher.by_class)
    expected = decoder.decode(decoder.init(KEY, 12, start.reshape(12, *SHAPE)))
    by_class = by_class_of(phi, KEY)
    np.testing.assert_allclose(by_class.x.reshape(12, *SHAPE), expected, atol=1e-4)
    stored = teacher.stored(phi)
    kept = teacher.read(stored)
    gap = float(np.abs(by_class_of(kept, KEY).x - by_class.x).max())
    assert 0 < gap < (0.1 if name == "bases" else 3)
    sizes = {"bases": 3 * 18 + 12 * 3 + 4 + 36 + 2, "palette": 12 * 30 + 12 * 6 + 2 + 36 + 2}
    assert stored.scalars == sizes[name]
    bits = {"bases": (54 + 36 + 36) * 8 + 6 * 32, "palette": 360 * 2 + (72 + 36) * 8 + 4 * 32}
    assert stored.bits == bits[name]


def test_a_plain_teacher_stores_its_images_by_class():
    teacher = images(image_shape=SHAPE, num_classes=3, images_per_class=4, distill_steps=2)
    phi = teacher.init(KEY)
    stored = teacher.stored(phi)
    assert (stored.scalars, stored.bits) == (12 * math.prod(SHAPE), 12 * 32 * math.prod(SHAPE))
    expected = teacher.by_class(phi, KEY).x.reshape(12, *SHAPE)
    np.testing.assert_array_equal(stored.arrays["pixels"], expected)
    assert teacher.read is None and teacher.make is None
