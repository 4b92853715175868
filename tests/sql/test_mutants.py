"""The suite catches every mutant: no test above is vacuous."""

import os

import pytest

from tests.sql.mutants import VARIABLE
from tests.sql.mutants.catalogue import MUTANTS
from tests.sql.mutants.runner import verdict


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_caught(name: str) -> None:
    assert VARIABLE not in os.environ, "a run on a mutant does not test mutants"
    assert verdict(name) is None
