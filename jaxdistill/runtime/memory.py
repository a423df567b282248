"""Memory of a compiled program, known before it runs."""

from typing import Any


def temporary_bytes(compiled: Any) -> int:
    """Bytes of the temporaries of a compiled program; programs for the same result differ in these alone.

    Args:
      compiled: what `jax.jit(f).lower(...).compile()` gives.
    """
    return compiled.memory_analysis().temp_size_in_bytes


def total_bytes(compiled: Any) -> int:
    """Bytes that a compiled program needs at once: temporaries, arguments and results.

    Args:
      compiled: what `jax.jit(f).lower(...).compile()` gives.
    """
    about = compiled.memory_analysis()
    shared = about.alias_size_in_bytes
    return about.temp_size_in_bytes + about.argument_size_in_bytes + about.output_size_in_bytes - shared
