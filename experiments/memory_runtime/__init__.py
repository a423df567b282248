"""Memory and time of one hypergradient, by every way to differentiate training; see `__main__`."""
