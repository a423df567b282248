"""Where the learners of an outer step come from."""
