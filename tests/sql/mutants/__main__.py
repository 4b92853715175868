"""python -m tests.sql.mutants: run every mutant against the test that must catch it.

They run with the rest of tests/sql too; this is the way to see them alone (xfailed = caught, failed = survived).
"""

import sys

import pytest

sys.exit(pytest.main(["tests/sql", "-m", "mutant", "-rx", *sys.argv[1:]]))
