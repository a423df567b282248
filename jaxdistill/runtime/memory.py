"""Memory of a compiled program, known before it runs, and sizes as people write them."""

import math
import re
from typing import Any

from jaxdistill.core.checks import fail

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
UNITS |= {f"{letter}i": 2 ** (10 * power) for power, letter in enumerate("kmgt", start=1)}


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


def parse_bytes(text: str, where: str = "memory_budget") -> int:
    """A size in bytes, from `2GB`, `512 MiB`, `1.5g` or `2000000`.

    Raises:
      UserError: not a positive size.
    """
    match = re.fullmatch(r"([0-9]*\.?[0-9]+(?:e[0-9]+)?)\s*([kmgt]?i?)b?", text.strip().lower())
    size = float(match[1]) * UNITS[match[2]] if match and match[2] in UNITS else 0.0
    if not 1 <= size < math.inf:
        raise fail(where, "a size such as 2GB, 512MiB or 2000000 (bytes)", repr(text))
    return int(size)


def format_bytes(size: int) -> str:
    """A size for people: `1.62 GB`, `14.2 MB`."""
    for unit, letter in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if size >= unit:
            return f"{size / unit:.3g} {letter}"
    return f"{size} B"
