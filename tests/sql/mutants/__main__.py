"""python -m tests.sql.mutants [name…]: run each mutant against the tests that must catch it."""

import sys

from tests.sql.mutants.catalogue import MUTANTS
from tests.sql.mutants.runner import verdict


def main() -> int:
    """Print one line a mutant; the exit code is the number of survivors."""
    survivors = 0
    for name in sys.argv[1:] or MUTANTS:
        found = verdict(name)
        survivors += found is not None
        print(f"{'caught  ' if found is None else 'SURVIVED'}  {name}")
        if found:
            print(found)
    return survivors


sys.exit(main())
