"""Test session: fast compilation, a compilation cache shared by all tests, and no silent rank promotion."""

import os
import tempfile
from importlib.metadata import version
from pathlib import Path

# Compiling is most of what the tests cost, and they run what they compile for milliseconds. XLA's fusion
# emitters for the CPU alone take two thirds of it. That of jaxlib 0.11 ends the process at the flag.
os.environ["XLA_FLAGS"] = " ".join(
    (
        os.environ.get("XLA_FLAGS", ""),
        "--xla_backend_optimization_level=0",
        "--xla_cpu_use_fusion_emitters=false" if version("jaxlib").startswith("0.10.") else "",
    )
).strip()

import jax
import pytest

pytest.register_assert_rewrite("conformance", "helpers")  # their assertions show values too

FLAGS = os.environ["XLA_FLAGS"]
CACHE = os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(
    Path(tempfile.gettempdir()) / "jaxdistill-test-cache"
)
jax.config.update("jax_compilation_cache_dir", CACHE)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def key():
    return jax.random.key(0)


@pytest.fixture
def x64():
    """Float64 inside the test; gradient oracles need it."""
    with jax.enable_x64(True):
        yield
