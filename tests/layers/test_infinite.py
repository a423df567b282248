"""Kernels of infinitely wide networks, against Gaussian expectations by quadrature and wide networks."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import message

from jaxdistill.core.checks import UserError
from jaxdistill.layers.infinite import infinite_mlp

X = np.random.default_rng(0).normal(size=(4, 2, 3, 1))
X[3] = -X[0]  # an angle near pi
WEIGHT, BIAS = 1.7, 0.05


def expectations(covariance, points=100_000):
    """E[relu(u) relu(v)] and E[step(u) step(v)] for u, v ~ N(0, covariance), by the midpoint rule.

    (u, v) = r A (cos, sin) with A A^T the covariance and E[r^2] = 2. The steps jump: an error of 1 / points.
    """
    angle = 2 * np.pi * (np.arange(points) + 0.5) / points
    a, b = np.linalg.cholesky(covariance + 1e-13 * np.eye(2)) @ np.stack([np.cos(angle), np.sin(angle)])
    return 2 * np.mean(np.maximum(a, 0) * np.maximum(b, 0)), np.mean((a > 0) & (b > 0))


def by_quadrature(depth):
    """(NNGP, NTK) of all pairs of X."""
    flat, size = X.reshape(4, -1), X[0].size
    nngp = WEIGHT * flat @ flat.T / size + BIAS
    ntk = nngp
    for _ in range(depth):
        pairs = [[nngp[np.ix_([i, j], [i, j])] for j in range(4)] for i in range(4)]
        products, steps = np.moveaxis([[expectations(pair) for pair in row] for row in pairs], -1, 0)
        nngp = WEIGHT * products + BIAS
        ntk = nngp + WEIGHT * steps * ntk
    return {"nngp": nngp, "ntk": ntk}


def kernel(kind, depth):
    return infinite_mlp(kind, depth=depth, weight_variance=WEIGHT, bias_variance=BIAS)


@pytest.mark.parametrize("depth", [1, 3])
def test_kernels_are_gaussian_expectations(depth, x64):
    expected = by_quadrature(depth)
    for kind, tolerance in (("nngp", 1e-6), ("ntk", 1e-4)):  # those of the quadrature
        np.testing.assert_allclose(kernel(kind, depth)(X, X), expected[kind], rtol=tolerance)
        np.testing.assert_allclose(kernel(kind, depth)(X[1:3], X), expected[kind][1:3], rtol=tolerance)


@pytest.mark.slow
def test_kernels_are_those_of_wide_networks():
    """Of two hidden layers of 400 units, in the NTK parametrisation: the mean over 40 networks.

    One network's kernel is off by some 10%, the mean by a sixth of it.
    """
    sizes, flat = [X[0].size, 400, 400, 1], X.reshape(4, -1)

    def output(params, x):
        for i, (w, b) in enumerate(params):
            x = jnp.sqrt(WEIGHT / x.shape[0]) * x @ w + jnp.sqrt(BIAS) * b
            x = x if i == 2 else jax.nn.relu(x)
        return x[0]

    @jax.jit
    def of_one(params):
        gradients = [jax.grad(output)(params, x) for x in flat]
        rows = [jnp.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves(g)]) for g in gradients]
        return jnp.stack(rows) @ jnp.stack(rows).T

    def drawn(generator):
        shapes = list(itertools.pairwise(sizes))
        return [[generator.normal(size=s).astype(np.float32) for s in (shape, shape[1:])] for shape in shapes]

    generator = np.random.default_rng(0)
    found = np.mean([of_one(drawn(generator)) for _ in range(40)], axis=0)
    expected = kernel("ntk", 2)(X, X)
    np.testing.assert_allclose(found, expected, atol=0.04 * np.abs(expected).max())
    assert np.abs(found - kernel("nngp", 2)(X, X)).max() > 0.3 * np.abs(expected).max()


@pytest.mark.parametrize("kind", ["nngp", "ntk"])
def test_gradients_are_finite_differences_at_equal_images_too(kind, x64):
    gram = jax.jit(lambda x: jnp.sum(jnp.sin(jnp.arange(16.0).reshape(4, 4)) * kernel(kind, 2)(x, x)))
    gradient = jax.jit(jax.grad(gram))(jnp.asarray(X))
    direction, eps = np.random.default_rng(1).normal(size=X.shape), 1e-5
    slope = (gram(X + eps * direction) - gram(X - eps * direction)) / (2 * eps)
    assert abs(slope) > 0.1
    assert float(jnp.vdot(gradient, direction)) == pytest.approx(float(slope), rel=1e-6)


def test_the_diagonal_is_exact_in_float32():
    """Off it by 1e-4 of an angle, the matrix would have negative eigenvalues far beyond the ridge."""
    x = np.random.default_rng(2).normal(size=(6, 8, 8, 1)).astype(np.float32)
    found = jax.jit(lambda x: jnp.diag(infinite_mlp("ntk", depth=2)(x, x)))(x)
    with jax.enable_x64(True):
        expected = jnp.diag(infinite_mlp("ntk", depth=2)(*[x.astype(np.float64)] * 2))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_black_images_without_biases_have_no_kernel():
    zeros = jnp.zeros((1, 2, 2, 1))
    dark = infinite_mlp("ntk", bias_variance=0.0)
    value, gradient = jax.jit(jax.value_and_grad(lambda x: dark(x, x)[0, 0]))(zeros)
    assert float(value) == 0 and np.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"kind": "conv"}, "one of nngp, ntk, got 'conv'"),
        ({"depth": 0}, "depth >= 1, got 0"),
        ({"weight_variance": 0.0}, "weight_variance > 0.0, got 0.0"),
        ({"bias_variance": -1.0}, "bias_variance >= 0.0, got -1.0"),
    ],
)
def test_bad_options_are_refused(options, says):
    with pytest.raises(UserError) as error:
        infinite_mlp(**options)
    assert says in message(error)
