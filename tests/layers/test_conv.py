"""Every formulation of the convolution equals XLA's, in value, gradient and second order."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

import jaxdistill as jd
from jaxdistill.core.checks import UserError
from jaxdistill.layers.conv import FORMULATIONS, conv2d, default_formulation, upsampled_conv2d
from jaxdistill.layers.pool import average_pool, max_pool

CASES = {  # size, inputs, outputs, kernel, stride, padding
    "plain": ((6, 6), 2, 3, (3, 3), 1, 0),
    "one channel, wide padding": ((6, 6), 1, 2, (5, 5), 1, 3),
    "stride": ((7, 6), 2, 3, (3, 3), 2, 1),
    "stride, one by one": ((6, 5), 2, 3, (1, 1), 2, 0),
    "larger than the image": ((2, 2), 2, 3, (3, 3), 1, 1),
    "uneven kernel": ((6, 6), 2, 2, (2, 3), 1, 1),
}


def reference(x, kernel, stride, padding):
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), [(padding, padding)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def derivatives(conv, x, kernel, direction):
    """Value, and gradients of a loss, of its slope along a direction, of that one's slope: in one trace."""

    def loss(arguments):
        value = conv(*arguments)
        return jnp.sum(jnp.sin(value)), [value]

    def along(arguments):
        gradient, found = jax.grad(loss, has_aux=True)(arguments)
        return sum(jnp.vdot(g, d) for g, d in zip(gradient, direction, strict=True)), [*found, gradient]

    def third(arguments):
        gradient, found = jax.grad(along, has_aux=True)(arguments)
        slope = sum(jnp.vdot(g, jnp.cos(d)) for g, d in zip(gradient, direction, strict=True))
        return slope, [*found, gradient]

    return jax.device_get(jax.jit(jax.grad(third, has_aux=True))((x, kernel)))


@functools.cache
def expected(case):
    """(arguments of `derivatives`, what XLA's convolution gives for them)."""
    size, inputs, outputs, window, stride, padding = CASES[case]
    rng = np.random.default_rng(1)
    shapes = ((2, *size, inputs), (*window, inputs, outputs))
    x, kernel, *direction = (rng.normal(size=shape) for shape in shapes * 2)
    arguments = x, kernel, tuple(direction)
    return arguments, derivatives(lambda x, kernel: reference(x, kernel, stride, padding), *arguments)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("formulation", ["lax", "hybrid", "im2col", "CHWB"])
def test_equals_xla_to_second_order(x64, case, formulation):
    *_, stride, padding = CASES[case]

    def ours(x, kernel):
        if formulation == "CHWB":
            y = conv2d(x.transpose(3, 1, 2, 0), kernel, stride=stride, padding=padding, layout="CHWB")
            return y.transpose(3, 1, 2, 0)
        return conv2d(x, kernel, stride=stride, padding=padding, formulation=formulation)

    arguments, theirs = expected(case)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10),
        derivatives(ours, *arguments),
        theirs,
    )


@pytest.mark.parametrize(
    "kernel, image, result, on_cpu",
    [
        ((5, 5, 1, 6), (28, 28), (24, 24), "im2col"),  # few inputs
        ((3, 3, 128, 128), (16, 16), (16, 16), "hybrid"),
        ((3, 3, 128, 128), (3, 3), (3, 3), "hybrid"),
        ((3, 3, 128, 128), (3, 2), (3, 2), "im2col"),  # larger than the image
        ((5, 5, 128, 128), (6, 6), (2, 2), "im2col"),  # and than the result, which its gradient starts from
    ],
)
def test_default_follows_the_inputs_and_the_size(kernel, image, result, on_cpu):
    for platform, expected in (("cpu", on_cpu), ("gpu", "lax"), ("tpu", "lax")):
        with jd.platform(platform):
            assert default_formulation(kernel, image, result) == expected


@pytest.mark.parametrize("formulation", FORMULATIONS)
def test_second_order_under_two_vmaps_on_a_mesh(formulation):
    """Networks by classes, as in gradient matching: JAX's own derivatives do not trace there."""
    mesh = Mesh(np.array(jax.devices()[:1]), ("learner",), axis_types=(AxisType.Auto,))
    rng = np.random.default_rng(0)
    kernels, images = rng.normal(size=(2, 3, 3, 2, 3)), rng.normal(size=(2, 2, 4, 4, 2))

    def slope(kernel, image):
        def loss(kernel):
            return jnp.sum(jnp.sin(conv2d(image, kernel, padding=1, formulation=formulation)))

        return jnp.sum(jax.grad(loss)(kernel) ** 2)

    def both(kernels, images):
        return jax.vmap(lambda k: jax.vmap(lambda x: jax.grad(slope, (0, 1))(k, x))(images))(kernels)

    with jax.set_mesh(mesh):
        on_mesh = jax.device_get(jax.jit(both)(kernels, images))
    alone = jax.device_get(jax.jit(both)(kernels, images))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), on_mesh, alone)


