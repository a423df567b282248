"""Augmentation: values against SciPy and by hand, gradients in float64, who shares a draw, zero strength."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from helpers import message

from jaxdistill.augment import OPERATIONS, cutmix, dc_evaluation, dsa, operation, with_parameters
from jaxdistill.augment.operations import color, crop, cutout, flip, rotate, scale, warp
from jaxdistill.core.checks import UserError
from jaxdistill.core.keys import stream
from jaxdistill.core.types import Batch

KEY = jax.random.key(0)
x64 = pytest.mark.usefixtures("x64")
every = pytest.mark.parametrize("name", sorted(OPERATIONS))
every_kind = pytest.mark.parametrize(
    ("name", "channels"), [*((name, 3) for name in sorted(OPERATIONS)), ("color", 1)]
)
"""Of the operations, only changes of colour know how many channels there are."""


def pictures(count, shape=(7, 9, 3), seed=0):
    """In NumPy, float64 where that is enabled."""
    drawn = np.random.default_rng(seed).normal(size=(count, *shape))
    return drawn.astype(jax.dtypes.canonicalize_dtype(float))


def keys(count):
    return jax.random.split(KEY, count)


def drawn(operation, count, image):
    """What an operation makes of an image with each of so many keys."""
    return np.asarray(jax.jit(jax.vmap(operation, (0, None)))(keys(count), image))


warped = jax.jit(warp)


@x64
@pytest.mark.parametrize(
    "matrix", [np.eye(2), [[0.8, 0.3], [-0.5, 1.1]], [[1.2, 0], [0, 0.7]], [[3, 0], [0, 3]]]
)
def test_bilinear_sampling_equals_scipy(matrix):
    matrix, image = np.asarray(matrix, float), pictures(1)[0]
    height, width, _ = image.shape
    rows, columns = np.meshgrid(
        (np.arange(height) + 0.5) / height * 2 - 1, (np.arange(width) + 0.5) / width * 2 - 1, indexing="ij"
    )
    places = [matrix[i, 0] * rows + matrix[i, 1] * columns for i in (0, 1)]
    places = [(place + 1) / 2 * side - 0.5 for place, side in zip(places, (height, width), strict=True)]
    expected = np.stack(
        [
            scipy.ndimage.map_coordinates(image[..., c], places, order=1, mode="grid-constant")
            for c in range(3)
        ],
        -1,
    )
    np.testing.assert_allclose(warped(image, matrix), expected, rtol=1e-9, atol=1e-12)


@x64
def test_a_quarter_turn_is_that_of_numpy():
    image = pictures(1, (6, 6, 2))[0]
    turned = warped(image, np.asarray([[0.0, 1.0], [-1.0, 0.0]]))
    np.testing.assert_allclose(turned, np.rot90(image), atol=1e-12)


@x64
def test_rotation_and_scale_stay_within_their_ranges():
    # a plane of (row, column) tells where it was sampled: about the centre, no output leaves the image
    grid = (np.arange(41) + 0.5) / 41 * 2 - 1
    plane = np.stack(np.meshgrid(grid, grid, indexing="ij"), -1)
    assert np.allclose(plane[25, 20], (grid[25], 0))
    turned = drawn(rotate(degrees=30), 200, plane)
    angles = np.arctan2(turned[:, 25, 20, 1], turned[:, 25, 20, 0])
    assert max(np.abs(angles)) <= np.deg2rad(30) + 1e-9 and min(angles) < -0.4 and max(angles) > 0.4
    assert abs(np.mean(angles)) < 0.06  # of U(-0.52, 0.52), 200 draws: a standard error of 0.02
    scaled = drawn(scale(low=0.8, high=1.25), 200, plane)
    rows, columns = scaled[:, 25, 20, 0] / grid[25], scaled[:, 20, 25, 1] / grid[25]
    for steps in (rows, columns):
        assert 0.8 <= steps.min() < 0.83 and 1.22 < steps.max() <= 1.25
    assert abs(np.corrcoef(rows, columns)[0, 1]) < 0.25  # each side on its own


@x64
def test_crops_are_all_the_shifts():
    image = pictures(1, (8, 8, 1))[0]
    made = drawn(crop(ratio=0.125), 100, image)
    padded = np.pad(image, [(1, 1), (1, 1), (0, 0)])
    shifts = [padded[r : r + 8, c : c + 8] for r in range(3) for c in range(3)]
    found = [[i for i, shift in enumerate(shifts) if np.array_equal(shift, one)] for one in made]
    assert all(len(each) == 1 for each in found) and {each[0] for each in found} == set(range(9))


@x64
def test_cutout_takes_a_window_of_half_the_side():
    gone = drawn(cutout(ratio=0.5), 300, np.ones((8, 6, 2))) == 0
    np.testing.assert_array_equal(gone[..., 0], gone[..., 1])
    heights, widths = gone[..., 0].any(2).sum(1), gone[..., 0].any(1).sum(1)
    np.testing.assert_array_equal(gone.sum((1, 2, 3)), 2 * heights * widths)  # one whole rectangle
    # the centre is any pixel: half of the window at least, the rest may lie outside
    assert (heights.min(), heights.max()) == (2, 4)
    assert widths.max() == 3 and widths.min() >= 1


@x64
def test_flip_exchanges_left_and_right_half_of_the_time():
    image = pictures(1)[0]
    made = drawn(flip(), 400, image)
    flipped = np.array([np.array_equal(one, image[:, ::-1]) for one in made])
    assert all(np.array_equal(one, image) for one in made[~flipped])
    assert 0.4 < flipped.mean() < 0.6  # 400 draws: a standard error of 0.025


@x64
@pytest.mark.parametrize("channels", [1, 3])
def test_color_is_brightness_saturation_contrast_in_order(channels):
    image = pictures(1, (4, 5, channels))[0]

    spreads = {"brightness": 0.5, "saturation": 1.0, "contrast": 0.5}
    none = dict.fromkeys(spreads, 0.0)

    @jax.jit
    def changed(image):
        """(each part alone, all of them, one after the other)."""
        alone = {part: color(**none | {part: spread})(KEY, image) for part, spread in spreads.items()}
        in_order = image
        for part, spread in spreads.items():
            in_order = color(**none | {part: spread})(KEY, in_order)
        return alone, color(**spreads)(KEY, image), in_order

    alone, together, in_order = jax.device_get(changed(image))
    for part, spread in spreads.items():
        made = alone[part]
        if part == "brightness":
            added = made - image
            assert np.ptp(added) < 1e-12 and 0 < abs(added.mean()) <= 0.5
            continue
        mean = image.mean(2, keepdims=True) if part == "saturation" else image.mean()
        if part == "saturation" and channels == 1:
            np.testing.assert_allclose(made, image, atol=1e-12)
            continue
        factors = (made - mean) / (image - mean)
        assert np.ptp(factors) < 1e-6 and 1 - spread <= factors.mean() <= 1 + spread
        assert abs(factors.mean() - 1) > 1e-3
    np.testing.assert_allclose(together, in_order, rtol=1e-10)


@x64
@every
def test_gradients_equal_central_differences(name):
    augmentation, x = dsa([name]), pictures(2)
    direction, weight = pictures(2, seed=1), pictures(2, seed=2)

    @jax.jit
    @jax.value_and_grad
    def run(x):
        return jnp.sum(weight * jnp.square(augmentation.siamese(KEY, x)))

    slope = float(np.vdot(run(x)[1], direction))
    ends = [float(run(x + sign * 1e-6 * direction)[0]) for sign in (1, -1)]
    assert abs(slope) > 1e-3
    assert slope == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-6)


@every_kind
def test_zero_strength_changes_nothing(name, channels):
    x, augmentation = pictures(3, (8, 8, channels)), dsa([name], strength=0.0)
    for made in jax.jit(lambda x: [function(KEY, x) for function in augmentation])(x):
        np.testing.assert_allclose(made, x, atol=2e-6)


@every_kind
def test_one_key_treats_all_images_alike_and_per_image_does_not(name, channels):
    augmentation, x = dsa([name]), pictures(3, (8, 8, channels))
    siamese = jax.jit(augmentation.siamese)
    together = siamese(KEY, x)
    assert together.shape == x.shape and together.dtype == x.dtype
    # with other images beside it, in another place and in a batch of another size, an image becomes the same
    np.testing.assert_allclose(siamese(KEY, x[::-1] * [[[[2]]], [[[3]]], [[[1]]]])[2], together[0], atol=1e-6)
    same = np.broadcast_to(x[:1], (32, *x.shape[1:]))
    alike, each = jax.jit(lambda x: [function(KEY, x) for function in augmentation])(same)
    np.testing.assert_allclose(alike[7], together[0], atol=1e-6)
    assert np.ptp(alike, axis=0).max() == 0
    assert np.ptp(each, axis=0).max() > 0.01


def drawn_by_hand(name, key, shape):
    """The draws of every operation at full strength, from JAX's own functions."""
    first, second = jax.random.split(key, 2)
    height, width, _ = shape

    def uniform(low, high, key=key, shape=()):
        return jax.random.uniform(key, shape, minval=low, maxval=high)

    def whole(high, wide):
        return jnp.stack(
            [jax.random.randint(first, (), 0, high), jax.random.randint(second, (), 0, wide)]
        )  # fmt: skip

    return {
        "flip": lambda: {"flipped": uniform(0, 1) < 0.5},
        "crop": lambda: {"offset": whole(3, 3) - 1},  # an eighth of 8 and 10 pixels: one each way
        "cutout": lambda: {"center": whole(height + 1, width)},  # windows of 4 and 5 pixels
        "scale": lambda: {"steps": uniform(1 / 1.2, 1.2, shape=(2,))},
        "rotate": lambda: {"angle": uniform(-jnp.deg2rad(15.0), jnp.deg2rad(15.0))},
        "color": lambda: {
            "brightness": uniform(-0.5, 0.5, stream(key, "brightness")),
            "saturation": uniform(0.0, 2.0, stream(key, "saturation")),
            "contrast": uniform(0.5, 1.5, stream(key, "contrast")),
        },
    }[name]()


