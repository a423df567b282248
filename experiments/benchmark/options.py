"""The options of `experiments.benchmark`."""

from typing import ClassVar

from jaxdistill.config.option import option, options
from jaxdistill.config.table import SeedOptions


@options
class Options(SeedOptions):
    title: ClassVar[str] = "benchmark"
    what: tuple[str, ...] = option(
        (),
        "what to measure (default: all there is)",
        known=(
            "torch",
            "outer",
            "remat",
            "chunk",
            "conv",
            "generator",
            "matching",
            "microbatch",
            "pool",
            "precision",
            "methods",
            "gradients",
            "evaluation",
            "dtype",
            "streaming",
        ),
    )
    stream_gb: float = option(
        2.0, "size of the set of what=streaming, in GB; above 5 it is only streamed", above=0
    )
    repeats: int = option(7, "rounds of each comparison, after one that warms up", low=1)
    run_dir: str = option("runs/benchmark", "folder of rows.json, which new rows are appended to")
    resume: bool = option(False, "leave out the methods and gradients that have a row there already")
    smoke: bool = option(False, "everything tiny, 2 rounds: does it run?")
