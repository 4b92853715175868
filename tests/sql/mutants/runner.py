"""Run the tests that must catch a mutant, in a process and on a server of their own."""

import os
import subprocess
import sys

from tests.postgres import REPOSITORY
from tests.sql.mutants import VARIABLE
from tests.sql.mutants.catalogue import MUTANTS

_TESTS_FAILED = 1  # pytest's exit code; an import error, a bad option or no test at all have others


def verdict(name: str) -> str | None:
    """None if a test failed on the mutant, and not by an error in its fixtures; otherwise what pytest said."""
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "tests/sql",
            "-q",
            "-x",
            "--no-header",
            "--tb=line",
            "-p",
            "no:cacheprovider",
            "--deselect",
            "tests/sql/test_mutants.py",
            "-k",
            MUTANTS[name].caught_by,
        ],
        cwd=REPOSITORY,
        env=os.environ | {VARIABLE: name},
        capture_output=True,
        text=True,
        check=False,
    )
    last = run.stdout.strip().rpartition("\n")[2]
    if run.returncode == _TESTS_FAILED and "failed" in last and "error" not in last:
        return None
    return run.stdout + run.stderr
