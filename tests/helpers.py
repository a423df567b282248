"""What several test modules share: a problem small enough to compile in a second, and error lines."""

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


def message(error) -> str:
    """The text of a `UserError` that pytest caught, which has to be one line of the agreed form."""
    text = str(error.value)
    assert "\n" not in text and ": expected " in text and ", got " in text
    return text


def tiny_net(name: str = "mlp", **options) -> Learner:
    """A smooth learner: finite differences of a ReLU or a max-pool meet its kinks."""
    if name == "mlp":
        options = {"width": 4, "depth": 1, "activation": "tanh"} | options
    return learner(name, image_shape=SHAPE, num_classes=CLASSES, **options)


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
    return Batch(jnp.asarray(generator.normal(size=(size, *SHAPE))), jnp.asarray(y))


def fixed_sgd(learning_rate: float = 0.5, momentum: float = 0.0, num_steps: int = 1) -> InnerOptimizer:
    """Gradient descent of which nothing is learned."""
    return sgd(num_steps=num_steps, learning_rate=learning_rate, momentum=momentum, learned=())


def images_teacher(**options) -> Teacher:
    """Two tiny images per class, with learned labels."""
    options = {"images_per_class": 2, "soft_labels": True} | options
    return images(image_shape=SHAPE, num_classes=CLASSES, **options)


def to_float64(tree):
    """Learners and teachers draw in float32; an oracle needs the rest of the digits."""
    return jax.tree.map(lambda a: a.astype(jnp.float64) if jnp.issubdtype(a.dtype, jnp.floating) else a, tree)


def same_bits(a, b) -> None:
    """Equal structure, shapes, dtypes and bits."""
    chex.assert_trees_all_equal_shapes_and_dtypes(a, b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def damage(step: Path) -> None:
    """Flips bits in every data file of a checkpoint."""
    for file in (step / "state").rglob("d/*"):
        content = bytearray(file.read_bytes())
        for i in range(len(content) // 4, len(content) // 2, 7):
            content[i] ^= 0x55
        file.write_bytes(content)
