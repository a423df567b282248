"""Write the report of a study, or of any finished runs, as one page and as Markdown.

Question: what do these runs show, side by side?

    python -m experiments.report --runs=runs/study_digits                    again, from a study's rows
    python -m experiments.report --runs=runs/a,runs/b --run_dir=runs/report  runs of experiments.distill

Takes folders of experiments.study, their rows.json, and finished runs of experiments.distill. Writes
report.html (one file, opens from disk), report.md with its pictures, and rows.json, in seconds. Numbers are
means over tries and networks. The best number of a column is marked, and so are numbers that tie with it:
they lie within one standard deviation of it, the larger of both.
"""

from experiments import cli
from experiments.report.run import Options, run

if __name__ == "__main__":
    cli.main(run, Options, __doc__)
