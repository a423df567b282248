"""Digits distilled with activations of float32 and of bfloat16: a part of `experiments.benchmark`."""

import statistics
from collections.abc import Iterator

import jaxdistill as jd
from experiments.benchmark.options import Options
from experiments.measure import Row, row
from jaxdistill.learners.mixed_precision import DTYPES

STEPS = {"dd": 500, "dc": 100, "dm": 500}
"""Outer steps by method: fewer than the defaults for digits, 1,500, 1,000 and 20,000."""
NUM_RUNS = 3
NUM_NETWORKS = 10


def dtypes(options: Options) -> Iterator[Row]:
    """Test accuracy (%) of ten digits by dtype of activations; the networks are tested in float32."""
    runs, networks = (1, 2) if options.smoke else (NUM_RUNS, NUM_NETWORKS)
    for method, steps in STEPS.items():
        for dtype in DTYPES:
            found = []
            for seed in range(options.seed, options.seed + runs):
                chosen = {"method": method, "dtype": dtype, "seed": seed}
                chosen |= {"num_outer_steps": 2 if options.smoke else steps}
                found.append(100 * jd.distill(**chosen, progress=False).score(networks).mean)
            told = {"outer_steps": steps, "accuracies": found, "accuracy": statistics.mean(found)}
            told |= {"spread": statistics.stdev(found) if runs > 1 else None, "networks": networks}
            yield row("dtype", f"{method}, {dtype}", **told)
