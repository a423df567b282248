"""The devices and the environment of a run."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import jax

from jaxdistill.version import __version__

SETTINGS = {
    "precision": "jax_default_matmul_precision",
    "prng": "jax_default_prng_impl",
    "prng_partitionable": "jax_threefry_partitionable",
    "x64": "jax_enable_x64",
    "seed_offset": "jax_random_seed_offset",
    "less_optimized": "jax_disable_most_optimizations",
}
"""Settings of JAX that change numbers, by field."""
FLAGS = ("xla_flags", "libtpu_init_args")
"""Fields of variables of the process, in capitals there, that change how XLA compiles."""


def device_description() -> str:
    """The devices that JAX uses, in words: `"cpu"`, `"4 x NVIDIA H100 80GB HBM3 (gpu)"`."""
    devices = jax.devices()
    kind, backend = devices[0].device_kind, devices[0].platform
    name = kind if kind.lower() == backend.lower() else f"{kind} ({backend})"
    return name if len(devices) == 1 else f"{len(devices)} x {name}"


def environment() -> dict[str, Any]:
    """The facts besides the config that decide a run's numbers: versions, device, settings of JAX and XLA,
    commit.

    It starts JAX's backend: a multi-host run calls `jax.distributed.initialize` before.

    Returns:
      `jaxdistill`, `jax`, `jaxlib`, `flax`, `optax` and `python` versions, `platform` and `device`
      (kind), `device_count`, `process_count`, `precision` of matrix products, `prng` (how keys become
      numbers), `prng_partitionable`, `x64`, `seed_offset` (added to every seed), `less_optimized` (whether
      compilation is meant to be short), `xla_flags` and `libtpu_init_args` of the process, None if they are
      not set, and `commit` of this checkout (ending in `-dirty` if files are changed), None if there is none.
    """
    packages = ("jax", "jaxlib", "flax", "optax")
    return {
        "jaxdistill": __version__,
        **{name: _version(name) for name in packages},
        "python": platform.python_version(),
        "platform": jax.devices()[0].platform,
        "device": jax.devices()[0].device_kind,
        "device_count": jax.device_count(),
        "process_count": jax.process_count(),
        **{name: _setting(setting) for name, setting in SETTINGS.items()},
        **{name: " ".join(os.environ.get(name.upper(), "").split()) or None for name in FLAGS},
        "commit": git_commit(),
    }


def git_commit() -> str | None:
    """The commit of the checkout that `jaxdistill` is imported from; None if it is not a checkout."""
    root = Path(__file__).resolve().parents[2]

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != root:
            return None  # an installed copy that lies inside somebody else's repository
        return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude", "*")
    except (OSError, subprocess.SubprocessError):
        return None


def _setting(name: str) -> Any:
    """A setting of JAX; those without a context manager are read by another way."""
    return getattr(jax.config, name) if hasattr(jax.config, name) else jax.config.read(name)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