@every_kind
def test_an_augmentation_applies_what_its_key_draws(name, channels):
    """To the last bit: neither the draws nor their use may change, or seeds mean something else."""
    x = pictures(3, (8, 10, channels))
    chosen = operation(name)
    one = stream(KEY, "parameters")
    each = jax.vmap(lambda key: stream(key, "parameters"))(jax.random.split(stream(KEY, "images"), 3))
    by_hand = jax.jit(lambda key: drawn_by_hand(name, key, x.shape[1:]))
    same = by_hand(one)
    drawn_here = jax.jit(lambda key: chosen.draw(key, x.shape[1:]))(one)
    jax.tree.map(np.testing.assert_array_equal, drawn_here, same)
    apart = jax.tree.map(lambda *a: np.stack(a), *[jax.device_get(by_hand(key)) for key in each])
    for given, drawn in (
        (with_parameters(chosen, same), dsa([name]).siamese),
        (with_parameters(chosen, apart, per_image=True), dsa([name]).per_image),
    ):
        made = given(jax.random.key(9), x)
        np.testing.assert_array_equal(made, drawn(KEY, x))
        assert np.abs(made - x).max() > 1e-3 or name == "flip"


def test_parameters_mean_what_they_are_called():
    image = np.arange(30, dtype=np.float32).reshape(1, 5, 6, 1)

    def by(name, parameters, **options):
        return np.asarray(jax.jit(with_parameters(operation(name, **options), parameters))(KEY, image))[
            0, ..., 0
        ]

    plain = np.asarray(image[0, ..., 0])
    np.testing.assert_array_equal(by("flip", {"flipped": True}), plain[:, ::-1])
    np.testing.assert_array_equal(by("flip", {"flipped": False}), plain)
    moved = by("crop", {"offset": [1, -1]}, strength=2.0)
    np.testing.assert_array_equal(moved[:-1, 1:], plain[1:, :-1])
    assert (moved[-1] == 0).all() and (moved[:, 0] == 0).all()
    gone = by("cutout", {"center": [0, 3]}) == 0  # windows of 3 and 3: rows 0 and 1, columns 2 to 4
    np.testing.assert_array_equal(gone, np.outer(np.arange(5) < 2, abs(np.arange(6) - 3) < 2) | (plain == 0))
    turned = jax.jit(with_parameters(operation("rotate"), {"angle": np.pi / 2}))(KEY, image[:, :, :5])
    np.testing.assert_allclose(turned[0, ..., 0], np.rot90(plain[:, :5], k=1), atol=1e-4)
    np.testing.assert_allclose(by("scale", {"steps": [1.0, -1.0]}), plain[:, ::-1], atol=1e-5)
    color = {"brightness": 2.0, "saturation": 5.0, "contrast": 3.0}
    np.testing.assert_allclose(by("color", color), (plain - plain.mean()) * 3 + plain.mean() + 2, rtol=1e-5)


