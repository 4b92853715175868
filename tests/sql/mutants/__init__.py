"""Broken variants of our SQL, each with the tests that must fail on it: proof that the suite is not vacuous."""

import os

from tests.postgres import Patch

VARIABLE = "INTAKE_SQL_MUTANT"


def active_patch() -> Patch | None:
    """The patch that this run of pytest is to be made with, if any."""
    name = os.environ.get(VARIABLE)
    if name is None:
        return None
    from tests.sql.mutants.catalogue import MUTANTS  # noqa: PLC0415 - only a run on a mutant needs them

    return MUTANTS[name].patch
