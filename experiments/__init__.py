"""Scripts around `jaxdistill`, a question each: `python -m experiments.NAME --help`."""

from experiments.start import end_by_signals, use_huge_pages

use_huge_pages()
end_by_signals()
