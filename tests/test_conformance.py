"""Every member of every registry keeps its contract; a new member is picked up from its registry."""

import conformance
import pytest

from jaxdistill.inner.optimizers import INNER_OPTIMIZERS
from jaxdistill.methods import METHODS
from jaxdistill.populations import POPULATIONS
from jaxdistill.teachers import TEACHERS


@pytest.mark.parametrize("name", sorted(INNER_OPTIMIZERS))
def test_inner_optimizers(name):
    conformance.check_inner_optimizer(name)


@pytest.mark.parametrize("row", conformance.teacher_rows())
def test_teachers(row):
    conformance.check_teacher(row)


def test_every_teacher_is_checked():
    assert {row.partition(":")[0] for row in conformance.teacher_rows()} == set(TEACHERS)


@pytest.mark.parametrize("name", sorted(POPULATIONS))
def test_populations(name):
    conformance.check_population(name)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_methods(name):
    """Also eagerly and over a new axis: dd here, the others in the slow tier; their parts are above."""
    conformance.check_method(name, eagerly=name == "dd")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(METHODS) - {"dd"}))
def test_methods_eagerly(name):
    conformance.check_method(name)
