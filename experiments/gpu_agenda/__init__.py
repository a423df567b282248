"""Everything that this project wants from a GPU; the command is in `__main__`."""
