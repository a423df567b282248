"""Train a pool of networks on real data: for `--population=pretrained` and `fixed_pretrained`.

Question: how accurate are networks that are trained on real data? `experiments.adapt` then distills images
that adapt them to another data set, and `experiments.attack` images that make them fail.

    python -m experiments.pretrain
    python -m experiments.pretrain --flagfile=experiments/presets/mnist_pool.cfg --manual_dir=FOLDER

Training is by Adam, with the step size x 0.1 after half of the epochs. It is the network of `--method=dd` for
the same images. The last networks are held out: distillation never uses them, evaluation does. Networks
are trained and saved in groups; run the same command again to resume a run that was stopped. Writes
result.json and the groups. Expected, digits: 70 networks of 40 epochs in half a minute, 97% on test. The
paper has 2,200 networks.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from experiments import cli
from jaxdistill.config.option import option, options
from jaxdistill.config.table import HostOptions
from jaxdistill.runs.bank_training import PretrainOptions, pretrain
from jaxdistill.runtime import progress

SMOKE = {"num_networks": 4, "num_test_networks": 2, "num_epochs": 2, "width": 8, "depth": 1}


@options
class Options(PretrainOptions, HostOptions):
    title: ClassVar[str] = "run"
    smoke: bool = option(False, "a short trial: four small networks of two epochs")


def run(options: Options) -> dict[str, Any]:
    """Trains the networks that are not there yet, prints their accuracy.

    Returns:
      What `result.json` holds: {"test_accuracies", "validation_accuracies", "bytes", "config",
      "environment"}.

    Raises:
      UserError: bad input, before anything is written.
    """
    result = pretrain(options.with_smoke(SMOKE).pick(PretrainOptions))
    show(result)
    return result


def show(result: Mapping[str, Any]) -> None:
    """Prints how good the networks are."""
    held_out = result["config"]["num_test_networks"]
    found = 100 * np.asarray(result["test_accuracies"])
    kept, unseen = found[:-held_out], found[-held_out:]
    progress.say(
        f"test accuracy of {len(kept)} networks {kept.mean():.1f} ± {kept.std():.1f}%, of {held_out} held "
        f"out {unseen.mean():.1f} ± {unseen.std():.1f}%"
    )


if __name__ == "__main__":
    cli.main(run, Options, __doc__)
