"""The study: {images, generator} x {unrolled, matching, implicit}, one evaluator, one report.

Question: do gradient matching and implicit gradients reach the accuracy of backpropagation through training
at a fraction of its memory, and do generators' images train other architectures better?

    python -m experiments.study                                     digits, ten minutes on 2 cores
    python -m experiments.study --preset=mnist --manual_dir=FOLDER  for a GPU
    python -m experiments.study --list                              the cells and their options, nothing else

Every cell is a run of `experiments.distill` under RUN_DIR/cells, first for the preset's outer steps, then
(`--equal_time`) for as many as take `--time_limit` seconds by the time that those took. All images are scored
alike: fresh networks of the training architecture and of others, by the `dc` protocol and by `dc_augmented`
(crop, scale, rotate), the step size searched on validation, beside random real images and the full training
set. A cell that fails is a row that says why; the command ends with an error then, after the report. Run the
same command again to resume a study that was stopped and to try failed cells again. Writes rows.json,
report.html and report.md (see experiments.report). Expected,
digits: matching of images and Neumann cells level with unrolled ones at a quarter to half of the memory, all
but a generator's conjugate gradients well above random real images.
"""

from experiments import cli
from experiments.study.run import run_to_end as run
from experiments.study.setting import Options

if __name__ == "__main__":
    cli.main(run, Options, __doc__)
