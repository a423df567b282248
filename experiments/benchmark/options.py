"""The options of `experiments.benchmark`."""

from typing import ClassVar

from jaxdistill.config.option import option, options
from jaxdistill.config.table import SeedOptions


@options
class Options(SeedOptions):
    title: ClassVar[str] = "benchmark"
    what: tuple[str, ...] = option(
        (),
        "what to measure (default: all parts but those for a GPU and streaming)",
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
            "decoders",
            "dtype",
            "streaming",
        ),
    )
    torch_steps: tuple[str, ...] = option(
        (),
        "what=torch: the outer steps to compare (default: all)",
        known="experiments.benchmark.torch_steps:COMPARED",
    )
    stream_gb: float = option(
        2.0, "what=streaming: size of the set in GB; above 5 it is not compared with a set in memory", above=0
    )
    repeats: int = option(7, "rounds of each comparison, after a warm-up round", low=1)
    run_dir: str = option("runs/benchmark", "folder of rows.json; new rows are appended to it")
    resume: bool = option(False, "leave out methods and gradients that already have a row in rows.json")
    smoke: bool = option(False, "a short trial: everything tiny, 2 rounds")
