"""Disk, clocks and devices; only this layer and the ones above print, write files or read the clock."""
