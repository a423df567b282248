"""From options to the parts that they name: no disk, no clock.

`option` says what an option is, `table` lists all of them, `resolve` fills in what nobody chose, `build`
makes the parts.
"""
