"""Accelerators that programs are compiled for, and their compilers, which need no device."""

import importlib.util
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh

from jaxdistill.core.checks import fail
from jaxdistill.inner.over_learners import DATA, LEARNER
from jaxdistill.runtime.mesh import Layout

H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 84942979072 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 minor: 0 }
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 8 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
"""An H100 SXM as XLA's GPU compiler wants it described."""


class Chip(NamedTuple):
    """A kind of accelerator."""

    title: str
    platform: str
    """Whose choices its programs are traced with, see `jaxdistill.core.platform`."""
    memory: int
    """Bytes of one chip that programs can have."""
    module: str
    """The Python module that its compiler comes in."""
    extra: str
    """The extra of jaxdistill that installs it."""
    pods: dict[int, str]
    """Topologies by their number of chips."""


CHIPS = {
    "h100": Chip("NVIDIA H100 80GB", "gpu", 84_942_979_072, "jax_cuda12_plugin", "cuda-compiler", {1: ""}),
    "tpu_v5e": Chip(
        *("TPU v5e", "tpu", 16 * 2**30, "libtpu", "tpu-compiler"),
        pods={1: "v5e:2x2", 4: "v5e:2x2", 16: "v5e:4x4", 256: "v5e:16x16"},
    ),
}


def check_there(names: Sequence[str]) -> None:
    """Raises unless the compilers of all these chips are installed."""
    for name in names:
        chip = CHIPS[name]
        if importlib.util.find_spec(chip.module) is None:
            remedy = f'pip install -e ".[{chip.extra}]" installs it; no device is needed.'
            raise fail("compile_for", f"the compiler of {name} ({chip.module})", "none", remedy)


def layout(name: str, shape: Sequence[int], num_learners: int) -> Layout:
    """Devices of a chip's topology as a mesh.

    Args:
      name: a key of `CHIPS`.
      shape: (devices along `learner`, devices along `data`).
      num_learners: K.

    Raises:
      UserError: a mesh that no topology of the chip has.
    """
    count = math.prod(shape)
    pods = CHIPS[name].pods
    if count not in pods:
        known = ", ".join(map(str, pods))
        raise fail(
            "compile_for mesh", f"a product of {known} chips of {name}", f"{'x'.join(map(str, shape))}"
        )
    devices = np.array(_devices(name, pods[count])[:count]).reshape(tuple(shape))
    return Layout(Mesh(devices, (LEARNER, DATA), axis_types=(AxisType.Auto,) * 2), num_learners)


def _devices(name: str, topology: str) -> Sequence[Any]:
    if CHIPS[name].platform == "gpu":
        described = topologies.get_topology_desc(
            platform="cuda", topology_name="1x1x1", topology="1x1x1", target_config=H100
        )
    else:
        described = topologies.get_topology_desc(topology, platform="tpu")
    return described.devices
