"""The report of a study, or of any finished runs: one page, and the same as Markdown."""
