"""A distillation as a value: planned, run, saved, opened again and scored.

`plan` checks everything and writes nothing; `distill` runs a plan; `run` is the result; `compare` and
`evaluate` score it.
"""
