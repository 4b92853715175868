"""Every broken operator in the catalogue fails the test that is named for it: proof that the suite is not vacuous."""

import pytest
from world import broken
from world.mutants import MUTANTS

fails = pytest.mark.xfail(strict=True, raises=AssertionError, reason="a mutant is caught")


@pytest.mark.parametrize(
    "name", [pytest.param(name, id=name, marks=[pytest.mark.mutant(name), fails]) for name in MUTANTS]
)
def test_a_broken_operator_is_caught(name: str) -> None:
    broken.run(name)
