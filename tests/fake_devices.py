"""Eight fake devices of a CPU, in a process of their own: devices are counted when JAX starts."""

import json

import numpy as np
from conftest import FLAGS
from tiny_runs import command

FAKE = f"{FLAGS} --xla_force_host_platform_device_count="
"""XLA's flags; the number of devices follows."""
CLOSE = 1e-5


def on_devices(**task) -> dict:
    """What `on_devices.py` found, on eight."""
    ended = command("tests/on_devices.py", json.dumps(task), XLA_FLAGS=f"{FAKE}8")
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def check_same(found: dict, one: dict) -> None:
    """The same losses and images, after 20 outer steps, as on one device, which sends nothing."""
    for name in ("losses", "images"):
        assert np.isfinite(one[name]).all() and np.ptp(one[name]) > 0
        np.testing.assert_allclose(found[name], one[name], rtol=0, atol=CLOSE)
    assert one["sent"] == []
