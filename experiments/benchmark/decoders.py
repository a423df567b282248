"""Outer steps on decoded images against steps on as many plain ones: a part of `experiments.benchmark`."""

from collections.abc import Iterator

from experiments.benchmark.options import Options
from experiments.benchmark.problems import CLASSES, SHAPES, distillation, program_of
from experiments.measure import Row, ratio_of_medians, row, timed
from jaxdistill.config.table import Config

LENGTH = 4
"""Outer steps of one compiled program."""


def decoders(options: Options) -> Iterator[Row]:
    """A step of DM and of DC on 40 images of 28x28 stored as 10, and on 40 plain ones; ratio to the plain."""
    smoke = options.smoke
    width, real, per_class = (4, 2, 1) if smoke else (16, 32, 4)
    for method in ("dm", "dc"):
        chosen = Config(
            method=method,
            images_per_class=per_class,
            start="noise",
            learner="convnet",
            width=width,
            real_batch_size=real,
            seed=options.seed,
        )
        programs = {}
        for decoder in ("none", "multiformation"):
            plan = distillation(chosen.replace(decoder=decoder), SHAPES["convnet"], size=CLASSES * real)
            programs[decoder] = program_of(plan, 1 if smoke else LENGTH)
        times = timed(programs, options.repeats)
        for decoder, program in programs.items():
            ratio = round(ratio_of_medians(times, decoder, "none"), 3)
            yield row("decoders", f"{method}, {decoder}", times[decoder], program, ratio=ratio)
