"""From options to the parts that they name, without disk and clock.

`option` defines an option, `table` lists all options, `resolve` fills in defaults, `build` makes the parts.
"""
