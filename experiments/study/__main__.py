"""The study: {images, generator} x {unrolled, matching, implicit}, one evaluator, one report.

Question: do gradient matching and implicit gradients reach the accuracy of backpropagation through training
at a fraction of its memory, and do generators' images train other architectures better?

    python -m experiments.study                                     digits, 13 minutes on 2 cores
    python -m experiments.study --preset=mnist --manual_dir=FOLDER  for a GPU
    python -m experiments.study --list                              the cells and their options, nothing else

Every cell is a run of `experiments.distill` under RUN_DIR/cells, first for the preset's outer steps, then
(`--equal_time`) for as many steps as fit into `--time_limit` seconds at the measured speed. All images are
scored alike: they train fresh networks of the training architecture and of others, by the protocols `dc` and
`dc_augmented` (crop, scale, rotate), with the step size searched on validation. Random real images and the
full training set are scored too. If a cell fails, its row says why, and the command ends with an error after
the report. Run the same command again to resume a study that was stopped and to try failed cells again.
Writes rows.json, report.html and report.md (see experiments.report). Expected, digits: matching of images and
Neumann cells are level with unrolled cells at a quarter to half of the memory, and all cells but a
generator's conjugate gradients are well above random real images.
"""

from experiments import cli
from experiments.study.run import run_to_end as run
from experiments.study.setting import Options

if __name__ == "__main__":
    cli.main(run, Options, __doc__)
