"""Disk, clocks and devices: the only layer that prints, reads files or asks for the time."""
