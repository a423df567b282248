"""Architecture search by few steps; the command is in `__main__`."""
