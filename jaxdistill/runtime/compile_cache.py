"""A cache of compiled programs between runs: compilation takes most of the time of a short run."""

import os
import platform
import tempfile
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import jax

from jaxdistill.core.user_cache import user_cache
from jaxdistill.runtime.progress import say as say_line


def enable_compile_cache(
    directory: str | os.PathLike | None = None, *, say: Callable[[str], None] = say_line
) -> Path | None:
    """Turns on JAX's persistent compilation cache; call it before the first compilation.

    Programs compiled for one CPU may not run on another, so each kind of CPU has a folder of its own
    under `jaxdistill/compile` in the user's cache directory (`XDG_CACHE_HOME`, or `~/.cache`).
    `JAX_COMPILATION_CACHE_DIR` in the environment wins over everything.

    Args:
      directory: another place for it.
      say: called with a notice where there is no place to write; the run continues without a cache.

    Returns:
      The directory in use, or None.
    """
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    warnings.filterwarnings("ignore", message=".*persistent compilation cache.*")
    chosen = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if chosen:
        jax.config.update("jax_compilation_cache_dir", chosen)
        return Path(chosen)
    path = Path(directory).absolute() if directory is not None else user_cache() / "compile" / machine()
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path) as file:
            file.write(bytes(2**16))  # a full disk lets files be made
    except OSError as error:
        reason = error.strerror or error
        say(
            f"no compilation cache: {path} is not writable ({reason}); "
            "JAX_COMPILATION_CACHE_DIR names another place"
        )
        return None
    jax.config.update("jax_compilation_cache_dir", str(path))
    return path


def machine() -> str:
    """A short name of the instruction sets of this CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = [platform.processor()]
    features = next(
        (line for line in lines if line.startswith(("flags", "Features"))), lines[0] if lines else ""
    )
    return f"{platform.machine()}-{zlib.crc32(features.encode()):08x}"
