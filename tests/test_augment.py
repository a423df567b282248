"""Augmentation: values against SciPy and by hand, gradients in float64, who shares a draw, zero strength."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from helpers import message

from jaxdistill.augment import OPERATIONS, dc_evaluation, dsa
from jaxdistill.augment.operations import color, crop, cutout, flip, rotate, scale, warp
from jaxdistill.core.checks import UserError

KEY = jax.random.key(0)
x64 = pytest.mark.usefixtures("x64")
every = pytest.mark.parametrize("name", sorted(OPERATIONS))


def pictures(count, shape=(7, 9, 3), seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(count, *shape)))


def keys(count):
    return jax.random.split(KEY, count)


@x64
@pytest.mark.parametrize(
    "matrix", [np.eye(2), [[0.8, 0.3], [-0.5, 1.1]], [[1.2, 0], [0, 0.7]], [[3, 0], [0, 3]]]
)
def test_bilinear_sampling_equals_scipy(matrix):
    matrix, image = np.asarray(matrix, float), np.asarray(pictures(1)[0])
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
    np.testing.assert_allclose(warp(jnp.asarray(image), jnp.asarray(matrix)), expected, rtol=1e-9, atol=1e-12)


@x64
def test_a_quarter_turn_is_that_of_numpy():
    image = np.asarray(pictures(1, (6, 6, 2))[0])
    turned = warp(jnp.asarray(image), jnp.asarray([[0.0, 1.0], [-1.0, 0.0]]))
    np.testing.assert_allclose(turned, np.rot90(image), atol=1e-12)


@x64
def test_rotation_and_scale_stay_within_their_ranges():
    # a plane of (row, column) tells where it was sampled: about the centre, no output leaves the image
    grid = (np.arange(41) + 0.5) / 41 * 2 - 1
    plane = jnp.asarray(np.stack(np.meshgrid(grid, grid, indexing="ij"), -1))
    near = plane[25, 20], (float(grid[25]), 0.0)
    assert np.allclose(*near)
    angles = [
        float(jnp.arctan2(r[25, 20, 1], r[25, 20, 0]))
        for r in jax.vmap(rotate(degrees=30), (0, None))(keys(200), plane)
    ]
    assert max(np.abs(angles)) <= np.deg2rad(30) + 1e-9 and min(angles) < -0.4 and max(angles) > 0.4
    assert abs(np.mean(angles)) < 0.06  # of U(-0.52, 0.52), 200 draws: a standard error of 0.02
    scaled = np.asarray(jax.vmap(scale(low=0.8, high=1.25), (0, None))(keys(200), plane))
    rows, columns = scaled[:, 25, 20, 0] / grid[25], scaled[:, 20, 25, 1] / grid[25]
    for steps in (rows, columns):
        assert 0.8 <= steps.min() < 0.83 and 1.22 < steps.max() <= 1.25
    assert abs(np.corrcoef(rows, columns)[0, 1]) < 0.25  # each side on its own


@x64
def test_crops_are_all_the_shifts():
    image = np.asarray(pictures(1, (8, 8, 1))[0])
    made = np.asarray(jax.vmap(crop(ratio=0.125), (0, None))(keys(100), jnp.asarray(image)))
    padded = np.pad(image, [(1, 1), (1, 1), (0, 0)])
    shifts = [padded[r : r + 8, c : c + 8] for r in range(3) for c in range(3)]
    found = [[i for i, shift in enumerate(shifts) if np.array_equal(shift, one)] for one in made]
    assert all(len(each) == 1 for each in found) and {each[0] for each in found} == set(range(9))


@x64
def test_cutout_takes_a_window_of_half_the_side():
    image = jnp.ones((8, 6, 2))
    made = np.asarray(jax.vmap(cutout(ratio=0.5), (0, None))(keys(300), image))
    gone = made == 0
    np.testing.assert_array_equal(gone[..., 0], gone[..., 1])
    heights, widths = gone[..., 0].any(2).sum(1), gone[..., 0].any(1).sum(1)
    np.testing.assert_array_equal(gone.sum((1, 2, 3)), 2 * heights * widths)  # one whole rectangle
    # the centre is any pixel: half of the window at least, the rest may lie outside
    assert (heights.min(), heights.max()) == (2, 4)
    assert widths.max() == 3 and widths.min() >= 1


@x64
def test_flip_exchanges_left_and_right_half_of_the_time():
    image = pictures(1)[0]
    made = np.asarray(jax.vmap(flip(), (0, None))(keys(400), image))
    flipped = np.array([np.array_equal(one, np.asarray(image)[:, ::-1]) for one in made])
    assert all(np.array_equal(one, image) for one in made[~flipped])
    assert 0.4 < flipped.mean() < 0.6  # 400 draws: a standard error of 0.025


@x64
@pytest.mark.parametrize("channels", [1, 3])
def test_color_is_brightness_saturation_contrast_in_order(channels):
    image = np.asarray(pictures(1, (4, 5, channels))[0])
    for part, spread in (("brightness", 0.5), ("saturation", 1.0), ("contrast", 0.5)):
        alone = {"brightness": 0.0, "saturation": 0.0, "contrast": 0.0} | {part: spread}
        made = np.asarray(color(**alone)(KEY, jnp.asarray(image)))
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
    together = color()(KEY, jnp.asarray(image))
    one = color(saturation=0, contrast=0)(KEY, jnp.asarray(image))
    two = color(brightness=0, contrast=0)(KEY, one)
    np.testing.assert_allclose(together, color(brightness=0, saturation=0)(KEY, two), rtol=1e-12)


@x64
@every
def test_gradients_equal_central_differences(name):
    augmentation, x = dsa([name]), pictures(2)
    direction, weight = pictures(2, seed=1), pictures(2, seed=2)

    @jax.jit
    def loss(x):
        return jnp.sum(weight * jnp.square(augmentation.siamese(KEY, x)))

    slope = float(jnp.vdot(jax.grad(loss)(x), direction))
    ends = [float(loss(x + sign * 1e-6 * direction)) for sign in (1, -1)]
    assert abs(slope) > 1e-3
    assert slope == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
@every
def test_zero_strength_changes_nothing(name, channels):
    x = pictures(3, (8, 8, channels))
    for function in dsa([name], strength=0.0):
        np.testing.assert_allclose(function(KEY, x), x, atol=2e-6)


@pytest.mark.parametrize("channels", [1, 3])
@every
def test_one_key_treats_all_images_alike_and_per_image_does_not(name, channels):
    augmentation, x = dsa([name]), pictures(1, (8, 8, channels))
    other = pictures(2, (8, 8, channels), seed=1)
    together = augmentation.siamese(KEY, jnp.concatenate([x, other]))
    assert together.shape == (3, 8, 8, channels) and together.dtype == x.dtype
    # in a batch of another size, with other images beside it, an image becomes the same
    np.testing.assert_allclose(augmentation.siamese(KEY, x), together[:1], atol=1e-6)
    np.testing.assert_allclose(jax.jit(augmentation.siamese)(KEY, other), together[1:], atol=1e-6)
    same = jnp.broadcast_to(x, (32, *x.shape[1:]))
    alike, each = augmentation.siamese(KEY, same), augmentation.per_image(KEY, same)
    assert float(jnp.ptp(alike, axis=0).max()) == 0.0
    assert float(jnp.ptp(each, axis=0).max()) > 0.01


def test_an_operation_is_drawn_by_the_key_for_all_images():
    x = jnp.ones((16, 8, 8, 1))
    augmentation = dsa(["color", "cutout"])
    kinds = set()
    for key in keys(12):
        made = np.asarray(augmentation.per_image(key, x))
        cut = (made == 0).any((1, 2, 3))
        assert cut.all() or not cut.any()  # one operation a batch
        kinds.add(bool(cut.all()))
    assert kinds == {True, False}


def test_dc_draws_an_operation_for_every_image():
    image = pictures(1, (28, 28, 1))
    made = np.asarray(dc_evaluation()(KEY, jnp.broadcast_to(image, (60, 28, 28, 1))))
    padded = np.pad(np.asarray(image[0]), [(4, 4), (4, 4), (0, 0)])
    shifts = [padded[r : r + 28, c : c + 28] for r in range(9) for c in range(9)]
    cropped = sum(any(np.array_equal(shift, one) for shift in shifts) for one in made)
    assert 8 <= cropped <= 34  # a third of 60, give or take 3.6


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (
            lambda: dsa(["colour"]),
            "dsa: expected one of color, crop, cutout, flip, rotate, scale, got 'colour'",
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
