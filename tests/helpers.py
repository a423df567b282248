"""What several test modules share: a problem small enough to compile in a second, checks, and error lines."""

import functools
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill.core.types import Batch, Dataset, InnerOptimizer, Learner, Teacher
from jaxdistill.data import from_arrays
from jaxdistill.inner.optimizers import sgd
from jaxdistill.learners import learner
from jaxdistill.teachers.images import images

SHAPE = (4, 4, 1)
CLASSES = 3

SHALLOW = {"generator_width": 4, "generator_hidden": 5, "upsamplings": 1, "weight_norm": False}
"""Options of a generator that compiles fast, where its layers play no part."""


def message(error) -> str:
    """The text of a `UserError` that pytest caught, which has to be one line of the agreed form."""
    text = str(error.value)
    assert "\n" not in text and ": expected " in text and ", got " in text
    return text


@functools.cache
def tiny_net(name: str = "mlp", **options) -> Learner:
    """A smooth learner: finite differences of a ReLU or a max-pool meet its kinks.

    The same one for the same options, its `init` compiled, so that tests share what they compile.
    """
    if name == "mlp":
        options = {"width": 4, "depth": 1, "activation": "tanh"} | options
    net = learner(name, image_shape=SHAPE, num_classes=CLASSES, **options)
    return net._replace(init=jax.jit(net.init))


def tiny_data(seed: int = 0, counts=(7, 5, 6)) -> Dataset:
    """Three classes, each around its own mean image, easy to tell apart."""
    generator = np.random.default_rng(seed)
    y = np.repeat(np.arange(CLASSES), counts)
    means = np.random.default_rng(99).normal(size=(CLASSES, *SHAPE))
    return from_arrays(means[y] + 0.3 * generator.normal(size=(len(y), *SHAPE)), y, CLASSES)


def tiny_batch(size: int, seed: int = 0) -> Batch:
    """Random images with random soft labels."""
    generator = np.random.default_rng(seed)
    y = generator.dirichlet(np.ones(CLASSES), size)
    return Batch(*jax.device_put((generator.normal(size=(size, *SHAPE)), y)))


def fixed_sgd(learning_rate: float = 0.5, momentum: float = 0.0, num_steps: int = 1) -> InnerOptimizer:
    """Gradient descent of which nothing is learned."""
    return sgd(num_steps=num_steps, learning_rate=learning_rate, momentum=momentum, learned=())


def images_teacher(**options) -> Teacher:
    """Two tiny images per class, with learned labels."""
    options = {"images_per_class": 2, "soft_labels": True} | options
    return images(image_shape=SHAPE, num_classes=CLASSES, **options)


def to_float64(tree):
    """Learners and teachers draw in float32; an oracle needs the rest of the digits."""

    def widened(leaf):
        floating = jnp.issubdtype(leaf.dtype, jnp.floating)
        return jax.device_put(np.asarray(leaf, np.float64)) if floating else leaf  # to compile nothing

    return jax.tree.map(widened, tree)


def same_bits(a, b) -> None:
    """Equal structure, shapes, dtypes and bits."""
    chex.assert_trees_all_equal_shapes_and_dtypes(a, b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def conforming(function, *arguments):
    """Asserts that a function is pure, and the same compiled over a new leading axis as eagerly by itself.

    Arguments are repeated along that axis, but each row has keys of its own. The row of the arguments is the
    same at either place of the axis, and the same as eagerly; an eager run traces anew, and costs the most.
    Returns what the function gives for the arguments.
    """
    rows = [arguments, tuple(jax.random.fold_in(a, 1) if _is_key(a) else a for a in arguments)]
    stacked = jax.tree.map(lambda *leaves: (jnp.stack if _is_key(leaves[0]) else np.stack)(leaves), *rows)
    before = jax.tree.map(_copy, stacked)
    mapped = jax.jit(jax.vmap(function))
    out = mapped(*stacked)
    same_bits(jax.tree.map(_copy, stacked), before)
    same_bits(mapped(*stacked), out)
    swapped = jax.device_get(mapped(*jax.tree.map(lambda a: a[::-1], stacked)))
    out, eager = jax.device_get((out, function(*arguments)))
    first, other = (jax.tree.map(lambda a, i=i: a[i], out) for i in (0, 1))
    chex.assert_trees_all_equal_shapes_and_dtypes(first, eager)
    # float32, one operation fused another way
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(close, first, eager)
    jax.tree.map(lambda a, b: close(a[1], b), swapped, eager)
    jax.tree.map(lambda a, b: close(a[0], b), swapped, other)
    return first


def _is_key(argument):
    return isinstance(argument, jax.Array) and jnp.issubdtype(argument.dtype, jax.dtypes.prng_key)


def _copy(leaf):
    return np.array(jax.random.key_data(leaf) if _is_key(leaf) else leaf)


def damage(step: Path) -> None:
    """Flips bits in every data file of a checkpoint."""
    for file in (step / "state").rglob("d/*"):
        content = bytearray(file.read_bytes())
        for i in range(len(content) // 4, len(content) // 2, 7):
            content[i] ^= 0x55
        file.write_bytes(content)
