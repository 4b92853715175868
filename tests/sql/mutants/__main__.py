"""python -m tests.sql.mutants: run every mutant against the test that must catch it, and say which did.

They run with the rest of tests/sql too; this is the way to see them alone. Fails if one survives.
"""

import sys
from collections import defaultdict

import pytest

from tests.sql.mutants.catalogue import MUTANTS


class Verdicts:
    """Which mutants were caught: each must fail its test in all of its parametrizations."""

    def __init__(self) -> None:
        self.mutant_of: dict[str, str] = {}
        self.caught: dict[str, list[bool]] = defaultdict(list)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            if isinstance(item, pytest.Function):
                self.mutant_of[item.nodeid] = str(item.callspec.params["migrated"])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        # A mutant whose SQL cannot even be installed fails in setup: that is not being caught.
        if report.when == "call" or report.failed:
            self.caught[self.mutant_of[report.nodeid]].append(report.when == "call" and report.skipped)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for name, mutant in MUTANTS.items():
            verdict = "caught" if all(self.caught[name] or [False]) else "SURVIVED"
            terminalreporter.write_line(f"{verdict:8}  {name:45}  {mutant.caught_by}")


verdicts = Verdicts()
status = pytest.main(["tests/sql", "-m", "mutant", "-q", "--no-header", "-r", "fE", *sys.argv[1:]], plugins=[verdicts])
sys.exit(status or any(not all(verdicts.caught[name] or [False]) for name in MUTANTS))
