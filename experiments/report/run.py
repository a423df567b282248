"""What `python -m experiments.report` does."""

from pathlib import Path
from typing import Any, ClassVar

from experiments.report.write import show, write
from jaxdistill.config import option as config
from jaxdistill.config.option import option, options
from jaxdistill.config.resolve import resolve
from jaxdistill.core.checks import fail
from jaxdistill.runtime import progress


@options
class Options(config.Options):
    heading: ClassVar[str] = "report"
    runs: tuple[str, ...] = option(
        (), "folders of experiments.study, rows.json files, runs of experiments.distill"
    )
    title: str | None = option(None, "title of the page (default: the data sets)")
    run_dir: str | None = option(None, "folder to write the report into (default: the run, if there is one)")


def run(options: Options) -> dict[str, Any]:
    """Writes the report and prints its tables.

    Args:
      options: of the report.

    Returns:
      {"rows", "baselines", "cautions"}.

    Raises:
      UserError: folders that hold no run, or none that is finished.
    """
    options = resolve(options)
    runs = options.runs
    if not runs:
        raise fail("report", "--runs=RUN,RUN", "nothing")
    first = Path(runs[0])
    if len({Path(path).resolve() for path in runs}) < len(runs):
        raise fail("report", "each of runs once", ",".join(runs))
    if len(runs) > 1 and options.run_dir is None:
        raise fail("report", "--run_dir=FOLDER for a report of several runs", "none")
    folder = options.run_dir or (first.parent if first.is_file() else first)
    found = write(folder, runs, title=options.title)
    show(found)
    progress.say(f"written: {Path(folder) / 'report.html'}")
    return found
