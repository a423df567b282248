"""Compare the images of a run with small training sets that are not learned.

Question: how accurate are the same networks after as many steps on as many random real images, on the best of
many random sets, on cluster centres, on average images? And without any training, by nearest neighbours?

    python -m experiments.baselines --run=RUN                       a finished run of experiments.distill
    python -m experiments.baselines                                 distills digits first, 2 minutes

Every set trains the networks of the run as the distilled images do: for the same steps, with as many images
of each class in a step. For methods without inner steps the protocol of the paper is used. Validation chooses
the step size of every baseline, either one for all steps or the learned schedule times a factor, and also k
and p of nearest neighbours. Optimised real images are the best fifth of random sets; 20 networks score each
set on training images. Expected, digits, ten images: distilled 92%, optimised real 65%, k-means and averages
77%, random real 62%. Images in several batches are also tested in the other order. Writes baselines.json,
baselines.csv, baselines.md, baselines.png, and one set of each kind as an .npz for `experiments.evaluate`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from experiments import cli
from experiments.tables import writable, write_tables
from jaxdistill.config.option import option, options
from jaxdistill.config.resolve import resolve
from jaxdistill.config.table import Config, DeviceOptions, Places, PoolOptions, SeedOptions
from jaxdistill.runs import compare
from jaxdistill.runs.baseline_files import LISTS, draw, save_sets, table
from jaxdistill.runs.baselines import BaselineOptions, fits, rows_of
from jaxdistill.runs.classes import class_counts
from jaxdistill.runs.distill import reading_of
from jaxdistill.runs.networks import only_network
from jaxdistill.runs.plan import identity_of
from jaxdistill.runs.result import run_to_result
from jaxdistill.runs.run import load_run
from jaxdistill.runtime import mesh, profile, progress

SMOKE = {"num_learners": 2, "num_search_learners": 1, "step_sizes": [0.1], "num_sets": 3, "num_judges": 2}


@options
class Options(BaselineOptions, Places, PoolOptions, SeedOptions, DeviceOptions):
    title: ClassVar[str] = "run"
    left_out: ClassVar[tuple[str, ...]] = ("pool_dataset",)
    run: str | None = option(None, "a finished run of experiments.distill (default: distills ten digits)")
    dataset: str | None = option(None, "the .npz of a run that was distilled from a user's own images")
    num_learners: int = option(20, "networks per row", low=1)
    run_dir: str = option("runs/baselines", "folder to write the table and the pictures into")
    smoke: bool = option(False, "a short trial: few sets and networks")


def run(options: Options) -> dict[str, Any]:
    """Tests every set, prints the table, writes the files.

    Returns:
      {"rows": one per set, "config", "environment"}.

    Raises:
      UserError: bad input, before anything is trained.
    """
    options = resolve(options.with_smoke(SMOKE))
    devices = mesh.layout(options.mesh, options.num_learners)  # before anything is distilled
    folder = Path(options.run_dir)
    if not options.run:
        writable("baselines", folder)
    path = options.run or distilled_digits(folder, options.smoke)
    run = load_run(
        path,
        dataset=options.dataset,
        data_dir=options.data_dir,
        manual_dir=options.manual_dir,
        pool=options.pool,
    )
    fits(run.plan, options.neighbors)
    only_network(run.config, run.state, run.bank)  # raises where a pool is missing
    writable("baselines", folder)
    mesh.say_devices(devices)
    with mesh.spread(devices):
        rows, sets = rows_of(run, options, num_learners=options.num_learners, seed=options.seed)
    what = {"run": Path(path).name, "dataset": run.data.info.name, "learner": run.config.learner}
    result = {
        "rows": rows,
        "config": identity_of(options) | what,
        "environment": profile.environment(),
        "class_counts": class_counts(run.data),
    }
    write_tables(folder, "baselines", result, table(result), leave_out=LISTS)
    draw(folder / "baselines.png", sets, run)
    save_sets(folder, sets, run.data.info, reading_of(run.config, run.data.info))
    show(result)
    progress.say(f"written to {folder}")
    return result


def distilled_digits(folder: Path, smoke: bool) -> str:
    """The folder of a run that distills ten digits; a run that is already there is resumed."""
    short: dict[str, Any] = {"num_outer_steps": 20, "width": 8} if smoke else {}
    path = str(folder / "distilled")
    compare.show(run_to_result(Config(**short, num_baseline_learners=0, run_dir=path)))
    return path


def show(result: Mapping[str, Any]) -> None:
    """Prints the table."""
    about = result["config"]
    title = f"\nTest accuracy (%) on {about['dataset']}: {about['learner']}, equal images and steps"
    progress.table(title, *table(result))


if __name__ == "__main__":
    cli.main(run, Options, __doc__)
