"""Evaluate synthetic images, ours, a user's or those of the papers' code, on any set of architectures.

Question: how accurate are networks of each architecture after training on these images alone, and how much
better is that than the same number of random real images?

    python -m experiments.evaluate --synthetic=RUN/synthetic.npz --learners=convnet,mlp,linear

Protocols: `as_distilled` trains with the saved batches, steps and step sizes; only files of a run have them.
If there are several batches, a second column tests them in the other order: shuffled, or in order if they
were distilled shuffled. `dc`, `dc_augmented` and `dsa` are the protocols of the matching papers: SGD for 300
epochs, or 1000 with augmentation, with a smaller step size after half. `idc` and `idc_unmixed` are IDC's,
with and without CutMix; `frepo`, `rcig` and `rat` train by Adam, the first two with a squared loss. The
default is `dc`, and `as_distilled` if the file has the steps, or else `frepo` for free labels. The step size
of all but `as_distilled` is searched on validation, also for random real images. Takes under a minute for ten
digits, and about 20 minutes for a ConvNet-3 on MNIST on 2 cores.
"""

from pathlib import Path
from typing import Any, ClassVar

from experiments import cli
from experiments.tables import writable
from jaxdistill.config.option import option, options
from jaxdistill.config.resolve import resolve
from jaxdistill.config.table import HostOptions
from jaxdistill.core.checks import fail
from jaxdistill.learners import LEARNERS
from jaxdistill.runs.evaluate import EvaluateOptions, evaluated, prepared, show
from jaxdistill.runtime import hosts
from jaxdistill.runtime.atomic import write_json

SMOKE = {"num_learners": 2, "num_search_learners": 1, "step_sizes": (0.01, 0.1), "num_epochs": 3}


@options
class Options(EvaluateOptions, HostOptions):
    title: ClassVar[str] = "evaluation"
    synthetic: str | None = option(
        None,
        "the images: RUN/synthetic.npz, any .npz with x and y, an export, or a .pt such as images_best.pt",
    )
    learners: tuple[str, ...] = option(
        ("convnet", "mlp", "linear"),
        f"networks, one per table row: {', '.join(LEARNERS)}; options after a colon: convnet:width=32",
    )
    run_dir: str | None = option(
        None, "folder to write evaluation.json into; it may be the folder of the run that made the images"
    )
    smoke: bool = option(False, "a short trial: few networks and epochs")


def run(options: Options) -> dict[str, Any]:
    """Evaluates, prints the cross-architecture table, writes `evaluation.json` where there is a `run_dir`.

    Returns:
      What `jd.evaluate` returns.

    Raises:
      UserError: bad input, before anything is trained.
    """
    options = resolve(options.with_smoke(SMOKE))
    if options.synthetic is None:
        raise fail("evaluate", "--synthetic=FILE.npz", "nothing")
    plan = prepared(options.synthetic, options.learners, options.pick(EvaluateOptions))
    folder = None
    if options.run_dir is not None:
        beside = Path(options.synthetic).resolve().parent == Path(options.run_dir).resolve()
        folder = writable("evaluate", options.run_dir, own=not beside)
    result = evaluated(plan)
    result["config"] |= {"smoke": options.smoke}
    if folder is not None and hosts.is_primary():
        write_json(folder / "evaluation.json", result)
    show(plan, result)
    return result


if __name__ == "__main__":
    cli.main(run, Options, __doc__)
