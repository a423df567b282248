"""ZCA whitening of images, which removes correlations, and its inverse."""

import dataclasses
import math
from collections.abc import Callable, Iterable
from functools import cached_property

import chex
import jax.numpy as jnp
import numpy as np

from jaxdistill.core.checks import fail

PREPROCESSINGS = ("standardise", "zca")
REGULARISATION = 0.1
"""lambda of `spectrum`, as in the literature."""
LARGEST = 64 * 64 * 3
"""Maximum values of an image; the matrices then take 1.2 GB in float64."""


@dataclasses.dataclass(frozen=True, eq=False)
class Whitening:
    """A whitening of `zca`; two are equal if all their numbers are.

    Attributes:
      mean: [D] float32, of the standardised training images, D = H W C.
      vectors: [D, D] float32, U: the eigenvectors of their covariance, one per column.
      scales: [D] float32, sqrt(s + r) for each of them.
    """

    mean: np.ndarray
    vectors: np.ndarray
    scales: np.ndarray

    @cached_property
    def matrix(self) -> np.ndarray:
        """[D, D] float32: W = U diag(1 / scales) U^T, symmetric."""
        return self._power(-1)

    @cached_property
    def inverse(self) -> np.ndarray:
        """[D, D] float32: the inverse of W, U diag(scales) U^T."""
        return self._power(1)

    def _power(self, exponent: int) -> np.ndarray:
        vectors = self.vectors.astype(np.float64)
        return ((vectors * self.scales.astype(np.float64) ** exponent) @ vectors.T).astype(np.float32)

    def apply(self, x: chex.Array) -> chex.Array:
        """W (x - mean): whitens standardised images [..., H, W, C] float32; NumPy arrays stay NumPy."""
        return _product(_flat(x) - self.mean[None], self.matrix).reshape(x.shape)

    def undo(self, x: chex.Array) -> chex.Array:
        """The inverse of `apply`: standardised images of whitened images [..., H, W, C] float32."""
        return (_product(_flat(x), self.inverse) + self.mean[None]).reshape(x.shape)

    def agrees_with(self, other: "Whitening") -> bool:
        """Whether the other whitening gives the same images, up to the rounding of another machine."""
        if self == other:
            return True
        if self.mean.shape != other.mean.shape:
            return False
        error = np.abs(self.matrix - other.matrix).max() / np.abs(self.matrix).max()
        return bool(error < 1e-3 and np.abs(self.mean - other.mean).max() < 1e-3)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Whitening):
            return NotImplemented
        names = (field.name for field in dataclasses.fields(self))
        return all(np.array_equal(getattr(self, name), getattr(other, name)) for name in names)

    def __hash__(self) -> int:
        return hash(self.scales.tobytes())


def zca(images: Callable[[], Iterable[np.ndarray]], where: str) -> Whitening:
    """The whitening of a set, see `spectrum`.

    Args:
      images: () -> the standardised training images in parts, each [n, H, W, C]; called twice.
      where: what errors call the set.

    Raises:
      UserError: images of more than `LARGEST` values.
    """
    values = math.prod(next(iter(images())).shape[1:])
    if values > LARGEST:
        remedy = "Make them smaller with image_size, or take preprocess=standardise."
        raise fail(f"{where} preprocess=zca", f"images of at most {LARGEST} values", values, remedy)
    return Whitening(*(part.astype(np.float32) for part in spectrum(images)))


def spectrum(
    images: Callable[[], Iterable[np.ndarray]], *, regularisation: float = REGULARISATION
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    r"""Mean, eigenvectors and scales of ZCA whitening, in float64.

    .. math:: z = W (x - \mu), \quad W = (C + r I)^{-1/2} = U \, \mathrm{diag}(s + r)^{-1/2} \, U^T, \quad
       r = \lambda \, \mathrm{tr}(C) / D

    where C = U diag(s) U^T is the covariance (divided by N) of the training images, flattened to D values
    and standardised per channel. Whitened training images have the covariance U diag(s / (s + r)) U^T.

    `lambda` is relative to the mean variance, as in KIP. We differ from KIP in what comes before: KIP brings
    every image to mean 0 and norm 1, which cannot be undone for a picture, and subtracts no mean image; and
    where there are fewer images than values, KIP does not scale the directions without variance. MTT and its
    followers (Kornia's `ZCAWhitening(eps=0.1)`) subtract the mean image of pixels in 0..1 that are not
    standardised, divide by N - 1, and add 0.1 to s itself, which is a stronger regularisation: pixels of
    CIFAR-10 have a variance of about 0.06.

    Args:
      images: () -> the standardised images in parts, each [n, H, W, C]; called twice.
      regularisation: lambda > 0.

    Returns:
      mu [D], U [D, D], sqrt(s + r) [D].

    Example:
      >>> x = np.random.default_rng(0).normal(size=(50, 2, 2, 1))
      >>> mean, vectors, scales = spectrum(lambda: [x])

    References: Nguyen et al. 2021, "Dataset Distillation with Infinitely Wide Convolutional Networks" (KIP);
    Cazenavette et al. 2022, "Dataset Distillation by Matching Training Trajectories" (MTT).
    """
    count, total = 0, np.zeros(())
    for part in images():
        count, total = count + len(part), total + _flat(part).sum(axis=0, dtype=np.float64)
    mean = total / count
    covariance = np.zeros((mean.size, mean.size))
    for part in images():
        flat = np.asarray(_flat(part), np.float64) - mean
        covariance += flat.T @ flat / count
    values, vectors = np.linalg.eigh(covariance)
    amount = regularisation * np.trace(covariance) / mean.size
    return mean, vectors, np.sqrt(np.maximum(values, 0) + amount)


def _flat(x: chex.Array) -> chex.Array:
    """[..., H, W, C] as [N, D]."""
    return x.reshape(-1, math.prod(x.shape[-3:]))


def _product(x: chex.Array, matrix: np.ndarray) -> chex.Array:
    """A product in float32 on every device; accelerators round the factors of a product by default."""
    return x @ matrix if isinstance(x, np.ndarray) else jnp.matmul(x, matrix, precision="highest")
