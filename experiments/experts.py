"""Train networks on real data and keep their weights epoch by epoch: experts for `--method=mtt`.

Question: which path do the weights of networks take in training on real data? The student of mtt follows it.

    python -m experiments.experts
    python -m experiments.distill --method=mtt

Training is plain SGD with DSA's augmentation, with a snapshot of the initial weights and of every epoch. The
network and the step size are those of `--method=mtt` for the same images. Experts are trained and saved in
groups; run the same command again to resume a run that was stopped. Writes result.json and the groups.
Expected, digits: 10 experts of 50 epochs in half a minute, 96% on test; the paper has 100.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from experiments import cli
from jaxdistill.config.option import option, options
from jaxdistill.config.table import HostOptions
from jaxdistill.core.sizes import format_bytes
from jaxdistill.runs.bank_training import ExpertOptions, train_experts
from jaxdistill.runtime import progress

SMOKE = {"num_experts": 2, "group_size": 1, "num_epochs": 4, "width": 8, "depth": 1}


@options
class Options(ExpertOptions, HostOptions):
    title: ClassVar[str] = "run"
    smoke: bool = option(False, "a short trial: two experts of four epochs")


def run(options: Options) -> dict[str, Any]:
    """Trains the experts that are not there yet, prints their accuracy.

    Returns:
      What `result.json` holds: {"test_accuracies", "validation_accuracies", "bytes", "config",
      "environment"}.

    Raises:
      UserError: bad input, before anything is written.
    """
    result = train_experts(options.with_smoke(SMOKE).pick(ExpertOptions))
    show(result)
    return result


def show(result: Mapping[str, Any]) -> None:
    """Prints how good the experts are."""
    found = np.asarray(result["test_accuracies"])
    progress.say(
        f"test accuracy of {len(found)} experts: {100 * found.mean():.1f} ± {100 * found.std():.1f}%, "
        f"{format_bytes(result['bytes'])} of weights"
    )


if __name__ == "__main__":
    cli.main(run, Options, __doc__)
