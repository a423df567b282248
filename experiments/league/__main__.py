"""A league table: all methods on one data set, at one storage budget, in equal time, under one recipe.

Question: which method makes the best training set of this size in the same time, and how much of that is due
to its labels?

    python -m experiments.league                                     digits, 640 scalars, under 20 minutes
    python -m experiments.league --dataset=FOLDER --image_size=32 --budget=ipc:10 --seconds_per_method=600

Every method distills for the network `--learner`, with its own settings, as many images as `--budget` stores.
It has `--seconds_per_method` of outer steps in all, compilation apart. Its candidates share them: its outer
learning rate times each of `--factors`, and few declared changes. The candidate with the best validation
accuracy is tested once, at its final iterate: new networks are trained on its images by `--protocol`, with
the step size searched on validation. Random real images, k-means, kernel herding and average images of the
same storage stand beside. Images with soft labels have a second line with these; learned labels that are no
probabilities are trained on by a squared loss. If a method cannot meet the budget or fails, its row says why.
Run the same command again to resume; `--methods` adds rows. `--sets=FOLDER` copies every set that was tested
there, with its flags and SHA-256. Writes league.json, .csv, .md, .png and league.html (opens from disk).
"""

from experiments import cli
from experiments.league.run import run
from experiments.league.setting import Options

if __name__ == "__main__":
    cli.main(run, Options, __doc__)
