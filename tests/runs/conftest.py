"""What all tests of runs share."""

import pytest
from tiny_runs import lighter


@pytest.fixture(scope="module", autouse=True)
def light():
    """See `tiny_runs.lighter`; a module whose runs have to be those of a user has a `light` of its own."""
    with lighter():
        yield


@pytest.fixture
def torch():
    torch = pytest.importorskip("torch", reason="the extra torch is not installed")
    torch.set_num_threads(1)  # tiny networks: threads would only wait for each other
    return torch
