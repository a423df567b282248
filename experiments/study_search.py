"""The old name of `experiments.study.search`."""

import sys

sys.exit("study_search: the command is `python -m experiments.study.search` now.")
