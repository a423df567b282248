"""Test session: fast compilation, a compilation cache shared by all tests, and no silent rank promotion."""

import gc
import os
import tempfile
from importlib.metadata import version
from pathlib import Path

# Compiling is most of what the tests cost, and they run what they compile for milliseconds. XLA's fusion
# emitters for the CPU alone take two thirds of it (jaxlib 0.11 ends at that flag); a program that is split
# into parts, to be compiled on more cores than the workers leave, takes a tenth more.
os.environ["XLA_FLAGS"] = " ".join(
    (
        os.environ.get("XLA_FLAGS", ""),
        "--xla_backend_optimization_level=0",
        "--xla_cpu_use_fusion_emitters=false" if version("jaxlib").startswith("0.10.") else "",
        "--xla_cpu_parallel_codegen_split_count=1",
    )
).strip()

import jax
import pytest

from jaxdistill.core.user_cache import user_cache

pytest.register_assert_rewrite("conformance", "helpers")  # their assertions show values too

# reference rows of another session or of the user are no test's: a user's cache with none, and all the rest;
# Matplotlib takes a second to list the fonts, where it has no list
SESSION = tempfile.TemporaryDirectory(prefix="jaxdistill-test-")
Path(SESSION.name, "jaxdistill").mkdir()
for _kind in ("jaxdistill/data", "jaxdistill/compile", "matplotlib"):
    (user_cache().parent / _kind).mkdir(parents=True, exist_ok=True)
    Path(SESSION.name, _kind).symlink_to(user_cache().parent / _kind)
os.environ["XDG_CACHE_HOME"] = SESSION.name

FLAGS = os.environ["XLA_FLAGS"]
CACHE = os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(
    Path(tempfile.gettempdir()) / "jaxdistill-test-cache"
)
jax.config.update("jax_compilation_cache_dir", CACHE)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_traceback_in_locations_limit", 0)  # no program names the lines that it comes from
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_collection_finish():
    """Imported modules and collected tests stay: garbage is looked for among what tests make, less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


@pytest.fixture
def key():
    return jax.random.key(0)


@pytest.fixture
def x64():
    """Float64 inside the test; gradient oracles need it."""
    with jax.enable_x64(True):
        yield
