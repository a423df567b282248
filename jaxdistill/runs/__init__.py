"""A distillation as a value: planned, run, saved, opened again and scored.

`plan` checks everything and writes nothing; `distill` runs a plan; `run` is what comes out; `compare` and
`evaluate` score it.
"""
