"""Where the time and the memory of an outer step go; see `__main__`."""
