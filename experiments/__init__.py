"""Scripts around `jaxdistill`, a question each: `python -m experiments.NAME --help`."""

from experiments.start import end_by_signals, open_standard_files, use_huge_pages

open_standard_files()
use_huge_pages()
end_by_signals()
