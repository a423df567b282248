"""Small training sets that are not learned: what distilled data have to beat."""

from jaxdistill.baselines.average import average_real
from jaxdistill.baselines.herding import kernel_herding
from jaxdistill.baselines.k_means import k_means
from jaxdistill.baselines.nearest_neighbors import nearest_neighbors
from jaxdistill.baselines.optimized_real import optimized_real
from jaxdistill.baselines.random_real import random_real

__all__ = ["average_real", "k_means", "kernel_herding", "nearest_neighbors", "optimized_real", "random_real"]
