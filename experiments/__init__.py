"""Scripts around `jaxdistill`, a question each: `python -m experiments.NAME --help`."""

from experiments.start import use_huge_pages

use_huge_pages()