@pytest.mark.parametrize("formulation", FORMULATIONS)
def test_vmap_over_kernels_equals_a_loop(formulation):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 5, 5, 2)).astype(np.float32)
    kernels = rng.normal(size=(3, 3, 3, 2, 4)).astype(np.float32)
    gradient = jax.grad(lambda k: jnp.sum(conv2d(x, k, padding=1, formulation=formulation) ** 2))
    batched, single = jax.jit(jax.vmap(gradient))(kernels), jax.jit(gradient)
    np.testing.assert_allclose(batched, np.stack([single(k) for k in kernels]), rtol=1e-4, atol=1e-4)


def test_pools_equal_reduce_window():
    x = np.random.default_rng(0).normal(size=(2, 7, 6, 3)).astype(np.float32)
    for pool, start, combine, scale in (
        (max_pool, -jnp.inf, jax.lax.max, 1.0),
        (average_pool, 0.0, jax.lax.add, 0.25),
    ):
        window = functools.partial(
            jax.lax.reduce_window,
            init_value=start,
            computation=combine,
            window_dimensions=(1, 2, 2, 1),
            window_strides=(1, 2, 2, 1),
            padding="VALID",
        )
        np.testing.assert_allclose(jax.jit(pool)(x), scale * np.asarray(window(x)), rtol=1e-6)


def test_a_maximum_keeps_its_gradient_where_its_input_is_computed_twice():
    """As the tests compile, the norm before the pool is computed twice, and rounded differently."""
    x = np.random.default_rng(0).normal(size=(4, 8, 10, 3)).astype(np.float32)

    def normed(scale):
        h = x * scale
        return (h - h.mean((1, 2), keepdims=True)) * (h.var((1, 2), keepdims=True) + 1) ** -0.5

    def pooled(h):
        return jnp.sum(max_pool(h) ** 2)

    scale = np.array([0.7, 1.1, 1.3], np.float32).reshape(1, 1, 1, 3)
    h, back = jax.vjp(jax.jit(normed), scale)
    (expected,) = back(jax.jit(jax.grad(pooled))(h))  # of two programs: the pool is given what it was
    found = jax.jit(jax.grad(lambda scale: pooled(normed(scale))))(scale)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_the_first_of_equal_values_gets_the_gradient_and_nan_stays():
    x = np.array([[1, 2], [2, 2]], np.float32).reshape(1, 2, 2, 1)
    gradient = jax.device_get(jax.jit(jax.grad(lambda x: max_pool(x).sum()))(x))
    np.testing.assert_array_equal(gradient.ravel(), [0, 1, 0, 0])
    pool = jax.jit(max_pool)
    for place in range(4):
        broken = x.copy()
        broken.ravel()[place] = np.nan
        assert np.isnan(pool(broken)).all()


@pytest.mark.parametrize(
    "arguments, says",
    [
        ({"formulation": "fft"}, "one of hybrid, im2col, lax"),
        ({"layout": "NCHW"}, "one of CHWB, NHWC"),
    ],
)
def test_bad_choices_name_the_known(arguments, says):
    with pytest.raises(UserError, match=says):
        conv2d(np.zeros((1, 4, 4, 1)), np.zeros((3, 3, 1, 1)), **arguments)


def test_a_kernel_larger_than_the_image_is_an_error():
    with pytest.raises(UserError, match="at least"):
        conv2d(np.zeros((1, 2, 2, 1)), np.zeros((5, 5, 1, 1)))
    with pytest.raises(UserError, match="a 3x3 kernel, got 5x5"):
        upsampled_conv2d(np.zeros((1, 8, 8, 1)), np.zeros((5, 5, 1, 1)))


@pytest.mark.parametrize(("size", "inputs"), [((1, 1), 3), ((2, 3), 3), ((5, 4), 3), ((3, 2), 17)])
def test_upsampled_equals_convolving_the_larger_image(x64, size, inputs):
    """To second order; 17 inputs are many, which are convolved by other formulas on the CPU."""
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, *size, inputs)), rng.normal(size=(3, 3, inputs, 4))

    def explicit(x, kernel):
        doubled = jnp.repeat(jnp.repeat(x, 2, 1), 2, 2)
        padded = jnp.pad(doubled, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
        return reference(padded, kernel, 1, 0)

    def with_gradients(conv):
        def loss(arguments):
            value = conv(*arguments)
            return jnp.sum(jnp.sin(value)), value

        def slope(arguments):
            gradient, value = jax.grad(loss, has_aux=True)(arguments)
            return sum(jnp.sum(jnp.cos(g)) for g in gradient), (gradient, value)

        return jax.jit(jax.grad(slope, has_aux=True))((x, kernel))

    ours, theirs = map(with_gradients, (upsampled_conv2d, explicit))
    for mine, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-10, atol=1e-10)
