"""Sizes in bytes, as people write them."""

import math
import numbers
import re

from jaxdistill.core.checks import fail

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
UNITS |= {f"{letter}i": 2 ** (10 * power) for power, letter in enumerate("kmgt", start=1)}


def parse_bytes(size: str | float, where: str = "memory_budget") -> int:
    """A size in bytes, from `2GB`, `512 MiB`, `1.5g` or `2000000`, or from a number of bytes.

    Raises:
      UserError: not a size of at least a byte.
    """
    found = 0.0
    if isinstance(size, str):
        match = re.fullmatch(r"([0-9]*\.?[0-9]+(?:e[0-9]+)?)\s*([kmgt]?i?)b?", size.strip().lower())
        found = float(match[1]) * UNITS[match[2]] if match and match[2] in UNITS else 0.0
    elif isinstance(size, numbers.Real) and not isinstance(size, bool):
        found = float(size)
    if not 1 <= found < math.inf:
        raise fail(where, "a size such as 2GB, 512MiB or 2000000 (bytes)", repr(size))
    return int(found)


def format_bytes(size: int) -> str:
    """A size for people: `1.62 GB`, `14.2 MB`."""
    for unit, letter in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if size >= unit:
            return f"{size / unit:.3g} {letter}"
    return f"{size} B"