@pytest.mark.parametrize(
    ("parameters", "per_image", "expected"),
    [
        ({"angle": 0.1, "degrees": 3.0}, False, "{'angle': ()}"),
        ({}, False, "{'angle': ()}"),
        ({"angle": np.zeros(2)}, False, "{'angle': ()}"),
        ({"angle": 0.1}, True, "{'angle': ('B',)}"),
        ({"angle": np.zeros((2, 2))}, True, "{'angle': (2,)}"),
    ],
)
def test_parameters_of_another_operation_are_refused(parameters, per_image, expected):
    with pytest.raises(UserError) as error:
        with_parameters(operation("rotate"), parameters, per_image=per_image)
    assert f"parameters of shapes {expected}, got " in message(error)


def test_an_operation_is_drawn_by_the_key_for_all_images():
    x = np.ones((16, 8, 8, 1), np.float32)
    per_image = jax.jit(dsa(["color", "cutout"]).per_image)
    kinds = set()
    for key in keys(12):
        made = np.asarray(per_image(key, x))
        cut = (made == 0).any((1, 2, 3))
        assert cut.all() or not cut.any()  # one operation a batch
        kinds.add(bool(cut.all()))
    assert kinds == {True, False}


def test_dc_draws_an_operation_for_every_image():
    image = pictures(1, (28, 28, 1))
    made = np.asarray(jax.jit(dc_evaluation())(KEY, np.broadcast_to(image, (60, 28, 28, 1))))
    padded = np.pad(image[0], [(4, 4), (4, 4), (0, 0)])
    shifts = [padded[r : r + 28, c : c + 28] for r in range(9) for c in range(9)]
    cropped = sum(any(np.array_equal(shift, one) for shift in shifts) for one in made)
    assert 8 <= cropped <= 34  # a third of 60, give or take 3.6


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (
            lambda: dsa(["colour"]),
            "augmentation: expected one of color, crop, cutout, flip, rotate, scale, got 'colour'",
        ),
        (lambda: dsa([]), "at least one of color, crop"),
        (lambda: dsa(strength=-1), "strength in [0, 2], got -1"),
        (lambda: dsa(strength=float("nan")), "strength in [0, 2], got nan"),
        (lambda: rotate(degrees=200), "degrees in [0, 180], got 200"),
        (lambda: scale(low=0), "low > 0.0, got 0"),
        (lambda: scale(low=2), "high in [2, inf], got 1.2"),
        (lambda: crop(ratio=2), "ratio in [0, 1], got 2"),
    ],
)
def test_bad_choices_are_refused(make, says):
    with pytest.raises(UserError) as error:
        make()
    assert says in message(error)


