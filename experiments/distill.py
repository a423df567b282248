"""Distill a data set into a few images that train fresh networks.

Question: how accurate are networks after training on the distilled images alone, against the same number of
random real images, and against the full training set?

    python -m experiments.distill                                   digits, 10 images, 2 minutes on 2 cores
    python -m experiments.distill --flagfile=experiments/presets/mnist_fixed.cfg --manual_dir=FOLDER

Expected, digits: about 92% on the distilled images, 66% on random real ones, 97% on the full set. The run
directory holds everything; run the same command again to resume a run that was stopped.
"""

from typing import Any, ClassVar

from experiments import cli
from jaxdistill.config.option import options
from jaxdistill.config.table import Config, HostOptions


@options
class Options(Config, HostOptions):
    title: ClassVar[str] = "distillation"


def run(options: Options) -> dict[str, Any]:
    """Distills, evaluates, writes the run directory, prints the table.

    Returns:
      What `result.json` holds.

    Raises:
      UserError: bad input, before anything is written; a NaN on the way.
      Interrupted: SIGINT or SIGTERM; the state is saved.
    """
    from jaxdistill.runs.compare import show
    from jaxdistill.runs.result import run_to_result

    result = run_to_result(options)
    show(result)
    return result


if __name__ == "__main__":
    cli.main(run, Options, __doc__)
