"""`python broken_rule.py MUTANT`: runs the test that must catch it, in a process that has not imported the bridge yet.

Exit code 0: the test passes on the mutant. 1: it fails, each time by an assertion. Anything else breaks in another way.
"""

import sys
from pathlib import Path

import pytest
from mutants import MUTANTS, install

TESTS = Path(__file__).parents[1]


class Failures:
    """What the test has failed by."""

    def __init__(self) -> None:
        self.by_assertion: list[bool] = []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]):
        if call.excinfo is not None:
            failed = (AssertionError, pytest.fail.Exception)
            self.by_assertion.append(call.when == "call" and call.excinfo.errisinstance(failed))
        return (yield)


if __name__ == "__main__":
    name = sys.argv[1]
    install(name)
    failures = Failures()
    test = f"{TESTS / MUTANTS[name].file}::{MUTANTS[name].caught_by}"
    status = pytest.main(["-q", "-x", "-p", "no:cacheprovider", test], plugins=[failures])
    sys.exit(status if status != 1 or (failures.by_assertion and all(failures.by_assertion)) else 70)