# ---------------------------------------------------------------- mixing


def test_cutmix_mixes_labels_in_the_ratio_of_areas():
    mix, shape = cutmix(probability=0.7), (5, 8, 6, 2)
    batch = jax.device_put(Batch(pictures(5, shape[1:]), np.eye(5, 3, dtype=np.float32) + 0.25))
    both = jax.jit(jax.vmap(lambda key: (mix.draw(key, shape), mix(key, batch))))
    (drawn, mixed), batch = jax.device_get((both(keys(300)), batch))
    rows, columns = np.arange(8)[:, None], np.arange(6)[None, :]
    shares = []
    for i in range(300):
        order, low, high = (drawn[name][i] for name in ("order", "low", "high"))
        window = (low[0] <= rows) & (rows < high[0]) & (low[1] <= columns) & (columns < high[1])
        share = window.sum() / 48
        assert sorted(order) == [0, 1, 2, 3, 4] and (low >= 0).all() and (high <= (8, 6)).all()
        np.testing.assert_array_equal(mixed.x[i], np.where(window[None, ..., None], batch.x[order], batch.x))
        expected = (1 - share) * batch.y + share * batch.y[order]
        np.testing.assert_allclose(mixed.y[i], expected, rtol=1e-6)
        shares.append(share)
    empty = np.mean(np.asarray(shares) == 0)  # not mixed, 0.3, and windows of less than a pixel
    assert 0.25 < empty < 0.45 and max(shares) > 0.6 and len(set(shares)) > 10


def test_cutmix_that_never_mixes_changes_nothing():
    batch = jax.device_put(Batch(pictures(4), np.eye(4, dtype=np.float32)))
    for made, given in zip(jax.jit(cutmix(probability=0.0))(KEY, batch), batch, strict=True):
        np.testing.assert_array_equal(made, given)
    with pytest.raises(UserError) as error:
        cutmix(probability=-0.1)
    assert "cutmix: expected probability in [0, 1], got -0.1" in message(error)
