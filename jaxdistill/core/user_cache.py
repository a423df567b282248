"""The folder for what can be made again: prepared data, compiled programs, reference rows."""

import os
from pathlib import Path


def user_cache() -> Path:
    """`jaxdistill` under XDG_CACHE_HOME where that is an absolute path, otherwise under ~/.cache."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return (root if root.is_absolute() else Path("~/.cache").expanduser()) / "jaxdistill"
