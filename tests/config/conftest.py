"""What all tests of configs share."""

import pytest
from tiny_runs import lighter


@pytest.fixture(scope="module", autouse=True)
def light():
    """See `tiny_runs.lighter`; a module whose runs have to be those of a user has a `light` of its own."""
    with lighter():
        yield
