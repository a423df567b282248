"""Every example of a docstring runs as it is written, and gives what it says."""

import contextlib
import doctest
import importlib
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny_runs import small_by_default

import jaxdistill as jd

NAMES = {"jax": jax, "jd": jd, "jnp": jnp, "np": np, "optax": optax}
"""What an example may use besides what its own module defines and imports."""


def examples() -> list[doctest.DocTest]:
    """Those of the functions and classes that a module defines itself, and of the module."""
    finder, found = doctest.DocTestFinder(exclude_empty=True), []
    for info in pkgutil.walk_packages(jd.__path__, "jaxdistill."):
        module = importlib.import_module(info.name)
        found += [test for test in finder.find(module, extraglobs=NAMES) if test.examples]
    return found


EXAMPLES = examples()


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_examples_run(example, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # some write files
    told: list[str] = []
    runs = example.name.startswith("jaxdistill.runs.")
    with small_by_default() if runs else contextlib.nullcontext():
        doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example, out=told.append)
    assert not told, "".join(told)


def test_examples_are_found():
    assert len(EXAMPLES) > 30
    assert {"jaxdistill.learners.learner", "jaxdistill.teachers.images.images"} <= {e.name for e in EXAMPLES}
